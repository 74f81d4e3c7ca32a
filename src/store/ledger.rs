//! The ledger: a row per campaign and person, made before anything is sent. And whether a campaign may contact anybody now.
//!
//! Every function runs in a transaction that holds the attempt; those that decide whether a call may be made hold the
//! campaign too, so that caps are counted one after the other, however many jobs and sessions there are.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;
use wireroom_jobs::{
    WaitReason,
    outreach::{Verdict, VerdictClass, Wording},
};

use super::{StoreError, attempt_data::AttemptKey, campaigns, failed, one_row};
use crate::ids::{JobId, SessionId};

/// What keeps a campaign from contacting anybody now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    Open,
    Wait {
        until: DateTime<Utc>,
        reason: WaitReason,
    },
    /// It is paused or stopped: a stable word.
    Halted {
        code: String,
    },
}

/// Locks the campaign, and says whether it may contact somebody now. `besides` is a person whose own row does not count:
/// whoever was begun before is not counted twice. Nobody else of any campaign is let into the same chat meanwhile.
pub async fn gate(conn: &mut PgConnection, campaign: Uuid, besides: Option<i64>) -> Result<Gate, StoreError> {
    let locked = sqlx::query!(
        "-- lock_campaign
        SELECT chat_id FROM campaigns WHERE id = $1 FOR UPDATE",
        campaign,
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("lock_campaign"))?;
    let Some(locked) = locked else {
        return Ok(Gate::Halted { code: "deleted".into() });
    };
    if let Some(chat) = locked.chat_id {
        // Campaigns of one chat take turns: its cap is theirs together.
        sqlx::query!(
            "-- lock_outreach_target
            SELECT pg_advisory_xact_lock(hashtextextended('wireroom.outreach.' || $1::bigint::text, 0)) IS NULL AS locked",
            chat,
        )
        .fetch_one(&mut *conn)
        .await
        .map_err(failed("lock_outreach_target"))?;
    }
    // A statement of its own: it sees what those wrote whom the locks were waited for.
    let row = sqlx::query!(
        r#"-- campaign_gate
        SELECT c.state, c.state_code, c.per_day, s.state AS switch, s.per_target_per_day, k.t AS "now!",
            d.ends AS "day_ends!",
            date_trunc('day', date_trunc('day', k.t, 'UTC') + interval '36 hours', 'UTC') AS "utc_day_ends!",
            (SELECT count(*) FROM campaign_ledger l WHERE l.campaign_id = c.id AND l.user_id IS DISTINCT FROM $2
                AND l.attempted_at >= d.begins AND l.state <> 'imported') AS "used!",
            (SELECT count(*) FROM campaign_ledger l WHERE l.chat_id = c.chat_id AND l.user_id IS DISTINCT FROM $2
                AND l.attempted_at >= date_trunc('day', k.t, 'UTC') AND l.state <> 'imported') AS "target_used!"
        FROM campaigns c CROSS JOIN outreach_switch s CROSS JOIN (SELECT wireroom_now() AS t OFFSET 0) k
        CROSS JOIN LATERAL (SELECT y.begins, y.ends FROM campaign_day(c.time_zone, c.counted_from, c.counted_until, k.t) y OFFSET 0) d
        WHERE c.id = $1"#,
        campaign,
        besides,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("campaign_gate"))?;
    let wait = |until, code: &str, message: String| Gate::Wait {
        until,
        reason: WaitReason::new(code, message),
    };
    if row.state != "running" {
        return Ok(Gate::Halted { code: row.state_code });
    }
    if row.switch != "running" {
        let message = "All outreach is stopped: GET /v1/outreach says why. The job goes on when somebody lets it.";
        return Ok(wait(
            row.now + chrono::TimeDelta::hours(1),
            "outreach_stopped",
            message.into(),
        ));
    }
    if row.used >= i64::from(row.per_day) {
        let message = format!("The campaign may contact {} people a day, and has.", row.per_day);
        return Ok(wait(row.day_ends, "campaign_cap", message));
    }
    if row.target_used >= i64::from(row.per_target_per_day) {
        let message = format!(
            "Into one chat {} people a day may be invited, by all campaigns and sessions together, and were.",
            row.per_target_per_day
        );
        return Ok(wait(row.utc_day_ends, "target_cap", message));
    }
    Ok(Gate::Open)
}

