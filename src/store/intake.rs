use super::{StoreError, leases::LeaseKey};
use sqlx::PgConnection;
use uuid::Uuid;
use wireroom_jobs::message::Message;
#[derive(Debug, Default)]
pub struct Filters;
pub async fn record_history(
    _: &mut PgConnection,
    _: &mut Filters,
    _: LeaseKey,
    _: Uuid,
    _: &[Message],
    _: Option<i32>,
) -> Result<u64, StoreError> {
    Ok(0)
}
pub async fn finish_filling(_: &mut PgConnection, _: LeaseKey, _: Uuid, _: i32) -> Result<bool, StoreError> {
    Ok(true)
}
