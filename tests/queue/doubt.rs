//! However a job ends while its message may have been sent, it says so: a person must look before it is sent again.

use std::time::Duration;

use sqlx::PgConnection;
use wireroom::{
    ids::{JobId, SessionId, WorkerId},
    store::{
        claims::{ClaimedJob, start},
        completions::{BackAs, Due, FinalState, Finish, GoBack, fail_past_deadline, finish, go_back},
        jobs::{NewJob, cancel},
        rescue::{RescueLimits, fail_jobs_of_lost_sessions, rescue_orphans},
    },
};
use wireroom_jobs::{JobError, Outcome, WaitReason};

use super::bed::{AGEING, Bed, function, job};

/// What the runtime does to a job; each of them ends it.
#[derive(Debug, Clone, Copy)]
enum End {
    /// A fault or a timeout that the function could not answer to, on the last attempt.
    LastAttempt,
    CancelWhileItRan,
    CancelWhileItWaited,
    Deadline,
    CrashOnTheLastAttempt,
    CancelAndCrash,
    SessionLost,
}

impl End {
    const ALL: [Self; 7] = [
        Self::LastAttempt,
        Self::CancelWhileItRan,
        Self::CancelWhileItWaited,
        Self::Deadline,
        Self::CrashOnTheLastAttempt,
        Self::CancelAndCrash,
        Self::SessionLost,
    ];

    /// The end of a job of which nothing was sent.
    fn plain(self) -> (&'static str, &'static str) {
        match self {
            Self::LastAttempt => ("failed", "attempt_timeout"),
            Self::CancelWhileItRan | Self::CancelWhileItWaited | Self::CancelAndCrash => ("cancelled", ""),
            Self::Deadline => ("failed", "deadline_exceeded"),
            Self::CrashOnTheLastAttempt => ("failed", "worker_crashed"),
            Self::SessionLost => ("failed", "session_lost"),
        }
    }
}

/// What is stored of a message, besides that its send began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    ItsId,
    Refused,
}

/// A claimed job that is bound to its session and began to send.
async fn sending(bed: &Bed, known: Known) -> (Box<ClaimedJob>, WorkerId) {
    let (worker, session, fence) = bed.worker_with_session().await;
    let id = bed
        .enqueue_one(NewJob {
            session: Some(session),
            max_attempts: 1,
            ..job()
        })
        .await;
    let claimed = bed.claim(worker, session, fence, "default", 1).await.remove(0);
    assert_eq!(claimed.id, id);
    begin_to_send(bed, id, session, known).await;
    let mut conn = bed.pool().acquire().await.unwrap();
    start(&mut conn, &[(id, claimed.fence)]).await.unwrap();
    (claimed, worker)
}

async fn begin_to_send(bed: &Bed, id: JobId, session: SessionId, known: Known) {
    sqlx::query(
        "INSERT INTO job_effects (job_id, chat_id, session_id, random_id, attempted_at, message_id)
         VALUES ($1, 5, $2, 9, wireroom_now(), $3)",
    )
    .bind(id.0)
    .bind(session.0)
    .bind((known == Known::ItsId).then_some(7))
    .execute(bed.pool())
    .await
    .unwrap();
    let fate = if known == Known::Refused { "not_sent" } else { "open" };
    sqlx::query("UPDATE jobs SET checkpoint = jsonb_build_object('fate', $2::text) WHERE id = $1")
        .bind(id.0)
        .bind(fate)
        .execute(bed.pool())
        .await
        .unwrap();
}

fn waits_again(job: &ClaimedJob) -> GoBack {
    GoBack {
        id: job.id,
        fence: job.fence,
        back_as: BackAs::Snooze,
        due: Due::In(Duration::from_mins(1)),
        wait_reason: WaitReason::new("flood", "x"),
        error: None,
    }
}

async fn end(bed: &Bed, how: End, job: &ClaimedJob, worker: WorkerId) {
    let mut conn = bed.pool().acquire().await.unwrap();
    match how {
        End::LastAttempt => {
            let timeout = Finish {
                id: job.id,
                fence: job.fence,
                state: FinalState::Failed,
                result: None,
                error: Some(JobError::transient("attempt_timeout", "It took too long.")),
            };
            assert_eq!(finish(&mut conn, &[timeout]).await.unwrap(), [job.id]);
        }
        End::CancelWhileItRan => {
            cancel(&mut conn, job.id).await.unwrap();
            assert!(go_back(&mut conn, &[waits_again(job)], AGEING).await.unwrap()[0].cancelled);
        }
        End::CancelWhileItWaited => {
            go_back(&mut conn, &[waits_again(job)], AGEING).await.unwrap();
            cancel(&mut conn, job.id).await.unwrap();
        }
        End::Deadline => {
            go_back(&mut conn, &[waits_again(job)], AGEING).await.unwrap();
            bed.run("UPDATE jobs SET deadline = wireroom_now() - interval '1 second'")
                .await;
            assert_eq!(fail_past_deadline(&mut conn, 10).await.unwrap(), [job.id]);
        }
        End::CrashOnTheLastAttempt => crash(&mut conn, bed, job, worker).await,
        End::CancelAndCrash => {
            cancel(&mut conn, job.id).await.unwrap();
            crash(&mut conn, bed, job, worker).await;
        }
        End::SessionLost => {
            go_back(&mut conn, &[waits_again(job)], AGEING).await.unwrap();
            bed.run("UPDATE sessions SET state = 'banned'").await;
            assert_eq!(fail_jobs_of_lost_sessions(&mut conn, 10).await.unwrap(), [job.id]);
        }
    }
}

