//! File descriptors: a held session has four (its connection to Telegram, and the relay's listener and both ends inside the
//! process), and systems start programs with few that they may have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Of one held session.
const PER_SESSION: u64 = 4;
/// Of everything else: connections to the database, logs, the API's clients in `dev`.
const BESIDE: u64 = 256;

/// Lets this process have as many as the system allows it to ask for.
pub fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        } else {
            Ok(())
        }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// The most that this process may ask for; `None` when the system does not say.
pub fn hard_limit() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(_, hard)| hard)
}

/// How many a worker with so many sessions has.
pub fn needed(sessions: usize) -> u64 {
    PER_SESSION * sessions as u64 + BESIDE
}

/// How many sessions a worker with so many descriptors can hold.
pub fn sessions_within(limit: u64) -> u64 {
    limit.saturating_sub(BESIDE) / PER_SESSION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_what_it_says_it_holds() {
        assert_eq!(sessions_within(needed(1_000)), 1_000);
        assert_eq!(sessions_within(needed(1_000) - 1), 999);
        assert_eq!(sessions_within(10), 0);
    }

    #[test]
    fn the_limit_is_raised_to_the_hard_one() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        raise_limit();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE), Ok((hard, hard)));
    }
}
