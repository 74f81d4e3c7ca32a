//! Jobs as the API reads them: live and finished alike, and what a queued job waits for.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;

use super::{StoreError, failed};
use crate::ids::{BatchId, JobId, SessionId, WorkerId};

/// A job's state. Live jobs have one of the first three, finished jobs one of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    Scheduled,
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl JobState {
    pub const ALL: [Self; 6] = [
        Self::Scheduled,
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// A job, live or finished.
#[derive(Debug, Clone)]
pub struct JobRecord {
    pub id: JobId,
    /// May name a kind that only a newer version knows.
    pub kind: String,
    pub args: Value,
    pub state: JobState,
    pub lane: String,
    pub pool: String,
    pub session: Option<SessionId>,
    pub priority: i16,
    pub run_at: DateTime<Utc>,
    pub deadline: Option<DateTime<Utc>>,
    /// `{code, message}` of what made a scheduled job wait.
    pub wait_reason: Option<Value>,
    pub attempt: i32,
    pub max_attempts: i32,
    pub worker: Option<WorkerId>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub cancel_requested_at: Option<DateTime<Utc>>,
    pub progress: Option<Value>,
    pub result: Option<Value>,
    /// `{code, message, retryable}`: of a finished job why it failed, of a live one how the last attempt ended.
    pub error: Option<Value>,
    pub tags: Vec<String>,
    pub limit_key: Option<String>,
    /// The finished job that it repeats.
    pub retry_of: Option<JobId>,
    pub created_by: Option<String>,
    pub created_at: DateTime<Utc>,
}

/// Which jobs to list; `None` leaves a condition out.
#[derive(Debug, Clone, Default)]
pub struct JobFilter<'a> {
    pub kind: Option<&'a str>,
    pub state: Option<JobState>,
    pub pool: Option<&'a str>,
    pub session: Option<SessionId>,
    pub tag: Option<&'a str>,
    /// Created at or after.
    pub since: Option<DateTime<Utc>>,
    /// Created before.
    pub until: Option<DateTime<Utc>>,
    /// Made with this batch.
    pub batch: Option<BatchId>,
}

/// Where a queued job can run, and what must be open for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The session of a job that stays with one; else any session of the pool.
    pub session: Option<SessionId>,
    pub pool: String,
    /// The gate's action.
    pub action: &'static str,
    /// Of the pool's sessions those of bots do not count.
    pub people: bool,
}

/// How things are at a [`Place`].
#[derive(Debug, Clone)]
pub struct PlaceFacts {
    pub sessions: i64,
    pub ready: i64,
    /// Ready, and a worker holds its lease.
    pub held: i64,
    /// Held, no gate of the action is closed, and no cap on it is spent.
    pub open: i64,
    /// When the first gate of a held session opens.
    pub opens_at: Option<DateTime<Utc>>,
    /// The reason of that gate.
    pub gate_reason: Option<String>,
    /// The gate is a spent cap: `{action, window, cap}`.
    pub spent_cap: Option<Value>,
    /// Ready, and left alone because they kept failing to connect.
    pub resting: i64,
    /// Ready, and left alone because Telegram does not take their application.
    pub refused: i64,
    /// What Telegram says of it.
    pub refused_because: Option<String>,
    /// When the first of those is tried again.
    pub rests_until: Option<DateTime<Utc>>,
    /// The state and its reason of the session, where the place is one session.
    pub session_state: Option<String>,
    pub session_state_reason: Option<String>,
}

struct Row {
    id: JobId,
    kind: String,
    args: Value,
    state: String,
    lane: String,
    pool: String,
    session_id: Option<SessionId>,
    priority: i16,
    run_at: DateTime<Utc>,
    deadline: Option<DateTime<Utc>>,
    wait_reason: Option<Value>,
    attempt: i32,
    max_attempts: i32,
    worker_id: Option<WorkerId>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    cancel_requested_at: Option<DateTime<Utc>>,
    progress: Option<Value>,
    result: Option<Value>,
    error: Option<Value>,
    tags: Vec<String>,
    limit_key: Option<String>,
    retry_of: Option<JobId>,
    created_by: Option<String>,
    created_at: DateTime<Utc>,
}

