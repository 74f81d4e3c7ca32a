//! `/v1/subscriptions`: where events go by themselves, as signed webhooks.

mod body;
mod deliveries;
mod manage;
mod secret;
#[cfg(test)]
mod tests;
mod view;

use poem_openapi::param::Path;

pub use self::{
    body::{NewSubscriptionBody, SubscriptionPatch},
    deliveries::{DeliveriesApi, DeliveryView, RedeliverBody, RedeliverView, STATES as DELIVERY_STATES},
    manage::SubscriptionsApi,
    secret::{RotateBody, SecretApi, TestView},
    view::{SubscriptionCreated, SubscriptionView, SubscriptionsView},
};
use super::{
    State,
    problem::{Code, Problem},
};
use crate::{
    ids::SubscriptionId,
    store::subscriptions::{self, SubscriptionRecord},
};

fn parse(id: &Path<String>) -> Result<SubscriptionId, Problem> {
    id.parse()
        .map_err(|_| Problem::new(Code::InvalidParameter, "A subscription's id is a UUID.").field("id"))
}

fn not_found() -> Problem {
    Problem::new(
        Code::SubscriptionNotFound,
        "GET /v1/subscriptions lists those there are.",
    )
}

async fn one(state: &State, id: SubscriptionId) -> Result<SubscriptionRecord, Problem> {
    let mut found = subscriptions::list(&state.pool, Some(id)).await?;
    found.pop().ok_or_else(not_found)
}
