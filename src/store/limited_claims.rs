//! The claim where limits are set. It is [`claims::claim`] and more: without limits that one is used, since the larger plan
//! of this one takes half a millisecond longer, whatever it finds.
//!
//! A concurrency limit is a row with a version. The claim locks it, and so reads it as it is now; where that is not what
//! the statement sees otherwise, somebody claimed under the limit since, and what it limits is left alone. What runs is
//! counted, never kept as a number that a crash could leave wrong. A rate limit is a token bucket for each key; its row is
//! written, and so taken in turn, by every claim that meets the key.

use serde_json::value::RawValue;
use sqlx::{PgConnection, types::Json};
use wireroom_jobs::JobKind;

use super::{
    StoreError,
    claims::{self, ClaimRequest, ClaimedJob, ClaimedRow, GroupColumns, MemberColumns, in_order},
    failed,
    limits::{LimitScope, Limits, RateLimit},
    rates,
};
/// What a claim brought.
#[derive(Debug, Clone, Default)]
pub struct Claim {
    /// By rank and id.
    pub jobs: Vec<Box<ClaimedJob>>,
    /// Limit keys whose bucket was empty: the jobs that found it so stand in line now, and
    /// [`rates::stand_in_line`](super::rates::stand_in_line) brings the others there.
    pub spent_keys: Vec<String>,
}

