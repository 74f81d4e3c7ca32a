//! Jobs as clients make and cancel them. What a job becomes afterwards is in `claims`, `completions` and `rescue`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use wireroom_jobs::JobKind;

use super::{StoreError, batches, begin, failed, lone_jobs, notifications::Ring, outbox};
use crate::ids::{BatchId, JobId, SessionId};

/// A job about to be stored.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub id: JobId,
    pub kind: JobKind,
    pub args: Value,
    /// The pool; `None` is the session's own pool, or `default` without a session.
    pub pool: Option<String>,
    /// The session the job is pinned to.
    pub session: Option<SessionId>,
    /// From -100 to 100; a step puts the job earlier by the configured ageing step.
    pub priority: i16,
    /// When it is due; `None` is at once.
    pub run_at: Option<DateTime<Utc>>,
    /// From 1 to 100.
    pub max_attempts: i32,
    /// The job fails when it has not been started until then.
    pub deadline: Option<DateTime<Utc>>,
    pub tags: Vec<String>,
    /// What rate limits count the job by, such as `campaign:spring`; 1 to 128 characters.
    pub limit_key: Option<String>,
    /// `key:<id>` of the client.
    pub created_by: Option<String>,
}

impl NewJob {
    /// A job of the default pool, due at once, with the kind's own number of attempts.
    pub fn new(kind: JobKind, args: Value) -> Self {
        Self {
            id: JobId::generate(),
            kind,
            args,
            pool: None,
            session: None,
            priority: 0,
            run_at: None,
            max_attempts: kind.default_max_attempts(),
            deadline: None,
            tags: Vec::new(),
            limit_key: None,
            created_by: None,
        }
    }
}

/// Why jobs were not stored. None of the call's jobs was.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    #[error("there is no pool `{pool}`")]
    PoolUnknown { index: usize, pool: String },
    #[error("there is no session {session}")]
    SessionUnknown { index: usize, session: SessionId },
    #[error("session {session} is in pool `{is_in}`, not in `{pool}`")]
    SessionElsewhere {
        index: usize,
        session: SessionId,
        pool: String,
        is_in: String,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EnqueueError {
    /// The field of the request that is wrong, and the index of its job in the call.
    pub fn field(&self) -> Option<(&'static str, usize)> {
        match self {
            Self::PoolUnknown { index, .. } => Some(("pool", *index)),
            Self::SessionUnknown { index, .. } | Self::SessionElsewhere { index, .. } => Some(("session", *index)),
            Self::Store(_) => None,
        }
    }

    /// The same of a job that has another index in the caller's own list.
    #[must_use]
    pub fn at(mut self, of: impl FnOnce(usize) -> usize) -> Self {
        match &mut self {
            Self::PoolUnknown { index, .. }
            | Self::SessionUnknown { index, .. }
            | Self::SessionElsewhere { index, .. } => *index = of(*index),
            Self::Store(_) => {}
        }
        self
    }
}

/// Stores jobs in the caller's transaction, all or none, and returns their ids in order. Nobody is woken: after the
/// commit, call `queue::Waker::enqueued`. `ageing_step` is the configured one, the same in every process.
pub async fn enqueue(
    conn: &mut PgConnection,
    jobs: &[NewJob],
    ageing_step: Duration,
) -> Result<Vec<JobId>, EnqueueError> {
    enqueue_in(conn, None, jobs, ageing_step).await
}

/// [`enqueue`], which rings as well when the transaction commits: after it, hand the ring to `queue::Waker::enqueued`. A list
/// of several is not rung for.
pub async fn enqueue_ringing(
    conn: &mut PgConnection,
    jobs: &[NewJob],
    ageing_step: Duration,
    ring: Option<&Ring>,
) -> Result<Vec<JobId>, EnqueueError> {
    store(conn, None, jobs, ageing_step, ring).await
}

/// [`enqueue`], as part of a batch that the transaction has opened.
pub async fn enqueue_in(
    conn: &mut PgConnection,
    batch: Option<BatchId>,
    jobs: &[NewJob],
    ageing_step: Duration,
) -> Result<Vec<JobId>, EnqueueError> {
    store(conn, batch, jobs, ageing_step, None).await
}

async fn store(
    conn: &mut PgConnection,
    batch: Option<BatchId>,
    jobs: &[NewJob],
    ageing_step: Duration,
    ring: Option<&Ring>,
) -> Result<Vec<JobId>, EnqueueError> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    if jobs.iter().all(|job| job.limit_key.is_none()) {
        return insert(conn, batch, jobs, ageing_step, ring).await;
    }
    let mut transaction = begin(conn, "enqueue").await?;
    let ids = insert(&mut transaction, batch, jobs, ageing_step, ring).await?;
    note_limit_keys(&mut transaction, jobs).await?;
    transaction.commit().await.map_err(failed("enqueue"))?;
    Ok(ids)
}

