//! How attempts end: a finished job moves to `finished_jobs` in the statement that completes it, any other goes back.
//! Every write names the attempt's fence; one that is stale changes nothing. Whatever ends a job while nobody knows whether
//! its message was sent, the job ends `failed` with `outcome_unknown` (`outcome_in_doubt` in the schema).
//!
//! Statements that go by a job's id say `state NOT IN ('scheduled', 'queued')` for "runs": `state = 'running'` would let the
//! planner, which knows of hardly any running jobs after an ANALYZE of an idle queue, look each one up by reading the whole
//! index of running jobs. A batch of 1,000 ends took 0.7 s on average that way; by id it takes milliseconds.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;
use wireroom_jobs::{JobError, WaitReason};

use super::{StoreError, failed, jobs::micros, outbox};
use crate::ids::JobId;

/// The final state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalState {
    Succeeded,
    Failed,
    Cancelled,
}

impl FinalState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// An attempt that was the job's last.
#[derive(Debug, Clone)]
pub struct Finish {
    pub id: JobId,
    pub fence: i64,
    pub state: FinalState,
    pub result: Option<Value>,
    pub error: Option<JobError>,
}

/// When a job that goes back is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// At once, at the place its rank gives it.
    Now,
    /// After this long by the database's clock.
    In(Duration),
    /// Then, and not within the next second: a job must not spin.
    At(DateTime<Utc>),
    /// [`Due::Now`] for any session of the pool, or, when the job is bound to its session, [`Due::At`].
    Elsewhere(DateTime<Utc>),
}

/// Why a job goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackAs {
    /// The attempt failed, and more are left.
    Retry,
    /// Refunded: not now.
    Snooze,
    /// Refunded: the function stopped because it was asked to.
    HandedOver,
}

impl BackAs {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Snooze => "snooze",
            Self::HandedOver => "handed_over",
        }
    }

    /// Whether the attempt does not count.
    pub const fn refunds(self) -> bool {
        !matches!(self, Self::Retry)
    }
}

/// An attempt after which the job waits again. When a cancel was requested meanwhile, the job is `cancelled` instead, or
/// `failed` with `outcome_unknown` when a message of it may have been sent.
#[derive(Debug, Clone)]
pub struct GoBack {
    pub id: JobId,
    pub fence: i64,
    pub back_as: BackAs,
    pub due: Due,
    pub wait_reason: WaitReason,
    pub error: Option<JobError>,
}

/// Finishes jobs whose attempts are still current; returns which.
pub async fn finish(conn: &mut PgConnection, ended: &[Finish]) -> Result<Vec<JobId>, StoreError> {
    let ids: Vec<Uuid> = ended.iter().map(|end| end.id.0).collect();
    let fences: Vec<i64> = ended.iter().map(|end| end.fence).collect();
    let states: Vec<&str> = ended.iter().map(|end| end.state.as_str()).collect();
    let results: Vec<Option<&Value>> = ended.iter().map(|end| end.result.as_ref()).collect();
    let errors: Vec<Option<Value>> = ended.iter().map(|end| end.error.as_ref().map(error_value)).collect();
    let moved = sqlx::query_scalar!(
        r#"-- finish
        WITH ended AS (
            SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::jsonb[], $5::jsonb[])
                AS e (id, fence, state, result, error)
        ), gone AS (
            DELETE FROM jobs j USING ended e
            WHERE j.id = ANY (ARRAY[e.id]) AND j.fence = e.fence AND j.state NOT IN ('scheduled', 'queued')
            -- By name: `j.*` would carry every other column along, too.
            RETURNING j.id, j.kind, j.args, j.lane, j.pool, j.session_id, j.priority, j.run_at, j.deadline, j.attempt,
                j.max_attempts, j.fence, j.worker_id, coalesce(j.started_at, j.claimed_at) AS began, j.progress, j.checkpoint,
                j.tags, j.created_by, j.created_at, e.state AS final_state, e.result, e.error
        ), moved AS (
            INSERT INTO finished_jobs (id, kind, args, state, lane, pool, session_id, priority, run_at, deadline, attempt,
                max_attempts, fence, worker_id, started_at, finished_at, progress, result, error, tags, created_by, created_at)
            SELECT id, kind, args, final_state, lane, pool, session_id, priority, run_at, deadline, attempt, max_attempts,
                fence, worker_id, began, (SELECT wireroom_now()), progress, result,
                CASE WHEN final_state = 'failed' AND outcome_in_doubt(id, checkpoint) THEN outcome_unknown(error) ELSE error END,
                tags, created_by, created_at
            FROM gone
            RETURNING id
        )
        -- One row: to send and read a thousand takes longer than to make them one.
        SELECT coalesce(array_agg(id), '{}') AS "ids!" FROM moved"#,
        &ids,
        &fences,
        &states as &[&str],
        &results as &[Option<&Value>],
        &errors as &[Option<Value>],
    )
    .fetch_one(conn)
    .await
    .map_err(failed("finish"))?;
    outbox::jobs_ended();
    Ok(moved.into_iter().map(JobId).collect())
}

