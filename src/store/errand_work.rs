//! Errands as a worker does them: claimed under a lease of their own, renewed, answered step by step, and ended. Every write
//! names owner and fence, so that a worker that was taken for dead changes nothing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{
    StoreError,
    errands::{CHALLENGE, CodeInfo, ErrandProblem, ErrandState, Step, Task, known},
    failed,
    leases::interval,
};
use crate::{
    ids::{ErrandId, SessionId, WorkerId},
    letterbox::Slot,
    vault::Sealed,
};

/// Names one term of one worker's hold on one errand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrandKey {
    pub errand: ErrandId,
    pub owner: WorkerId,
    pub fence: i64,
}

/// An errand that was just claimed.
#[derive(Debug, Clone, Copy)]
pub struct ClaimedErrand {
    pub key: ErrandKey,
    pub session: SessionId,
    pub task: Task,
}

/// An errand with what is sealed in it.
#[derive(Debug, Clone)]
pub struct Work {
    pub state: ErrandState,
    pub step: Step,
    pub asked: i32,
    pub answered: i32,
    pub input: Option<Sealed>,
    pub progress: Option<Sealed>,
    pub reply_to: Option<Slot>,
    pub tries: i32,
    pub was: String,
    pub was_reason: Option<String>,
    /// Telegram asked to wait, and that is not over.
    pub rests: bool,
    pub created_by: String,
    pub qr_expires_at: Option<DateTime<Utc>>,
    /// It has waited for its asker as long as it may.
    pub expired: bool,
}

/// What a step came to. Everything that is `None` stays as it was, but for the problem, which is what it says here.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub state: Option<ErrandState>,
    pub problem: Option<ErrandProblem>,
    pub reason: Option<String>,
    /// Seconds until it may be tried again.
    pub retry_after: Option<u32>,
    pub progress: Option<Sealed>,
    pub code: Option<CodeInfo>,
    pub password_hint: Option<String>,
    /// The URL of a QR login, and for how many seconds it is good.
    pub qr: Option<(String, u32)>,
    pub output: Option<Vec<u8>>,
    /// A code or a password was wrong.
    pub wrong: bool,
}

/// How long what is left of an errand that ended stays.
pub(super) const LEFT_BEHIND: Duration = Duration::from_mins(5);

/// Takes errands whose lease is free and whose input this worker can open: new ones, those of workers that died, and those that
/// were ended since, with something authorised maybe.
pub async fn claim(
    conn: &mut PgConnection,
    owner: WorkerId,
    key_ids: &[String],
    limit: i64,
    lease: Duration,
) -> Result<Vec<ClaimedErrand>, StoreError> {
    let rows = sqlx::query!(
        r#"-- claim_errands
        WITH free AS (
            SELECT id FROM errands
            WHERE lease_until <= wireroom_now() AND (state NOT IN ('done', 'failed')
                    OR (state = 'failed' AND progress_sealed IS NOT NULL AND updated_at > wireroom_now() - $5::interval))
                AND (input_sealed_with IS NULL OR input_sealed_with = ANY ($2))
                AND (progress_sealed_with IS NULL OR progress_sealed_with = ANY ($2))
            ORDER BY created_at LIMIT $3 FOR UPDATE SKIP LOCKED
        )
        UPDATE errands e SET owner = $1, fence = e.fence + 1, lease_until = wireroom_now() + $4::interval,
            proxies_known_at = e.fence + 1
        FROM free WHERE e.id = free.id
        RETURNING e.id AS "id: ErrandId", e.fence, e.session_id AS "session: SessionId", e.task"#,
        owner.0,
        key_ids,
        limit,
        interval(lease),
        interval(LEFT_BEHIND),
    )
    .fetch_all(conn)
    .await
    .map_err(failed("claim_errands"))?;
    rows.into_iter()
        .map(|row| {
            Ok(ClaimedErrand {
                key: ErrandKey {
                    errand: row.id,
                    owner,
                    fence: row.fence,
                },
                session: row.session,
                task: known(Task::parse(&row.task), &row.task)?,
            })
        })
        .collect()
}

