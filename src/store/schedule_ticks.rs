//! Ticks: due schedules are rows that any worker takes with SKIP LOCKED, and each tick leaves a row, with its job or with the
//! reason why it had none. The row's key is the schedule and the tick, so however often a tick is looked at, by however many
//! processes and whatever the clock does, it has one job. Tick and job are stored in one transaction.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{Acquire as _, PgConnection, PgPool};
use uuid::Uuid;

use super::{
    StoreError, failed,
    jobs::{EnqueueError, NewJob, enqueue},
    one_row, schedule_events,
    schedules::{self, ScheduleRecord, known_kinds},
};
use crate::ids::{JobId, ScheduleId};

/// Ticks of a schedule that are kept, whatever their age; those of the last day are kept beyond.
const KEPT: i64 = 1000;

/// What made a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    Cron,
    /// A person asked for a run.
    Manual,
}

impl Trigger {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cron => "cron",
            Self::Manual => "manual",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Cron, Self::Manual]
            .into_iter()
            .find(|trigger| trigger.as_str() == name)
    }
}

/// Why a tick has no job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// A stable word.
    pub code: String,
    /// One sentence for a person.
    pub message: String,
}

impl Reason {
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
        }
    }

    fn value(&self) -> Value {
        json!({ "code": self.code, "message": self.message })
    }

    fn read(value: &Value) -> Self {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        Self {
            code: text("code"),
            message: text("message"),
        }
    }
}

/// What became of a tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has a job.
    Job(JobId),
    /// It will have one when the schedule's jobs before it are finished.
    Waiting(Reason),
    /// It has none, as the schedule's settings say.
    Skipped(Reason),
    /// Its job was refused.
    Failed(Reason),
}

impl Outcome {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Job(_) => "job",
            Self::Waiting(_) => "waiting",
            Self::Skipped(_) => "skipped",
            Self::Failed(_) => "failed",
        }
    }

    pub const fn job(&self) -> Option<JobId> {
        match self {
            Self::Job(id) => Some(*id),
            Self::Waiting(_) | Self::Skipped(_) | Self::Failed(_) => None,
        }
    }

    pub const fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Job(_) => None,
            Self::Waiting(reason) | Self::Skipped(reason) | Self::Failed(reason) => Some(reason),
        }
    }
}

/// A tick that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TickRecord {
    pub at: DateTime<Utc>,
    pub trigger: Trigger,
    pub due_at: DateTime<Utc>,
    /// When it was taken: what lies between the two is its drift.
    pub decided_at: DateTime<Utc>,
    /// The schedule's version under which it was taken.
    pub version: i32,
    pub outcome: Outcome,
    /// `key:<id>` of whoever asked for a manual run.
    pub requested_by: Option<String>,
}

/// A due schedule that the transaction has locked, and the time at which it was found due.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    pub id: ScheduleId,
    pub now: DateTime<Utc>,
}

/// Takes a due schedule of a known kind that nobody else is at. The transaction holds it.
pub async fn take_due(conn: &mut PgConnection) -> Result<Option<Taken>, StoreError> {
    sqlx::query_as!(
        Taken,
        r#"-- take_due_schedule
        WITH clock AS MATERIALIZED (SELECT wireroom_now() AS t)
        SELECT id AS "id: ScheduleId", (SELECT t FROM clock) AS "now!" FROM schedules
        WHERE next_due_at <= (SELECT t FROM clock) AND kind = ANY ($1)
        ORDER BY next_due_at LIMIT 1 FOR UPDATE SKIP LOCKED"#,
        &known_kinds(),
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("take_due_schedule"))
}

/// Leaves a schedule that could not be fired alone until then, so that it is in nobody's way; its ticks stay due.
pub async fn put_off(conn: &mut PgConnection, id: ScheduleId, until: DateTime<Utc>) -> Result<(), StoreError> {
    sqlx::query!(
        "-- put_off_schedule
        UPDATE schedules SET next_due_at = $2 WHERE id = $1 AND next_due_at < $2",
        id.0,
        until,
    )
    .execute(conn)
    .await
    .map_err(failed("put_off_schedule"))?;
    Ok(())
}

/// A tick that has waited long enough, with its schedule, locked.
#[derive(Debug)]
pub struct TakenWaiting {
    pub schedule: ScheduleRecord,
    pub tick: TickRecord,
    pub now: DateTime<Utc>,
}