/// Whoever is about to call this person waits until the transaction ends. After the campaign and the chat, always.
pub async fn lock_person(conn: &mut PgConnection, user: i64) -> Result<(), StoreError> {
    sqlx::query!(
        "-- lock_outreach_person
        SELECT pg_advisory_xact_lock(hashtextextended('wireroom.outreach.person.' || $1::bigint::text, 0)) IS NULL AS locked",
        user,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("lock_outreach_person"))?;
    Ok(())
}

/// A person's row.
#[derive(Debug, Clone)]
pub struct LedgerRow {
    pub state: String,
    pub session: Option<SessionId>,
    pub job: Option<JobId>,
    pub random_id: Option<i64>,
    pub tries: i32,
    pub attempted_at: Option<DateTime<Utc>>,
    /// Another job that has not finished has it.
    pub is_anothers: bool,
}

impl LedgerRow {
    /// What became of the person is known, or that nobody will know.
    pub fn is_decided(&self) -> bool {
        !["prepared", "attempted"].contains(&self.state.as_str())
    }
}

/// Enters a person, unless they are in it.
pub async fn enter(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    session: SessionId,
    campaign: Uuid,
    user: i64,
    random_id: i64,
) -> Result<bool, StoreError> {
    let entered = sqlx::query!(
        "-- enter_ledger
        INSERT INTO campaign_ledger (campaign_id, user_id, chat_id, state, session_id, job_id, random_id)
        SELECT id, $2, chat_id, 'prepared', $3, $4, $5 FROM campaigns WHERE id = $1
        ON CONFLICT (campaign_id, user_id) DO NOTHING",
        campaign,
        user,
        session.0,
        attempt.job.0,
        random_id,
    )
    .execute(conn)
    .await
    .map_err(failed("enter_ledger"))?;
    Ok(entered.rows_affected() == 1)
}

/// A person's row, locked.
pub async fn find(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    campaign: Uuid,
    user: i64,
) -> Result<Option<LedgerRow>, StoreError> {
    sqlx::query_as!(
        LedgerRow,
        r#"-- find_in_ledger
        SELECT l.state, l.session_id AS "session: SessionId", l.job_id AS "job: JobId", l.random_id, l.tries, l.attempted_at,
            (l.job_id <> $3 AND EXISTS (SELECT FROM jobs j WHERE j.id = l.job_id)) IS TRUE AS "is_anothers!"
        FROM campaign_ledger l WHERE l.campaign_id = $1 AND l.user_id = $2 FOR UPDATE"#,
        campaign,
        user,
        attempt.job.0,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("find_in_ledger"))
}

/// What a person's call says: as the campaign does now, or as it did when the call may have been made first.
pub async fn wording(conn: &mut PgConnection, campaign: Uuid, user: i64) -> Result<Wording, StoreError> {
    let row = sqlx::query!(
        r#"-- wording_in_ledger
        SELECT coalesce(l.said, c.text) AS text, CASE WHEN l.said IS NULL THEN c.format ELSE l.said_format END AS "format!"
        FROM campaign_ledger l JOIN campaigns c ON c.id = l.campaign_id WHERE l.campaign_id = $1 AND l.user_id = $2"#,
        campaign,
        user,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("wording_in_ledger"))?;
    Ok(Wording {
        text: row.text.unwrap_or_default(),
        format: campaigns::format_of(&row.format, "wording_in_ledger")?,
    })
}

