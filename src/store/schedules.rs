//! Schedules as clients make, change and read them. What their ticks become is in `schedule_ticks`.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;
use wireroom_jobs::JobKind;

use super::{StoreError, failed, jobs::NewJob, one_row};
use crate::ids::{ScheduleId, SessionId};

/// The job that a tick makes.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// May name a kind that only a newer version knows: such schedules are left to its workers.
    pub kind: String,
    pub args: Value,
    pub pool: Option<String>,
    pub session: Option<SessionId>,
    pub priority: i16,
    /// `None` is as the kind says.
    pub max_attempts: Option<i32>,
    pub tags: Vec<String>,
    /// Seconds after the tick.
    pub deadline_seconds: Option<i32>,
    /// What rate limits count the jobs by.
    pub limit_key: Option<String>,
}

/// What becomes of ticks that nobody took in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// Nothing.
    Skip,
    /// The latest gets a job, if no later one is in time.
    Once,
    /// Each gets a job, the latest up to a bound.
    All,
}

impl Missed {
    pub const ALL: [Self; 3] = [Self::Skip, Self::Once, Self::All];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Once => "once",
            Self::All => "all",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == name)
    }
}

/// What becomes of a tick while a job of the schedule is not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// It gets its job all the same.
    Allow,
    /// It gets none.
    Skip,
    /// It waits until the job is finished.
    Queue,
}

impl Overlap {
    pub const ALL: [Self; 3] = [Self::Allow, Self::Skip, Self::Queue];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Skip => "skip",
            Self::Queue => "queue",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == name)
    }
}

/// What a client may set.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub name: String,
    pub cron: String,
    /// IANA's name.
    pub time_zone: String,
    pub template: Template,
    pub missed: Missed,
    /// Most jobs that [`Missed::All`] makes up for, from 1 to 1000.
    pub missed_max: i32,
    /// How late a tick may be taken before it counts as missed, from 1 to 86400 seconds.
    pub missed_after_seconds: i32,
    pub overlap: Overlap,
    /// From 0 to 3600.
    pub jitter_seconds: i32,
    /// No tick before.
    pub starts_at: Option<DateTime<Utc>>,
    /// No tick after.
    pub ends_at: Option<DateTime<Utc>>,
}

/// A pause: ticks go by without a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    pub at: DateTime<Utc>,
    pub reason: String,
    /// `key:<id>`.
    pub by: String,
}

/// A tick, and when it is to be taken: the same and its jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    pub at: DateTime<Utc>,
    pub due: DateTime<Utc>,
}

/// A schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleRecord {
    pub id: ScheduleId,
    pub settings: Settings,
    pub pause: Option<Pause>,
    /// Grows with every edit.
    pub version: i32,
    /// The first tick that was not taken yet; `None` when none is to come.
    pub next: Option<Tick>,
    /// `key:<id>`.
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl ScheduleRecord {
    /// The job of the tick at `tick_at`, due at once; `None` when this version does not know its kind.
    pub fn job(&self, tick_at: DateTime<Utc>) -> Option<NewJob> {
        let template = &self.settings.template;
        let kind = JobKind::parse(&template.kind)?;
        let mut job = NewJob::new(kind, template.args.clone());
        job.pool.clone_from(&template.pool);
        job.session = template.session;
        job.priority = template.priority;
        if let Some(max_attempts) = template.max_attempts {
            job.max_attempts = max_attempts;
        }
        job.tags.clone_from(&template.tags);
        job.deadline = self.deadline(tick_at);
        job.limit_key.clone_from(&template.limit_key);
        job.created_by = Some(format!("schedule:{}", self.id));
        Some(job)
    }

    /// When the job of that tick must have been started.
    pub fn deadline(&self, tick_at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let seconds = self.settings.template.deadline_seconds?;
        tick_at.checked_add_signed(TimeDelta::seconds(seconds.into()))
    }
}

/// Why a schedule was not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error("another schedule has that name")]
    NameTaken,
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn saved(result: Result<sqlx::postgres::PgQueryResult, sqlx::Error>, operation: &'static str) -> Result<(), SaveError> {
    match result {
        Ok(done) => Ok(one_row(done.rows_affected(), operation)?),
        Err(sqlx::Error::Database(error)) if error.constraint() == Some("schedules_name_key") => {
            Err(SaveError::NameTaken)
        }
        Err(error) => Err(SaveError::Store(failed(operation)(error))),
    }
}

/// The database's time, by which ticks are due.
pub async fn now(conn: &mut PgConnection) -> Result<DateTime<Utc>, StoreError> {
    sqlx::query_scalar!(
        r#"-- schedule_now
        SELECT wireroom_now() AS "now!""#
    )
    .fetch_one(conn)
    .await
    .map_err(failed("schedule_now"))
}

