//! Waiting for a condition, with a bound. Tests do not sleep.

use std::fmt::Debug;
use std::panic::Location;
use std::time::Duration;

/// How often a condition is looked at.
pub const INTERVAL: Duration = Duration::from_millis(20);

/// Looks until `check` answers `Ok`, and returns that.
///
/// ```ignore
/// let job = eventually(Duration::from_secs(5), || async {
///     let job = api.job(id).await;
///     if job.state == "succeeded" { Ok(job) } else { Err(job) }
/// })
/// .await;
/// ```
///
/// # Panics
///
/// After `bound`, at the caller's line, with what the last finished look saw. A look that hangs does not outlast the bound.
#[track_caller]
pub fn eventually<T, S, F>(bound: Duration, mut check: impl FnMut() -> F) -> impl Future<Output = T>
where
    S: Debug,
    F: Future<Output = Result<T, S>>,
{
    let caller = Location::caller();
    async move {
        let mut last = None;
        let met = async {
            loop {
                match check().await {
                    Ok(value) => return value,
                    Err(seen) => last = Some(seen),
                }
                tokio::time::sleep(INTERVAL).await;
            }
        };
        match tokio::time::timeout(bound, met).await {
            Ok(value) => value,
            Err(_) => match last {
                Some(seen) => panic!("not so within {bound:?}, at {caller}; last seen: {seen:#?}"),
                None => panic!("not so within {bound:?}, at {caller}; the first look did not end"),
            },
        }
    }
}

#[tokio::test]
async fn a_condition_that_comes_true_ends_the_wait() {
    let mut looks = 0;
    let seen = eventually(Duration::from_secs(5), || {
        looks += 1;
        std::future::ready(if looks == 3 { Ok(looks) } else { Err(looks) })
    });
    assert_eq!(seen.await, 3);
}

#[tokio::test]
#[should_panic(expected = "last seen: \"still queued\"")]
async fn a_condition_that_stays_false_fails_with_what_was_seen() {
    eventually(INTERVAL * 3, || async { Err::<(), _>("still queued") }).await;
}

#[tokio::test]
#[should_panic(expected = "the first look did not end")]
async fn a_look_that_hangs_fails_too() {
    eventually(INTERVAL * 3, std::future::pending::<Result<(), ()>>).await;
}
