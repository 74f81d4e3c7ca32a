//! What this process has used so far.

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
}