/// A job that went back, or was cancelled instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WentBack {
    pub id: JobId,
    /// A cancel had been asked for: the job is over.
    pub cancelled: bool,
}

/// Sends jobs back whose attempts are still current; returns which. `ageing_step` is the configured one.
pub async fn go_back(
    conn: &mut PgConnection,
    ended: &[GoBack],
    ageing_step: Duration,
) -> Result<Vec<WentBack>, StoreError> {
    let ids: Vec<Uuid> = ended.iter().map(|end| end.id.0).collect();
    let fences: Vec<i64> = ended.iter().map(|end| end.fence).collect();
    let outcomes: Vec<&str> = ended.iter().map(|end| end.back_as.as_str()).collect();
    let refunds: Vec<bool> = ended.iter().map(|end| end.back_as.refunds()).collect();
    let delays: Vec<Option<i64>> = ended
        .iter()
        .map(|end| match end.due {
            Due::In(delay) => Some(micros(delay)),
            Due::Now | Due::At(_) | Due::Elsewhere(_) => None,
        })
        .collect();
    let times: Vec<Option<DateTime<Utc>>> = ended
        .iter()
        .map(|end| match end.due {
            Due::At(time) | Due::Elsewhere(time) => Some(time),
            Due::Now | Due::In(_) => None,
        })
        .collect();
    let elsewhere: Vec<bool> = ended.iter().map(|end| matches!(end.due, Due::Elsewhere(_))).collect();
    let reasons: Vec<Value> = ended.iter().map(|end| reason_value(&end.wait_reason)).collect();
    let errors: Vec<Option<Value>> = ended.iter().map(|end| end.error.as_ref().map(error_value)).collect();
    let rows = sqlx::query!(
        r#"-- go_back
        WITH clock AS MATERIALIZED (SELECT wireroom_now() AS t),
        ended AS MATERIALIZED (
            SELECT j.id, j.attempt, j.fence, j.worker_id, j.session_id, coalesce(j.started_at, j.claimed_at) AS started_at,
                j.cancel_requested_at IS NOT NULL AS cancelled, e.outcome, e.refund, e.reason, e.error,
                coalesce(CASE WHEN e.at IS NOT NULL AND (j.session_bound OR NOT e.elsewhere) THEN greatest(e.at, c.t + interval '1 second') END,
                    c.t + e.delay * interval '1 microsecond', j.run_at) AS due
            FROM clock c, unnest($1::uuid[], $2::bigint[], $3::text[], $4::bool[], $5::bigint[], $6::timestamptz[],
                $7::jsonb[], $8::jsonb[], $10::bool[]) AS e (id, fence, outcome, refund, delay, at, reason, error, elsewhere)
            JOIN jobs j ON j.id = ANY (ARRAY[e.id]) AND j.fence = e.fence AND j.state NOT IN ('scheduled', 'queued')
            FOR UPDATE OF j
        ), returned AS (
            UPDATE jobs j SET state = CASE WHEN e.due > (SELECT t FROM clock) THEN 'scheduled' ELSE 'queued' END,
                run_at = e.due, rank = (extract(epoch FROM e.due) * 1000000)::bigint - j.priority * $9::bigint,
                attempt = j.attempt - e.refund::int, wait_reason = e.reason, last_error = coalesce(e.error, j.last_error),
                session_id = CASE WHEN j.session_bound THEN j.session_id END, session_fence = NULL, worker_id = NULL,
                claimed_at = NULL, started_at = NULL, suspect = false
            FROM ended e WHERE j.id = ANY (ARRAY[e.id]) AND NOT e.cancelled
        ), noted AS (
            INSERT INTO job_attempts (job_id, attempt, fence, worker_id, session_id, started_at, ended_at, outcome, error,
                wait_reason)
            SELECT id, attempt, fence, worker_id, session_id, started_at, (SELECT t FROM clock), outcome, error, reason
            FROM ended WHERE NOT cancelled
        ), gone AS (
            DELETE FROM jobs j USING ended e WHERE j.id = ANY (ARRAY[e.id]) AND e.cancelled
            RETURNING j.*, e.started_at AS began, coalesce(e.error, j.last_error) AS error
        ), moved AS (
            INSERT INTO finished_jobs (id, kind, args, state, lane, pool, session_id, priority, run_at, deadline, attempt,
                max_attempts, fence, worker_id, started_at, finished_at, progress, error, tags, created_by, created_at)
            SELECT id, kind, args, CASE WHEN in_doubt THEN 'failed' ELSE 'cancelled' END, lane, pool, session_id, priority,
                run_at, deadline, attempt, max_attempts, fence, worker_id, began, (SELECT t FROM clock), progress,
                CASE WHEN in_doubt THEN outcome_unknown(error) ELSE error END, tags, created_by, created_at
            FROM gone CROSS JOIN LATERAL (SELECT outcome_in_doubt(gone.id, checkpoint) AS in_doubt) d
        )
        SELECT id, cancelled AS "cancelled!" FROM ended"#,
        &ids,
        &fences,
        &outcomes as &[&str],
        &refunds,
        &delays as &[Option<i64>],
        &times as &[Option<DateTime<Utc>>],
        &reasons,
        &errors as &[Option<Value>],
        micros(ageing_step),
        &elsewhere,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("go_back"))?;
    if rows.iter().any(|row| row.cancelled) {
        outbox::jobs_ended();
    }
    Ok(rows
        .into_iter()
        .map(|row| WentBack {
            id: JobId(row.id),
            cancelled: row.cancelled,
        })
        .collect())
}

