//! What scans saw: `people` and `chat_members` hold the latest, `scan_members` what one scan saw. Everything has an
//! expiry, and a sweep that honours it.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use wireroom_jobs::{
    ports::{Member, Role},
    scan::ports::{ScanStart, Tally},
};

use super::{StoreError, attempt_data::AttemptKey, failed};

/// The column's word for a role.
pub const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Creator => "creator",
        Role::Admin => "admin",
        Role::Member => "member",
        Role::Restricted => "restricted",
        Role::Banned => "banned",
        Role::Left => "left",
    }
}

/// Opens the scan's record; a later attempt finds it there.
pub async fn begin(conn: &mut PgConnection, attempt: AttemptKey, scan: &ScanStart) -> Result<(), StoreError> {
    sqlx::query!(
        "-- begin_scan
        INSERT INTO scans (job_id, chat_id, purpose, expires_at, what, search_key)
        VALUES ($1, $2, $3, wireroom_now() + make_interval(days => $4), $5, $6)
        ON CONFLICT (job_id) DO NOTHING",
        attempt.job.0,
        scan.chat_id,
        scan.purpose,
        scan.retention_days,
        scan.what.as_str(),
        scan.search_key,
    )
    .execute(conn)
    .await
    .map_err(failed("begin_scan"))?;
    Ok(())
}

/// How many rows the scan has.
pub async fn tally(conn: &mut PgConnection, attempt: AttemptKey) -> Result<Tally, StoreError> {
    let counted = sqlx::query!(
        "-- scan_tally
        SELECT seen, fresh, left_out FROM scans WHERE job_id = $1",
        attempt.job.0,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("scan_tally"))?
    .ok_or(no_scan("scan_tally"))?;
    Ok(Tally {
        seen: counted.seen,
        new: counted.fresh,
        left_out: counted.left_out,
    })
}

/// One column a vector: how a page travels to Postgres in one statement.
struct Columns<'a> {
    user_ids: Vec<i64>,
    usernames: Vec<Option<&'a str>>,
    first_names: Vec<Option<&'a str>>,
    last_names: Vec<Option<&'a str>>,
    bots: Vec<bool>,
    deleted: Vec<bool>,
    premium: Vec<bool>,
    roles: Vec<&'a str>,
    joined: Vec<Option<DateTime<Utc>>>,
}

impl<'a> Columns<'a> {
    /// Sorted and without repeats: two scans that store the same people lock them in the same order.
    fn new(members: &'a [Member]) -> Self {
        let mut members: Vec<&Member> = members.iter().collect();
        members.sort_by_key(|member| member.user_id);
        members.dedup_by_key(|member| member.user_id);
        Self {
            user_ids: members.iter().map(|m| m.user_id).collect(),
            usernames: members.iter().map(|m| m.username.as_deref()).collect(),
            first_names: members.iter().map(|m| m.first_name.as_deref()).collect(),
            last_names: members.iter().map(|m| m.last_name.as_deref()).collect(),
            bots: members.iter().map(|m| m.is_bot).collect(),
            deleted: members.iter().map(|m| m.is_deleted).collect(),
            premium: members.iter().map(|m| m.is_premium).collect(),
            roles: members.iter().map(|m| role_name(m.role)).collect(),
            joined: members.iter().map(|m| m.joined_at).collect(),
        }
    }
}

