//! Campaigns: what they are, whether they run, and the job that works on each.

use std::time::Duration;

use chrono::{DateTime, NaiveTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;
use wireroom_jobs::{
    outreach::{Campaign, InviteMode},
    ports::TextFormat,
};

use super::{
    StoreError,
    event_types::{EventType, Subject},
    failed,
    jobs::micros,
    outbox::{self, NewEvent},
};
use crate::ids::{JobId, SessionId};

/// A campaign about to be stored.
#[derive(Debug, Clone)]
pub struct NewCampaign {
    pub id: Uuid,
    pub name: String,
    pub chat: String,
    pub mode: InviteMode,
    /// The message with its link, in the mode `message`.
    pub text: Option<String>,
    pub format: TextFormat,
    pub pool: Option<String>,
    pub session: Option<SessionId>,
    pub per_day: i32,
    pub quiet: Option<(NaiveTime, NaiveTime)>,
    pub time_zone: String,
    pub stop_ratio: f64,
    pub stop_after: i32,
    pub created_by: String,
}

/// A campaign as the API shows it.
#[derive(Debug, Clone)]
pub struct CampaignRecord {
    pub id: Uuid,
    pub name: String,
    pub chat: String,
    pub chat_id: Option<i64>,
    pub mode: String,
    pub format: String,
    pub pool: Option<String>,
    pub session: Option<SessionId>,
    pub per_day: i32,
    pub quiet_from: Option<NaiveTime>,
    pub quiet_until: Option<NaiveTime>,
    pub time_zone: String,
    pub stop_ratio: f64,
    pub stop_after: i32,
    pub state: String,
    pub state_code: String,
    pub state_reason: String,
    pub state_by: String,
    pub state_since: DateTime<Utc>,
    pub job: Option<JobId>,
    /// The job has not finished.
    pub job_is_live: bool,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
}

/// Stores a campaign, which does not run yet; `false`: another one has that name.
pub async fn insert(conn: &mut PgConnection, new: &NewCampaign) -> Result<bool, StoreError> {
    let stored = sqlx::query!(
        "-- insert_campaign
        INSERT INTO campaigns (id, name, chat, mode, text, format, pool, session_id, per_day, quiet_from, quiet_until,
            time_zone, stop_ratio, stop_after, state_by, created_by)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15) ON CONFLICT (name) DO NOTHING",
        new.id,
        new.name,
        new.chat,
        new.mode.as_str(),
        new.text,
        format_name(new.format),
        new.pool,
        new.session.map(|session| session.0),
        new.per_day,
        new.quiet.map(|(from, _)| from),
        new.quiet.map(|(_, until)| until),
        new.time_zone,
        new.stop_ratio,
        new.stop_after,
        new.created_by,
    )
    .execute(conn)
    .await
    .map_err(failed("insert_campaign"))?;
    Ok(stored.rows_affected() == 1)
}

pub const fn format_name(format: TextFormat) -> &'static str {
    match format {
        TextFormat::Plain => "plain",
        TextFormat::Markdown => "markdown",
        TextFormat::Html => "html",
    }
}

/// The format that a row names.
pub fn format_of(name: &str, operation: &'static str) -> Result<TextFormat, StoreError> {
    match name {
        "plain" => Ok(TextFormat::Plain),
        "markdown" => Ok(TextFormat::Markdown),
        "html" => Ok(TextFormat::Html),
        _ => Err(StoreError::Decode {
            operation,
            detail: "format".to_owned(),
        }),
    }
}

