//! Test events: asked for through the API, sent by any process that delivers, since only such a one can sign.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{StoreError, failed};
use crate::ids::SubscriptionId;

/// How a test went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestOutcome {
    pub status: Option<i16>,
    /// None: the endpoint took it.
    pub error: Option<String>,
    pub millis: i32,
}

/// Asks for a test.
pub async fn ask(conn: &mut PgConnection, test: Uuid, subscription: SubscriptionId) -> Result<(), StoreError> {
    sqlx::query!(
        "-- ask_subscription_test
        INSERT INTO subscription_tests (id, subscription_id) VALUES ($1, $2)",
        test,
        subscription.0,
    )
    .execute(conn)
    .await
    .map_err(failed("ask_subscription_test"))?;
    Ok(())
}

/// How a test went; `None`: it has not been sent yet.
pub async fn outcome(pool: &PgPool, test: Uuid) -> Result<Option<TestOutcome>, StoreError> {
    sqlx::query_as!(
        TestOutcome,
        r#"-- subscription_test_outcome
        SELECT status, error, coalesce(millis, 0) AS "millis!" FROM subscription_tests WHERE id = $1 AND done_at IS NOT NULL"#,
        test,
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("subscription_test_outcome"))
}

/// A test that this process is to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    pub id: Uuid,
    pub subscription: SubscriptionId,
}

/// Takes tests that nobody has taken, of the last minute: nobody waits for the answer to an older one.
pub async fn take(conn: &mut PgConnection, limit: i64) -> Result<Vec<Asked>, StoreError> {
    sqlx::query_as!(
        Asked,
        r#"-- take_subscription_tests
        UPDATE subscription_tests SET taken_at = wireroom_now() WHERE id IN (
            SELECT id FROM subscription_tests
            WHERE taken_at IS NULL AND asked_at > wireroom_now() - interval '1 minute'
            ORDER BY asked_at LIMIT $1 FOR UPDATE SKIP LOCKED)
        RETURNING id, subscription_id AS "subscription: SubscriptionId""#,
        limit,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("take_subscription_tests"))
}

/// Says how a test went.
pub async fn done(
    conn: &mut PgConnection,
    test: Uuid,
    status: Option<u16>,
    error: Option<&str>,
    took: Duration,
) -> Result<(), StoreError> {
    sqlx::query!(
        "-- subscription_test_done
        UPDATE subscription_tests SET done_at = wireroom_now(), status = $2, error = $3, millis = $4 WHERE id = $1",
        test,
        status.map(u16::cast_signed),
        error,
        i32::try_from(took.as_millis()).unwrap_or(i32::MAX),
    )
    .execute(conn)
    .await
    .map_err(failed("subscription_test_done"))?;
    Ok(())
}
