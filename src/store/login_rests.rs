//! What Telegram told to wait at a login, over all sessions and workers: a number that was flooded under one label rests under
//! every other too. Targets are fingerprints that only workers can make.

use sqlx::PgConnection;

use super::{StoreError, errands::ErrandProblem, errands::known, failed};

/// Bytes of a fingerprint.
pub const TARGET_BYTES: usize = 32;

/// Why something rests, and for how many seconds more by the database's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    pub problem: ErrandProblem,
    /// Telegram's own name.
    pub error: String,
    pub left: u32,
}

/// Lets a target rest for so many seconds from now; a rest is only ever extended.
pub async fn begin(
    conn: &mut PgConnection,
    target: &[u8; TARGET_BYTES],
    problem: ErrandProblem,
    error: &str,
    seconds: u32,
) -> Result<(), StoreError> {
    sqlx::query!(
        "-- begin_login_rest
        INSERT INTO login_rests AS r (target, problem, error, until)
        VALUES ($1, $2, $3, wireroom_now() + make_interval(secs => $4))
        ON CONFLICT (target) DO UPDATE
        SET problem = EXCLUDED.problem, error = EXCLUDED.error, since = EXCLUDED.since, until = EXCLUDED.until
        WHERE EXCLUDED.until > r.until",
        target.as_slice(),
        problem.as_str(),
        error,
        f64::from(seconds),
    )
    .execute(conn)
    .await
    .map_err(failed("begin_login_rest"))?;
    Ok(())
}

/// The longest rest of any of these targets; `None`: none rests.
pub async fn current(conn: &mut PgConnection, targets: &[[u8; TARGET_BYTES]]) -> Result<Option<Rest>, StoreError> {
    let targets: Vec<Vec<u8>> = targets.iter().map(|target| target.to_vec()).collect();
    let row = sqlx::query!(
        r#"-- current_login_rest
        SELECT problem, error, ceil(extract(epoch FROM until - wireroom_now()))::bigint AS "left!"
        FROM login_rests WHERE target = ANY ($1) AND until > wireroom_now() ORDER BY until DESC LIMIT 1"#,
        &targets,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("current_login_rest"))?;
    row.map(|row| {
        Ok(Rest {
            problem: known(ErrandProblem::parse(&row.problem), &row.problem)?,
            error: row.error,
            left: u32::try_from(row.left).unwrap_or(u32::MAX),
        })
    })
    .transpose()
}

/// Deletes rests that are over, at most `limit`; returns how many.
pub async fn sweep(conn: &mut PgConnection, limit: i64) -> Result<u64, StoreError> {
    let gone = sqlx::query!(
        "-- sweep_login_rests
        DELETE FROM login_rests WHERE target IN (
            SELECT target FROM login_rests WHERE until <= wireroom_now() LIMIT $1 FOR UPDATE SKIP LOCKED)",
        limit,
    )
    .execute(conn)
    .await
    .map_err(failed("sweep_login_rests"))?;
    Ok(gone.rows_affected())
}
