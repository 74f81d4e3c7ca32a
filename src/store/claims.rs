//! How a job gets to a worker: promotion of the due, the claim and its start.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;
use wireroom_jobs::{JobKind, Lane};

use super::{StoreError, failed};
use crate::ids::{JobId, SessionId, WorkerId};

/// A watch that has run for as long has not killed its worker by its start.
pub const WATCH_TRIAL: Duration = Duration::from_secs(5);

/// What [`promote`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promotion {
    /// Jobs that became `queued`.
    pub promoted: i64,
    /// How long until the next scheduled job is due; zero when one was due but left for the next batch.
    pub next_in: Option<Duration>,
    /// Whether any job is `queued` now, wherever it may run.
    pub any_ready: bool,
    /// Another number means that pauses or limits were changed.
    pub control_version: i64,
    /// How long until the next tick of a schedule is due; zero also while ticks wait for jobs to finish.
    pub tick_in: Option<Duration>,
    /// Whether there is any job that [`rescue`](super::rescue) could be about: one that runs, has a deadline, or waits for a
    /// session.
    pub rescue_wanted: bool,
}

/// Moves due jobs from `scheduled` to `queued`, at most `limit`, and tells when the next one is due. Jobs that another
/// process promotes at the same moment are left to it.
///
/// It is all that an idle process asks each second: so it also tells whether anything else is to be done.
pub async fn promote(conn: &mut PgConnection, limit: i64) -> Result<Promotion, StoreError> {
    let known: Vec<&str> = JobKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let row = sqlx::query!(
        r#"-- promote
        WITH due AS MATERIALIZED (
            SELECT id FROM jobs WHERE state = 'scheduled' AND run_at <= (SELECT wireroom_now())
            ORDER BY run_at LIMIT $1 FOR UPDATE SKIP LOCKED
        ), promoted AS (
            UPDATE jobs j SET state = 'queued', wait_reason = NULL FROM due WHERE j.id = ANY (ARRAY[due.id]) RETURNING 1
        )
        SELECT (SELECT count(*) FROM promoted) AS "promoted!",
            (SELECT count(*) FROM due) = $1 AS "more!",
            EXISTS (SELECT FROM promoted) OR EXISTS (SELECT FROM jobs WHERE state = 'queued' AND session_id IS NOT NULL)
                OR EXISTS (SELECT FROM jobs WHERE state = 'queued' AND session_id IS NULL) AS "any_ready!",
            (SELECT (extract(epoch FROM run_at - wireroom_now()) * 1000000)::bigint FROM jobs
                WHERE state = 'scheduled' AND run_at > (SELECT wireroom_now()) ORDER BY run_at LIMIT 1) AS next_in,
            (SELECT version FROM control_version) AS "control_version!",
            (SELECT (extract(epoch FROM min(next_due_at) - wireroom_now()) * 1000000)::bigint FROM schedules
                WHERE next_due_at IS NOT NULL AND kind = ANY ($2)) AS tick_in,
            EXISTS (SELECT FROM schedule_ticks WHERE outcome = 'waiting') AS "ticks_wait!",
            EXISTS (SELECT FROM jobs WHERE state = 'running')
                OR EXISTS (SELECT FROM jobs WHERE deadline IS NOT NULL AND state <> 'running')
                OR EXISTS (SELECT FROM jobs WHERE session_id IS NOT NULL AND state <> 'running') AS "rescue_wanted!""#,
        limit,
        &known as &[&str],
    )
    .fetch_one(conn)
    .await
    .map_err(failed("promote"))?;
    let next_in = if row.more { Some(0) } else { row.next_in };
    Ok(Promotion {
        promoted: row.promoted,
        next_in: next_in.map(from_micros),
        any_ready: row.any_ready,
        control_version: row.control_version,
        tick_in: if row.ticks_wait {
            Some(Duration::ZERO)
        } else {
            row.tick_in.map(from_micros)
        },
        rescue_wanted: row.rescue_wanted,
    })
}