/// Fails waiting jobs whose deadline has passed, at most `limit`; returns which.
pub async fn fail_past_deadline(conn: &mut PgConnection, limit: i64) -> Result<Vec<JobId>, StoreError> {
    let error = error_value(&JobError::permanent(
        "deadline_exceeded",
        "The job was not started before its deadline.",
    ));
    let moved = sqlx::query_scalar!(
        "-- fail_past_deadline
        WITH late AS MATERIALIZED (
            SELECT id FROM jobs WHERE deadline <= (SELECT wireroom_now()) AND deadline IS NOT NULL AND state <> 'running'
            ORDER BY deadline LIMIT $1 FOR UPDATE SKIP LOCKED
        ), gone AS (
            DELETE FROM jobs j USING late WHERE j.id = ANY (ARRAY[late.id]) RETURNING j.*
        )
        INSERT INTO finished_jobs (id, kind, args, state, lane, pool, session_id, priority, run_at, deadline, attempt,
            max_attempts, fence, worker_id, started_at, finished_at, progress, error, tags, created_by, created_at)
        SELECT id, kind, args, 'failed', lane, pool, session_id, priority, run_at, deadline, attempt, max_attempts, fence,
            worker_id, started_at, (SELECT wireroom_now()), progress,
            CASE WHEN outcome_in_doubt(id, checkpoint) THEN outcome_unknown($2::jsonb) ELSE $2::jsonb END, tags, created_by, created_at
        FROM gone
        RETURNING id",
        limit,
        error,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("fail_past_deadline"))?;
    if !moved.is_empty() {
        outbox::jobs_ended();
    }
    Ok(moved.into_iter().map(JobId).collect())
}

/// An error as the `error` columns keep it.
pub(super) fn error_value(error: &JobError) -> Value {
    serde_json::json!({"code": error.code, "message": error.message, "retryable": error.retryable})
}

fn reason_value(reason: &WaitReason) -> Value {
    serde_json::json!({"code": reason.code, "message": reason.message})
}