/// Takes a row over that a job left which is gone; nothing was sent.
pub async fn take_over(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    session: SessionId,
    campaign: Uuid,
    user: i64,
    random_id: i64,
) -> Result<(), StoreError> {
    let taken = sqlx::query!(
        "-- take_over_in_ledger
        UPDATE campaign_ledger SET session_id = $3, job_id = $4, random_id = $5
        WHERE campaign_id = $1 AND user_id = $2 AND state = 'prepared'",
        campaign,
        user,
        session.0,
        attempt.job.0,
        random_id,
    )
    .execute(conn)
    .await
    .map_err(failed("take_over_in_ledger"))?;
    one_row(taken.rows_affected(), "take_over_in_ledger")
}

/// Notes that the call may be made. The first time counts: nothing of it is older.
pub async fn attempted(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    campaign: Uuid,
    user: i64,
) -> Result<(), StoreError> {
    note_call(conn, attempt, campaign, user, true).await
}

/// The call was refused by name: nothing was sent, and it counts towards nothing.
pub async fn release(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    campaign: Uuid,
    user: i64,
) -> Result<(), StoreError> {
    note_call(conn, attempt, campaign, user, false).await
}

/// A call is about to be made, or the one that was is as if it had not been.
async fn note_call(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    campaign: Uuid,
    user: i64,
    is_made: bool,
) -> Result<(), StoreError> {
    let noted = sqlx::query!(
        "-- note_call_in_ledger
        UPDATE campaign_ledger SET state = CASE WHEN $4 THEN 'attempted' ELSE 'prepared' END,
            attempted_at = CASE WHEN $4 THEN coalesce(attempted_at, wireroom_now()) END,
            tries = CASE WHEN $4 THEN tries + 1 ELSE 0 END,
            said = CASE WHEN $4 THEN said END, said_format = CASE WHEN $4 THEN said_format END
        WHERE campaign_id = $1 AND user_id = $2 AND job_id = $3
            AND (state = 'attempted' OR ($4 AND state = 'prepared'))",
        campaign,
        user,
        attempt.job.0,
        is_made,
    )
    .execute(conn)
    .await
    .map_err(failed("note_call_in_ledger"))?;
    one_row(noted.rows_affected(), "note_call_in_ledger")
}

/// Stores what became of a person. Whoever was left out before anything was sent leaves the ledger.
pub async fn decide(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    campaign: Uuid,
    user: i64,
    verdict: &Verdict,
) -> Result<(), StoreError> {
    let state = match verdict.class {
        VerdictClass::Invited => "invited",
        VerdictClass::Refused | VerdictClass::Skipped => "refused",
        VerdictClass::Unknown => "outcome_unknown",
    };
    let decided = sqlx::query!(
        "-- decide_in_ledger
        WITH unasked AS (
            DELETE FROM campaign_ledger WHERE campaign_id = $1 AND user_id = $2 AND job_id = $3 AND state = 'prepared' AND $4
        )
        UPDATE campaign_ledger SET state = $5, outcome = $6, decided_at = wireroom_now(), message_id = $7,
            said = NULL, said_format = NULL
        WHERE campaign_id = $1 AND user_id = $2 AND job_id = $3 AND state IN ('prepared', 'attempted')
            AND NOT (state = 'prepared' AND $4)",
        campaign,
        user,
        attempt.job.0,
        verdict.class == VerdictClass::Skipped,
        state,
        verdict.outcome,
        verdict.message.as_ref().map(|message| message.message_id),
    )
    .execute(conn)
    .await
    .map_err(failed("decide_in_ledger"))?;
    if verdict.class == VerdictClass::Skipped {
        return Ok(());
    }
    one_row(decided.rows_affected(), "decide_in_ledger")
}

