//! Jobs of which there may be one: enqueuing under a key. The key's row decides who is first, and its lock who is next;
//! whether its job is still in the key's scope is read from the job itself. So a key is free at the moment its job leaves
//! the scope, and neither the claim nor the completion of jobs does anything for it.
//!
//! All of it needs a READ COMMITTED transaction: what was waited for must be seen by the statement after.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    StoreError, failed,
    jobs::{self, EnqueueError, NewJob, micros},
};
use crate::ids::{BatchId, JobId};

/// After how many seconds a sweep looks whether the job of a key without an end of its own is still there.
const LOOK_AGAIN: i32 = 3600;

/// For how long a key keeps others out. Keys of different scopes never meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// While its job waits.
    Queued,
    /// Until its job has finished.
    Live,
    /// For this many seconds from the moment it was taken, whatever its job does.
    Period { seconds: i32 },
}

impl Scope {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Live => "live",
            Self::Period { .. } => "period",
        }
    }

    const fn seconds(self) -> i32 {
        match self {
            Self::Queued | Self::Live => LOOK_AGAIN,
            Self::Period { seconds } => seconds,
        }
    }
}

/// What becomes of a job whose key is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// It is not stored.
    Reject,
    /// The job that has the key stands for it.
    ReturnExisting,
    /// The job that has the key takes over its args and its `run_at`, if no attempt of it has begun yet; else as `Reject`.
    Replace,
}

/// The key of a job, among the jobs of its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unique {
    pub key: String,
    pub scope: Scope,
    pub on_conflict: OnConflict,
}

/// A job about to be stored, perhaps under a key.
#[derive(Debug, Clone)]
pub struct KeyedJob {
    pub job: NewJob,
    pub unique: Option<Unique>,
}

/// What became of one job, and the job that there is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    Created(JobId),
    /// Not stored: this one, which may have finished meanwhile, stands for it.
    Existing(JobId),
    /// Not stored: this one has its args and its `run_at` now.
    Replaced(JobId),
    /// Refused, because of this one.
    Conflict(JobId),
}

impl Enqueued {
    /// The job that has the key.
    pub const fn job(self) -> JobId {
        match self {
            Self::Created(id) | Self::Existing(id) | Self::Replaced(id) | Self::Conflict(id) => id,
        }
    }
}

/// Stores jobs in the caller's transaction, those that are new in one statement, and says of each what became of it. On an
/// error the caller rolls back. Waits for transactions that are taking one of the keys. As with [`jobs::enqueue`], nobody
/// is woken.
pub async fn enqueue(
    conn: &mut PgConnection,
    batch: Option<BatchId>,
    keyed: &[KeyedJob],
    ageing_step: Duration,
) -> Result<Vec<Enqueued>, EnqueueError> {
    let (asking, repeats) = by_key(keyed);
    let mut outcomes: Vec<Option<Enqueued>> = keyed
        .iter()
        .map(|entry| entry.unique.is_none().then_some(Enqueued::Created(entry.job.id)))
        .collect();
    let mut asking = asking;
    while !asking.is_empty() {
        let taken = take(conn, keyed, &asking).await?;
        for index in &asking {
            let id = keyed[*index].job.id;
            if taken.contains(&id) {
                outcomes[*index] = Some(Enqueued::Created(id));
            }
        }
        asking.retain(|index| outcomes[*index].is_none());
        settle(conn, keyed, &asking, &mut outcomes, ageing_step).await?;
        asking.retain(|index| outcomes[*index].is_none());
    }
    store_new(conn, batch, keyed, &outcomes, ageing_step).await?;
    for (index, first) in repeats {
        let holder = outcomes[first].map_or(keyed[first].job.id, Enqueued::job);
        outcomes[index] = Some(repeat(conn, &keyed[index], holder, ageing_step).await?);
    }
    Ok(outcomes.into_iter().flatten().collect())
}

type Key<'a> = (&'static str, &'static str, &'a str);