/// Renews the hold, of an errand that was given up too: its worker may have a key connected until it has hung up. `false`: it had
/// run out, or is another's.
pub async fn renew(conn: &mut PgConnection, key: ErrandKey, lease: Duration) -> Result<bool, StoreError> {
    let renewed = sqlx::query!(
        "-- renew_errand
        UPDATE errands SET lease_until = wireroom_now() + $4::interval
        WHERE id = $1 AND owner = $2 AND fence = $3 AND lease_until > wireroom_now()",
        key.errand.0,
        key.owner.0,
        key.fence,
        interval(lease),
    )
    .execute(conn)
    .await
    .map_err(failed("renew_errand"))?;
    Ok(renewed.rows_affected() == 1)
}

/// Gives the hold back, after the socket is closed. What is not done is another worker's.
pub async fn release(conn: &mut PgConnection, key: ErrandKey) -> Result<(), StoreError> {
    sqlx::query!(
        "-- release_errand
        UPDATE errands SET owner = NULL, lease_until = '-infinity' WHERE id = $1 AND owner = $2 AND fence = $3",
        key.errand.0,
        key.owner.0,
        key.fence,
    )
    .execute(conn)
    .await
    .map_err(failed("release_errand"))?;
    Ok(())
}

/// Erases the progress of an errand that has ended: nothing of it is left at Telegram.
pub async fn erase_progress(conn: &mut PgConnection, key: ErrandKey) -> Result<(), StoreError> {
    sqlx::query!(
        "-- erase_errand_progress
        UPDATE errands SET progress_sealed = NULL, progress_sealed_with = NULL
        WHERE id = $1 AND owner = $2 AND fence = $3 AND state IN ('done', 'failed')",
        key.errand.0,
        key.owner.0,
        key.fence,
    )
    .execute(conn)
    .await
    .map_err(failed("erase_errand_progress"))?;
    Ok(())
}

/// Asserts that the errand is held and live, and locks it until the transaction ends: what is written after this in the same
/// transaction is fenced.
pub async fn hold(conn: &mut PgConnection, key: ErrandKey, operation: &'static str) -> Result<(), StoreError> {
    let held = sqlx::query_scalar!(
        r#"-- hold_errand
        SELECT true AS "held!" FROM errands
        WHERE id = $1 AND owner = $2 AND fence = $3 AND lease_until > wireroom_now() AND state NOT IN ('done', 'failed')
        FOR UPDATE"#,
        key.errand.0,
        key.owner.0,
        key.fence,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("hold_errand"))?;
    held.map(|_| ()).ok_or(StoreError::Fenced { operation })
}

/// Reads the errand under the hold; [`StoreError::Fenced`] when that is over.
pub async fn load(conn: &mut PgConnection, key: ErrandKey) -> Result<Work, StoreError> {
    const OPERATION: &str = "load_errand";
    let row = sqlx::query!(
        r#"-- load_errand
        SELECT state, step, asked, answered, input_sealed, input_sealed_with, progress_sealed, progress_sealed_with,
            reply_to, tries, was, was_reason, coalesce(retry_at > wireroom_now(), false) AS "rests!", created_by,
            qr_expires_at, expires_at <= wireroom_now() AS "expired!"
        FROM errands
        WHERE id = $1 AND owner = $2 AND fence = $3 AND lease_until > wireroom_now()"#,
        key.errand.0,
        key.owner.0,
        key.fence,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed(OPERATION))?
    .ok_or(StoreError::Fenced { operation: OPERATION })?;
    let sealed = |bytes: Option<Vec<u8>>, key_id: Option<String>| {
        bytes.zip(key_id).map(|(bytes, key_id)| Sealed { key_id, bytes })
    };
    Ok(Work {
        state: known(ErrandState::parse(&row.state), &row.state)?,
        step: known(Step::parse(&row.step), &row.step)?,
        asked: row.asked,
        answered: row.answered,
        input: sealed(row.input_sealed, row.input_sealed_with),
        progress: sealed(row.progress_sealed, row.progress_sealed_with),
        reply_to: row.reply_to.and_then(|bytes| Slot::from_bytes(&bytes).ok()),
        tries: row.tries,
        was: row.was,
        was_reason: row.was_reason,
        rests: row.rests,
        created_by: row.created_by,
        qr_expires_at: row.qr_expires_at,
        expired: row.expired,
    })
}