/// Takes the first waiting tick of a schedule whose jobs are finished, or which lets them overlap by now. Not while it is
/// paused. The transaction holds the schedule.
pub async fn take_waiting(conn: &mut PgConnection) -> Result<Option<TakenWaiting>, StoreError> {
    let taken = sqlx::query!(
        r#"-- take_waiting_tick
        SELECT s.id AS "id: ScheduleId", (SELECT wireroom_now()) AS "now!" FROM schedules s
        WHERE s.id IN (SELECT schedule_id FROM schedule_ticks WHERE outcome = 'waiting')
            AND s.paused_at IS NULL AND s.kind = ANY ($1)
            AND (s.overlap = 'allow' OR NOT EXISTS (
                SELECT FROM schedule_ticks t JOIN jobs j ON j.id = ANY (ARRAY[t.job_id]) WHERE t.schedule_id = s.id AND t.job_open))
        LIMIT 1 FOR UPDATE OF s SKIP LOCKED"#,
        &known_kinds(),
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("take_waiting_tick"))?;
    let Some(taken) = taken else { return Ok(None) };
    // Another worker may have released it between the look and the lock: what counts is read under the lock.
    let load = load(conn, taken.id).await?;
    let Some(schedule) = schedules::get(&mut *conn, taken.id).await? else {
        return Ok(None);
    };
    if load.live.is_some() && schedule.settings.overlap != schedules::Overlap::Allow {
        return Ok(None);
    }
    let tick = select(&mut *conn, taken.id, None, 1, true).await?.pop();
    Ok(tick.map(|tick| TakenWaiting {
        schedule,
        tick,
        now: taken.now,
    }))
}

/// The ticks among these that were taken before.
pub async fn taken_before(
    conn: &mut PgConnection,
    id: ScheduleId,
    ticks: &[DateTime<Utc>],
) -> Result<Vec<DateTime<Utc>>, StoreError> {
    sqlx::query_scalar!(
        "-- ticks_taken_before
        SELECT tick_at FROM schedule_ticks WHERE schedule_id = $1 AND tick_at = ANY ($2) AND trigger = 'cron'",
        id.0,
        ticks,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("ticks_taken_before"))
}

/// What of a locked schedule is still under way. Notes which of its jobs have ended since the last look.
pub async fn load(conn: &mut PgConnection, id: ScheduleId) -> Result<schedules::Load, StoreError> {
    sqlx::query!(
        "-- close_ended_ticks
        UPDATE schedule_ticks t SET job_open = false
        WHERE schedule_id = $1 AND job_open AND NOT EXISTS (SELECT FROM jobs j WHERE j.id = ANY (ARRAY[t.job_id]))",
        id.0
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("close_ended_ticks"))?;
    sqlx::query_as!(
        schedules::Load,
        r#"-- schedule_load
        SELECT (SELECT job_id FROM schedule_ticks WHERE schedule_id = $1 AND job_open ORDER BY tick_at LIMIT 1) AS live,
            (SELECT count(*) FROM schedule_ticks WHERE schedule_id = $1 AND outcome = 'waiting') AS "waiting!""#,
        id.0
    )
    .fetch_one(conn)
    .await
    .map_err(failed("schedule_load"))
}

/// Stores jobs in the caller's transaction, which stays good when they are refused: then the reason is returned, and none
/// was stored.
pub async fn try_enqueue(
    conn: &mut PgConnection,
    jobs: &[NewJob],
    ageing_step: Duration,
) -> Result<Result<(), Reason>, StoreError> {
    let mut savepoint = conn.begin().await.map_err(failed("savepoint"))?;
    let refused = match enqueue(&mut savepoint, jobs, ageing_step).await {
        Ok(_) => {
            savepoint.commit().await.map_err(failed("release_savepoint"))?;
            return Ok(Ok(()));
        }
        Err(EnqueueError::Store(error)) if error.is_refusal() => {
            Reason::new("job_refused", "The database refused the job.")
        }
        Err(EnqueueError::Store(error)) => return Err(error),
        Err(error) => Reason::new("job_refused", format!("The job was refused: {error}.")),
    };
    savepoint.rollback().await.map_err(failed("rollback_to_savepoint"))?;
    Ok(Err(refused))
}

