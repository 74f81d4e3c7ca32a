//! Whether this process and the database fit together.

use sqlx::PgPool;

use super::{StoreError, failed, schema};

pub use super::schema::SchemaState;

/// Compares the applied migrations with the ones compiled in.
pub async fn schema_state(pool: &PgPool) -> Result<SchemaState, StoreError> {
    let mut conn = pool.acquire().await.map_err(failed("schema_state"))?;
    schema::state(&mut conn).await
}