/// A time that has passed is none.
fn from_micros(micros: i64) -> Duration {
    Duration::from_micros(micros.try_into().unwrap_or(0))
}

/// A held session with room in one lane.
#[derive(Debug, Clone)]
pub struct Member {
    pub session: SessionId,
    /// The fence of its lease.
    pub fence: i64,
    /// Free slots, at least 1.
    pub free: i32,
    /// The index of its group in the request.
    pub group: usize,
}

/// Sessions of one pool with the same open kinds, for one lane.
#[derive(Debug, Clone)]
pub struct Group {
    pub pool: String,
    pub lane: Lane,
    /// The kinds that may be claimed one by one because a gate is closed; `None` when all are open.
    pub open_kinds: Option<Vec<JobKind>>,
    /// Whether jobs of the pool are claimed, beside the sessions' own.
    pub pooled: bool,
}

/// What a worker asks for.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    pub worker: WorkerId,
    /// The order decides which of equally free sessions gets a pooled job.
    pub members: Vec<Member>,
    /// At most one per (pool, lane), since two would compete for the same jobs within the statement.
    pub groups: Vec<Group>,
    /// Whether one job may be taken that an earlier worker died under.
    pub take_suspect: bool,
}

/// A job that is this worker's now. It is passed on boxed: it is large, and goes through many hands.
#[derive(Debug, Clone)]
pub struct ClaimedJob {
    pub id: JobId,
    pub kind: JobKind,
    /// As they are stored; the function's own type is read from them, and nothing in between.
    pub args: Box<RawValue>,
    pub lane: Lane,
    pub session: SessionId,
    /// The fence of the session's lease at the claim.
    pub session_fence: i64,
    /// From 1.
    pub attempt: i32,
    pub max_attempts: i32,
    /// Every later write of this attempt names it.
    pub fence: i64,
    pub created_at: DateTime<Utc>,
    pub deadline: Option<DateTime<Utc>>,
    /// A worker died while it held this job.
    pub suspect: bool,
    /// It waited for any session of its pool.
    pub pooled: bool,
}