/// Stores ticks of a locked schedule. Fails when one of them has a row already.
pub async fn record(conn: &mut PgConnection, id: ScheduleId, ticks: &[TickRecord]) -> Result<(), StoreError> {
    let at: Vec<_> = ticks.iter().map(|tick| tick.at).collect();
    let triggers: Vec<&str> = ticks.iter().map(|tick| tick.trigger.as_str()).collect();
    let due: Vec<_> = ticks.iter().map(|tick| tick.due_at).collect();
    let decided: Vec<_> = ticks.iter().map(|tick| tick.decided_at).collect();
    let versions: Vec<i32> = ticks.iter().map(|tick| tick.version).collect();
    let outcomes: Vec<&str> = ticks.iter().map(|tick| tick.outcome.as_str()).collect();
    let jobs: Vec<Option<Uuid>> = ticks.iter().map(|tick| tick.outcome.job().map(|id| id.0)).collect();
    let reasons: Vec<Option<Value>> = ticks
        .iter()
        .map(|tick| tick.outcome.reason().map(Reason::value))
        .collect();
    let requested: Vec<Option<&str>> = ticks.iter().map(|tick| tick.requested_by.as_deref()).collect();
    sqlx::query!(
        "-- record_ticks
        INSERT INTO schedule_ticks (schedule_id, tick_at, trigger, due_at, decided_at, version, outcome, job_id, job_open,
            reason, requested_by)
        SELECT $1, t.at, t.trigger, t.due, t.decided, t.version, t.outcome, t.job, t.job IS NOT NULL, t.reason, t.requested
        FROM unnest($2::timestamptz[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::int[], $7::text[], $8::uuid[],
            $9::jsonb[], $10::text[]) AS t (at, trigger, due, decided, version, outcome, job, reason, requested)",
        id.0,
        &at,
        &triggers as &[&str],
        &due,
        &decided,
        &versions,
        &outcomes as &[&str],
        &jobs as &[Option<Uuid>],
        &reasons as &[Option<Value>],
        &requested as &[Option<&str>],
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("record_ticks"))?;
    schedule_events::missed(conn, id, ticks).await
}

/// Says what became of a waiting tick of a locked schedule.
pub async fn settle(conn: &mut PgConnection, id: ScheduleId, tick: &TickRecord) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "-- settle_tick
        UPDATE schedule_ticks SET outcome = $4, job_id = $5, job_open = $5::uuid IS NOT NULL, reason = $6, decided_at = $7,
            version = $8
        WHERE schedule_id = $1 AND tick_at = $2 AND trigger = $3 AND outcome = 'waiting'",
        id.0,
        tick.at,
        tick.trigger.as_str(),
        tick.outcome.as_str(),
        tick.outcome.job().map(|id| id.0),
        tick.outcome.reason().map(Reason::value),
        tick.decided_at,
        tick.version,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("settle_tick"))?;
    one_row(done.rows_affected(), "settle_tick")?;
    schedule_events::missed(conn, id, std::slice::from_ref(tick)).await
}

/// What there is to do, as far as can be seen without taking it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outlook {
    /// How long it is until the next schedule of a known kind is due; zero when one is, `None` when none is to come.
    pub until_due: Option<Duration>,
    /// Ticks wait for jobs to finish.
    pub waiting: bool,
}

/// One cheap look, so that an idle worker opens no transaction.
pub async fn outlook(conn: &mut PgConnection) -> Result<Outlook, StoreError> {
    let row = sqlx::query!(
        r#"-- schedule_outlook
        SELECT (SELECT extract(epoch FROM min(next_due_at) - wireroom_now())::float8 FROM schedules
                WHERE next_due_at IS NOT NULL AND kind = ANY ($1)) AS seconds,
            EXISTS (SELECT FROM schedule_ticks WHERE outcome = 'waiting') AS "waiting!""#,
        &known_kinds(),
    )
    .fetch_one(conn)
    .await
    .map_err(failed("schedule_outlook"))?;
    let until = |seconds: f64| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
    Ok(Outlook {
        until_due: row.seconds.map(until),
        waiting: row.waiting,
    })
}

/// The time of a manual tick of a locked schedule: now, and later than the last manual one.
pub async fn manual_tick(conn: &mut PgConnection, id: ScheduleId) -> Result<DateTime<Utc>, StoreError> {
    sqlx::query_scalar!(
        r#"-- manual_tick
        SELECT greatest(wireroom_now(), (SELECT max(tick_at) + interval '1 microsecond' FROM schedule_ticks
            WHERE schedule_id = $1 AND trigger = 'manual')) AS "at!""#,
        id.0
    )
    .fetch_one(conn)
    .await
    .map_err(failed("manual_tick"))
}