impl TryFrom<Row> for JobRecord {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let state = JobState::parse(&row.state).ok_or_else(|| StoreError::Decode {
            operation: "read_job",
            detail: format!("state {}", row.state),
        })?;
        Ok(Self {
            id: row.id,
            kind: row.kind,
            args: row.args,
            state,
            lane: row.lane,
            pool: row.pool,
            session: row.session_id,
            priority: row.priority,
            run_at: row.run_at,
            deadline: row.deadline,
            wait_reason: row.wait_reason,
            attempt: row.attempt,
            max_attempts: row.max_attempts,
            worker: row.worker_id,
            started_at: row.started_at,
            finished_at: row.finished_at,
            cancel_requested_at: row.cancel_requested_at,
            progress: row.progress,
            result: row.result,
            error: row.error,
            tags: row.tags,
            limit_key: row.limit_key,
            retry_of: row.retry_of,
            created_by: row.created_by,
            created_at: row.created_at,
        })
    }
}

/// Nothing can be finished before it was created: lets Postgres skip the older partitions. An hour is left for the
/// difference between the clocks of the process that made the id and of the database.
pub(super) fn earliest_finish(id: Uuid) -> DateTime<Utc> {
    id.get_timestamp()
        .and_then(|timestamp| {
            let (seconds, nanos) = timestamp.to_unix();
            DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
        })
        .and_then(|made| made.checked_sub_signed(CLOCKS_DIFFER))
        .unwrap_or(DateTime::UNIX_EPOCH)
}

/// What the clocks of the process that made an id and of the database may differ by.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::hours(1);

/// An id that no job made at this time or later is below.
fn ids_since(time: Option<DateTime<Utc>>) -> Uuid {
    time.and_then(|time| first_id(time.checked_sub_signed(CLOCKS_DIFFER)?))
        .unwrap_or(Uuid::nil())
}

/// An id that every job made before this time is below.
fn ids_until(time: Option<DateTime<Utc>>) -> Uuid {
    time.and_then(|time| first_id(time.checked_add_signed(CLOCKS_DIFFER)?))
        .unwrap_or(Uuid::max())
}

/// The first of the ids of a millisecond; `None` when there can be none.
fn first_id(time: DateTime<Utc>) -> Option<Uuid> {
    let millis = u64::try_from(time.timestamp_millis())
        .ok()
        .filter(|millis| *millis < 1 << 48)?;
    Some(Uuid::from_u128(u128::from(millis) << 80))
}

/// The job of that id.
pub async fn get(executor: impl PgExecutor<'_>, id: JobId) -> Result<Option<JobRecord>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        r#"-- get_job
        SELECT id AS "id!: JobId", kind AS "kind!", args AS "args!", state AS "state!", lane AS "lane!", pool AS "pool!",
            session_id AS "session_id: SessionId", priority AS "priority!", run_at AS "run_at!", deadline, wait_reason,
            attempt AS "attempt!", max_attempts AS "max_attempts!", worker_id AS "worker_id: WorkerId", started_at,
            (SELECT o.limit_key FROM job_origins o WHERE o.job_id = id) AS limit_key,
            (SELECT o.retry_of FROM job_origins o WHERE o.job_id = id) AS "retry_of: JobId",
            finished_at, cancel_requested_at, progress, result, error, tags AS "tags!", created_by,
            created_at AS "created_at!"
        FROM all_jobs WHERE id = $1"#,
        id.0,
    )
    .fetch_optional(executor)
    .await
    .map_err(failed("get_job"))?;
    row.map(JobRecord::try_from).transpose()
}

