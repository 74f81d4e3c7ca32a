//! A subscription's secret: made here, shown once, and sealed for the workers, since this process can open nothing. So a test
//! event is asked for here, and sent by a process that can sign.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use poem::web::Data;
use poem_openapi::{OpenApi, param::Path, payload::Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, sleep};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{SubscriptionCreated, SubscriptionView, not_found, one, parse};
use crate::{
    api::{
        State,
        auth::{Admin, Allowed, Operator},
        document::Tag,
        jobs::invalid,
        problem::{Code, Problem},
        sent::Sent,
        shell::RequestContext,
        typed::Typed,
    },
    ids::SubscriptionId,
    letterbox::Sealed,
    store::{PgConnection, audit, errands, event_log, failed, subscription_tests, subscriptions},
};

const SECRET_BYTES: usize = 32;
const DEFAULT_OVERLAP: u64 = 24 * 60 * 60;
const LONGEST_OVERLAP: u64 = 7 * 24 * 60 * 60;
/// How long a test may take: less than a request.
const TEST_LIMIT: Duration = Duration::from_secs(9);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long the secret before goes on to sign.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RotateRequest")]
pub struct RotateBody {
    /// Seconds in which webhooks carry a signature of each secret; a day when it is left out, a week at most, 0: the secret
    /// before signs nothing from a second after the answer on.
    #[serde(default)]
    #[schemars(range(min = 0, max = 604_800))]
    overlap_seconds: Option<u64>,
}

/// How a test event went.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "SubscriptionTest")]
pub struct TestView {
    /// The endpoint took it: it answered 2xx.
    pub delivered: bool,
    /// What the endpoint answered; null: nothing.
    pub status: Option<i16>,
    /// What went wrong.
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub millis: i32,
}

pub struct SecretApi;

#[OpenApi]
impl SecretApi {
    /// Rotate a subscription's secret
    ///
    /// Makes a fresh secret, and shows it once. Until the overlap is over, webhooks carry two signatures, so that the endpoint
    /// can be changed meanwhile; a rotation within it ends the oldest secret at once. Scope: admin.
    #[oai(
        path = "/v1/subscriptions/:id/secret",
        method = "post",
        operation_id = "rotate_subscription_secret",
        tag = "Tag::Events"
    )]
    async fn rotate(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The subscription's id.
        id: Path<String>,
        body: Sent<RotateBody>,
    ) -> Result<Json<Typed<SubscriptionCreated>>, Problem> {
        let id = parse(&id)?;
        let overlap = body.read()?.overlap_seconds.unwrap_or(DEFAULT_OVERLAP);
        if overlap > LONGEST_OVERLAP {
            return Err(invalid(
                "overlap_seconds",
                format!("must be from 0 to {LONGEST_OVERLAP}."),
            ));
        }
        let mut transaction = state.pool.begin().await.map_err(failed("begin_subscription"))?;
        let (sealed, shown) = fresh(&mut transaction, id).await?;
        if !subscriptions::rotate(&mut transaction, id, &sealed, Duration::from_secs(overlap)).await? {
            return Err(not_found());
        }
        let entry = audit::Entry {
            actor: &caller.0.actor(),
            action: "subscription.secret_rotated",
            subject: &format!("subscription:{id}"),
            request_id: Some(context.id()),
            details: json!({ "overlap_seconds": overlap }),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("commit_subscription"))?;
        let extent = event_log::extent(&state.pool).await?;
        Ok(Json(Typed(SubscriptionCreated {
            subscription: SubscriptionView::of(one(&state, id).await?, extent),
            secret: shown.to_string(),
        })))
    }

    /// Send a test event
    ///
    /// Has a worker send an event of the type `subscription.test` at once, whether the subscription is enabled or not, and
    /// answers with how it went. Scope: operator.
    #[oai(
        path = "/v1/subscriptions/:id/test",
        method = "post",
        operation_id = "test_subscription",
        tag = "Tag::Events"
    )]
    async fn test(
        &self,
        _caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        /// The subscription's id.
        id: Path<String>,
    ) -> Result<Json<Typed<TestView>>, Problem> {
        let id = parse(&id)?;
        one(&state, id).await?;
        let test = Uuid::now_v7();
        let mut conn = state.pool.acquire().await.map_err(failed("ask_subscription_test"))?;
        subscription_tests::ask(&mut conn, test, id).await?;
        drop(conn);
        let until = Instant::now() + TEST_LIMIT;
        loop {
            if let Some(outcome) = subscription_tests::outcome(&state.pool, test).await? {
                return Ok(Json(Typed(TestView {
                    delivered: outcome.error.is_none(),
                    status: outcome.status,
                    error: outcome.error,
                    millis: outcome.millis,
                })));
            }
            if Instant::now() >= until || state.followers.is_over() {
                let detail = "No worker has sent it in time, or the endpoint is slow: see whether a worker runs.";
                return Err(Problem::new(Code::SubscriptionTestTimeout, detail));
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// A fresh secret, sealed for the workers, and as its owner has to know it.
pub(super) async fn fresh(conn: &mut PgConnection, id: SubscriptionId) -> Result<(Sealed, Zeroizing<String>), Problem> {
    let (key_id, slot) = errands::slot(conn).await?.ok_or_else(|| {
        let detail = "Start a worker: it publishes the key with which the API seals what only a worker may read.";
        Problem::new(Code::NoWorker, detail)
    })?;
    let mut bytes = Zeroizing::new([0_u8; SECRET_BYTES]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|_| Problem::internal("the system has no randomness to give"))?;
    let shown = Zeroizing::new(format!("whsec_{}", STANDARD.encode(bytes.as_slice())));
    let sealed = slot
        .seal(&subscriptions::secret_owner(id), shown.as_bytes())
        .map_err(Problem::internal)?;
    Ok((Sealed { key_id, bytes: sealed }, shown))
}
