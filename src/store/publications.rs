//! Statistics of what jobs have published: which messages are looked at, when the next round is due, and what looks found.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;
use wireroom_jobs::{
    ports::{Chat, ChatType},
    publish::{
        ports::{Counts, Found, Look, Published, RoundTally},
        statistics::{MOST_MESSAGES, StatisticsPlan},
    },
};

use super::{StoreError, failed};
use crate::ids::{JobId, SessionId};

/// Numbers of channels and supergroups are everybody's; those of basic groups are above this.
const CHANNELS_BELOW: i64 = -1_000_000_000_000;

/// Has a job's messages looked at from now on. The plan that was told first stays.
pub async fn follow(
    conn: &mut PgConnection,
    job: JobId,
    session: SessionId,
    plan: StatisticsPlan,
) -> Result<(), StoreError> {
    sqlx::query!(
        "-- follow_publication
        INSERT INTO publications (job_id, session_id, every_minutes, until, next_at)
        SELECT $1, $2, $3, c.t + make_interval(days => $4), c.t + make_interval(mins => $3)
        FROM (SELECT wireroom_now() AS t OFFSET 0) c
        ON CONFLICT (job_id) DO NOTHING",
        job.0,
        session.0,
        plan.every_minutes,
        plan.for_days,
    )
    .execute(conn)
    .await
    .map_err(failed("follow_publication"))?;
    Ok(())
}

/// Takes in which messages these jobs have published, as far as their sends are still known. Messages that Telegram keeps for
/// later are none yet.
pub async fn take_in(conn: &mut PgConnection, jobs: &[Uuid]) -> Result<(), StoreError> {
    sqlx::query!(
        "-- take_in_published
        INSERT INTO publication_messages (job_id, chat_id, message_id, session_id, published_at)
        SELECT e.job_id, e.chat_id, m.id, e.session_id, e.message_date
        FROM job_effects e
        CROSS JOIN LATERAL unnest(array_prepend(e.message_id, coalesce(e.other_message_ids, '{}')))
            WITH ORDINALITY AS m (id, place)
        WHERE e.job_id = ANY ($1) AND e.message_id > 0 ORDER BY e.prepared_at, e.chat_id, m.place
        ON CONFLICT (job_id, chat_id, message_id) DO NOTHING",
        jobs,
    )
    .execute(conn)
    .await
    .map_err(failed("take_in_published"))?;
    Ok(())
}

/// Messages of one chat that nobody has looked at since then, and that the session can see. Those that are gone are left.
pub async fn next(
    conn: &mut PgConnection,
    jobs: &[Uuid],
    session: SessionId,
    since: DateTime<Utc>,
) -> Result<Option<Published>, StoreError> {
    let rows = sqlx::query!(
        r#"-- next_published
        WITH open AS (
            SELECT m.chat_id, m.message_id FROM publication_messages m
            WHERE m.job_id = ANY ($1) AND m.deleted_at IS NULL AND (m.looked_at IS NULL OR m.looked_at < $3)
                AND (m.chat_id < $4 OR m.session_id = $2)
        ), one AS (
            SELECT min(chat_id) AS chat_id FROM open
        )
        SELECT DISTINCT o.chat_id AS "chat_id!", o.message_id AS "message_id!", c.type AS "chat_type?", c.title AS "title?",
            c.username
        FROM one JOIN open o USING (chat_id) LEFT JOIN chats c ON c.id = o.chat_id
        ORDER BY o.message_id LIMIT $5"#,
        jobs,
        session.0,
        since,
        CHANNELS_BELOW,
        i64::try_from(MOST_MESSAGES).unwrap_or(i64::MAX),
    )
    .fetch_all(conn)
    .await
    .map_err(failed("next_published"))?;
    let message_ids = rows.iter().map(|row| row.message_id).collect();
    let Some(row) = rows.into_iter().next() else {
        return Ok(None);
    };
    let chat = Chat {
        id: row.chat_id,
        chat_type: match row.chat_type.as_deref() {
            Some("group") => ChatType::Group,
            Some("supergroup") => ChatType::Supergroup,
            _ => ChatType::Channel,
        },
        title: row.title.unwrap_or_default(),
        username: row.username,
        member_count: None,
        member: true,
    };
    Ok(Some(Published { chat, message_ids }))
}

/// Looks at messages of one chat, as columns.
#[derive(Default)]
struct Columns {
    message_ids: Vec<i32>,
    problems: Vec<Option<String>>,
    deleted: Vec<bool>,
    views: Vec<Option<i32>>,
    forwards: Vec<Option<i32>>,
    replies: Vec<Option<i32>>,
    reactions: Vec<i64>,
    by_reaction: Vec<serde_json::Value>,
}