/// Those of the jobs that wait or run, in the order asked for.
pub async fn live(executor: impl PgExecutor<'_>, ids: &[JobId]) -> Result<Vec<JobRecord>, StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"-- read_live_jobs
        SELECT j.id AS "id!: JobId", kind AS "kind!", args AS "args!", state AS "state!", lane AS "lane!", pool AS "pool!",
            session_id AS "session_id: SessionId", priority AS "priority!", run_at AS "run_at!", deadline, wait_reason,
            attempt AS "attempt!", max_attempts AS "max_attempts!", worker_id AS "worker_id: WorkerId", started_at, limit_key,
            (SELECT o.retry_of FROM job_origins o WHERE o.job_id = j.id) AS "retry_of: JobId",
            NULL::timestamptz AS finished_at, cancel_requested_at, progress, NULL::jsonb AS result, last_error AS error,
            tags AS "tags!", created_by, created_at AS "created_at!"
        FROM unnest($1::uuid[]) WITH ORDINALITY AS w (id, place) JOIN jobs j ON j.id = ANY (ARRAY[w.id]) ORDER BY w.place"#,
        &ids,
    )
    .fetch_all(executor)
    .await
    .map_err(failed("read_live_jobs"))?;
    rows.into_iter().map(JobRecord::try_from).collect()
}