/// By the statement for one job or the one for many.
async fn insert(
    conn: &mut PgConnection,
    batch: Option<BatchId>,
    jobs: &[NewJob],
    ageing_step: Duration,
    ring: Option<&Ring>,
) -> Result<Vec<JobId>, EnqueueError> {
    let ([job], None) = (jobs, batch) else {
        return insert_many(conn, batch, jobs, ageing_step).await;
    };
    if lone_jobs::insert(conn, job, ageing_step, ring).await? {
        Ok(vec![job.id])
    } else {
        Err(why_refused(conn, jobs, 0).await?)
    }
}

/// The statement for many.
async fn insert_many(
    conn: &mut PgConnection,
    batch: Option<BatchId>,
    jobs: &[NewJob],
    ageing_step: Duration,
) -> Result<Vec<JobId>, EnqueueError> {
    let columns = Columns::of(jobs);
    let stored = sqlx::query!(
        r#"-- enqueue
        WITH clock AS MATERIALIZED (
            SELECT t, (extract(epoch FROM t) * 1000000)::bigint AS micros FROM (SELECT wireroom_now() AS t OFFSET 0) n
        ), input AS MATERIALIZED (
            -- Looked up job by job: a join would read all sessions, since nobody knows how many jobs come.
            SELECT n.*, CASE WHEN n.session_id IS NULL
                THEN (SELECT p.name FROM pools p WHERE p.name = coalesce(n.pool, 'default'))
                ELSE (SELECT s.pool FROM sessions s WHERE s.id = n.session_id AND s.pool = coalesce(n.pool, s.pool))
                END AS in_pool
            FROM unnest($1::uuid[], $2::text[], $3::jsonb[], $4::text[], $5::text[], $6::uuid[], $7::smallint[],
                $8::timestamptz[], $9::int[], $10::timestamptz[], $11::jsonb[], $12::text[], $15::text[]) AS n (id, kind, args, lane, pool,
                session_id, priority, run_at, max_attempts, deadline, tags, created_by, limit_key)
        )
        INSERT INTO jobs (id, kind, args, state, lane, pool, session_id, session_bound, priority, rank, run_at,
            deadline, max_attempts, tags, created_by, created_at, batch_id, limit_key)
        SELECT i.id, i.kind, i.args, CASE WHEN i.run_at > c.t THEN 'scheduled' ELSE 'queued' END, i.lane, i.in_pool,
            i.session_id, i.session_id IS NOT NULL, i.priority,
            coalesce((extract(epoch FROM i.run_at) * 1000000)::bigint, c.micros) - i.priority * $13::bigint,
            coalesce(i.run_at, c.t), i.deadline, i.max_attempts,
            CASE WHEN i.tags IS NULL THEN '{}' ELSE ARRAY(SELECT jsonb_array_elements_text(i.tags)) END, i.created_by, c.t,
            $14, i.limit_key
        FROM input i CROSS JOIN clock c
        WHERE NOT EXISTS (SELECT FROM input WHERE in_pool IS NULL)"#,
        &columns.ids,
        &columns.kinds as &[&str],
        &columns.args as &[&Value],
        &columns.lanes as &[&str],
        &columns.pools as &[Option<&str>],
        &columns.sessions as &[Option<uuid::Uuid>],
        &columns.priorities,
        &columns.run_at as &[Option<DateTime<Utc>>],
        &columns.max_attempts,
        &columns.deadlines as &[Option<DateTime<Utc>>],
        &columns.tags as &[Option<Value>],
        &columns.created_by as &[Option<&str>],
        micros(ageing_step),
        batch.map(|id| id.0),
        &columns.limit_keys as &[Option<&str>],
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("enqueue"))?
    .rows_affected();
    if stored != jobs.len() as u64 {
        return Err(why_refused(conn, jobs, stored).await?);
    }
    if let Some(batch) = batch {
        batches::add(conn, batch, &columns.ids).await?;
    }
    Ok(jobs.iter().map(|job| job.id).collect())
}

