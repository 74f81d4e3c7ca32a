//! The claim of what sessions have of their own. It is [`claims::claim`] and less: what is ready for a whole pool, what a
//! worker died under and what is behind a closed gate is not its business, so that its plan is a third as large and a lone
//! job starts sooner.

use serde_json::value::RawValue;
use sqlx::{PgConnection, types::Json};
use wireroom_jobs::JobKind;

use super::{
    StoreError,
    claims::{ClaimRequest, ClaimedJob, ClaimedRow, MemberColumns, in_order},
    failed,
};

/// Claims what is ready for the sessions alone, as [`claim`](super::claims::claim) does. Brings nothing when anything is
/// ready that these jobs would have to stand in line with, in a pool or among suspects, or when a group names its kinds:
/// whoever gets nothing asks [`claim`](super::claims::claim).
pub async fn claim_own(conn: &mut PgConnection, request: &ClaimRequest) -> Result<Vec<Box<ClaimedJob>>, StoreError> {
    if request.groups.iter().any(|group| group.open_kinds.is_some()) {
        return Ok(Vec::new());
    }
    let members = MemberColumns::of(&request.members);
    let of_group = |group: usize| request.groups.get(group).map(|group| group.lane.as_str());
    let lanes: Vec<Option<&str>> = request.members.iter().map(|member| of_group(member.group)).collect();
    let mut pools: Vec<&str> = request.groups.iter().map(|group| group.pool.as_str()).collect();
    pools.sort_unstable();
    pools.dedup();
    let known: Vec<&str> = JobKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let rows = sqlx::query_as!(
        ClaimedRow,
        r#"-- claim_own
        WITH clock AS MATERIALIZED (SELECT wireroom_now() AS t),
        pooled AS MATERIALIZED (
            SELECT EXISTS (SELECT FROM jobs j WHERE j.state = 'queued' AND j.session_id IS NULL AND j.pool = ANY ($8)) AS yes
        ), candidates AS MATERIALIZED (
            SELECT m.session_id, m.fence, c.at, c.suspect
            FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::text[]) AS m (session_id, fence, free, lane)
            CROSS JOIN LATERAL (
                SELECT j.ctid AS at, j.suspect FROM jobs j
                WHERE j.state = 'queued' AND j.session_id = m.session_id AND j.lane = m.lane AND j.kind = ANY ($6)
                    AND ($7 OR NOT j.suspect) AND (j.deadline IS NULL OR j.deadline > (SELECT t FROM clock))
                ORDER BY j.rank, j.id LIMIT m.free FOR UPDATE SKIP LOCKED
            ) c
            WHERE NOT (SELECT yes FROM pooled) AND EXISTS (SELECT FROM session_leases l WHERE l.session_id = m.session_id
                AND l.owner = $5 AND l.fence = m.fence AND l.expires_at > (SELECT t FROM clock))
        )
        UPDATE jobs j SET state = 'running', worker_id = $5, session_id = a.session_id, session_fence = a.fence,
            fence = j.fence + 1, attempt = j.attempt + 1, claimed_at = (SELECT t FROM clock), started_at = NULL,
            wait_reason = NULL
        -- Where they were found, and locked.
        FROM candidates a WHERE j.ctid = a.at AND NOT EXISTS (SELECT FROM candidates WHERE suspect)
        RETURNING j.id, j.kind, j.args AS "args: Json<Box<RawValue>>", j.lane, j.session_id AS "session_id!",
            j.session_fence AS "session_fence!", j.attempt, j.max_attempts, j.fence, j.created_at, j.deadline, j.suspect,
            j.rank, NOT j.session_bound AS "pooled!""#,
        &members.sessions,
        &members.fences,
        &members.free,
        &lanes as &[Option<&str>],
        request.worker.0,
        &known as &[&str],
        request.take_suspect,
        &pools as &[&str],
    )
    .fetch_all(conn)
    .await
    .map_err(failed("claim_own"))?;
    in_order(rows)
}