/// Claims ready jobs for all of a worker's sessions, each at most its free slots: its own jobs and its pool's, by rank
/// and id. A session whose lease is not this worker's any more, or has expired, gets none. Kinds that this version does
/// not know are left alone.
// The parts that ask for single kinds say `state IS NOT DISTINCT FROM 'queued'`, as the indexes by kind do and no other: by `=`
// the planner, while it believes that hardly any job is ready, would take any index of ready jobs, and read past a backlog of
// other kinds.
#[expect(clippy::too_many_lines, reason = "one statement, whose parts make no sense apart")]
pub async fn claim(conn: &mut PgConnection, request: &ClaimRequest) -> Result<Vec<Box<ClaimedJob>>, StoreError> {
    let members = MemberColumns::of(&request.members);
    let groups = GroupColumns::of(&request.groups);
    let known: Vec<&str> = JobKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let rows = sqlx::query_as!(
        ClaimedRow,
        r#"-- claim
        WITH clock AS MATERIALIZED (SELECT wireroom_now() AS t),
        members AS MATERIALIZED (
            SELECT m.session_id, m.fence, m.free, m.grp, m.nth
            FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::int[]) WITH ORDINALITY
                AS m (session_id, fence, free, grp, nth)
            JOIN session_leases l ON l.session_id = m.session_id
            WHERE l.owner = $5 AND l.fence = m.fence AND l.expires_at > (SELECT t FROM clock)
        ), groups AS MATERIALIZED (
            SELECT g.grp, g.pool, g.lane, g.by_kind, g.pooled, f.free
            FROM unnest($6::int[], $7::text[], $8::text[], $9::bool[], $14::bool[]) AS g (grp, pool, lane, by_kind, pooled)
            JOIN (SELECT grp, sum(free) AS free FROM members GROUP BY grp) f ON f.grp = g.grp
        ), kinds AS MATERIALIZED (
            SELECT k.grp, k.kind FROM unnest($10::int[], $11::text[]) AS k (grp, kind)
        ), candidates AS MATERIALIZED (
            SELECT m.grp, m.session_id, m.fence, c.at, c.id, c.rank, c.suspect
            FROM members m JOIN groups g ON g.grp = m.grp AND NOT g.by_kind CROSS JOIN LATERAL (
                SELECT j.ctid AS at, j.id, j.rank, j.suspect FROM jobs j
                WHERE j.state = 'queued' AND j.session_id = m.session_id AND j.lane = g.lane AND j.kind = ANY ($12)
                    AND ($13 OR NOT j.suspect) AND (j.deadline IS NULL OR j.deadline > (SELECT t FROM clock))
                ORDER BY j.rank, j.id LIMIT m.free FOR UPDATE SKIP LOCKED
            ) c
            UNION ALL
            SELECT g.grp, NULL, NULL, c.at, c.id, c.rank, c.suspect
            FROM groups g CROSS JOIN LATERAL (
                SELECT j.ctid AS at, j.id, j.rank, j.suspect FROM jobs j
                WHERE j.state = 'queued' AND j.session_id IS NULL AND j.pool = g.pool AND j.lane = g.lane
                    AND j.kind = ANY ($12) AND ($13 OR NOT j.suspect)
                    AND (j.deadline IS NULL OR j.deadline > (SELECT t FROM clock))
                ORDER BY j.rank, j.id LIMIT g.free FOR UPDATE SKIP LOCKED
            ) c
            WHERE NOT g.by_kind AND g.pooled
            UNION ALL
            SELECT m.grp, m.session_id, m.fence, c.at, c.id, c.rank, c.suspect
            FROM members m JOIN groups g ON g.grp = m.grp AND g.by_kind CROSS JOIN LATERAL (
                SELECT e.* FROM kinds k CROSS JOIN LATERAL (
                    SELECT j.ctid AS at, j.id, j.rank, j.suspect FROM jobs j
                    WHERE j.state IS NOT DISTINCT FROM 'queued' AND j.session_id = m.session_id
                        AND j.lane || '/' || j.kind = g.lane || '/' || k.kind AND ($13 OR NOT j.suspect)
                        AND (j.deadline IS NULL OR j.deadline > (SELECT t FROM clock))
                    ORDER BY j.rank, j.id LIMIT m.free FOR UPDATE SKIP LOCKED
                ) e
                WHERE k.grp = m.grp ORDER BY e.rank, e.id LIMIT m.free
            ) c
            UNION ALL
            SELECT g.grp, NULL, NULL, c.at, c.id, c.rank, c.suspect
            FROM groups g JOIN kinds k ON k.grp = g.grp CROSS JOIN LATERAL (
                SELECT j.ctid AS at, j.id, j.rank, j.suspect FROM jobs j
                WHERE j.state IS NOT DISTINCT FROM 'queued' AND j.session_id IS NULL AND j.pool = g.pool
                    AND j.lane || '/' || j.kind = g.lane || '/' || k.kind AND ($13 OR NOT j.suspect)
                    AND (j.deadline IS NULL OR j.deadline > (SELECT t FROM clock))
                ORDER BY j.rank, j.id LIMIT g.free FOR UPDATE SKIP LOCKED
            ) c
            WHERE g.by_kind AND g.pooled
        ), contested AS MATERIALIZED (
            -- Sessions' own jobs never compete: each session asked for no more than its slots. So, most often, nothing is left
            -- to be chosen.
            SELECT EXISTS (SELECT FROM candidates WHERE session_id IS NULL OR suspect) AS yes
        ), chosen AS MATERIALIZED (
            SELECT o.grp, o.session_id, o.fence, o.at, o.id, o.rank FROM (
                SELECT c.*, row_number() OVER (PARTITION BY c.grp ORDER BY c.rank, c.id) AS place,
                    CASE WHEN c.suspect THEN row_number() OVER (PARTITION BY c.suspect ORDER BY c.rank, c.id) END AS suspects
                FROM candidates c WHERE (SELECT yes FROM contested)
            ) o JOIN groups g ON g.grp = o.grp
            WHERE o.place <= g.free AND coalesce(o.suspects, 1) = 1
        ), pooled AS MATERIALIZED (
            SELECT grp, at, row_number() OVER (PARTITION BY grp ORDER BY rank, id) AS place
            FROM chosen WHERE session_id IS NULL
        ), room AS (
            SELECT grp, session_id, max(fence) AS fence, max(nth) AS nth, max(free) AS free, sum(own)::int AS own
            FROM (
                SELECT grp, session_id, fence, nth, free, 0 AS own FROM members
                UNION ALL
                SELECT grp, session_id, NULL, NULL, NULL, 1 FROM chosen WHERE session_id IS NOT NULL
            ) r
            WHERE EXISTS (SELECT FROM pooled) GROUP BY grp, session_id
        ), slots AS MATERIALIZED (
            -- Arrays, because a join over thousands of slots that the planner takes for ten would be quadratic.
            SELECT r.grp, array_agg(r.session_id ORDER BY n, r.nth) AS sessions, array_agg(r.fence ORDER BY n, r.nth) AS fences
            FROM room r CROSS JOIN LATERAL generate_series(r.own + 1,
                least(r.free, r.own + (SELECT count(*) FROM pooled))) AS n
            GROUP BY r.grp
        ), assigned AS (
            SELECT at, session_id, fence FROM candidates WHERE NOT (SELECT yes FROM contested)
            UNION ALL
            SELECT at, session_id, fence FROM chosen WHERE session_id IS NOT NULL
            UNION ALL
            SELECT p.at, s.sessions[p.place], s.fences[p.place] FROM pooled p JOIN slots s ON s.grp = p.grp
            WHERE s.sessions[p.place] IS NOT NULL
        )
        UPDATE jobs j SET state = 'running', worker_id = $5, session_id = a.session_id, session_fence = a.fence,
            fence = j.fence + 1, attempt = j.attempt + 1, claimed_at = (SELECT t FROM clock), started_at = NULL,
            wait_reason = NULL
        -- The rows are locked, so they are where they were found. One that was changed since this statement began lies
        -- elsewhere, and is found by the claim that its change rings for.
        FROM assigned a WHERE j.ctid = a.at
        RETURNING j.id, j.kind, j.args AS "args: Json<Box<RawValue>>", j.lane, j.session_id AS "session_id!",
            j.session_fence AS "session_fence!", j.attempt, j.max_attempts, j.fence, j.created_at, j.deadline, j.suspect,
            j.rank, NOT j.session_bound AS "pooled!""#,
        &members.sessions,
        &members.fences,
        &members.free,
        &members.groups,
        request.worker.0,
        &groups.indexes,
        &groups.pools as &[&str],
        &groups.lanes as &[&str],
        &groups.by_kind,
        &groups.kind_groups,
        &groups.kinds as &[&str],
        &known as &[&str],
        request.take_suspect,
        &groups.pooled,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("claim"))?;
    in_order(rows)
}