/// Campaigns past `after`, oldest first; one alone when `id` names it.
pub async fn page(
    conn: &mut PgConnection,
    id: Option<Uuid>,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<CampaignRecord>, StoreError> {
    sqlx::query_as!(
        CampaignRecord,
        r#"-- campaign_page
        SELECT c.id, c.name, c.chat, c.chat_id, c.mode, c.format, c.pool, c.session_id AS "session: SessionId", c.per_day,
            c.quiet_from, c.quiet_until, c.time_zone, c.stop_ratio, c.stop_after, c.state, c.state_code, c.state_reason,
            c.state_by, c.state_since, c.job_id AS "job: JobId",
            EXISTS (SELECT FROM jobs j WHERE j.id = c.job_id) AS "job_is_live!", c.created_by, c.created_at
        FROM campaigns c WHERE ($1::uuid IS NULL OR c.id = $1) AND c.id > $2 AND c.deleted_at IS NULL ORDER BY c.id LIMIT $3"#,
        id,
        after.unwrap_or(Uuid::nil()),
        limit,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("campaign_page"))
}

/// One campaign.
pub async fn get(conn: &mut PgConnection, id: Uuid) -> Result<Option<CampaignRecord>, StoreError> {
    Ok(page(conn, Some(id), None, 1).await?.pop())
}

/// Keeps everybody else from changing the campaign until the transaction ends; `false`: there is none.
pub async fn lock(conn: &mut PgConnection, id: Uuid) -> Result<bool, StoreError> {
    let found = sqlx::query_scalar!(
        r#"-- lock_campaign_row
        SELECT true AS "found!" FROM campaigns WHERE id = $1 AND deleted_at IS NULL FOR UPDATE"#,
        id
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("lock_campaign_row"))?;
    Ok(found.is_some())
}

/// Lets a locked campaign run with that job. What was refused before is forgiven.
pub async fn run(conn: &mut PgConnection, id: Uuid, job: JobId, actor: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "-- run_campaign
        UPDATE campaigns SET state = 'running', state_code = 'running', state_reason = 'It runs.', state_by = $3,
            state_since = wireroom_now(), judged_since = wireroom_now(), job_id = $2
        WHERE id = $1",
        id,
        job.0,
        actor,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("run_campaign"))?;
    tell(conn, EventType::CampaignResumed, id, json!({ "job": job, "by": actor })).await
}

/// Pauses a locked campaign.
pub async fn pause(conn: &mut PgConnection, id: Uuid, reason: &str, actor: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "-- pause_campaign
        UPDATE campaigns SET state = 'paused', state_code = 'paused', state_reason = $2, state_by = $3,
            state_since = wireroom_now(), look_again_at = wireroom_now()
        WHERE id = $1",
        id,
        reason,
        actor,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("pause_campaign"))?;
    tell(conn, EventType::CampaignPaused, id, json!({ "by": actor })).await
}

/// Makes a job that waits ready, so that it sees what has become of its campaign.
pub async fn wake(conn: &mut PgConnection, job: JobId, ageing_step: Duration) -> Result<(), StoreError> {
    sqlx::query!(
        "-- wake_campaign_job
        UPDATE jobs j SET state = 'queued', wait_reason = NULL, run_at = c.t,
            rank = (extract(epoch FROM c.t) * 1000000)::bigint - j.priority * $2::bigint
        FROM (SELECT wireroom_now() AS t OFFSET 0) c WHERE j.id = $1 AND j.state = 'scheduled'",
        job.0,
        micros(ageing_step),
    )
    .execute(conn)
    .await
    .map_err(failed("wake_campaign_job"))?;
    Ok(())
}

/// A second from now, by the database's clock.
pub async fn soon(conn: &mut PgConnection) -> Result<DateTime<Utc>, StoreError> {
    sqlx::query_scalar!(
        r#"-- campaign_soon
        SELECT wireroom_now() + interval '1 second' AS "soon!""#
    )
    .fetch_one(conn)
    .await
    .map_err(failed("campaign_soon"))
}

/// What a job needs to know of its campaign.
pub async fn of_job(conn: &mut PgConnection, id: Uuid) -> Result<Option<Campaign>, StoreError> {
    let row = sqlx::query!(
        "-- campaign_of_job
        SELECT chat, chat_id, mode FROM campaigns WHERE id = $1",
        id
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("campaign_of_job"))?;
    row.map(|row| {
        let mode = InviteMode::parse(&row.mode).ok_or_else(|| StoreError::Decode {
            operation: "campaign_of_job",
            detail: "mode".to_owned(),
        })?;
        Ok(Campaign {
            id,
            chat: row.chat,
            chat_id: row.chat_id,
            mode,
        })
    })
    .transpose()
}

/// Remembers which chat a campaign's is; `false`: it was another one. Rows that have none yet, as imported ones, get it too.
pub async fn settle_chat(conn: &mut PgConnection, id: Uuid, chat: i64) -> Result<bool, StoreError> {
    let settled = sqlx::query!(
        "-- settle_campaign_chat
        UPDATE campaigns SET chat_id = $2 WHERE id = $1 AND (chat_id IS NULL OR chat_id = $2)",
        id,
        chat,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("settle_campaign_chat"))?;
    if settled.rows_affected() == 1 {
        sqlx::query!(
            "-- settle_ledger_chat
            UPDATE campaign_ledger SET chat_id = $2 WHERE campaign_id = $1 AND chat_id IS NULL",
            id,
            chat,
        )
        .execute(conn)
        .await
        .map_err(failed("settle_ledger_chat"))?;
        return Ok(true);
    }
    Ok(false)
}