fn key_of(entry: &KeyedJob) -> Option<Key<'_>> {
    let unique = entry.unique.as_ref()?;
    Some((entry.job.kind.as_str(), unique.scope.as_str(), &unique.key))
}

/// The first job of each key, and the others with the index of their first.
fn by_key(keyed: &[KeyedJob]) -> (Vec<usize>, Vec<(usize, usize)>) {
    let mut first_of: HashMap<Key<'_>, usize> = HashMap::new();
    let (mut firsts, mut repeats) = (Vec::new(), Vec::new());
    for (index, entry) in keyed.iter().enumerate() {
        let Some(key) = key_of(entry) else { continue };
        let first = *first_of.entry(key).or_insert(index);
        if first == index {
            firsts.push(index);
        } else {
            repeats.push((index, first));
        }
    }
    (firsts, repeats)
}

/// The keys of some jobs, as `unnest` wants them.
#[derive(Default)]
struct Columns {
    kinds: Vec<&'static str>,
    scopes: Vec<&'static str>,
    hashes: Vec<Vec<u8>>,
    jobs: Vec<Uuid>,
    seconds: Vec<i32>,
}

impl Columns {
    fn of(keyed: &[KeyedJob], indexes: &[usize]) -> Self {
        let mut columns = Self::default();
        for entry in indexes.iter().map(|index| &keyed[*index]) {
            if let Some(unique) = &entry.unique {
                columns.kinds.push(entry.job.kind.as_str());
                columns.scopes.push(unique.scope.as_str());
                columns.hashes.push(Sha256::digest(unique.key.as_bytes()).to_vec());
                columns.jobs.push(entry.job.id.0);
                columns.seconds.push(unique.scope.seconds());
            }
        }
        columns
    }
}

/// Takes the keys that nobody has; returns the jobs that have one now. In one order, so that two batches do not wait for
/// each other.
async fn take(conn: &mut PgConnection, keyed: &[KeyedJob], asking: &[usize]) -> Result<HashSet<JobId>, StoreError> {
    let columns = Columns::of(keyed, asking);
    let taken = sqlx::query_scalar!(
        "-- take_unique_keys
        INSERT INTO unique_keys (kind, scope, key_hash, job_id, expires_at)
        SELECT k.kind, k.scope, k.key_hash, k.job_id, wireroom_now() + make_interval(secs => k.seconds)
        FROM unnest($1::text[], $2::text[], $3::bytea[], $4::uuid[], $5::int[])
            AS k (kind, scope, key_hash, job_id, seconds)
        ORDER BY k.kind, k.scope, k.key_hash
        ON CONFLICT DO NOTHING RETURNING job_id",
        &columns.kinds as &[&str],
        &columns.scopes as &[&str],
        &columns.hashes,
        &columns.jobs,
        &columns.seconds,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("take_unique_keys"))?;
    Ok(taken.into_iter().map(JobId).collect())
}

/// The row of a taken key, locked.
struct Held {
    holder: JobId,
    expired: bool,
}

/// A holder that is still live.
struct Live {
    waits: bool,
    untouched: bool,
}