/// A claimed job as it comes from Postgres.
pub(super) struct ClaimedRow {
    pub(super) id: Uuid,
    pub(super) kind: String,
    pub(super) args: Json<Box<RawValue>>,
    pub(super) lane: String,
    pub(super) session_id: Uuid,
    pub(super) session_fence: i64,
    pub(super) attempt: i32,
    pub(super) max_attempts: i32,
    pub(super) fence: i64,
    pub(super) created_at: DateTime<Utc>,
    pub(super) deadline: Option<DateTime<Utc>>,
    pub(super) suspect: bool,
    pub(super) rank: i64,
    pub(super) pooled: bool,
}

/// The jobs by rank and id: `RETURNING` follows the join's order.
#[expect(clippy::vec_box, reason = "they are large, and go through many hands")]
pub(super) fn in_order(mut rows: Vec<ClaimedRow>) -> Result<Vec<Box<ClaimedJob>>, StoreError> {
    rows.sort_by_key(|row| (row.rank, row.id));
    let jobs = rows.into_iter().map(|row| {
        Ok(Box::new(ClaimedJob {
            id: JobId(row.id),
            kind: known_kind(&row.kind)?,
            args: row.args.0,
            lane: known_lane(&row.lane)?,
            session: SessionId(row.session_id),
            session_fence: row.session_fence,
            attempt: row.attempt,
            max_attempts: row.max_attempts,
            fence: row.fence,
            created_at: row.created_at,
            deadline: row.deadline,
            suspect: row.suspect,
            pooled: row.pooled,
        }))
    });
    jobs.collect()
}

