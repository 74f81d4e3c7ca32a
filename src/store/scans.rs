//! What scans saw: `people` and `chat_members` hold the latest, `scan_members` what one scan saw. Everything has an
//! expiry, and a sweep that honours it.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use wireroom_jobs::ports::{Member, Role, ScanStart};

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
        INSERT INTO scans (job_id, chat_id, purpose, expires_at)
        VALUES ($1, $2, $3, wireroom_now() + make_interval(days => $4))
        ON CONFLICT (job_id) DO NOTHING",
        attempt.job.0,
        scan.chat_id,
        scan.purpose,
        scan.retention_days,
    )
    .execute(conn)
    .await
    .map_err(failed("begin_scan"))?;
    Ok(())
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

/// Stores a page. Returns how many people this scan has seen by now.
pub async fn save_members(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    chat_id: i64,
    members: &[Member],
) -> Result<i64, StoreError> {
    let page = Columns::new(members);
    save_people(conn, attempt, &page).await?;
    save_chat_members(conn, attempt, chat_id, &page).await?;
    sqlx::query_scalar!(
        r#"-- save_scan_members
        WITH new AS (
            INSERT INTO scan_members (job_id, user_id, username, first_name, last_name, is_bot, is_deleted, is_premium,
                role, joined_at)
            SELECT $1, * FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::boolean[], $7::boolean[],
                $8::boolean[], $9::text[], $10::timestamptz[])
            ON CONFLICT (job_id, user_id) DO NOTHING
            RETURNING 1
        )
        UPDATE scans SET seen = seen + (SELECT count(*) FROM new) WHERE job_id = $1 RETURNING seen"#,
        attempt.job.0,
        &page.user_ids,
        &page.usernames as &[Option<&str>],
        &page.first_names as &[Option<&str>],
        &page.last_names as &[Option<&str>],
        &page.bots,
        &page.deleted,
        &page.premium,
        &page.roles as &[&str],
        &page.joined as &[Option<DateTime<Utc>>],
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("save_scan_members"))?
    .ok_or(StoreError::Rows {
        operation: "save_scan_members",
        changed: 0,
        expected: 1,
    })
}

async fn save_people(conn: &mut PgConnection, attempt: AttemptKey, page: &Columns<'_>) -> Result<(), StoreError> {
    sqlx::query!(
        "-- save_people
        INSERT INTO people (id, username, first_name, last_name, is_bot, is_deleted, is_premium, expires_at)
        SELECT p.*, s.expires_at FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::boolean[],
            $7::boolean[], $8::boolean[]) p CROSS JOIN scans s WHERE s.job_id = $1
        ON CONFLICT (id) DO UPDATE SET username = excluded.username, first_name = excluded.first_name,
            last_name = excluded.last_name, is_bot = excluded.is_bot, is_deleted = excluded.is_deleted,
            is_premium = excluded.is_premium, updated_at = wireroom_now(),
            expires_at = greatest(people.expires_at, excluded.expires_at)",
        attempt.job.0,
        &page.user_ids,
        &page.usernames as &[Option<&str>],
        &page.first_names as &[Option<&str>],
        &page.last_names as &[Option<&str>],
        &page.bots,
        &page.deleted,
        &page.premium,
    )
    .execute(conn)
    .await
    .map_err(failed("save_people"))?;
    Ok(())
}

async fn save_chat_members(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    chat_id: i64,
    page: &Columns<'_>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "-- save_chat_members
        INSERT INTO chat_members (chat_id, user_id, role, joined_at, job_id, expires_at)
        SELECT $2, m.user_id, m.role, m.joined_at, $1, s.expires_at
        FROM unnest($3::bigint[], $4::text[], $5::timestamptz[]) m(user_id, role, joined_at)
        CROSS JOIN scans s WHERE s.job_id = $1
        ON CONFLICT (chat_id, user_id) DO UPDATE SET role = excluded.role, joined_at = excluded.joined_at,
            seen_at = wireroom_now(), job_id = excluded.job_id,
            expires_at = greatest(chat_members.expires_at, excluded.expires_at)",
        attempt.job.0,
        chat_id,
        &page.user_ids,
        &page.roles as &[&str],
        &page.joined as &[Option<DateTime<Utc>>],
    )
    .execute(conn)
    .await
    .map_err(failed("save_chat_members"))?;
    Ok(())
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
    let scans = sqlx::query!(
        "-- sweep_scans
        DELETE FROM scans WHERE job_id IN (
            SELECT job_id FROM scans s WHERE expires_at <= wireroom_now()
                AND NOT EXISTS (SELECT FROM scan_members m WHERE m.job_id = s.job_id) LIMIT $1 FOR UPDATE SKIP LOCKED)",
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
    .execute(conn)
    .await
    .map_err(failed("sweep_people"))?;
    Ok(members.rows_affected() + scans.rows_affected() + chat_members.rows_affected() + people.rows_affected())
}