/// Stores a new schedule. After [`SaveError::NameTaken`] the transaction can only be rolled back.
pub async fn create(conn: &mut PgConnection, schedule: &ScheduleRecord) -> Result<(), SaveError> {
    let (settings, template) = (&schedule.settings, &schedule.settings.template);
    let result = sqlx::query!(
        "-- create_schedule
        INSERT INTO schedules (id, name, cron, time_zone, kind, args, pool, session_id, priority, max_attempts, tags,
            deadline_seconds, missed, missed_max, missed_after_seconds, overlap, jitter_seconds, starts_at, ends_at,
            paused_at, pause_reason, paused_by, version, next_tick_at, next_due_at, created_by, created_at, updated_at, limit_key)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23,
            $24, $25, $26, $27, $28, $29)",
        schedule.id.0,
        settings.name,
        settings.cron,
        settings.time_zone,
        template.kind,
        template.args,
        template.pool,
        template.session.map(|id| id.0),
        template.priority,
        template.max_attempts,
        &template.tags,
        template.deadline_seconds,
        settings.missed.as_str(),
        settings.missed_max,
        settings.missed_after_seconds,
        settings.overlap.as_str(),
        settings.jitter_seconds,
        settings.starts_at,
        settings.ends_at,
        schedule.pause.as_ref().map(|pause| pause.at),
        schedule.pause.as_ref().map(|pause| pause.reason.as_str()),
        schedule.pause.as_ref().map(|pause| pause.by.as_str()),
        schedule.version,
        schedule.next.map(|tick| tick.at),
        schedule.next.map(|tick| tick.due),
        schedule.created_by,
        schedule.created_at,
        schedule.updated_at,
        template.limit_key,
    )
    .execute(conn)
    .await;
    saved(result, "create_schedule")
}

/// Stores what an edit made of a schedule that the transaction has locked. After [`SaveError::NameTaken`] the transaction
/// can only be rolled back.
pub async fn update(conn: &mut PgConnection, schedule: &ScheduleRecord) -> Result<(), SaveError> {
    let (settings, template) = (&schedule.settings, &schedule.settings.template);
    let result = sqlx::query!(
        "-- update_schedule
        UPDATE schedules SET name = $2, cron = $3, time_zone = $4, kind = $5, args = $6, pool = $7, session_id = $8,
            priority = $9, max_attempts = $10, tags = $11, deadline_seconds = $12, missed = $13, missed_max = $14,
            missed_after_seconds = $15, overlap = $16, jitter_seconds = $17, starts_at = $18, ends_at = $19,
            paused_at = $20, pause_reason = $21, paused_by = $22, version = $23, next_tick_at = $24, next_due_at = $25,
            updated_at = $26, limit_key = $27
        WHERE id = $1",
        schedule.id.0,
        settings.name,
        settings.cron,
        settings.time_zone,
        template.kind,
        template.args,
        template.pool,
        template.session.map(|id| id.0),
        template.priority,
        template.max_attempts,
        &template.tags,
        template.deadline_seconds,
        settings.missed.as_str(),
        settings.missed_max,
        settings.missed_after_seconds,
        settings.overlap.as_str(),
        settings.jitter_seconds,
        settings.starts_at,
        settings.ends_at,
        schedule.pause.as_ref().map(|pause| pause.at),
        schedule.pause.as_ref().map(|pause| pause.reason.as_str()),
        schedule.pause.as_ref().map(|pause| pause.by.as_str()),
        schedule.version,
        schedule.next.map(|tick| tick.at),
        schedule.next.map(|tick| tick.due),
        schedule.updated_at,
        template.limit_key,
    )
    .execute(conn)
    .await;
    saved(result, "update_schedule")
}

/// Removes a schedule and its history; its jobs stay. Tells whether it was there.
pub async fn delete(conn: &mut PgConnection, id: ScheduleId) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "-- delete_schedule
        DELETE FROM schedules WHERE id = $1",
        id.0
    )
    .execute(conn)
    .await
    .map_err(failed("delete_schedule"))?;
    Ok(done.rows_affected() == 1)
}

/// The schedule, which no other transaction changes or takes until this one ends.
pub async fn lock(conn: &mut PgConnection, id: ScheduleId) -> Result<Option<ScheduleRecord>, StoreError> {
    sqlx::query_scalar!(
        "-- lock_schedule
        SELECT id FROM schedules WHERE id = $1 FOR UPDATE",
        id.0
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("lock_schedule"))?;
    get(conn, id).await
}

/// One schedule.
pub async fn get(executor: impl PgExecutor<'_>, id: ScheduleId) -> Result<Option<ScheduleRecord>, StoreError> {
    Ok(select(executor, Some(id), None, 1).await?.pop())
}

