//! Changing campaigns while they run, and deleting them. Of a deleted one there stays what keeps its people from being contacted again:
//! whom it has contacted, when, and into which chat. So neither the days of rest nor a chat's cap forget anybody with it.

use std::time::Duration;

use chrono::NaiveTime;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;
use wireroom_jobs::{outreach::Wording, ports::TextFormat};

use super::{
    StoreError,
    campaigns::{format_name, format_of, tell},
    event_types::EventType,
    failed,
    jobs::micros,
    one_row,
};
use crate::ids::{JobId, SessionId};

/// What of a campaign can be changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub name: String,
    /// Its message, if that is another one from now on.
    pub wording: Option<Wording>,
    pub pool: Option<String>,
    pub session: Option<SessionId>,
    pub per_day: i32,
    pub quiet: Option<(NaiveTime, NaiveTime)>,
    pub time_zone: String,
    pub stop_ratio: f64,
    pub stop_after: i32,
}

/// Why a campaign could not be changed. The transaction can only be rolled back.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("another campaign has that name")]
    NameTaken,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The text and the format of a locked campaign; no text in the mode `add`.
pub async fn wording(conn: &mut PgConnection, id: Uuid) -> Result<(Option<String>, TextFormat), StoreError> {
    const OPERATION: &str = "campaign_wording";
    let row = sqlx::query!(
        "-- campaign_wording
        SELECT text, format FROM campaigns WHERE id = $1",
        id
    )
    .fetch_one(conn)
    .await
    .map_err(failed(OPERATION))?;
    Ok((row.text, format_of(&row.format, OPERATION)?))
}

/// Changes a locked campaign, and says in its event which fields are others. Whoever may have been sent another text already keeps it:
/// that is what is looked for. In another zone its day ends when both days have ended, so that nobody more is contacted by moving it.
pub async fn change(
    conn: &mut PgConnection,
    id: Uuid,
    settings: &Settings,
    changed: &[&str],
    actor: &str,
) -> Result<(), ChangeError> {
    if let Some(wording) = &settings.wording {
        reword(conn, id, wording).await?;
    }
    let stored = sqlx::query!(
        "-- change_campaign
        UPDATE campaigns c SET name = $2, pool = $3, session_id = $4, per_day = $5, quiet_from = $6, quiet_until = $7,
            time_zone = $8, stop_ratio = $9, stop_after = $10, look_again_at = k.t,
            counted_from = CASE WHEN c.time_zone = $8 THEN c.counted_from ELSE d.begins END,
            counted_until = CASE WHEN c.time_zone = $8 THEN c.counted_until
                ELSE greatest(d.ends, (campaign_day($8, NULL, NULL, k.t)).ends) END
        FROM (SELECT wireroom_now() AS t OFFSET 0) k, campaigns w
        CROSS JOIN LATERAL campaign_day(w.time_zone, w.counted_from, w.counted_until, k.t) d
        WHERE c.id = $1 AND w.id = $1",
        id,
        settings.name,
        settings.pool,
        settings.session.map(|session| session.0),
        settings.per_day,
        settings.quiet.map(|(from, _)| from),
        settings.quiet.map(|(_, until)| until),
        settings.time_zone,
        settings.stop_ratio,
        settings.stop_after,
    )
    .execute(&mut *conn)
    .await;
    match stored {
        Ok(done) => one_row(done.rows_affected(), "change_campaign")?,
        Err(sqlx::Error::Database(error)) if error.constraint() == Some("campaigns_name_key") => {
            return Err(ChangeError::NameTaken);
        }
        Err(error) => return Err(failed("change_campaign")(error).into()),
    }
    let data = json!({ "changed": changed, "by": actor });
    Ok(tell(conn, EventType::CampaignChanged, id, data).await?)
}

async fn reword(conn: &mut PgConnection, id: Uuid, wording: &Wording) -> Result<(), StoreError> {
    sqlx::query!(
        "-- keep_said_words
        UPDATE campaign_ledger l SET said = c.text, said_format = c.format FROM campaigns c
        WHERE c.id = $1 AND l.campaign_id = $1 AND l.state = 'attempted' AND l.said IS NULL",
        id,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("keep_said_words"))?;
    sqlx::query!(
        "-- reword_campaign
        UPDATE campaigns SET text = $2, format = $3 WHERE id = $1",
        id,
        wording.text,
        format_name(wording.format),
    )
    .execute(conn)
    .await
    .map_err(failed("reword_campaign"))?;
    Ok(())
}