/// Decides for jobs whose keys are taken. Of one whose key was swept meanwhile, or whose holder moved on, nothing is
/// decided: it asks again.
async fn settle(
    conn: &mut PgConnection,
    keyed: &[KeyedJob],
    asking: &[usize],
    outcomes: &mut [Option<Enqueued>],
    ageing_step: Duration,
) -> Result<(), StoreError> {
    if asking.is_empty() {
        return Ok(());
    }
    let held = lock(conn, keyed, asking).await?;
    let holders: Vec<Uuid> = held.values().map(|held| held.holder.0).collect();
    // A statement of its own: it sees the jobs that came with the keys that were waited for.
    let live = live(conn, &holders).await?;
    let mut free = Vec::new();
    for index in asking.iter().copied() {
        let entry = &keyed[index];
        let (Some(unique), Some(held)) = (&entry.unique, held.get(&entry.job.id)) else {
            continue;
        };
        let holder = live.get(&held.holder);
        let is_taken = match unique.scope {
            Scope::Queued => holder.is_some_and(|job| job.waits),
            Scope::Live => holder.is_some(),
            Scope::Period { .. } => !held.expired,
        };
        outcomes[index] = match unique.on_conflict {
            _ if !is_taken => {
                free.push(index);
                Some(Enqueued::Created(entry.job.id))
            }
            OnConflict::ReturnExisting => Some(Enqueued::Existing(held.holder)),
            OnConflict::Replace if holder.is_some_and(|job| job.untouched) => {
                let is_replaced = replace(conn, held.holder, &entry.job, ageing_step).await?;
                is_replaced.then_some(Enqueued::Replaced(held.holder))
            }
            OnConflict::Reject | OnConflict::Replace => Some(Enqueued::Conflict(held.holder)),
        };
    }
    take_over(conn, keyed, &free).await
}

/// Locks the rows of taken keys; by the job that asks.
async fn lock(
    conn: &mut PgConnection,
    keyed: &[KeyedJob],
    asking: &[usize],
) -> Result<HashMap<JobId, Held>, StoreError> {
    let columns = Columns::of(keyed, asking);
    let rows = sqlx::query!(
        r#"-- lock_unique_keys
        SELECT k.asker AS "asker!", u.job_id, u.expires_at <= (SELECT wireroom_now()) AS "expired!"
        FROM unnest($1::text[], $2::text[], $3::bytea[], $4::uuid[]) AS k (kind, scope, key_hash, asker)
        JOIN unique_keys u ON u.kind = k.kind AND u.scope = k.scope AND u.key_hash = k.key_hash
        ORDER BY u.kind, u.scope, u.key_hash FOR UPDATE OF u"#,
        &columns.kinds as &[&str],
        &columns.scopes as &[&str],
        &columns.hashes,
        &columns.jobs,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("lock_unique_keys"))?;
    let held = rows.into_iter().map(|row| {
        let held = Held {
            holder: JobId(row.job_id),
            expired: row.expired,
        };
        (JobId(row.asker), held)
    });
    Ok(held.collect())
}

async fn live(conn: &mut PgConnection, ids: &[Uuid]) -> Result<HashMap<JobId, Live>, StoreError> {
    let rows = sqlx::query!(
        r#"-- live_holders
        SELECT id, state <> 'running' AS "waits!", fence = 0 AS "untouched!" FROM jobs WHERE id = ANY ($1)"#,
        ids
    )
    .fetch_all(conn)
    .await
    .map_err(failed("live_holders"))?;
    let live = rows.into_iter().map(|row| {
        let live = Live {
            waits: row.waits,
            untouched: row.waits && row.untouched,
        };
        (JobId(row.id), live)
    });
    Ok(live.collect())
}

/// Gives keys whose rows are locked to other jobs.
async fn take_over(conn: &mut PgConnection, keyed: &[KeyedJob], free: &[usize]) -> Result<(), StoreError> {
    if free.is_empty() {
        return Ok(());
    }
    let columns = Columns::of(keyed, free);
    let changed = sqlx::query!(
        "-- take_over_unique_keys
        UPDATE unique_keys u SET job_id = k.job_id, expires_at = wireroom_now() + make_interval(secs => k.seconds)
        FROM unnest($1::text[], $2::text[], $3::bytea[], $4::uuid[], $5::int[]) AS k (kind, scope, key_hash, job_id, seconds)
        WHERE u.kind = k.kind AND u.scope = k.scope AND u.key_hash = k.key_hash",
        &columns.kinds as &[&str],
        &columns.scopes as &[&str],
        &columns.hashes,
        &columns.jobs,
        &columns.seconds,
    )
    .execute(conn)
    .await
    .map_err(failed("take_over_unique_keys"))?
    .rows_affected();
    if changed == free.len() as u64 {
        return Ok(());
    }
    Err(StoreError::Rows {
        operation: "take_over_unique_keys",
        changed,
        expected: free.len() as u64,
    })
}