/// Those of the jobs that are finished.
pub async fn finished(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<JobRecord>, StoreError> {
    let earliest = ids.iter().copied().map(earliest_finish).min().unwrap_or_default();
    let rows = sqlx::query_as!(
        Row,
        r#"-- read_finished_jobs
        SELECT id AS "id!: JobId", kind, args, state, lane, pool, session_id AS "session_id: SessionId", priority, run_at,
            deadline, NULL::jsonb AS wait_reason, attempt, max_attempts, worker_id AS "worker_id: WorkerId", started_at,
            (SELECT o.limit_key FROM job_origins o WHERE o.job_id = id) AS limit_key,
            (SELECT o.retry_of FROM job_origins o WHERE o.job_id = id) AS "retry_of: JobId",
            finished_at AS "finished_at?", NULL::timestamptz AS cancel_requested_at, progress, result, error, tags,
            created_by, created_at
        FROM finished_jobs WHERE id = ANY ($1) AND finished_at >= $2"#,
        ids,
        earliest,
    )
    .fetch_all(pool)
    .await
    .map_err(failed("read_finished_jobs"))?;
    rows.into_iter().map(JobRecord::try_from).collect()
}

/// A page of jobs, the latest first, those before `before`. The text of messages is left out of `args`.
pub async fn list(
    pool: &PgPool,
    filter: &JobFilter<'_>,
    before: Option<JobId>,
    limit: i64,
) -> Result<Vec<JobRecord>, StoreError> {
    if let Some(batch) = filter.batch {
        return list_of_batch(pool, batch, filter, before, limit).await;
    }
    let mut transaction = pool.begin().await.map_err(failed("begin_list_jobs"))?;
    // Each filter wants a plan of its own: one for all of them reads every job to find the few with a tag.
    sqlx::query!(
        r#"-- plan_each_list
        SELECT set_config('plan_cache_mode', 'force_custom_plan', true) AS "set!""#
    )
    .fetch_one(&mut *transaction)
    .await
    .map_err(failed("plan_each_list"))?;
    let rows = sqlx::query_as!(
        Row,
        r#"-- list_jobs
        SELECT id AS "id!: JobId", kind AS "kind!", args - '{text,variables,targets}'::text[] AS "args!", state AS "state!", lane AS "lane!",
            pool AS "pool!", session_id AS "session_id: SessionId", priority AS "priority!", run_at AS "run_at!", deadline,
            wait_reason, attempt AS "attempt!", max_attempts AS "max_attempts!", worker_id AS "worker_id: WorkerId",
            (SELECT o.limit_key FROM job_origins o WHERE o.job_id = id) AS limit_key,
            (SELECT o.retry_of FROM job_origins o WHERE o.job_id = id) AS "retry_of: JobId",
            started_at, finished_at, cancel_requested_at, progress, result, error, tags AS "tags!", created_by,
            created_at AS "created_at!"
        FROM all_jobs
        WHERE id >= $10 AND id < $1 AND ($2::text IS NULL OR kind = $2) AND ($3::text IS NULL OR state = $3)
            AND ($4::text IS NULL OR pool = $4) AND ($5::uuid IS NULL OR session_id = $5)
            AND ($6::text IS NULL OR (tags @> ARRAY[$6] AND tags <> '{}')) AND ($7::timestamptz IS NULL OR created_at >= $7)
            AND ($8::timestamptz IS NULL OR created_at < $8)
        ORDER BY id DESC LIMIT $9"#,
        // Plain comparisons, so that a page far down starts at its place in the index, and one of a time ends at its end.
        before.map_or(Uuid::max(), |id| id.0).min(ids_until(filter.until)),
        filter.kind,
        filter.state.map(JobState::as_str),
        filter.pool,
        filter.session.map(|id| id.0),
        filter.tag,
        filter.since,
        filter.until,
        limit,
        ids_since(filter.since),
    )
    .fetch_all(&mut *transaction)
    .await
    .map_err(failed("list_jobs"))?;
    transaction.commit().await.map_err(failed("commit_list_jobs"))?;
    rows.into_iter().map(JobRecord::try_from).collect()
}

/// The same of the jobs of a batch. A statement of its own: it begins at the batch, so that a small batch among a million of
/// younger jobs is not looked for among those.
async fn list_of_batch(
    pool: &PgPool,
    batch: BatchId,
    filter: &JobFilter<'_>,
    before: Option<JobId>,
    limit: i64,
) -> Result<Vec<JobRecord>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        r#"-- list_jobs_of_batch
        SELECT j.id AS "id!: JobId", j.kind AS "kind!", j.args - '{text,variables,targets}'::text[] AS "args!", j.state AS "state!", j.lane AS "lane!",
            j.pool AS "pool!", j.session_id AS "session_id: SessionId", j.priority AS "priority!", j.run_at AS "run_at!",
            j.deadline, j.wait_reason, j.attempt AS "attempt!", j.max_attempts AS "max_attempts!",
            j.worker_id AS "worker_id: WorkerId", o.limit_key AS "limit_key?", o.retry_of AS "retry_of?: JobId",
            j.started_at, j.finished_at, j.cancel_requested_at, j.progress, j.result, j.error, j.tags AS "tags!",
            j.created_by, j.created_at AS "created_at!"
        FROM batch_jobs b
        CROSS JOIN LATERAL (SELECT * FROM all_jobs WHERE id = b.job_id) j
        LEFT JOIN job_origins o ON o.job_id = b.job_id
        WHERE b.batch_id = $1 AND b.job_id < $2 AND ($3::text IS NULL OR j.kind = $3)
            AND ($4::text IS NULL OR j.state = $4) AND ($5::text IS NULL OR j.pool = $5)
            AND ($6::uuid IS NULL OR j.session_id = $6) AND ($7::text IS NULL OR $7 = ANY (j.tags))
            AND ($8::timestamptz IS NULL OR j.created_at >= $8) AND ($9::timestamptz IS NULL OR j.created_at < $9)
        ORDER BY b.job_id DESC LIMIT $10"#,
        batch.0,
        before.map_or(Uuid::max(), |id| id.0),
        filter.kind,
        filter.state.map(JobState::as_str),
        filter.pool,
        filter.session.map(|id| id.0),
        filter.tag,
        filter.since,
        filter.until,
        limit,
    )
    .fetch_all(pool)
    .await
    .map_err(failed("list_jobs_of_batch"))?;
    rows.into_iter().map(JobRecord::try_from).collect()
}

