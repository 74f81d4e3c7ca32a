//! The end of all faults: everything is resumed, and every job must end. One that does not is named with the reasons that
//! the API gives for it.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    bed::Bed,
    check::{JobRow, Look},
    plan::{SLOTS, Scope, SlotState, WATCHED, settled},
};
use crate::support::wait::{INTERVAL, eventually};

/// Real time in which all jobs must end.
pub const BOUND: Duration = Duration::from_secs(90);
/// Nothing has moved for so long: the clock may go to the next moment that something waits for.
const QUIET: Duration = Duration::from_millis(500);
const TICKS: Duration = Duration::from_secs(20);

/// Since when nothing has moved.
pub struct Quiet {
    seen: (Vec<(Uuid, String, i64)>, usize),
    since: Instant,
}

impl Default for Quiet {
    fn default() -> Self {
        Self {
            seen: (Vec::new(), 0),
            since: Instant::now(),
        }
    }
}

impl Bed {
    pub async fn settle(&mut self) {
        self.end_faults().await;
        self.resume_everything().await;
        self.watches_catch_up().await;
        self.all_jobs_end().await;
        self.check_campaigns_are_done().await;
        self.all_sessions_are_held().await;
        self.no_tick_is_due().await;
        self.check_batches().await;
    }

    async fn end_faults(&mut self) {
        // Heard by nobody who is cut off, and to be told all the same.
        for chat in WATCHED {
            self.say(chat, 2);
        }
        self.sandbox.controls().clear_faults();
        // Those that fell silent, too: nothing but time would tell that they have.
        self.sandbox.controls().drop_connections(None);
        self.slow = None;
        let before = std::array::from_fn(|slot| match &self.workers[slot] {
            None => SlotState::Down,
            Some(worker) if worker.silent_since.is_some() => SlotState::Frozen,
            Some(_) => SlotState::Up,
        });
        for slot in 0..SLOTS {
            self.thaw(slot).await;
            self.heal(slot).await;
            if before[slot] == SlotState::Down && settled(before)[slot] == SlotState::Up {
                self.start(slot).await;
            }
        }
    }

    async fn resume_everything(&mut self) {
        let paused: Vec<Scope> = self.model.pauses.iter().copied().collect();
        for scope in paused {
            self.resume(scope).await;
        }
        let limited: Vec<Scope> = self.model.limits.iter().copied().collect();
        for scope in limited {
            self.limit_running(scope, None).await;
        }
        let rated: Vec<&str> = self.model.rates.keys().copied().collect();
        for key in rated {
            self.limit_rate(key, None).await;
        }
        self.resume_outreach().await;
        self.resume_campaigns().await;
        // No new jobs while the last ones end.
        for number in 0..self.model.schedules.len() {
            self.edit(number, json!({ "paused": { "reason": "simulated" } })).await;
        }
    }

    async fn all_jobs_end(&mut self) {
        let begun = Instant::now();
        let mut quiet = Quiet::default();
        loop {
            let look = Look::at(&self.pool).await;
            let live: Vec<&JobRow> = look.jobs.iter().filter(|job| job.is_live()).collect();
            if live.is_empty() {
                return;
            }
            assert!(
                begun.elapsed() < BOUND,
                "jobs do not end within {BOUND:?} of the last fault:\n{}",
                self.why(&live).await
            );
            self.leap_when_quiet(&mut quiet, 0).await;
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Leaps to the next moment when nothing has moved for a while: neither a job nor `told`.
    pub async fn leap_when_quiet(&mut self, quiet: &mut Quiet, told: usize) {
        let look = Look::at(&self.pool).await;
        let live = look.jobs.iter().filter(|job| job.is_live());
        let now = (live.map(|job| (job.id, job.state.clone(), job.fence)).collect(), told);
        if now != quiet.seen {
            quiet.seen = now;
            quiet.since = Instant::now();
        } else if quiet.since.elapsed() > QUIET {
            self.leap_to_the_next_moment(look.now).await;
            quiet.since = Instant::now();
        }
    }

    /// What every live job waits for.
    pub async fn why_all(&self) -> String {
        let look = Look::at(&self.pool).await;
        let live: Vec<&JobRow> = look.jobs.iter().filter(|job| job.is_live()).collect();
        self.why(&live).await
    }

    /// Moves the clock to when the first job is due or the first gate opens, if that is ahead and no job runs.
    ///
    /// Whoever holds a session measures on its own how long a gate stays closed, so that no wrong clock opens one early, and does
    /// not follow such a leap: gates that are leapt over are looked up by a worker that starts.
    async fn leap_to_the_next_moment(&mut self, now: DateTime<Utc>) {
        let next: Option<DateTime<Utc>> = sqlx::query_scalar(
            "SELECT min(at) FROM (
                SELECT run_at AS at FROM jobs WHERE state = 'scheduled' UNION ALL SELECT opens_at FROM gates) moments
             WHERE at > $1 AND NOT EXISTS (SELECT FROM jobs WHERE state = 'running' AND kind <> 'monitor')",
        )
        .bind(now)
        .fetch_one(&self.pool)
        .await
        .expect("a moment");
        if let Some(next) = next {
            let gates: i64 = sqlx::query_scalar("SELECT count(*) FROM gates WHERE opens_at > $1")
                .bind(now)
                .fetch_one(&self.pool)
                .await
                .expect("gates");
            self.advance((next - now).num_seconds() + 1).await;
            if gates > 0 {
                self.start_anew().await;
            }
        }
    }

    async fn start_anew(&mut self) {
        for slot in 0..SLOTS {
            if self.workers[slot].is_some() {
                self.stop(slot).await;
                self.start(slot).await;
            }
        }
    }

    async fn why(&self, live: &[&JobRow]) -> String {
        let mut text = String::new();
        for job in live {
            let why = self
                .expect(Method::GET, &format!("/v1/jobs/{}/why", job.id), None, &[200])
                .await;
            let _ = writeln!(text, "{} {}: {}", job.state, job.id, why["reasons"]);
        }
        text
    }

    /// Every tick that is due is taken, also those of a paused schedule.
    async fn no_tick_is_due(&self) {
        eventually(TICKS, async || {
            let due: i64 = sqlx::query_scalar("SELECT count(*) FROM schedules WHERE next_due_at <= wireroom_now()")
                .fetch_one(&self.pool)
                .await
                .expect("schedules");
            if due == 0 { Ok(()) } else { Err(due) }
        })
        .await;
    }

    /// A batch whose jobs have ended says so, and has counted them right.
    async fn check_batches(&self) {
        for batch in &self.model.batches {
            let view = self
                .expect(Method::GET, &format!("/v1/batches/{batch}"), None, &[200])
                .await;
            assert!(
                !view["finished_at"].is_null(),
                "no job of it lives, and it goes on: {view}"
            );
            let counts: BTreeMap<String, Value> = serde_json::from_value(view["counts"].clone()).expect("counts");
            let sum: i64 = counts.values().filter_map(Value::as_i64).sum();
            assert_eq!(Some(sum), view["total"].as_i64(), "{view}");
        }
    }
}