/// [`claims::claim`] under `limits`, which are honoured over all workers. A kind with a limit is claimed only by groups that name their kinds. Another
/// claim at the same moment may hold a limit's row; then what it limits is left alone: claim again soon. A job whose
/// key's bucket is empty becomes `scheduled` for its turn.
#[expect(clippy::too_many_lines, reason = "one statement, whose parts make no sense apart")]
pub async fn claim_within(
    conn: &mut PgConnection,
    request: &ClaimRequest,
    limits: &Limits,
) -> Result<Claim, StoreError> {
    if limits.is_empty() {
        let jobs = claims::claim(conn, request).await?;
        return Ok(Claim {
            jobs,
            spent_keys: Vec::new(),
        });
    }
    let limited = LimitColumns::of(limits);
    let members = MemberColumns::of(&request.members);
    let groups = GroupColumns::of(&request.groups);
    let known: Vec<&str> = JobKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let rows = sqlx::query!(
        r#"-- claim_within
        WITH clock AS MATERIALIZED (SELECT wireroom_now() AS t),
        members AS MATERIALIZED (
            SELECT m.session_id, m.fence, m.free, m.grp, m.nth
            FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::int[]) WITH ORDINALITY
                AS m (session_id, fence, free, grp, nth)
            JOIN session_leases l ON l.session_id = m.session_id
            WHERE l.owner = $5 AND l.fence = m.fence AND l.expires_at > (SELECT t FROM clock)
        ), limits AS MATERIALIZED (
            -- A locked row is read as it is now, which may be after what this statement sees of everything else.
            SELECT scope, target, version, max_running FROM concurrency_limits
            WHERE (scope = 'kind' AND target = ANY ($14)) OR (scope = 'pool' AND target = ANY ($15))
            FOR UPDATE SKIP LOCKED
        ), limit_room AS MATERIALIZED (
            SELECT l.scope, l.target, l.max_running - (SELECT count(*) FROM jobs j WHERE j.state = 'running'
                AND CASE l.scope WHEN 'kind' THEN j.kind ELSE j.pool END = l.target) AS room
            -- The same row as this statement sees it: when they differ, so may the jobs that run.
            FROM limits l JOIN concurrency_limits s ON s.scope = l.scope AND s.target = l.target AND s.version = l.version
        ), groups AS MATERIALIZED (
            SELECT g.grp, g.pool, g.lane, g.by_kind, least(f.free, r.room) AS free
            FROM unnest($6::int[], $7::text[], $8::text[], $9::bool[]) AS g (grp, pool, lane, by_kind)
            JOIN (SELECT grp, sum(free) AS free FROM members GROUP BY grp) f ON f.grp = g.grp
            LEFT JOIN limit_room r ON r.scope = 'pool' AND r.target = g.pool
            WHERE r.room > 0 OR g.pool <> ALL ($15)
        ), kinds AS MATERIALIZED (
            SELECT k.grp, k.kind, r.room FROM unnest($10::int[], $11::text[]) AS k (grp, kind)
            LEFT JOIN limit_room r ON r.scope = 'kind' AND r.target = k.kind
            WHERE r.room > 0 OR k.kind <> ALL ($14)
        ), candidates AS MATERIALIZED (
            SELECT m.grp, m.session_id, m.fence, c.id, c.rank, c.suspect, c.kind, c.limit_key, c.limit_turn
            FROM members m JOIN groups g ON g.grp = m.grp AND NOT g.by_kind CROSS JOIN LATERAL (
                SELECT j.id, j.rank, j.suspect, j.kind, j.limit_key, j.limit_turn FROM jobs j
                WHERE j.state = 'queued' AND j.session_id = m.session_id AND j.lane = g.lane AND j.kind = ANY ($12)
                    AND ($13 OR NOT j.suspect) AND (j.deadline IS NULL OR j.deadline > (SELECT t FROM clock))
                ORDER BY j.rank, j.id LIMIT m.free FOR UPDATE SKIP LOCKED
            ) c
            UNION ALL
            SELECT g.grp, NULL, NULL, c.id, c.rank, c.suspect, c.kind, c.limit_key, c.limit_turn
            FROM groups g CROSS JOIN LATERAL (
                SELECT j.id, j.rank, j.suspect, j.kind, j.limit_key, j.limit_turn FROM jobs j
                WHERE j.state = 'queued' AND j.session_id IS NULL AND j.pool = g.pool AND j.lane = g.lane
                    AND j.kind = ANY ($12) AND ($13 OR NOT j.suspect)
                    AND (j.deadline IS NULL OR j.deadline > (SELECT t FROM clock))
                ORDER BY j.rank, j.id LIMIT g.free FOR UPDATE SKIP LOCKED
            ) c
            WHERE NOT g.by_kind
            UNION ALL
            SELECT m.grp, m.session_id, m.fence, c.id, c.rank, c.suspect, c.kind, c.limit_key, c.limit_turn
            FROM members m JOIN groups g ON g.grp = m.grp AND g.by_kind CROSS JOIN LATERAL (
                SELECT e.* FROM kinds k CROSS JOIN LATERAL (
                    SELECT j.id, j.rank, j.suspect, j.kind, j.limit_key, j.limit_turn FROM jobs j
                    WHERE j.state IS NOT DISTINCT FROM 'queued' AND j.session_id = m.session_id
                        AND j.lane || '/' || j.kind = g.lane || '/' || k.kind AND ($13 OR NOT j.suspect)
                        AND (j.deadline IS NULL OR j.deadline > (SELECT t FROM clock))
                    ORDER BY j.rank, j.id LIMIT least(m.free, k.room) FOR UPDATE SKIP LOCKED
                ) e
                WHERE k.grp = m.grp ORDER BY e.rank, e.id LIMIT m.free
            ) c
            UNION ALL
            SELECT g.grp, NULL, NULL, c.id, c.rank, c.suspect, c.kind, c.limit_key, c.limit_turn
            FROM groups g JOIN kinds k ON k.grp = g.grp CROSS JOIN LATERAL (
                SELECT j.id, j.rank, j.suspect, j.kind, j.limit_key, j.limit_turn FROM jobs j
                WHERE j.state IS NOT DISTINCT FROM 'queued' AND j.session_id IS NULL AND j.pool = g.pool
                    AND j.lane || '/' || j.kind = g.lane || '/' || k.kind AND ($13 OR NOT j.suspect)
                    AND (j.deadline IS NULL OR j.deadline > (SELECT t FROM clock))
                ORDER BY j.rank, j.id LIMIT least(g.free, k.room) FOR UPDATE SKIP LOCKED
            ) c
            WHERE g.by_kind
        ), chosen AS MATERIALIZED (
            SELECT o.grp, g.pool, o.session_id, o.fence, o.id, o.rank, o.kind, o.limit_key, o.limit_turn FROM (
                SELECT c.*, row_number() OVER (PARTITION BY c.grp ORDER BY c.rank, c.id) AS place,
                    CASE WHEN c.suspect THEN row_number() OVER (PARTITION BY c.suspect ORDER BY c.rank, c.id) END AS suspects
                FROM candidates c
            ) o JOIN groups g ON g.grp = o.grp
            WHERE o.place <= g.free AND coalesce(o.suspects, 1) = 1
        ), within AS MATERIALIZED (
            SELECT c.* FROM chosen c WHERE NOT $16
            UNION ALL
            SELECT c.grp, c.pool, c.session_id, c.fence, c.id, c.rank, c.kind, c.limit_key, c.limit_turn
            FROM (
                SELECT c.*, row_number() OVER (PARTITION BY c.kind ORDER BY c.rank, c.id) AS of_kind,
                    row_number() OVER (PARTITION BY c.pool ORDER BY c.rank, c.id) AS of_pool
                FROM chosen c WHERE $16
            ) c
            LEFT JOIN limit_room k ON k.scope = 'kind' AND k.target = c.kind
            LEFT JOIN limit_room p ON p.scope = 'pool' AND p.target = c.pool
            WHERE c.of_kind <= coalesce(k.room, c.of_kind) AND c.of_pool <= coalesce(p.room, c.of_pool)
        ), keyed AS MATERIALIZED (
            SELECT c.limit_key AS key, r.rate, r.burst, (count(*) FILTER (WHERE c.limit_turn))::int AS in_turn,
                (count(*) FILTER (WHERE NOT c.limit_turn))::int AS others
            FROM within c CROSS JOIN LATERAL (
                SELECT r.rate, r.burst FROM unnest($17::text[], $18::float8[], $19::float8[]) AS r (name, rate, burst)
                WHERE r.name IN (c.limit_key, split_part(c.limit_key, ':', 1)) ORDER BY r.name = c.limit_key DESC LIMIT 1
            ) r
            WHERE $20 AND c.limit_key IS NOT NULL GROUP BY c.limit_key, r.rate, r.burst
        ), granted AS (
            -- In the order of the keys, so that two claims do not wait for each other.
            INSERT INTO rate_buckets AS b (key, tokens, refilled_at, line_until, wanted_in_turn, wanted, granted, rate, burst)
            SELECT k.key, k.burst - least(k.in_turn + k.others, k.burst), c.t,
                c.t + greatest(k.in_turn + k.others - k.burst, 0) / k.rate * interval '1 second', k.in_turn, k.others,
                least(k.in_turn + k.others, k.burst), k.rate, k.burst
            FROM keyed k CROSS JOIN clock c ORDER BY k.key
            ON CONFLICT (key) DO UPDATE SET
                granted = bucket_grant(b, excluded),
                tokens = bucket_level(b, excluded) - bucket_grant(b, excluded),
                line_until = greatest(b.line_until, excluded.refilled_at) + (excluded.wanted_in_turn + excluded.wanted
                    - bucket_grant(b, excluded)) / excluded.rate * interval '1 second',
                refilled_at = greatest(b.refilled_at, excluded.refilled_at), wanted_in_turn = excluded.wanted_in_turn,
                wanted = excluded.wanted, rate = excluded.rate, burst = excluded.burst
            RETURNING key, granted, line_until, rate
        ), judged AS MATERIALIZED (
            SELECT c.*, NULL::timestamptz AS turn_at FROM within c WHERE NOT $20
            UNION ALL
            SELECT c.grp, c.pool, c.session_id, c.fence, c.id, c.rank, c.kind, c.limit_key, c.limit_turn,
                CASE WHEN c.nth > c.granted THEN c.line_until - (c.same - c.nth) / c.rate * interval '1 second' END
            FROM (
                SELECT c.*, g.granted, g.line_until, g.rate, count(*) OVER (PARTITION BY c.limit_key) AS same,
                    row_number() OVER (PARTITION BY c.limit_key ORDER BY c.limit_turn DESC, c.rank, c.id) AS nth
                FROM within c LEFT JOIN granted g ON g.key = c.limit_key WHERE $20
            ) c
        ), counted AS (
            UPDATE concurrency_limits l SET version = l.version + 1 FROM limit_room r
            WHERE l.scope = r.scope AND l.target = r.target AND EXISTS (SELECT FROM judged c
                WHERE c.turn_at IS NULL AND CASE r.scope WHEN 'kind' THEN c.kind ELSE c.pool END = r.target)
        ), pooled AS MATERIALIZED (
            SELECT grp, id, row_number() OVER (PARTITION BY grp ORDER BY rank, id) AS place
            FROM judged WHERE session_id IS NULL AND turn_at IS NULL
        ), room AS (
            SELECT grp, session_id, max(fence) AS fence, max(nth) AS nth, max(free) AS free, sum(own)::int AS own
            FROM (
                SELECT grp, session_id, fence, nth, free, 0 AS own FROM members
                UNION ALL
                SELECT grp, session_id, NULL, NULL, NULL, 1 FROM judged WHERE session_id IS NOT NULL AND turn_at IS NULL
            ) r
            WHERE EXISTS (SELECT FROM pooled) GROUP BY grp, session_id
        ), slots AS MATERIALIZED (
            -- Arrays, because a join over thousands of slots that the planner takes for ten would be quadratic.
            SELECT r.grp, array_agg(r.session_id ORDER BY n, r.nth) AS sessions, array_agg(r.fence ORDER BY n, r.nth) AS fences
            FROM room r CROSS JOIN LATERAL generate_series(r.own + 1,
                least(r.free, r.own + (SELECT count(*) FROM pooled))) AS n
            GROUP BY r.grp
        ), assigned AS MATERIALIZED (
            SELECT id, session_id, fence, turn_at FROM judged WHERE session_id IS NOT NULL OR turn_at IS NOT NULL
            UNION ALL
            SELECT p.id, s.sessions[p.place], s.fences[p.place], NULL FROM pooled p JOIN slots s ON s.grp = p.grp
            WHERE s.sessions[p.place] IS NOT NULL
        )
        UPDATE jobs j SET state = CASE WHEN a.turn_at IS NULL THEN 'running' ELSE 'scheduled' END,
            worker_id = CASE WHEN a.turn_at IS NULL THEN $5 END, session_id = a.session_id,
            session_fence = CASE WHEN a.turn_at IS NULL THEN a.fence END, fence = j.fence + (a.turn_at IS NULL)::int,
            attempt = j.attempt + (a.turn_at IS NULL)::int,
            claimed_at = CASE WHEN a.turn_at IS NULL THEN (SELECT t FROM clock) END, started_at = NULL,
            wait_reason = CASE WHEN a.turn_at IS NOT NULL THEN $21::jsonb END, run_at = coalesce(a.turn_at, j.run_at),
            limit_turn = a.turn_at IS NOT NULL
        FROM assigned a WHERE j.id = ANY (ARRAY[a.id])
        RETURNING j.id, j.kind, j.args AS "args: Json<Box<RawValue>>", j.lane, j.session_id, j.session_fence, j.attempt, j.max_attempts, j.fence, j.created_at,
            j.deadline, j.suspect, j.rank, j.session_bound, j.limit_key, j.state = 'running' AS "claimed!""#,
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
        &limited.kinds as &[&str],
        &limited.pools as &[&str],
        limited.any_concurrency,
        &limited.rate_names as &[&str],
        &limited.rates,
        &limited.bursts,
        limited.any_rate,
        rates::in_line(),
    )
    .fetch_all(conn)
    .await
    .map_err(failed("claim_within"))?;
    let mut spent_keys = Vec::new();
    let mut claimed = Vec::with_capacity(rows.len());
    for row in rows {
        let (Some(session_id), Some(session_fence), true) = (row.session_id, row.session_fence, row.claimed) else {
            spent_keys.extend(row.limit_key);
            continue;
        };
        claimed.push(ClaimedRow {
            id: row.id,
            kind: row.kind,
            args: row.args,
            lane: row.lane,
            session_id,
            session_fence,
            attempt: row.attempt,
            max_attempts: row.max_attempts,
            fence: row.fence,
            created_at: row.created_at,
            deadline: row.deadline,
            suspect: row.suspect,
            rank: row.rank,
            pooled: !row.session_bound,
        });
    }
    spent_keys.sort_unstable();
    spent_keys.dedup();
    Ok(Claim {
        jobs: in_order(claimed)?,
        spent_keys,
    })
}

struct LimitColumns<'a> {
    kinds: Vec<&'a str>,
    pools: Vec<&'a str>,
    any_concurrency: bool,
    rate_names: Vec<&'a str>,
    rates: Vec<f64>,
    bursts: Vec<f64>,
    any_rate: bool,
}

impl<'a> LimitColumns<'a> {
    fn of(limits: &'a Limits) -> Self {
        let of_scope = |scope| {
            let limits = limits.concurrency.iter().filter(move |limit| limit.scope == scope);
            limits.map(|limit| limit.target.as_str()).collect()
        };
        Self {
            kinds: of_scope(LimitScope::Kind),
            pools: of_scope(LimitScope::Pool),
            any_concurrency: !limits.concurrency.is_empty(),
            rate_names: limits.rates.iter().map(|limit| limit.name.as_str()).collect(),
            rates: limits.rates.iter().map(RateLimit::per_second).collect(),
            bursts: limits.rates.iter().map(|limit| f64::from(limit.burst)).collect(),
            any_rate: !limits.rates.is_empty(),
        }
    }
}