/// A page of ticks, the latest first, from before `before` on.
pub async fn history(
    pool: &PgPool,
    id: ScheduleId,
    before: Option<DateTime<Utc>>,
    limit: i64,
) -> Result<Vec<TickRecord>, StoreError> {
    let mut conn = super::connection(pool, "read_ticks").await?;
    select(&mut conn, id, before, limit, false).await
}

async fn select(
    conn: &mut PgConnection,
    id: ScheduleId,
    before: Option<DateTime<Utc>>,
    limit: i64,
    first_waiting: bool,
) -> Result<Vec<TickRecord>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "-- read_ticks
        (SELECT tick_at, trigger, due_at, decided_at, version, outcome, job_id, reason, requested_by FROM schedule_ticks
        WHERE schedule_id = $1 AND NOT $4 AND ($2::timestamptz IS NULL OR tick_at < $2)
        ORDER BY tick_at DESC, trigger LIMIT $3)
        UNION ALL
        (SELECT tick_at, trigger, due_at, decided_at, version, outcome, job_id, reason, requested_by FROM schedule_ticks
        WHERE schedule_id = $1 AND $4 AND outcome = 'waiting' ORDER BY tick_at LIMIT $3)",
        id.0,
        before,
        limit,
        first_waiting,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("read_ticks"))?;
    rows.into_iter().map(TickRecord::try_from).collect()
}

struct Row {
    tick_at: Option<DateTime<Utc>>,
    trigger: Option<String>,
    due_at: Option<DateTime<Utc>>,
    decided_at: Option<DateTime<Utc>>,
    version: Option<i32>,
    outcome: Option<String>,
    job_id: Option<Uuid>,
    reason: Option<Value>,
    requested_by: Option<String>,
}

impl TryFrom<Row> for TickRecord {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let unknown = |detail: String| StoreError::Decode {
            operation: "read_ticks",
            detail,
        };
        let trigger = row.trigger.unwrap_or_default();
        let reason = row.reason.as_ref().map_or_else(|| Reason::new("", ""), Reason::read);
        let outcome = match (row.outcome.as_deref(), row.job_id) {
            (Some("job"), Some(id)) => Outcome::Job(JobId(id)),
            (Some("waiting"), _) => Outcome::Waiting(reason),
            (Some("skipped"), _) => Outcome::Skipped(reason),
            (Some("failed"), _) => Outcome::Failed(reason),
            (other, _) => return Err(unknown(format!("outcome {other:?}"))),
        };
        Ok(Self {
            at: row.tick_at.unwrap_or_default(),
            trigger: Trigger::parse(&trigger).ok_or_else(|| unknown(format!("trigger {trigger}")))?,
            due_at: row.due_at.unwrap_or_default(),
            decided_at: row.decided_at.unwrap_or_default(),
            version: row.version.unwrap_or_default(),
            outcome,
            requested_by: row.requested_by,
        })
    }
}

/// Deletes up to `limit` ticks older than `keep` days, and of each schedule those beyond its newest 1,000 that are older than
/// a day: a clock that is set back by less finds the row of each tick it comes by again. Returns how many went; call it again
/// while that is not zero.
pub async fn expire(conn: &mut PgConnection, keep: i32, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "-- expire_ticks
        WITH clock AS MATERIALIZED (SELECT wireroom_now() AS t),
        kept AS MATERIALIZED (
            SELECT s.id, (SELECT tick_at FROM schedule_ticks t WHERE t.schedule_id = s.id
                ORDER BY tick_at DESC OFFSET $2 LIMIT 1) AS oldest
            FROM schedules s
        ), old AS (
            (SELECT schedule_id, tick_at, trigger FROM schedule_ticks
            WHERE tick_at < (SELECT t FROM clock) - make_interval(days => $1) AND outcome <> 'waiting' LIMIT $3)
            UNION
            (SELECT t.schedule_id, t.tick_at, t.trigger FROM kept k JOIN schedule_ticks t ON t.schedule_id = k.id
            WHERE t.tick_at <= k.oldest AND t.tick_at < (SELECT t FROM clock) - interval '1 day'
                AND t.outcome <> 'waiting' LIMIT $3)
        )
        DELETE FROM schedule_ticks t USING old o
        WHERE t.schedule_id = o.schedule_id AND t.tick_at = o.tick_at AND t.trigger = o.trigger",
        keep,
        KEPT,
        limit,
    )
    .execute(conn)
    .await
    .map_err(failed("expire_ticks"))?;
    Ok(done.rows_affected())
}
