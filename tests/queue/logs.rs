//! Lines of running jobs and the record of attempts: fenced, in order, bounded.

use wireroom::store::{
    attempt_data::AttemptKey,
    attempt_reads,
    claims::ClaimedJob,
    job_logs::{self, KEPT},
};
use wireroom_jobs::{JobError, LogLevel, LogLine, Outcome, WaitReason};

use super::bed::{Bed, function, job};

const LINE: LogLine = LogLine::new("page_stored", "A page of the list is stored.");

fn key(job: &ClaimedJob) -> AttemptKey {
    AttemptKey {
        job: job.id,
        fence: job.fence,
    }
}

async fn running(bed: &Bed) -> AttemptKey {
    let (worker, session, fence) = bed.worker_with_session().await;
    bed.enqueue_one(job()).await;
    key(&bed.claim(worker, session, fence, "default", 1).await[0])
}

#[tokio::test]
async fn a_line_of_an_attempt_that_lost_its_job_is_refused() {
    let bed = Bed::new().await;
    let attempt = running(&bed).await;
    let mut conn = bed.pool().acquire().await.unwrap();
    job_logs::append(&mut conn, attempt, LogLevel::Info, &LINE)
        .await
        .unwrap();
    for stale in [
        AttemptKey {
            fence: attempt.fence - 1,
            ..attempt
        },
        AttemptKey {
            fence: attempt.fence + 1,
            ..attempt
        },
    ] {
        let refused = job_logs::append(&mut conn, stale, LogLevel::Info, &LINE).await;
        assert!(
            matches!(refused, Err(wireroom::store::StoreError::Fenced { .. })),
            "{refused:?}"
        );
    }
    bed.run("UPDATE jobs SET state = 'queued'").await;
    assert!(
        job_logs::append(&mut conn, attempt, LogLevel::Info, &LINE)
            .await
            .is_err()
    );
    assert_eq!(bed.count("SELECT count(*) FROM job_logs").await, 1);
}

#[tokio::test]
async fn lines_become_visible_in_the_order_of_their_numbers() {
    let bed = Bed::new().await;
    let attempt = running(&bed).await;
    // The first has its number, and is not committed: a second one must wait, or a reader could pass the first by.
    let mut first = bed.pool().begin().await.unwrap();
    job_logs::append(&mut first, attempt, LogLevel::Info, &LINE)
        .await
        .unwrap();
    let mut second = bed.pool().acquire().await.unwrap();
    sqlx::query("SET lock_timeout = '300ms'")
        .execute(&mut *second)
        .await
        .unwrap();
    let early = job_logs::append(&mut second, attempt, LogLevel::Info, &LINE).await;
    assert!(early.is_err(), "it overtook a line that is not committed");
    first.commit().await.unwrap();
    job_logs::append(&mut second, attempt, LogLevel::Warn, &LINE)
        .await
        .unwrap();
    let lines = job_logs::after(bed.pool(), attempt.job, 0, 10).await.unwrap();
    assert_eq!(
        lines.iter().map(|line| line.level.as_str()).collect::<Vec<_>>(),
        ["info", "warn"]
    );
    assert!(lines[0].line < lines[1].line);
}

#[tokio::test]
async fn a_job_keeps_its_newest_lines_and_none_for_ever() {
    let bed = Bed::new().await;
    let [attempt, other] = [running(&bed).await, running(&bed).await];
    let mut conn = bed.pool().acquire().await.unwrap();
    for number in 0..KEPT + 20 {
        let line = LINE.with("number", number);
        job_logs::append(&mut conn, attempt, LogLevel::Info, &line)
            .await
            .unwrap();
    }
    job_logs::append(&mut conn, other, LogLevel::Info, &LINE).await.unwrap();
    assert_eq!(job_logs::trim(&mut conn, attempt.job).await.unwrap(), 20);
    let lines = job_logs::after(bed.pool(), attempt.job, 0, 1000).await.unwrap();
    assert_eq!(lines.len(), usize::try_from(KEPT).unwrap());
    assert_eq!(lines[0].data["number"], 20, "the newest stay");
    assert_eq!(job_logs::trim(&mut conn, attempt.job).await.unwrap(), 0);
    bed.run("UPDATE job_logs SET at = wireroom_now() - interval '8 days' WHERE line % 2 = 0")
        .await;
    let old = bed.count("SELECT count(*) FROM job_logs WHERE line % 2 = 0").await;
    let mut gone = 0;
    loop {
        match job_logs::expire(&mut conn, 30, 100).await.unwrap() {
            0 => break,
            rows => gone += i64::try_from(rows).unwrap(),
        }
    }
    assert_eq!(gone, old);
    assert!(bed.count("SELECT count(*) FROM job_logs").await >= KEPT / 2);
}

#[tokio::test]
async fn every_attempt_is_on_record() {
    let bed = Bed::new().await;
    let now = wireroom_jobs::ports::Clock::now(&wireroom::clock::SystemClock);
    let running = bed
        .start(
            1,
            function(move |attempt| async move {
                match attempt.job.fence {
                    1 => Outcome::Retry(JobError::transient("first", "x")),
                    2 => Outcome::Snooze {
                        until: now,
                        reason: WaitReason::new("flood", "x"),
                    },
                    _ => Outcome::Done(1.into()),
                }
            }),
        )
        .await;
    let id = bed.enqueue_one(job()).await;
    bed.until_state(id, "succeeded").await;
    let attempts = attempt_reads::page(bed.pool(), id, None, 10).await.unwrap();
    let told: Vec<(i64, i32, &str)> = attempts
        .iter()
        .map(|attempt| (attempt.fence, attempt.attempt, attempt.outcome.as_str()))
        .collect();
    assert_eq!(told, [(3, 2, "succeeded"), (2, 2, "snooze"), (1, 1, "retry")]);
    for attempt in &attempts {
        assert_eq!(attempt.worker, Some(running.worker));
        assert_eq!(attempt.session, Some(running.session));
        assert!(attempt.started_at.is_some() && attempt.started_at <= attempt.ended_at);
    }
    assert_eq!(attempts[2].error.as_ref().unwrap()["code"], "first");
    assert_eq!(attempts[1].wait_reason.as_ref().unwrap()["code"], "flood");
}