/// The job has seen that its campaign does not run, and ends: whoever resumes it makes another.
pub async fn let_go(conn: &mut PgConnection, id: Uuid, job: JobId) -> Result<(), StoreError> {
    sqlx::query!(
        "-- let_campaign_go
        UPDATE campaigns SET job_id = NULL WHERE id = $1 AND job_id = $2",
        id,
        job.0,
    )
    .execute(conn)
    .await
    .map_err(failed("let_campaign_go"))?;
    Ok(())
}

/// Stops a campaign for a reason that a person has to see to.
pub async fn halt(conn: &mut PgConnection, id: Uuid, job: JobId, code: &str, message: &str) -> Result<(), StoreError> {
    let halted = sqlx::query!(
        "-- halt_campaign
        UPDATE campaigns SET state = 'stopped', state_code = $3, state_reason = $4, state_by = $5,
            state_since = wireroom_now(), job_id = CASE WHEN job_id = $2 THEN NULL ELSE job_id END
        WHERE id = $1 AND deleted_at IS NULL",
        id,
        job.0,
        code,
        message,
        format!("job:{job}"),
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("halt_campaign"))?;
    if halted.rows_affected() == 0 {
        return Ok(());
    }
    let data = json!({ "code": code, "reason": message, "job": job });
    tell(conn, EventType::CampaignStopped, id, data).await
}

/// Pauses a locked campaign with nobody left on its list. A job of a part of the list ends no campaign.
pub async fn finish_if_done(conn: &mut PgConnection, id: Uuid, job: JobId) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "-- finish_campaign
        UPDATE campaigns c SET state = 'paused', state_code = 'done', state_reason = 'Everybody on the list was dealt with.',
            state_by = $3, state_since = wireroom_now(), job_id = NULL
        WHERE c.id = $1 AND c.job_id = $2
            AND NOT EXISTS (SELECT FROM campaign_people p WHERE p.campaign_id = c.id AND p.state = 'waiting')",
        id,
        job.0,
        format!("job:{job}"),
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("finish_campaign"))?;
    if done.rows_affected() == 1 {
        return tell(conn, EventType::CampaignFinished, id, json!({ "job": job })).await;
    }
    Ok(())
}

/// Stops a campaign of whose people too many refused since it was resumed; why, when this was one too many.
pub async fn stop_if_refused(conn: &mut PgConnection, id: Uuid, job: JobId) -> Result<Option<String>, StoreError> {
    let row = sqlx::query!(
        r#"-- count_refusals
        SELECT c.state, c.stop_ratio, c.stop_after, n.refused AS "refused!", n.asked AS "asked!"
        FROM campaigns c CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE p.class = 'refused') AS refused, count(*) AS asked FROM campaign_people p
            WHERE p.campaign_id = c.id AND p.decided_at >= c.judged_since AND p.class IN ('refused', 'invited')) n
        WHERE c.id = $1"#,
        id,
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("count_refusals"))?;
    let Some(row) = row else { return Ok(None) };
    let ratio = ratio(row.refused, row.asked);
    if row.state != "running" || row.asked < i64::from(row.stop_after) || ratio <= row.stop_ratio {
        return Ok(None);
    }
    let reason = format!(
        "{} of {} people refused, more than the part of {} that the campaign allows. Look at the list before you resume it.",
        row.refused, row.asked, row.stop_ratio
    );
    // The job ends by itself at its next turn.
    sqlx::query!(
        "-- stop_refused_campaign
        UPDATE campaigns SET state = 'stopped', state_code = 'refusals', state_reason = $2, state_by = $3,
            state_since = wireroom_now()
        WHERE id = $1",
        id,
        reason,
        format!("job:{job}"),
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("stop_refused_campaign"))?;
    let data = json!({ "code": "refusals", "reason": reason, "job": job });
    tell(conn, EventType::CampaignStopped, id, data).await?;
    Ok(Some("refusals".to_owned()))
}

fn ratio(refused: i64, asked: i64) -> f64 {
    // Far fewer people than a float counts exactly.
    let (refused, asked) = (u32::try_from(refused), u32::try_from(asked));
    match (refused, asked) {
        (Ok(refused), Ok(asked)) if asked > 0 => f64::from(refused) / f64::from(asked),
        _ => 0.0,
    }
}

/// The caller holds the campaign's row, which keeps the order of its events.
pub async fn tell(conn: &mut PgConnection, event_type: EventType, id: Uuid, mut data: Value) -> Result<(), StoreError> {
    data["campaign"] = json!(id);
    let event = NewEvent {
        event_type,
        subject: Subject::campaign(id),
        data,
    };
    outbox::append(conn, &[event]).await
}