fn known_kind(name: &str) -> Result<JobKind, StoreError> {
    JobKind::parse(name).ok_or_else(|| StoreError::Decode {
        operation: "claim",
        detail: format!("kind `{name}`"),
    })
}

fn known_lane(name: &str) -> Result<Lane, StoreError> {
    Lane::ALL
        .into_iter()
        .find(|lane| lane.as_str() == name)
        .ok_or_else(|| StoreError::Decode {
            operation: "claim",
            detail: format!("lane `{name}`"),
        })
}

pub(super) struct MemberColumns {
    pub(super) sessions: Vec<Uuid>,
    pub(super) fences: Vec<i64>,
    pub(super) free: Vec<i32>,
    pub(super) groups: Vec<i32>,
}

impl MemberColumns {
    pub(super) fn of(members: &[Member]) -> Self {
        Self {
            sessions: members.iter().map(|member| member.session.0).collect(),
            fences: members.iter().map(|member| member.fence).collect(),
            free: members.iter().map(|member| member.free).collect(),
            groups: members.iter().map(|member| group_number(member.group)).collect(),
        }
    }
}

pub(super) struct GroupColumns<'a> {
    pub(super) indexes: Vec<i32>,
    pub(super) pools: Vec<&'a str>,
    pub(super) lanes: Vec<&'a str>,
    pub(super) by_kind: Vec<bool>,
    pub(super) pooled: Vec<bool>,
    pub(super) kind_groups: Vec<i32>,
    pub(super) kinds: Vec<&'a str>,
}

impl<'a> GroupColumns<'a> {
    pub(super) fn of(groups: &'a [Group]) -> Self {
        let kinds = || {
            groups.iter().enumerate().flat_map(|(index, group)| {
                let kinds = group.open_kinds.as_deref().unwrap_or_default();
                kinds.iter().map(move |kind| (group_number(index), kind.as_str()))
            })
        };
        Self {
            indexes: (0..groups.len()).map(group_number).collect(),
            pools: groups.iter().map(|group| group.pool.as_str()).collect(),
            lanes: groups.iter().map(|group| group.lane.as_str()).collect(),
            by_kind: groups.iter().map(|group| group.open_kinds.is_some()).collect(),
            pooled: groups.iter().map(|group| group.pooled).collect(),
            kind_groups: kinds().map(|(group, _)| group).collect(),
            kinds: kinds().map(|(_, kind)| kind).collect(),
        }
    }
}

fn group_number(index: usize) -> i32 {
    i32::try_from(index).expect("a claim has far fewer groups than i32 counts")
}

