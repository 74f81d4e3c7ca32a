//! Requests that are answered once. A request claims its key before it does anything and stores its answer in the transaction
//! that did it; an equal request at the same moment waits at the key's row, and is given that answer.

use serde_json::Value;
use sqlx::PgConnection;

use super::{StoreError, failed, one_row};
use crate::ids::JobId;

/// Whose key it is.
#[derive(Debug, Clone, Copy)]
pub struct RequestKey<'a> {
    /// The id of the API key: two clients never meet.
    pub owner: &'a str,
    /// From 1 to 255 bytes.
    pub key: &'a str,
}

/// A request and what it was answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// SHA-256 of the operation and the canonical body.
    pub request_hash: [u8; 32],
    pub status: u16,
    pub location: Option<String>,
    /// The body without the args of its job: they may be a message's text, whose place is the job.
    pub body: Value,
    /// The job whose args belong into the body; `None`: those of the request, which an equal one brings again.
    pub args_of: Option<JobId>,
}

/// What became of a [`claim`].
#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// The request is the first: the transaction ends with [`answer`], or is rolled back.
    First,
    /// It has been answered.
    Answered(Answer),
}

/// Claims a key for the caller's transaction, waiting for one that holds it now. The transaction must be READ COMMITTED, so
/// that it sees what it waited for.
pub async fn claim(conn: &mut PgConnection, key: RequestKey<'_>) -> Result<Claim, StoreError> {
    loop {
        let is_first = sqlx::query!(
            "-- claim_idempotency_key
            INSERT INTO idempotency_keys AS k (owner, key, expires_at) VALUES ($1, $2, wireroom_now() + interval '24 hours')
            ON CONFLICT (owner, key) DO UPDATE SET request_hash = NULL, status = NULL, location = NULL, body = NULL,
                args_of = NULL, expires_at = excluded.expires_at
            WHERE k.expires_at <= wireroom_now()",
            key.owner,
            key.key,
        )
        .execute(&mut *conn)
        .await
        .map_err(failed("claim_idempotency_key"))?
        .rows_affected();
        if is_first == 1 {
            return Ok(Claim::First);
        }
        // None: it was swept between the two statements.
        if let Some(answer) = find(conn, key).await? {
            return Ok(Claim::Answered(answer));
        }
    }
}

async fn find(conn: &mut PgConnection, key: RequestKey<'_>) -> Result<Option<Answer>, StoreError> {
    let row = sqlx::query!(
        r#"-- find_answer
        SELECT request_hash, status, location, body, args_of FROM idempotency_keys WHERE owner = $1 AND key = $2"#,
        key.owner,
        key.key,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("find_answer"))?;
    let Some(row) = row else { return Ok(None) };
    let hash = row.request_hash.and_then(|hash| hash.try_into().ok());
    let status = row.status.and_then(|status| status.try_into().ok());
    match (hash, status, row.body) {
        (Some(request_hash), Some(status), Some(body)) => Ok(Some(Answer {
            request_hash,
            status,
            location: row.location,
            body,
            args_of: row.args_of.map(JobId),
        })),
        _ => Err(StoreError::Decode {
            operation: "find_answer",
            detail: "a key without an answer".to_owned(),
        }),
    }
}

/// Stores the answer of a request whose key the transaction has claimed.
pub async fn answer(conn: &mut PgConnection, key: RequestKey<'_>, answer: &Answer) -> Result<(), StoreError> {
    let changed = sqlx::query!(
        "-- store_answer
        UPDATE idempotency_keys SET request_hash = $3, status = $4, location = $5, body = $6, args_of = $7
        WHERE owner = $1 AND key = $2",
        key.owner,
        key.key,
        &answer.request_hash[..],
        i16::try_from(answer.status).unwrap_or(i16::MAX),
        answer.location,
        answer.body,
        answer.args_of.map(|id| id.0),
    )
    .execute(conn)
    .await
    .map_err(failed("store_answer"))?
    .rows_affected();
    one_row(changed, "store_answer")
}

/// Deletes up to `limit` keys whose time is over; returns how many went.
pub async fn sweep(conn: &mut PgConnection, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "-- sweep_idempotency_keys
        DELETE FROM idempotency_keys WHERE (owner, key) IN (
            SELECT owner, key FROM idempotency_keys WHERE expires_at <= (SELECT wireroom_now())
            ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)",
        limit
    )
    .execute(conn)
    .await
    .map_err(failed("sweep_idempotency_keys"))?;
    Ok(done.rows_affected())
}
