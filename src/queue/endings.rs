//! From an outcome to what is stored: the one place where it is decided whether a job is over.

use std::time::Duration;

use wireroom_jobs::{JobError, JobKind, Outcome, WaitReason};

use super::backoff::{self, Random};
use crate::{
    ids::JobId,
    store::completions::{BackAs, Due, FinalState, Finish, GoBack},
};

/// What is kept of an attempt until its end is stored.
#[derive(Debug, Clone, Copy)]
pub struct AttemptFacts {
    pub id: JobId,
    pub fence: i64,
    pub kind: JobKind,
    pub attempt: i32,
    pub max_attempts: i32,
}

/// The end of an attempt, ready to be stored.
#[derive(Debug, Clone)]
pub enum Ending {
    Finish(Finish),
    Back(GoBack),
}

/// A function that gives up without having been asked to would do so again at once.
const UNASKED: Duration = Duration::from_secs(1);

/// Decides. A failed attempt goes back while attempts are left; a function that stopped because it was `asked` to goes back
/// at once (`go_back` ends it as cancelled when that was what had been asked). So does one that failed in passing after it
/// was asked: with its session taken away or its process ending, a call fails by no fault of the job's.
pub fn of(facts: AttemptFacts, outcome: Outcome, asked: bool, random: &dyn Random) -> Ending {
    match outcome {
        Outcome::Done(result) => finish(facts, FinalState::Succeeded, Some(result), None),
        Outcome::Discard(error) => finish(facts, FinalState::Failed, None, Some(error)),
        Outcome::Retry(error) if asked => handed_over(facts, Due::Now, Some(error)),
        Outcome::Retry(error) if facts.attempt >= facts.max_attempts => {
            finish(facts, FinalState::Failed, None, Some(error))
        }
        Outcome::Retry(error) => {
            let delay = backoff::delay(facts.kind, facts.attempt, random);
            let (attempt, most) = (facts.attempt, facts.max_attempts);
            let reason = WaitReason::new(
                "backoff",
                format!("Attempt {attempt} of {most} failed; the next one follows."),
            );
            back(facts, BackAs::Retry, Due::In(delay), reason, Some(error))
        }
        Outcome::Snooze { until, reason } => back(facts, BackAs::Snooze, Due::At(until), reason, None),
        Outcome::Elsewhere { until, reason } => back(facts, BackAs::Snooze, Due::Elsewhere(until), reason, None),
        Outcome::Cancelled => handed_over(facts, if asked { Due::Now } else { Due::In(UNASKED) }, None),
    }
}

fn handed_over(facts: AttemptFacts, due: Due, error: Option<JobError>) -> Ending {
    let reason = WaitReason::new(
        "handed_over",
        "The worker gave the job back; another one goes on with it.",
    );
    back(facts, BackAs::HandedOver, due, reason, error)
}

/// The end that takes the place of one the database refuses to store.
pub fn not_storable(facts: &Ending) -> Ending {
    let error = JobError::permanent(
        "result_not_storable",
        "The database refuses the job's result, for example because it holds a NUL character.",
    );
    let (id, fence) = match facts {
        Ending::Finish(end) => (end.id, end.fence),
        Ending::Back(end) => (end.id, end.fence),
    };
    Ending::Finish(Finish {
        id,
        fence,
        state: FinalState::Failed,
        result: None,
        error: Some(error),
    })
}

fn finish(
    facts: AttemptFacts,
    state: FinalState,
    result: Option<serde_json::Value>,
    error: Option<JobError>,
) -> Ending {
    Ending::Finish(Finish {
        id: facts.id,
        fence: facts.fence,
        state,
        result,
        error,
    })
}

fn back(facts: AttemptFacts, back_as: BackAs, due: Due, wait_reason: WaitReason, error: Option<JobError>) -> Ending {
    Ending::Back(GoBack {
        id: facts.id,
        fence: facts.fence,
        back_as,
        due,
        wait_reason,
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Half;

    impl Random for Half {
        fn unit(&self) -> f64 {
            0.5
        }
    }

    fn facts(attempt: i32) -> AttemptFacts {
        AttemptFacts {
            id: JobId::generate(),
            fence: 3,
            kind: JobKind::Join,
            attempt,
            max_attempts: 4,
        }
    }

    #[test]
    fn a_failed_attempt_goes_back_until_attempts_are_spent() {
        let error = JobError::transient("x", "x");
        let Ending::Back(end) = of(facts(3), Outcome::Retry(error.clone()), false, &Half) else {
            panic!("attempt 3 of 4 is not the last");
        };
        assert_eq!((end.back_as, end.due), (BackAs::Retry, Due::In(Duration::from_secs(4))));
        let Ending::Finish(end) = of(facts(4), Outcome::Retry(error.clone()), false, &Half) else {
            panic!("attempt 4 of 4 is the last");
        };
        assert_eq!((end.state, end.error), (FinalState::Failed, Some(error)));
    }

    #[test]
    fn a_snooze_and_a_hand_over_are_refunded_even_on_the_last_attempt() {
        for outcome in [
            Outcome::Cancelled,
            Outcome::Snooze {
                until: chrono::DateTime::UNIX_EPOCH,
                reason: WaitReason::new("flood", "x"),
            },
        ] {
            let Ending::Back(end) = of(facts(4), outcome, true, &Half) else {
                panic!("it goes back");
            };
            assert!(end.back_as.refunds());
        }
    }

    #[test]
    fn a_call_that_failed_because_the_session_was_taken_away_costs_no_attempt() {
        let error = JobError::transient("session_unavailable", "x");
        let Ending::Back(end) = of(facts(4), Outcome::Retry(error.clone()), true, &Half) else {
            panic!("attempt 4 of 4 is refunded");
        };
        assert_eq!((end.back_as, end.due), (BackAs::HandedOver, Due::Now));
        assert_eq!(end.error, Some(error), "what happened is kept");
    }

    #[test]
    fn a_function_that_stops_unasked_waits_before_it_is_called_again() {
        for (asked, expected) in [(true, Due::Now), (false, Due::In(UNASKED))] {
            let Ending::Back(end) = of(facts(1), Outcome::Cancelled, asked, &Half) else {
                panic!("it goes back");
            };
            assert_eq!((end.back_as, end.due), (BackAs::HandedOver, expected));
        }
    }
}