/// Stores that attempts have started; returns those that are still current.
pub async fn start(conn: &mut PgConnection, attempts: &[(JobId, i64)]) -> Result<Vec<JobId>, StoreError> {
    let ids: Vec<Uuid> = attempts.iter().map(|(id, _)| id.0).collect();
    let fences: Vec<i64> = attempts.iter().map(|(_, fence)| *fence).collect();
    let started = sqlx::query_scalar!(
        "-- start
        UPDATE jobs j SET started_at = coalesce(j.started_at, wireroom_now())
        FROM unnest($1::uuid[], $2::bigint[]) AS s (id, fence)
        WHERE j.id = ANY (ARRAY[s.id]) AND j.fence = s.fence AND j.state NOT IN ('scheduled', 'queued')
        RETURNING j.id",
        &ids,
        &fences
    )
    .fetch_all(conn)
    .await
    .map_err(failed("start"))?;
    Ok(started.into_iter().map(JobId).collect())
}

/// Ready jobs of kinds that this version does not know, by kind: they wait for a worker that does. Of one kind, up to 1,000
/// are counted for each session and each pool, so that a backlog is never read.
pub async fn unknown_kinds(conn: &mut PgConnection) -> Result<Vec<(String, i64)>, StoreError> {
    let known: Vec<&str> = JobKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let rows = sqlx::query!(
        r#"-- unknown_kinds
        WITH RECURSIVE pinned AS (
            -- From one kind of a session to the next over the index.
            (SELECT session_id, lane || '/' || kind AS lane_kind, kind FROM jobs
            WHERE state IS NOT DISTINCT FROM 'queued' AND session_id IS NOT NULL ORDER BY session_id, lane || '/' || kind LIMIT 1)
            UNION ALL
            SELECT n.session_id, n.lane_kind, n.kind FROM pinned p CROSS JOIN LATERAL (
                SELECT session_id, lane || '/' || kind AS lane_kind, kind FROM jobs
                WHERE state IS NOT DISTINCT FROM 'queued' AND session_id IS NOT NULL
                    AND (session_id, lane || '/' || kind) > (p.session_id, p.lane_kind)
                ORDER BY session_id, lane || '/' || kind LIMIT 1) n
        ), pooled AS (
            (SELECT pool, lane || '/' || kind AS lane_kind, kind FROM jobs
            WHERE state IS NOT DISTINCT FROM 'queued' AND session_id IS NULL ORDER BY pool, lane || '/' || kind LIMIT 1)
            UNION ALL
            SELECT n.pool, n.lane_kind, n.kind FROM pooled p CROSS JOIN LATERAL (
                SELECT pool, lane || '/' || kind AS lane_kind, kind FROM jobs
                WHERE state IS NOT DISTINCT FROM 'queued' AND session_id IS NULL AND (pool, lane || '/' || kind) > (p.pool, p.lane_kind)
                ORDER BY pool, lane || '/' || kind LIMIT 1) n
        ), counted AS (
            SELECT p.kind, (SELECT count(*) FROM (SELECT FROM jobs j WHERE j.state IS NOT DISTINCT FROM 'queued' AND j.session_id = p.session_id
                AND j.lane || '/' || j.kind = p.lane_kind LIMIT 1000) c) AS jobs
            FROM pinned p WHERE p.kind <> ALL ($1)
            UNION ALL
            SELECT p.kind, (SELECT count(*) FROM (SELECT FROM jobs j WHERE j.state IS NOT DISTINCT FROM 'queued' AND j.session_id IS NULL
                AND j.pool = p.pool AND j.lane || '/' || j.kind = p.lane_kind LIMIT 1000) c)
            FROM pooled p WHERE p.kind <> ALL ($1)
        )
        SELECT kind AS "kind!", sum(jobs)::bigint AS "jobs!" FROM counted GROUP BY kind ORDER BY kind"#,
        &known as &[&str]
    )
    .fetch_all(conn)
    .await
    .map_err(failed("unknown_kinds"))?;
    Ok(rows.into_iter().map(|row| (row.kind, row.jobs)).collect())
}