/// Gives a waiting job that was never claimed other args and another time, under its row's lock; tells whether it was still
/// there for that. Not one that was claimed: it may have sent what its old args say. Without a time it keeps its place.
async fn replace(
    conn: &mut PgConnection,
    holder: JobId,
    job: &NewJob,
    ageing_step: Duration,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "-- replace_job
        WITH clock AS MATERIALIZED (SELECT wireroom_now() AS t)
        UPDATE jobs j SET args = $2, run_at = coalesce($3, least(j.run_at, c.t)),
            state = CASE WHEN $3 > c.t THEN 'scheduled' ELSE 'queued' END, wait_reason = NULL,
            rank = (extract(epoch FROM coalesce($3, least(j.run_at, c.t))) * 1000000)::bigint - j.priority * $4::bigint
        FROM clock c WHERE j.id = $1 AND j.state <> 'running' AND j.fence = 0",
        holder.0,
        job.args,
        job.run_at,
        micros(ageing_step),
    )
    .execute(conn)
    .await
    .map_err(failed("replace_job"))?;
    Ok(done.rows_affected() == 1)
}

async fn store_new(
    conn: &mut PgConnection,
    batch: Option<BatchId>,
    keyed: &[KeyedJob],
    outcomes: &[Option<Enqueued>],
    ageing_step: Duration,
) -> Result<(), EnqueueError> {
    let (indexes, new): (Vec<usize>, Vec<NewJob>) = keyed
        .iter()
        .enumerate()
        .filter(|(index, entry)| outcomes[*index] == Some(Enqueued::Created(entry.job.id)))
        .map(|(index, entry)| (index, entry.job.clone()))
        .unzip();
    jobs::enqueue_in(conn, batch, &new, ageing_step)
        .await
        .map(drop)
        .map_err(|error| error.at(|index| indexes.get(index).copied().unwrap_or(index)))
}

/// A job whose key is that of an earlier one of the same call.
async fn repeat(
    conn: &mut PgConnection,
    entry: &KeyedJob,
    holder: JobId,
    ageing_step: Duration,
) -> Result<Enqueued, StoreError> {
    Ok(match entry.unique.as_ref().map(|unique| unique.on_conflict) {
        Some(OnConflict::ReturnExisting) => Enqueued::Existing(holder),
        Some(OnConflict::Replace) if replace(conn, holder, &entry.job, ageing_step).await? => {
            Enqueued::Replaced(holder)
        }
        _ => Enqueued::Conflict(holder),
    })
}

/// Looks at up to `limit` keys whose time is over: a period's goes, and so does that of a job that has finished. Returns how
/// many were looked at; call it again while that is not zero.
pub async fn sweep(conn: &mut PgConnection, limit: i64) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"-- sweep_unique_keys
        WITH due AS MATERIALIZED (
            SELECT u.kind, u.scope, u.key_hash,
                u.scope <> 'period' AND EXISTS (SELECT FROM jobs j WHERE j.id = u.job_id) AS live
            FROM unique_keys u WHERE u.expires_at <= (SELECT wireroom_now())
            ORDER BY u.expires_at LIMIT $1 FOR UPDATE OF u SKIP LOCKED
        ), kept AS (
            UPDATE unique_keys u SET expires_at = wireroom_now() + make_interval(secs => $2)
            FROM due d WHERE d.live AND u.kind = d.kind AND u.scope = d.scope AND u.key_hash = d.key_hash
        ), gone AS (
            DELETE FROM unique_keys u USING due d
            WHERE NOT d.live AND u.kind = d.kind AND u.scope = d.scope AND u.key_hash = d.key_hash
        )
        SELECT count(*) AS "looked_at!" FROM due"#,
        limit,
        f64::from(LOOK_AGAIN),
    )
    .fetch_one(conn)
    .await
    .map_err(failed("sweep_unique_keys"))
}