impl Columns {
    fn of(looks: &[Look]) -> Self {
        let mut columns = Self::default();
        for look in looks {
            let (counts, problem, deleted) = match &look.found {
                Found::There(counts) => (counts.clone(), None, false),
                Found::Deleted => (Counts::default(), None, true),
                Found::Unreadable(code) => (Counts::default(), Some(code.clone()), false),
            };
            columns.message_ids.push(look.message_id);
            columns.problems.push(problem);
            columns.deleted.push(deleted);
            columns.views.push(counts.views);
            columns.forwards.push(counts.forwards);
            columns.replies.push(counts.replies);
            columns.reactions.push(counts.reactions());
            columns.by_reaction.push(serde_json::json!(counts.by_reaction));
        }
        columns
    }
}

/// Keeps what looks at messages of one chat found. Counters that are as they were take no row.
pub async fn keep(conn: &mut PgConnection, jobs: &[Uuid], chat_id: i64, looks: &[Look]) -> Result<(), StoreError> {
    let columns = Columns::of(looks);
    sqlx::query!(
        "-- keep_looks
        WITH clock AS MATERIALIZED (SELECT wireroom_now() AS t), look AS (
            SELECT * FROM unnest($3::int[], $4::text[], $5::bool[], $6::int[], $7::int[], $8::int[], $9::bigint[], $10::jsonb[])
                AS l (message_id, problem, deleted, views, forwards, replies, reactions, by_reaction)
        ), marked AS (
            UPDATE publication_messages m SET looked_at = (SELECT t FROM clock), problem = l.problem,
                deleted_at = CASE WHEN l.deleted THEN coalesce(m.deleted_at, (SELECT t FROM clock)) END
            FROM look l WHERE m.job_id = ANY ($1) AND m.chat_id = $2 AND m.message_id = l.message_id
            RETURNING m.job_id, m.message_id
        )
        INSERT INTO publication_samples (job_id, chat_id, message_id, taken_at, views, forwards, replies, reactions, by_reaction)
        SELECT k.job_id, $2, k.message_id, (SELECT t FROM clock), l.views, l.forwards, l.replies, l.reactions, l.by_reaction
        FROM marked k JOIN look l USING (message_id)
        LEFT JOIN LATERAL (
            SELECT * FROM publication_samples s
            WHERE s.job_id = k.job_id AND s.chat_id = $2 AND s.message_id = k.message_id ORDER BY s.taken_at DESC LIMIT 1
        ) last ON true
        WHERE NOT l.deleted AND l.problem IS NULL AND (last.id IS NULL
            OR (last.views, last.forwards, last.replies, last.by_reaction)
                IS DISTINCT FROM (l.views, l.forwards, l.replies, l.by_reaction))
        ON CONFLICT DO NOTHING",
        jobs,
        chat_id,
        &columns.message_ids,
        &columns.problems as &[Option<String>],
        &columns.deleted,
        &columns.views as &[Option<i32>],
        &columns.forwards as &[Option<i32>],
        &columns.replies as &[Option<i32>],
        &columns.reactions,
        &columns.by_reaction,
    )
    .execute(conn)
    .await
    .map_err(failed("keep_looks"))?;
    Ok(())
}

/// How many messages of these jobs were looked at since then.
pub async fn tally(conn: &mut PgConnection, jobs: &[Uuid], since: DateTime<Utc>) -> Result<RoundTally, StoreError> {
    sqlx::query_as!(
        RoundTally,
        r#"-- tally_round
        SELECT count(*) FILTER (WHERE deleted_at IS NULL AND problem IS NULL) AS "there!",
            count(*) FILTER (WHERE deleted_at IS NOT NULL) AS "deleted!",
            count(*) FILTER (WHERE problem IS NOT NULL) AS "unreadable!"
        FROM publication_messages WHERE job_id = ANY ($1) AND looked_at >= $2"#,
        jobs,
        since,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("tally_round"))
}

/// Which of these public names the session has met, as chats of which id. By the name in lower case.
pub async fn met_by_name(
    conn: &mut PgConnection,
    session: SessionId,
    names: &[String],
) -> Result<HashMap<String, i64>, StoreError> {
    let rows = sqlx::query!(
        r#"-- chats_met_by_name
        SELECT lower(c.username) AS "name!", c.id FROM session_chats s JOIN chats c ON c.id = s.chat_id
        WHERE s.session_id = $1 AND lower(c.username) = ANY ($2)"#,
        session.0,
        names,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("chats_met_by_name"))?;
    Ok(rows.into_iter().map(|row| (row.name, row.id)).collect())
}

/// A publication whose round is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    pub job: JobId,
    /// Who looks.
    pub session: SessionId,
}