/// Makes a job ready that waits for what a change of its campaign may have ended: its cap, its quiet hours.
pub async fn wake(conn: &mut PgConnection, job: JobId, ageing_step: Duration) -> Result<(), StoreError> {
    sqlx::query!(
        "-- wake_changed_campaign_job
        UPDATE jobs j SET state = 'queued', wait_reason = NULL, run_at = c.t,
            rank = (extract(epoch FROM c.t) * 1000000)::bigint - j.priority * $2::bigint
        FROM (SELECT wireroom_now() AS t OFFSET 0) c
        WHERE j.id = $1 AND j.state = 'scheduled' AND j.wait_reason ->> 'code' IN ('campaign_cap', 'quiet_hours')",
        job.0,
        micros(ageing_step),
    )
    .execute(conn)
    .await
    .map_err(failed("wake_changed_campaign_job"))?;
    Ok(())
}

/// Deletes a locked campaign: it never runs again, and its name is free. [`empty`] deletes its list.
pub async fn delete(conn: &mut PgConnection, id: Uuid, actor: &str) -> Result<(), StoreError> {
    // A name that begins with a space is nobody else's.
    let deleted = sqlx::query!(
        "-- delete_campaign
        UPDATE campaigns SET name = ' deleted:' || id, state = 'paused', state_code = 'deleted', state_reason = 'It was deleted.',
            state_by = $2, state_since = wireroom_now(), look_again_at = wireroom_now(), job_id = NULL, deleted_at = wireroom_now()
        WHERE id = $1",
        id,
        actor,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("delete_campaign"))?;
    one_row(deleted.rows_affected(), "delete_campaign")?;
    tell(conn, EventType::CampaignDeleted, id, json!({ "by": actor })).await
}

/// Deletes up to `limit` people from the lists of deleted campaigns, or of that one, and from their ledgers those whom nothing was sent
/// to. Whom a job is about now waits until it has ended: it may have to look what became of its call. When nothing more is left,
/// the text and the chat's name go as well. Returns how many people went.
pub async fn empty(conn: &mut PgConnection, id: Option<Uuid>, limit: i64) -> Result<u64, StoreError> {
    let gone = sqlx::query!(
        "-- empty_deleted_lists
        DELETE FROM campaign_people WHERE id IN (
            SELECT p.id FROM campaigns c JOIN campaign_people p ON p.campaign_id = c.id
            WHERE c.deleted_at IS NOT NULL AND c.emptied_at IS NULL AND ($1::uuid IS NULL OR c.id = $1)
                AND (p.state = 'done' OR p.job_id IS NULL OR NOT EXISTS (SELECT FROM jobs j WHERE j.id = p.job_id))
            LIMIT $2)",
        id,
        limit,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("empty_deleted_lists"))?;
    if gone.rows_affected() == 0 {
        close(conn, id).await?;
    }
    Ok(gone.rows_affected())
}

/// What is done once for a list that is empty.
async fn close(conn: &mut PgConnection, id: Option<Uuid>) -> Result<(), StoreError> {
    sqlx::query!(
        "-- end_deleted_ledgers
        WITH left_over AS (
            SELECT l.campaign_id, l.user_id, l.state FROM campaigns c JOIN campaign_ledger l ON l.campaign_id = c.id
            WHERE c.deleted_at IS NOT NULL AND c.emptied_at IS NULL AND ($1::uuid IS NULL OR c.id = $1)
                AND l.state IN ('prepared', 'attempted') AND NOT EXISTS (SELECT FROM jobs j WHERE j.id = l.job_id)
        ), unasked AS (
            DELETE FROM campaign_ledger l USING left_over o
            WHERE l.campaign_id = o.campaign_id AND l.user_id = o.user_id AND o.state = 'prepared'
        )
        UPDATE campaign_ledger l SET state = 'outcome_unknown', outcome = 'outcome_unknown', decided_at = wireroom_now(),
            said = NULL, said_format = NULL
        FROM left_over o WHERE l.campaign_id = o.campaign_id AND l.user_id = o.user_id AND o.state = 'attempted'",
        id,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("end_deleted_ledgers"))?;
    sqlx::query!(
        "-- close_deleted_campaigns
        UPDATE campaigns c SET emptied_at = wireroom_now(), text = CASE WHEN mode = 'message' THEN '' END, chat = ''
        WHERE c.deleted_at IS NOT NULL AND c.emptied_at IS NULL AND ($1::uuid IS NULL OR c.id = $1)
            AND NOT EXISTS (SELECT FROM campaign_people p WHERE p.campaign_id = c.id)
            AND NOT EXISTS (SELECT FROM campaign_ledger l WHERE l.campaign_id = c.id AND l.state IN ('prepared', 'attempted'))",
        id,
    )
    .execute(conn)
    .await
    .map_err(failed("close_deleted_campaigns"))?;
    Ok(())
}