/// Stores a page, of which `left_out` are kept out of it, in one statement. Returns how many people this scan has seen by now.
pub async fn save_members(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    chat_id: i64,
    members: &[Member],
    left_out: i64,
) -> Result<Tally, StoreError> {
    let page = Columns::new(members);
    let counted = sqlx::query!(
        "-- save_members
        WITH page AS MATERIALIZED (
            SELECT * FROM unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::boolean[], $8::boolean[],
                $9::boolean[], $10::text[], $11::timestamptz[])
                p(user_id, username, first_name, last_name, is_bot, is_deleted, is_premium, role, joined_at)
        ), scan AS (
            SELECT expires_at, purpose FROM scans WHERE job_id = $1
        ), person AS (
            INSERT INTO people (id, username, first_name, last_name, is_bot, is_deleted, is_premium, expires_at)
            SELECT p.user_id, p.username, p.first_name, p.last_name, p.is_bot, p.is_deleted, p.is_premium, s.expires_at
            FROM page p CROSS JOIN scan s
            ON CONFLICT (id) DO UPDATE SET username = excluded.username, first_name = excluded.first_name,
                last_name = excluded.last_name, is_bot = excluded.is_bot, is_deleted = excluded.is_deleted,
                is_premium = excluded.is_premium, updated_at = wireroom_now(),
                expires_at = greatest(people.expires_at, excluded.expires_at)
        ), known AS (
            INSERT INTO chat_members (chat_id, user_id, role, joined_at, job_id, purpose, expires_at)
            SELECT $2, p.user_id, p.role, p.joined_at, $1, s.purpose, s.expires_at FROM page p CROSS JOIN scan s
            ON CONFLICT (chat_id, user_id) DO UPDATE SET role = excluded.role, joined_at = excluded.joined_at,
                seen_at = wireroom_now(), job_id = excluded.job_id, purpose = excluded.purpose,
                expires_at = greatest(chat_members.expires_at, excluded.expires_at)
            -- A row that was updated has been locked by this transaction.
            RETURNING xmax = 0 AS is_new
        ), seen AS (
            INSERT INTO scan_members (job_id, user_id, username, first_name, last_name, is_bot, is_deleted, is_premium,
                role, joined_at)
            SELECT $1, * FROM page
            ON CONFLICT (job_id, user_id) DO NOTHING
            RETURNING 1
        )
        UPDATE scans SET seen = seen + (SELECT count(*) FROM seen),
            fresh = fresh + (SELECT count(*) FROM known WHERE is_new), left_out = left_out + $12
        WHERE job_id = $1 RETURNING seen, fresh, left_out",
        attempt.job.0,
        chat_id,
        &page.user_ids,
        &page.usernames as &[Option<&str>],
        &page.first_names as &[Option<&str>],
        &page.last_names as &[Option<&str>],
        &page.bots,
        &page.deleted,
        &page.premium,
        &page.roles as &[&str],
        &page.joined as &[Option<DateTime<Utc>>],
        left_out,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("save_members"))?
    .ok_or(no_scan("save_members"))?;
    Ok(Tally {
        seen: counted.seen,
        new: counted.fresh,
        left_out: counted.left_out,
    })
}

/// The scan's own row is missing: its time is over, or its attempt never began.
pub(super) const fn no_scan(operation: &'static str) -> StoreError {
    StoreError::Rows {
        operation,
        changed: 0,
        expected: 1,
    }
}

/// Deletes what has expired, at most `limit` rows a table. Returns how many; call again while it is not 0.
pub async fn sweep(conn: &mut PgConnection, limit: i64) -> Result<u64, StoreError> {
    let members = sqlx::query!(
        "-- sweep_scan_members
        DELETE FROM scan_members WHERE (job_id, user_id) IN (
            SELECT m.job_id, m.user_id FROM scans s JOIN scan_members m USING (job_id)
            WHERE s.expires_at <= wireroom_now() LIMIT $1)",
        limit,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("sweep_scan_members"))?;
    let messages = sqlx::query!(
        "-- sweep_scan_messages
        DELETE FROM scan_messages WHERE (job_id, chat_id, owner, message_id) IN (
            SELECT m.job_id, m.chat_id, m.owner, m.message_id FROM scans s JOIN scan_messages m USING (job_id)
            WHERE s.expires_at <= wireroom_now() LIMIT $1)",
        limit,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("sweep_scan_messages"))?;
    let files = sqlx::query!(
        "-- sweep_scan_files
        DELETE FROM scan_files WHERE (job_id, chat_id, owner, message_id) IN (
            SELECT f.job_id, f.chat_id, f.owner, f.message_id FROM scans s JOIN scan_files f USING (job_id)
            WHERE s.expires_at <= wireroom_now() LIMIT $1)",
        limit,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("sweep_scan_files"))?;
    // Found chats are few, and go with their scan.
    let scans = sqlx::query!(
        "-- sweep_scans
        DELETE FROM scans WHERE job_id IN (
            SELECT job_id FROM scans s WHERE expires_at <= wireroom_now()
                AND NOT EXISTS (SELECT FROM scan_members m WHERE m.job_id = s.job_id)
                AND NOT EXISTS (SELECT FROM scan_messages m WHERE m.job_id = s.job_id)
                AND NOT EXISTS (SELECT FROM scan_files f WHERE f.job_id = s.job_id) LIMIT $1 FOR UPDATE SKIP LOCKED)",
        limit,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("sweep_scans"))?;
    let chat_members = sqlx::query!(
        "-- sweep_chat_members
        DELETE FROM chat_members WHERE (chat_id, user_id) IN (
            SELECT chat_id, user_id FROM chat_members WHERE expires_at <= wireroom_now() LIMIT $1 FOR UPDATE SKIP LOCKED)",
        limit,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("sweep_chat_members"))?;
    let people = sqlx::query!(
        "-- sweep_people
        DELETE FROM people WHERE id IN (
            SELECT id FROM people WHERE expires_at <= wireroom_now() LIMIT $1 FOR UPDATE SKIP LOCKED)",
        limit,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("sweep_people"))?;
    let rest = super::scan_rows::sweep(conn, limit).await?;
    Ok(members.rows_affected()
        + messages.rows_affected()
        + files.rows_affected()
        + scans.rows_affected()
        + chat_members.rows_affected()
        + people.rows_affected()
        + rest)
}