/// Keeps the limit keys for as long as the jobs are kept. A statement of its own, because most jobs have none.
async fn note_limit_keys(conn: &mut PgConnection, jobs: &[NewJob]) -> Result<(), StoreError> {
    let keyed = || {
        jobs.iter()
            .filter_map(|job| Some((job.id.0, job.limit_key.as_deref()?)))
    };
    let ids: Vec<uuid::Uuid> = keyed().map(|(id, _)| id).collect();
    let keys: Vec<&str> = keyed().map(|(_, key)| key).collect();
    sqlx::query!(
        "-- note_limit_keys
        INSERT INTO job_origins (job_id, limit_key) SELECT * FROM unnest($1::uuid[], $2::text[])",
        &ids,
        &keys as &[&str],
    )
    .execute(conn)
    .await
    .map_err(failed("note_limit_keys"))?;
    Ok(())
}

/// The columns of a batch, as `unnest` wants them.
struct Columns<'a> {
    ids: Vec<uuid::Uuid>,
    kinds: Vec<&'a str>,
    args: Vec<&'a Value>,
    lanes: Vec<&'a str>,
    pools: Vec<Option<&'a str>>,
    sessions: Vec<Option<uuid::Uuid>>,
    priorities: Vec<i16>,
    run_at: Vec<Option<DateTime<Utc>>>,
    max_attempts: Vec<i32>,
    deadlines: Vec<Option<DateTime<Utc>>>,
    /// `None` for none: most jobs have no tags, and an empty list would be parsed for each.
    tags: Vec<Option<Value>>,
    created_by: Vec<Option<&'a str>>,
    limit_keys: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    fn of(jobs: &'a [NewJob]) -> Self {
        Self {
            ids: jobs.iter().map(|job| job.id.0).collect(),
            kinds: jobs.iter().map(|job| job.kind.as_str()).collect(),
            args: jobs.iter().map(|job| &job.args).collect(),
            lanes: jobs.iter().map(|job| job.kind.lane().as_str()).collect(),
            pools: jobs.iter().map(|job| job.pool.as_deref()).collect(),
            sessions: jobs.iter().map(|job| job.session.map(|id| id.0)).collect(),
            priorities: jobs.iter().map(|job| job.priority).collect(),
            run_at: jobs.iter().map(|job| job.run_at).collect(),
            max_attempts: jobs.iter().map(|job| job.max_attempts).collect(),
            deadlines: jobs.iter().map(|job| job.deadline).collect(),
            tags: jobs.iter().map(tags_value).collect(),
            created_by: jobs.iter().map(|job| job.created_by.as_deref()).collect(),
            limit_keys: jobs.iter().map(|job| job.limit_key.as_deref()).collect(),
        }
    }
}

fn tags_value(job: &NewJob) -> Option<Value> {
    (!job.tags.is_empty()).then(|| Value::from(job.tags.as_slice()))
}

/// Which job of a refused batch names a pool or a session that is not there.
async fn why_refused(conn: &mut PgConnection, jobs: &[NewJob], stored: u64) -> Result<EnqueueError, StoreError> {
    for (index, job) in jobs.iter().enumerate() {
        if let Some(error) = check_place(conn, job).await? {
            return Ok(error.at(|_| index));
        }
    }
    Ok(EnqueueError::Store(StoreError::Rows {
        operation: "enqueue",
        changed: stored,
        expected: jobs.len() as u64,
    }))
}