/// Takes publications whose round is due, at most `limit`, and puts each off to its next. Those without anything to look at
/// are over; those whose last round is not finished, or that no ready session can look at, are left for later.
///
/// The session that sent the messages looks at them; when it is not ready, another one of its pool that is in the chats.
pub async fn take_due(conn: &mut PgConnection, limit: i64) -> Result<Vec<Due>, StoreError> {
    let rows = sqlx::query!(
        r#"-- take_due_publications
        WITH clock AS MATERIALIZED (SELECT wireroom_now() AS t), due AS MATERIALIZED (
            SELECT p.job_id, p.session_id, p.every_minutes, p.until, p.round_job FROM publications p
            WHERE p.next_at <= (SELECT t FROM clock) ORDER BY p.next_at LIMIT $1 FOR UPDATE SKIP LOCKED
        ), chosen AS MATERIALIZED (
            SELECT d.*,
                EXISTS (SELECT FROM jobs j WHERE j.id = ANY (ARRAY[d.job_id])) AS is_sending,
                EXISTS (SELECT FROM jobs j WHERE j.id = ANY (ARRAY[d.round_job])) AS is_looking,
                EXISTS (SELECT FROM publication_messages m WHERE m.job_id = d.job_id AND m.deleted_at IS NULL)
                    OR EXISTS (SELECT FROM job_effects e WHERE e.job_id = d.job_id AND e.message_id > 0
                        AND NOT EXISTS (SELECT FROM publication_messages m WHERE m.job_id = e.job_id AND m.chat_id = e.chat_id))
                    AS has_messages,
                coalesce(
                    (SELECT s.id FROM sessions s WHERE s.id = d.session_id AND s.state = 'ready'),
                    (SELECT s.id FROM sessions own
                        JOIN sessions s ON s.pool = own.pool AND s.state = 'ready'
                        JOIN session_chats c ON c.session_id = s.id AND c.member
                        JOIN job_effects e ON e.chat_id = c.chat_id AND e.job_id = d.job_id AND e.chat_id < $2
                    WHERE own.id = d.session_id GROUP BY s.id ORDER BY count(*) DESC, s.id LIMIT 1),
                    (SELECT s.id FROM sessions own
                        JOIN sessions s ON s.pool = own.pool AND s.state = 'ready'
                        JOIN session_chats c ON c.session_id = s.id AND c.member
                        JOIN publication_messages m ON m.chat_id = c.chat_id AND m.job_id = d.job_id AND m.chat_id < $2
                    WHERE own.id = d.session_id GROUP BY s.id ORDER BY count(*) DESC, s.id LIMIT 1)
                ) AS looks
            FROM due d
        ), put_off AS (
            UPDATE publications p SET next_at = CASE
                WHEN NOT c.has_messages AND NOT c.is_sending THEN NULL
                WHEN NOT c.has_messages OR c.is_looking OR c.looks IS NULL THEN
                    CASE WHEN p.until > (SELECT t FROM clock) - interval '1 day'
                        THEN (SELECT t FROM clock) + make_interval(mins => least(p.every_minutes, 15)) END
                WHEN p.until <= (SELECT t FROM clock) THEN NULL
                ELSE least((SELECT t FROM clock) + make_interval(mins => p.every_minutes), p.until) END
            FROM chosen c WHERE p.job_id = c.job_id
        )
        SELECT job_id AS "job!: JobId", looks AS "session!: SessionId" FROM chosen
        WHERE has_messages AND NOT is_looking AND looks IS NOT NULL ORDER BY looks, job_id"#,
        limit,
        CHANNELS_BELOW,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("take_due_publications"))?;
    let due = rows.into_iter().map(|row| Due {
        job: row.job,
        session: row.session,
    });
    Ok(due.collect())
}

/// Notes which job looks at these jobs' messages.
pub async fn note_round(conn: &mut PgConnection, jobs: &[Uuid], round: JobId) -> Result<(), StoreError> {
    sqlx::query!(
        "-- note_round
        UPDATE publications SET round_job = $2 WHERE job_id = ANY ($1)",
        jobs,
        round.0,
    )
    .execute(conn)
    .await
    .map_err(failed("note_round"))?;
    Ok(())
}

/// Whether a round is due: one cheap look, so that an idle worker opens no transaction.
pub async fn is_due(conn: &mut PgConnection) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- publications_due
        SELECT EXISTS (SELECT FROM publications WHERE next_at <= (SELECT wireroom_now())) AS "due!""#
    )
    .fetch_one(conn)
    .await
    .map_err(failed("publications_due"))
}

/// A message and its counters, as they are or as they once were.
#[derive(Debug, Clone, PartialEq)]
pub struct StatisticsRecord {
    /// Its place in the list.
    pub id: i64,
    pub chat_id: i64,
    pub message_id: i32,
    pub published_at: Option<DateTime<Utc>>,
    /// When the counters were first seen to be these; `None`: they never were read.
    pub taken_at: Option<DateTime<Utc>>,
    pub views: Option<i32>,
    pub forwards: Option<i32>,
    pub replies: Option<i32>,
    pub reactions: Option<i64>,
    pub by_reaction: Option<Json<BTreeMap<String, i64>>>,
    /// When it was last looked at.
    pub looked_at: Option<DateTime<Utc>>,
    pub deleted_at: Option<DateTime<Utc>>,
    pub problem: Option<String>,
}

