//! What a run comes to.

use serde::Serialize;

use crate::cli::bench::figures::{count, micros_to_secs, quantile, rounded};

/// The figures, as the JSON object has them.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub test: &'static str,
    pub rounds: u32,
    /// What was added to the sandbox's own time for each page.
    pub answer_after_ms: u64,
    /// People of each reading.
    pub members: i64,
    /// People a second, of the middle round.
    pub bare_rate_per_s: f64,
    pub scan_rate_per_s: f64,
    /// The scan's rate by the bare one's: 0.9 is wanted.
    pub ratio: f64,
    /// Of Telethon, reading, and storing what it reads; `None`: there is none.
    pub telethon_read_per_s: Option<f64>,
    pub telethon_store_per_s: Option<f64>,
    /// The scan's rate by that of the script that stores.
    pub to_telethon: Option<f64>,
    /// Resident memory of the worker at its highest, during scans of the small chat and of the large one.
    pub small_rss_mb: f64,
    pub large_rss_mb: f64,
    /// The same of the crowd, if there is one, and how many it was.
    pub crowd_rss_mb: Option<f64>,
    pub crowd_members: Option<i64>,
    /// Warnings and errors in the worker's log.
    pub complaints: usize,
}

/// People a second of the middle round.
pub fn rate(people: i64, mut micros: Vec<i64>) -> f64 {
    micros.sort_unstable();
    let middle = quantile(&micros, 50).unwrap_or(1).max(1);
    count(people.unsigned_abs()) / micros_to_secs(middle)
}

impl Report {
    /// Takes in what was measured; `beside`: Telethon, reading and storing.
    pub fn rates(&mut self, bare: f64, scan: f64, beside: Option<(f64, f64)>) {
        self.bare_rate_per_s = rounded(bare, 0);
        self.scan_rate_per_s = rounded(scan, 0);
        self.ratio = rounded(scan / bare, 3);
        if let Some((read, stored)) = beside {
            self.telethon_read_per_s = Some(rounded(read, 0));
            self.telethon_store_per_s = Some(rounded(stored, 0));
            self.to_telethon = Some(rounded(scan / stored, 2));
        }
    }

    /// To standard output, for people or as JSON.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        println!(
            "scan: {} members, the middle of {} rounds, each page {} ms late",
            self.members, self.rounds, self.answer_after_ms
        );
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        let always = [
            ("bare loop, people a second", self.bare_rate_per_s),
            ("scan, people a second", self.scan_rate_per_s),
            ("ratio (0.9 is wanted)", self.ratio),
            ("memory, small chat, MB", self.small_rss_mb),
            ("memory, large chat, MB", self.large_rss_mb),
        ];
        let members = self.crowd_members.map(|members| count(members.unsigned_abs()));
        let at_times = [
            ("crowd, members", members),
            ("memory, crowd, MB", self.crowd_rss_mb),
            ("Telethon, reads a second", self.telethon_read_per_s),
            ("Telethon, stores a second", self.telethon_store_per_s),
            ("scan by Telethon that stores", self.to_telethon),
        ];
        let at_times = at_times.into_iter().filter_map(|(name, figure)| Some((name, figure?)));
        for (name, figure) in always.into_iter().chain(at_times) {
            println!("  {name:<30}{figure}");
        }
        Ok(())
    }
}
