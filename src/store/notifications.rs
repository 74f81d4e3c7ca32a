//! The channel over which processes wake each other. Sent outside of enqueuing transactions: inside, commits wait for each
//! other. But for a [`Ring`], of which a process gives out few.

use sqlx::{PgConnection, PgPool, postgres::PgListener};

use super::{StoreError, failed};

pub(super) const CHANNEL: &str = "wireroom_queue";

/// The most bytes of one payload (Postgres takes less than 8,000).
pub const PAYLOAD: usize = 7_900;

/// A notification that goes with the transaction of one enqueue, so that whoever waits for the job hears of it with the
/// commit and not a round trip later. `queue::Waker` gives it out.
#[derive(Debug, Clone)]
pub struct Ring(String);

impl Ring {
    pub fn new(payload: String) -> Self {
        Self(payload)
    }

    pub(super) fn payload(&self) -> &str {
        &self.0
    }
}

/// Sends each payload, in one statement.
pub async fn notify(conn: &mut PgConnection, payloads: &[String]) -> Result<(), StoreError> {
    sqlx::query!(
        r#"-- notify
        SELECT count(pg_notify($1, payload)) AS "sent!" FROM unnest($2::text[]) AS payload"#,
        CHANNEL,
        payloads,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("notify"))?;
    Ok(())
}

/// One connection that listens.
pub struct Listener(PgListener);

impl Listener {
    pub async fn connect(pool: &PgPool) -> Result<Self, StoreError> {
        let mut listener = PgListener::connect_with(pool).await.map_err(failed("listen"))?;
        listener.ignore_pool_close_event(false);
        listener.listen(CHANNEL).await.map_err(failed("listen"))?;
        Ok(Self(listener))
    }

    /// The next payload; `None` when the connection was lost and is there again: notifications may have been missed.
    pub async fn next(&mut self) -> Result<Option<String>, StoreError> {
        let notification = self.0.try_recv().await.map_err(failed("listen"))?;
        Ok(notification.map(|notification| notification.payload().to_owned()))
    }
}