/// The messages of a job past `after`, each with its newest counters.
pub async fn latest(
    conn: &mut PgConnection,
    job: JobId,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<StatisticsRecord>, StoreError> {
    sqlx::query_as!(
        StatisticsRecord,
        r#"-- latest_statistics
        SELECT m.id, m.chat_id, m.message_id, m.published_at, s.taken_at AS "taken_at?", s.views, s.forwards, s.replies,
            s.reactions AS "reactions?", s.by_reaction AS "by_reaction?: Json<BTreeMap<String, i64>>", m.looked_at,
            m.deleted_at, m.problem
        FROM publication_messages m LEFT JOIN LATERAL (
            SELECT * FROM publication_samples s
            WHERE s.job_id = m.job_id AND s.chat_id = m.chat_id AND s.message_id = m.message_id
            ORDER BY s.taken_at DESC LIMIT 1
        ) s ON true
        WHERE m.job_id = $1 AND m.id > $2 ORDER BY m.id LIMIT $3"#,
        job.0,
        after.unwrap_or(0),
        limit,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("latest_statistics"))
}

/// All counters of a job's messages past `after`, in the order in which they were read.
pub async fn series(
    conn: &mut PgConnection,
    job: JobId,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<StatisticsRecord>, StoreError> {
    sqlx::query_as!(
        StatisticsRecord,
        r#"-- statistics_series
        SELECT s.id, s.chat_id, s.message_id, m.published_at, s.taken_at AS "taken_at?", s.views, s.forwards, s.replies,
            s.reactions AS "reactions?", s.by_reaction AS "by_reaction?: Json<BTreeMap<String, i64>>", m.looked_at,
            m.deleted_at, m.problem
        FROM publication_samples s JOIN publication_messages m USING (job_id, chat_id, message_id)
        WHERE s.job_id = $1 AND s.id > $2 ORDER BY s.id LIMIT $3"#,
        job.0,
        after.unwrap_or(0),
        limit,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("statistics_series"))
}

/// Whether messages of the job were, or are to be, looked at.
pub async fn is_known(conn: &mut PgConnection, job: JobId) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- publication_known
        SELECT EXISTS (SELECT FROM publications WHERE job_id = $1)
            OR EXISTS (SELECT FROM publication_messages WHERE job_id = $1) AS "known!""#,
        job.0,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("publication_known"))
}

/// Deletes up to `limit` messages with their counters `keep` days after they were last looked at, and plans that are over as
/// long; returns how many went. Call it again while that is not zero.
pub async fn expire(conn: &mut PgConnection, keep: i32, limit: i64) -> Result<u64, StoreError> {
    let samples = sqlx::query!(
        "-- expire_publication_samples
        DELETE FROM publication_samples WHERE id IN (
            SELECT s.id FROM publication_messages m JOIN publication_samples s USING (job_id, chat_id, message_id)
            WHERE coalesce(m.looked_at, m.noted_at) < wireroom_now() - make_interval(days => $1)
                AND NOT EXISTS (SELECT FROM publications p WHERE p.job_id = m.job_id AND p.next_at IS NOT NULL)
            LIMIT $2)",
        keep,
        limit,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("expire_publication_samples"))?;
    let messages = sqlx::query!(
        "-- expire_publication_messages
        DELETE FROM publication_messages WHERE id IN (
            SELECT m.id FROM publication_messages m
            WHERE coalesce(m.looked_at, m.noted_at) < wireroom_now() - make_interval(days => $1)
                AND NOT EXISTS (SELECT FROM publications p WHERE p.job_id = m.job_id AND p.next_at IS NOT NULL)
                AND NOT EXISTS (SELECT FROM publication_samples s
                    WHERE s.job_id = m.job_id AND s.chat_id = m.chat_id AND s.message_id = m.message_id)
            LIMIT $2)",
        keep,
        limit,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("expire_publication_messages"))?;
    let plans = sqlx::query!(
        "-- expire_publications
        DELETE FROM publications WHERE job_id IN (
            SELECT p.job_id FROM publications p
            WHERE p.next_at IS NULL AND p.until < wireroom_now() - make_interval(days => $1)
                AND NOT EXISTS (SELECT FROM publication_messages m WHERE m.job_id = p.job_id) LIMIT $2)",
        keep,
        limit,
    )
    .execute(conn)
    .await
    .map_err(failed("expire_publications"))?;
    Ok(samples.rows_affected() + messages.rows_affected() + plans.rows_affected())
}