/// The facts of each place, in the order given.
pub async fn place_facts(executor: impl PgExecutor<'_>, places: &[Place]) -> Result<Vec<PlaceFacts>, StoreError> {
    let sessions: Vec<Option<Uuid>> = places.iter().map(|place| place.session.map(|id| id.0)).collect();
    let pools: Vec<String> = places.iter().map(|place| place.pool.clone()).collect();
    let actions: Vec<String> = places.iter().map(|place| place.action.to_owned()).collect();
    let people: Vec<bool> = places.iter().map(|place| place.people).collect();
    sqlx::query_as!(
        PlaceFacts,
        r#"-- place_facts
        SELECT count(s.id) AS "sessions!",
            count(s.id) FILTER (WHERE s.state = 'ready') AS "ready!",
            count(s.id) FILTER (WHERE s.state = 'ready' AND l.session_id IS NOT NULL) AS "held!",
            count(s.id) FILTER (WHERE s.state = 'ready' AND l.session_id IS NOT NULL AND g.opens_at IS NULL) AS "open!",
            min(g.opens_at) FILTER (WHERE s.state = 'ready' AND l.session_id IS NOT NULL) AS opens_at,
            (array_agg(g.reason ORDER BY g.opens_at) FILTER (WHERE s.state = 'ready' AND l.session_id IS NOT NULL))[1]
                AS gate_reason,
            (array_agg(g.cap ORDER BY g.opens_at) FILTER (WHERE s.state = 'ready' AND l.session_id IS NOT NULL))[1]
                AS spent_cap,
            count(b.session_id) FILTER (WHERE s.state = 'ready') AS "resting!",
            count(r.api_id) FILTER (WHERE s.state = 'ready') AS "refused!",
            min(r.reason) FILTER (WHERE s.state = 'ready') AS refused_because,
            min(b.open_until) FILTER (WHERE s.state = 'ready') AS rests_until,
            min(s.state) FILTER (WHERE p.session_id IS NOT NULL) AS session_state,
            min(s.state_reason) FILTER (WHERE p.session_id IS NOT NULL) AS session_state_reason
        FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bool[]) WITH ORDINALITY AS p (session_id, pool, action, people, position)
        LEFT JOIN sessions s ON s.id = p.session_id
            OR (p.session_id IS NULL AND s.pool = p.pool AND NOT (p.people AND s.is_bot))
        LEFT JOIN session_leases l ON l.session_id = s.id AND l.owner IS NOT NULL AND l.expires_at > wireroom_now()
        LEFT JOIN session_breakers b ON b.session_id = s.id AND b.open_until > wireroom_now()
        LEFT JOIN applications a ON a.id = s.application_id OR (s.application_id IS NULL AND a.is_default)
        LEFT JOIN refused_api_ids r ON r.api_id = a.api_id
        LEFT JOIN LATERAL (
            SELECT c.opens_at, c.reason, c.cap FROM (
                -- A job of the pool begins with looking its chat up.
                SELECT opens_at, reason, NULL::jsonb AS cap FROM gates
                WHERE session_id = s.id AND (action = p.action OR (action = 'resolve' AND p.session_id IS NULL)) AND chat_id = 0
                UNION ALL
                SELECT closed_until, 'cap_reached',
                    jsonb_build_object('action', action, 'window', closed_by, 'cap', closed_cap)
                FROM session_cap_usage
                WHERE session_id = s.id AND action = CASE p.action WHEN 'send' THEN 'message' ELSE p.action END
            ) c WHERE c.opens_at > wireroom_now() ORDER BY c.opens_at DESC LIMIT 1
        ) g ON true
        GROUP BY p.position ORDER BY p.position"#,
        &sessions as &[Option<Uuid>],
        &pools,
        &actions,
        &people,
    )
    .fetch_all(executor)
    .await
    .map_err(failed("place_facts"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_bounds_the_ids_of_its_jobs() {
        let id = JobId::generate().0;
        let made = earliest_finish(id) + CLOCKS_DIFFER;
        let hours = |hours| made.checked_add_signed(TimeDelta::hours(hours));
        assert!(ids_since(Some(made)) <= id && id < ids_until(Some(made)));
        assert!(ids_since(hours(2)) > id, "it was made long before");
        assert!(ids_until(hours(-2)) < id, "it was made long after");
        assert_eq!((ids_since(None), ids_until(None)), (Uuid::nil(), Uuid::max()));
        // Times that no id has bound nothing.
        assert_eq!(ids_since(Some(DateTime::<Utc>::MIN_UTC)), Uuid::nil());
        assert_eq!(ids_until(Some(DateTime::<Utc>::MAX_UTC)), Uuid::max());
        assert_eq!(ids_since(DateTime::from_timestamp(-100_000, 0)), Uuid::nil());
    }
}