async fn crash(conn: &mut PgConnection, bed: &Bed, job: &ClaimedJob, worker: WorkerId) {
    sqlx::query("UPDATE workers SET state = 'stopped' WHERE id = $1")
        .bind(worker.0)
        .execute(bed.pool())
        .await
        .unwrap();
    bed.expire_lease(job.session).await;
    let limits = RescueLimits {
        worker_dead: Duration::from_secs(15),
        crashes: 3,
        batch: 10,
    };
    let orphans = rescue_orphans(conn, limits).await.unwrap();
    assert_eq!(orphans[0].became, bed.job(job.id).await.state);
}

#[tokio::test]
async fn whatever_ends_a_job_in_doubt_its_outcome_is_unknown() {
    let bed = Bed::new().await;
    for how in End::ALL {
        ends_unknown(&bed, how, Known::Nothing).await;
    }
}

/// Found by the simulation: a worker that dies between storing the message's id and ending the job.
#[tokio::test]
async fn a_job_whose_message_is_known_to_be_sent_does_not_end_as_if_it_could_be_sent_again() {
    let bed = Bed::new().await;
    for how in End::ALL {
        ends_unknown(&bed, how, Known::ItsId).await;
    }
}

async fn ends_unknown(bed: &Bed, how: End, known: Known) {
    let (job, worker) = sending(bed, known).await;
    end(bed, how, &job, worker).await;
    let seen = bed.job(job.id).await;
    assert_eq!(
        (seen.state.as_str(), seen.error_code()),
        ("failed", "outcome_unknown"),
        "{how:?}"
    );
    let error = seen.error.unwrap();
    assert_eq!(error["retryable"], false, "{how:?}");
    bed.run("DELETE FROM job_effects").await;
}

#[tokio::test]
async fn a_message_that_was_refused_leaves_the_end_as_it_is() {
    let bed = Bed::new().await;
    for how in End::ALL {
        let (job, worker) = sending(&bed, Known::Refused).await;
        end(&bed, how, &job, worker).await;
        let seen = bed.job(job.id).await;
        assert_eq!((seen.state.as_str(), seen.error_code()), how.plain(), "{how:?}");
        bed.run("DELETE FROM job_effects").await;
    }
}

#[tokio::test]
async fn the_error_that_ended_the_job_is_kept_and_the_functions_own_words_too() {
    let bed = Bed::new().await;
    let (job, worker) = sending(&bed, Known::Nothing).await;
    end(&bed, End::LastAttempt, &job, worker).await;
    let error = bed.job(job.id).await.error.unwrap();
    assert!(
        error["message"].as_str().unwrap().ends_with("It took too long."),
        "{error}"
    );
    bed.run("DELETE FROM job_effects").await;

    let (job, _) = sending(&bed, Known::Nothing).await;
    let given_up = Finish {
        id: job.id,
        fence: job.fence,
        state: FinalState::Failed,
        result: None,
        error: Some(JobError::permanent("outcome_unknown", "The history cannot be read.")),
    };
    let mut conn = bed.pool().acquire().await.unwrap();
    finish(&mut conn, &[given_up]).await.unwrap();
    let error = bed.job(job.id).await.error.unwrap();
    assert_eq!(error["message"], "The history cannot be read.");
}

#[tokio::test]
async fn a_function_that_panics_after_its_send_began_leaves_the_outcome_unknown() {
    let bed = std::sync::Arc::new(Bed::new().await);
    let of_function = bed.clone();
    let runner = function(move |attempt| {
        let bed = of_function.clone();
        async move {
            begin_to_send(&bed, attempt.job.id, attempt.job.session, Known::Nothing).await;
            assert!(attempt.job.max_attempts > 1, "the only attempt panics");
            Outcome::Cancelled
        }
    });
    let _running = bed.start(1, runner).await;
    let id = bed
        .enqueue_one(NewJob {
            max_attempts: 1,
            ..job()
        })
        .await;
    assert_eq!(bed.until_state(id, "failed").await.error_code(), "outcome_unknown");
}