/// Why [`enqueue`] would refuse a job's pool or session now, with the index 0; `None` when it would not.
pub async fn check_place(conn: &mut PgConnection, job: &NewJob) -> Result<Option<EnqueueError>, StoreError> {
    let facts = sqlx::query!(
        r#"-- check_place
        SELECT (SELECT pool FROM sessions WHERE id = $1) AS session_pool,
            EXISTS (SELECT FROM pools WHERE name = coalesce($2, 'default')) AS "pool_exists!""#,
        job.session.map(|id| id.0),
        job.pool,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("check_place"))?;
    let index = 0;
    Ok(match (job.session, facts.session_pool, &job.pool) {
        (Some(session), None, _) => Some(EnqueueError::SessionUnknown { index, session }),
        (_, _, Some(pool)) if !facts.pool_exists => Some(EnqueueError::PoolUnknown {
            index,
            pool: pool.clone(),
        }),
        (Some(session), Some(is_in), Some(pool)) if is_in != *pool => Some(EnqueueError::SessionElsewhere {
            index,
            session,
            pool: pool.clone(),
            is_in,
        }),
        (None, _, None) if !facts.pool_exists => Some(EnqueueError::PoolUnknown {
            index,
            pool: "default".to_owned(),
        }),
        _ => None,
    })
}

/// What a request to cancel a job did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// The job waited and is `cancelled` now, or `failed` with `outcome_unknown` when an earlier attempt may have sent.
    AtOnce,
    /// The job runs: after the commit call `queue::Waker::cancelled`, and it is `cancelled` when its function stops, or
    /// is abandoned because it does not (`rescue::abandon_cancelled`). When its function succeeds first, it is `succeeded`.
    Requested,
    /// It had finished before.
    Finished,
    /// There is no such job.
    Unknown,
}

/// Cancels a job in the caller's transaction.
pub async fn cancel(conn: &mut PgConnection, id: JobId) -> Result<Cancelled, StoreError> {
    let state = sqlx::query_scalar!(
        "-- cancel: lock
        SELECT state FROM jobs WHERE id = $1 FOR UPDATE",
        id.0
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("cancel"))?;
    match state.as_deref() {
        Some("running") => request_cancel(conn, id).await.map(|()| Cancelled::Requested),
        Some(_) => cancel_waiting(conn, id).await.map(|()| Cancelled::AtOnce),
        None => {
            let finished = sqlx::query_scalar!(
                r#"-- cancel: finished
                SELECT EXISTS (SELECT FROM finished_jobs WHERE id = $1) AS "finished!""#,
                id.0
            )
            .fetch_one(&mut *conn)
            .await
            .map_err(failed("cancel"))?;
            Ok(if finished {
                Cancelled::Finished
            } else {
                Cancelled::Unknown
            })
        }
    }
}

async fn request_cancel(conn: &mut PgConnection, id: JobId) -> Result<(), StoreError> {
    sqlx::query!(
        "-- request_cancel
        UPDATE jobs SET cancel_requested_at = coalesce(cancel_requested_at, wireroom_now()) WHERE id = $1",
        id.0
    )
    .execute(conn)
    .await
    .map_err(failed("request_cancel"))?;
    Ok(())
}

/// Ends a job that waits; one that runs is left alone.
pub(super) async fn cancel_waiting(conn: &mut PgConnection, id: JobId) -> Result<(), StoreError> {
    sqlx::query!(
        "-- cancel_waiting
        WITH gone AS (DELETE FROM jobs WHERE id = $1 AND state <> 'running' RETURNING *)
        INSERT INTO finished_jobs (id, kind, args, state, lane, pool, session_id, priority, run_at, deadline, attempt,
            max_attempts, fence, worker_id, started_at, finished_at, progress, error, tags, created_by, created_at)
        SELECT id, kind, args, CASE WHEN in_doubt THEN 'failed' ELSE 'cancelled' END, lane, pool, session_id, priority,
            run_at, deadline, attempt, max_attempts, fence, worker_id, started_at, wireroom_now(), progress,
            CASE WHEN in_doubt THEN outcome_unknown(last_error) ELSE last_error END, tags, created_by, created_at
        FROM gone CROSS JOIN LATERAL (SELECT outcome_in_doubt(gone.id, checkpoint) AS in_doubt) d",
        id.0
    )
    .execute(conn)
    .await
    .map_err(failed("cancel_waiting"))?;
    outbox::jobs_ended();
    Ok(())
}

/// Microseconds for a statement; a time too long for them is as good as for ever.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
