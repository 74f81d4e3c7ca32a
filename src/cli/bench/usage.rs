//! What this process, or one that it started, has used so far.

use nix::sys::resource::{UsageWho, getrusage};

/// User and system time in microseconds.
pub fn cpu_us() -> u64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
        return 0;
    };
    [usage.user_time(), usage.system_time()]
        .into_iter()
        .map(|time| u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_usec()).unwrap_or(0))
        .sum()
}

/// The highest resident memory in bytes.
pub fn peak_memory() -> u64 {
    // The kernel's own count for a process begins with the memory of the one that started it; this one does not.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    match peak.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()) {
        Some(kilobytes) => kilobytes * 1024,
        None => counted_by_the_kernel(),
    }
}

/// Ticks of a second in which the kernel counts the time of processes; the same on every Linux.
const TICKS: u64 = 100;

/// User and system time of another process in microseconds, in steps of 10 ms; `None` where the system has no `/proc`.
pub fn cpu_us_of(process: u32) -> Option<u64> {
    cpu_us_in(&std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

fn cpu_us_in(stat: &str) -> Option<u64> {
    // After the program's name, which may hold anything: the state, then ten fields, then the two times.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (times.next()?.parse().ok()?, times.next()?.parse().ok()?);
    Some((user + system) * 1_000_000 / TICKS)
}

/// Resident memory of another process now in bytes; `None` where the system has no `/proc`.
pub fn resident_of(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn counted_by_the_kernel() -> u64 {
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    let peak = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss());
    u64::try_from(peak).unwrap_or(0) * unit
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_process_uses_something() {
        assert!(super::peak_memory() > 100_000);
        assert!(super::cpu_us() > 0);
    }

    #[test]
    fn the_times_of_another_process_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 5 0 100 1000 200";
        assert_eq!(super::cpu_us_in(stat), Some(2_000_000));
        assert_eq!(super::cpu_us_in("7 (a) S 1"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_can_be_looked_at_from_outside() {
        let me = std::process::id();
        assert!(super::resident_of(me).is_some_and(|bytes| bytes > 100_000));
        assert!(super::cpu_us_of(me).is_some());
    }
}