/// A page of schedules, those made last first, from before `before` on.
pub async fn list(pool: &PgPool, before: Option<ScheduleId>, limit: i64) -> Result<Vec<ScheduleRecord>, StoreError> {
    select(pool, None, before, limit).await
}

async fn select(
    executor: impl PgExecutor<'_>,
    id: Option<ScheduleId>,
    before: Option<ScheduleId>,
    limit: i64,
) -> Result<Vec<ScheduleRecord>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        r#"-- read_schedules
        SELECT id AS "id: ScheduleId", name, cron, time_zone, kind, args, pool, session_id AS "session_id: SessionId",
            priority, max_attempts, tags, deadline_seconds, missed, missed_max, missed_after_seconds, overlap,
            jitter_seconds, starts_at, ends_at, paused_at, pause_reason, paused_by, version, next_tick_at, next_due_at,
            created_by, created_at, updated_at, limit_key
        FROM schedules
        WHERE ($1::uuid IS NULL OR id = $1) AND ($2::uuid IS NULL OR id < $2)
        ORDER BY id DESC LIMIT $3"#,
        id.map(|id| id.0),
        before.map(|id| id.0),
        limit,
    )
    .fetch_all(executor)
    .await
    .map_err(failed("read_schedules"))?;
    rows.into_iter().map(ScheduleRecord::try_from).collect()
}

struct Row {
    id: ScheduleId,
    name: String,
    cron: String,
    time_zone: String,
    kind: String,
    args: Value,
    pool: Option<String>,
    session_id: Option<SessionId>,
    priority: i16,
    max_attempts: Option<i32>,
    tags: Vec<String>,
    deadline_seconds: Option<i32>,
    missed: String,
    missed_max: i32,
    missed_after_seconds: i32,
    overlap: String,
    jitter_seconds: i32,
    starts_at: Option<DateTime<Utc>>,
    ends_at: Option<DateTime<Utc>>,
    paused_at: Option<DateTime<Utc>>,
    pause_reason: Option<String>,
    paused_by: Option<String>,
    version: i32,
    next_tick_at: Option<DateTime<Utc>>,
    next_due_at: Option<DateTime<Utc>>,
    created_by: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    limit_key: Option<String>,
}

impl TryFrom<Row> for ScheduleRecord {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let unknown = |what: &str, value: &str| StoreError::Decode {
            operation: "read_schedules",
            detail: format!("{what} {value}"),
        };
        let missed = Missed::parse(&row.missed).ok_or_else(|| unknown("missed", &row.missed))?;
        let overlap = Overlap::parse(&row.overlap).ok_or_else(|| unknown("overlap", &row.overlap))?;
        let pause = row.paused_at.zip(row.pause_reason).map(|(at, reason)| Pause {
            at,
            reason,
            by: row.paused_by.unwrap_or_default(),
        });
        let template = Template {
            kind: row.kind,
            args: row.args,
            pool: row.pool,
            session: row.session_id,
            priority: row.priority,
            max_attempts: row.max_attempts,
            tags: row.tags,
            deadline_seconds: row.deadline_seconds,
            limit_key: row.limit_key,
        };
        let settings = Settings {
            name: row.name,
            cron: row.cron,
            time_zone: row.time_zone,
            template,
            missed,
            missed_max: row.missed_max,
            missed_after_seconds: row.missed_after_seconds,
            overlap,
            jitter_seconds: row.jitter_seconds,
            starts_at: row.starts_at,
            ends_at: row.ends_at,
        };
        Ok(Self {
            id: row.id,
            settings,
            pause,
            version: row.version,
            next: row.next_tick_at.zip(row.next_due_at).map(|(at, due)| Tick { at, due }),
            created_by: row.created_by,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// Kinds that this version knows, for statements that take schedules.
pub(super) fn known_kinds() -> Vec<String> {
    JobKind::ALL.map(|kind| kind.as_str().to_owned()).to_vec()
}

/// Moves a schedule on: `next` is the first tick that is not taken.
pub async fn advance(conn: &mut PgConnection, id: ScheduleId, next: Option<Tick>) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "-- advance_schedule
        UPDATE schedules SET next_tick_at = $2, next_due_at = $3 WHERE id = $1",
        id.0,
        next.map(|tick| tick.at),
        next.map(|tick| tick.due),
    )
    .execute(conn)
    .await
    .map_err(failed("advance_schedule"))?;
    one_row(done.rows_affected(), "advance_schedule")
}

/// What of a schedule is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// A job of the schedule that is not finished.
    pub live: Option<Uuid>,
    /// Ticks that wait for it.
    pub waiting: i64,
}