/// Ends what jobs have left in doubt that are gone: nobody will look any more. Returns how many people that are.
pub async fn end_strays(conn: &mut PgConnection, attempt: AttemptKey, campaign: Uuid) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"-- end_stray_invitations
        WITH ended AS (
            UPDATE campaign_ledger l SET state = 'outcome_unknown', outcome = 'outcome_unknown', decided_at = wireroom_now(),
                said = NULL, said_format = NULL
            WHERE l.campaign_id = $1 AND l.state = 'attempted' AND l.job_id <> $2
                AND NOT EXISTS (SELECT FROM jobs j WHERE j.id = l.job_id)
            RETURNING l.user_id, l.job_id
        ), told AS (
            UPDATE campaign_people p SET state = 'done', outcome = 'outcome_unknown', class = 'outcome_unknown',
                decided_at = wireroom_now()
            FROM ended e WHERE p.campaign_id = $1 AND p.state = 'waiting' AND p.job_id = e.job_id
                AND coalesce(p.user_id, p.resolved_id) = e.user_id
        )
        SELECT count(*) AS "ended!" FROM ended"#,
        campaign,
        attempt.job.0,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("end_stray_invitations"))
}

/// The campaign of the last contact any other one had with a person, within the days that everybody is left alone.
pub async fn was_contacted_lately(conn: &mut PgConnection, campaign: Uuid, user: i64) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- contacted_lately
        SELECT EXISTS (
            SELECT FROM campaign_ledger l CROSS JOIN outreach_switch s
            WHERE l.user_id = $2 AND l.campaign_id <> $1
                AND l.attempted_at > wireroom_now() - make_interval(days => s.person_rest_days)) AS "was!""#,
        campaign,
        user,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("contacted_lately"))
}

/// Somebody who was invited before Wireroom, or outside of it.
#[derive(Debug, Clone)]
pub struct ImportedRow {
    pub user_id: i64,
    /// When, if that is known: it counts for how long a person is left alone.
    pub invited_at: Option<DateTime<Utc>>,
}

/// Enters people who were invited before; returns how many were not in the ledger yet. Those of them who wait on the list
/// are dealt with.
pub async fn import(
    conn: &mut PgConnection,
    campaign: Uuid,
    rows: &[ImportedRow],
    supplied_by: &str,
) -> Result<i64, StoreError> {
    let users: Vec<i64> = rows.iter().map(|row| row.user_id).collect();
    let times: Vec<Option<DateTime<Utc>>> = rows.iter().map(|row| row.invited_at).collect();
    sqlx::query_scalar!(
        r#"-- import_ledger
        WITH entered AS (
            INSERT INTO campaign_ledger (campaign_id, user_id, chat_id, state, outcome, attempted_at, decided_at, supplied_by)
            SELECT c.id, n.user_id, c.chat_id, 'imported', 'already_invited', n.invited_at, wireroom_now(), $4
            FROM campaigns c CROSS JOIN (
                -- Who is named twice is left alone for as long as the later time says.
                SELECT DISTINCT ON (user_id) user_id, invited_at
                FROM unnest($2::bigint[], $3::timestamptz[]) AS k (user_id, invited_at)
                ORDER BY user_id, invited_at DESC NULLS LAST
            ) n WHERE c.id = $1
            -- Whoever is prepared was not sent anything by us, and was by somebody else.
            ON CONFLICT (campaign_id, user_id) DO UPDATE SET state = excluded.state, outcome = excluded.outcome,
                attempted_at = excluded.attempted_at, decided_at = excluded.decided_at, supplied_by = excluded.supplied_by
                WHERE campaign_ledger.state = 'prepared'
            RETURNING user_id
        ), dealt AS (
            UPDATE campaign_people p SET state = 'done', outcome = 'already_invited', class = 'skipped',
                decided_at = wireroom_now()
            FROM entered e WHERE p.campaign_id = $1 AND p.user_id = e.user_id AND p.state = 'waiting'
        )
        SELECT count(*) AS "entered!" FROM entered"#,
        campaign,
        &users,
        &times as &[Option<DateTime<Utc>>],
        supplied_by,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("import_ledger"))
}