/// Answers the step `seq` under the hold: its input is erased, and at the errand's end so is everything sealed but what came
/// out. A step that was asked for since stays to be done.
pub async fn reply(conn: &mut PgConnection, key: ErrandKey, seq: i32, reply: &Reply) -> Result<(), StoreError> {
    const OPERATION: &str = "reply_errand";
    hold(conn, key, OPERATION).await?;
    let ended = reply.state.is_some_and(ErrandState::is_final);
    let code = reply.code.as_ref().and_then(|code| serde_json::to_value(code).ok());
    sqlx::query!(
        "-- reply_errand
        UPDATE errands SET
            state = COALESCE($2, state), answered = GREATEST(answered, $3),
            input_sealed = CASE WHEN asked > $3 AND NOT $4 THEN input_sealed END,
            input_sealed_with = CASE WHEN asked > $3 AND NOT $4 THEN input_sealed_with END,
            progress_sealed = CASE WHEN NOT $4 THEN COALESCE($5, progress_sealed) END,
            progress_sealed_with = CASE WHEN NOT $4 THEN COALESCE($6, progress_sealed_with) END,
            problem = $7, reason = $8, retry_at = wireroom_now() + make_interval(secs => $9),
            code_info = COALESCE($10, code_info),
            password_hint = CASE WHEN NOT $4 THEN COALESCE($11, password_hint) END,
            qr_url = CASE WHEN NOT $4 THEN COALESCE($12, qr_url) END,
            qr_expires_at = COALESCE(wireroom_now() + make_interval(secs => $13), qr_expires_at),
            output_sealed = $14, tries = tries + $15::int, updated_at = wireroom_now(),
            -- What has to wait is not over before it may go on.
            expires_at = CASE WHEN answered < $3 THEN wireroom_now() + make_interval(secs => coalesce($9, 0)) + $16::interval
                ELSE expires_at END
        WHERE id = $1",
        key.errand.0,
        reply.state.map(ErrandState::as_str),
        seq,
        ended,
        reply.progress.as_ref().map(|sealed| sealed.bytes.as_slice()),
        reply.progress.as_ref().map(|sealed| sealed.key_id.as_str()),
        reply.problem.map(ErrandProblem::as_str),
        reply.reason.as_deref(),
        reply.retry_after.map(f64::from),
        code,
        reply.password_hint.as_deref(),
        reply.qr.as_ref().map(|(url, _)| url.as_str()),
        reply.qr.as_ref().map(|(_, seconds)| f64::from(*seconds)),
        reply.output.as_deref(),
        i32::from(reply.wrong),
        interval(CHALLENGE),
    )
    .execute(conn)
    .await
    .map_err(failed(OPERATION))?;
    Ok(())
}

/// Stores what the next worker needs to go on, under the hold.
pub async fn save_progress(conn: &mut PgConnection, key: ErrandKey, progress: &Sealed) -> Result<(), StoreError> {
    const OPERATION: &str = "save_errand_progress";
    hold(conn, key, OPERATION).await?;
    sqlx::query!(
        "-- save_errand_progress
        UPDATE errands SET progress_sealed = $2, progress_sealed_with = $3 WHERE id = $1",
        key.errand.0,
        progress.bytes,
        progress.key_id,
    )
    .execute(conn)
    .await
    .map_err(failed(OPERATION))?;
    Ok(())
}
