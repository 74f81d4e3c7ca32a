//! Making, showing, changing and deleting subscriptions.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{ApiResponse, OpenApi, param::Path, payload::Json};
use serde_json::json;

use super::{
    NewSubscriptionBody, SubscriptionCreated, SubscriptionPatch, SubscriptionView, SubscriptionsView, not_found, one,
    parse, secret,
};
use crate::{
    api::{
        State,
        auth::{Admin, Allowed, Viewer},
        document::Tag,
        jobs::invalid,
        problem::{Code, Problem},
        sent::Sent,
        shell::RequestContext,
        typed::Typed,
    },
    ids::SubscriptionId,
    store::{audit, event_log, failed, subscriptions},
};

#[derive(ApiResponse)]
enum Created {
    /// It is stored, and begins within a second.
    #[oai(status = 201)]
    Created(Json<Typed<SubscriptionCreated>>),
}

pub struct SubscriptionsApi;

#[OpenApi]
impl SubscriptionsApi {
    /// List subscriptions
    ///
    /// Lists where events go by themselves, and how each fares. Scope: viewer.
    #[oai(
        path = "/v1/subscriptions",
        method = "get",
        operation_id = "list_subscriptions",
        tag = "Tag::Events"
    )]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
    ) -> Result<Json<Typed<SubscriptionsView>>, Problem> {
        Ok(Json(Typed(listed(&state).await?)))
    }

    /// Make a subscription
    ///
    /// Has events posted to a URL, each signed after Standard Webhooks with the secret that this answer shows once. Texts of
    /// messages are in events. Needs a worker that has run: it publishes the key to which the secret is sealed. Scope: admin.
    #[oai(
        path = "/v1/subscriptions",
        method = "post",
        operation_id = "create_subscription",
        tag = "Tag::Events"
    )]
    async fn create(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        body: Sent<NewSubscriptionBody>,
    ) -> Result<Created, Problem> {
        let body = body.read()?;
        let settings = body.settings(state.config.events.allow_private)?;
        let extent = event_log::extent(&state.pool).await?;
        let position = match body.after {
            None => extent.head,
            Some(0) => extent.oldest - 1,
            Some(after) if (1..extent.oldest - 1).contains(&after) => {
                let first = extent.oldest - 1;
                let detail = format!(
                    "Events up to {first} were deleted by age, and some after {after} with them. Begin with {first}, or 0 for the \
                     oldest event that is kept."
                );
                return Err(Problem::new(Code::EventsExpired, detail).field("after"));
            }
            Some(after) if (0..=extent.head).contains(&after) => after,
            Some(_) => {
                let message = format!("must be from 0 to {}, the newest event's position.", extent.head);
                return Err(invalid("after", message));
            }
        };
        let id = SubscriptionId::generate();
        let actor = caller.0.actor();
        let mut transaction = state.pool.begin().await.map_err(failed("begin_subscription"))?;
        let (sealed, shown) = secret::fresh(&mut transaction, id).await?;
        subscriptions::insert(&mut transaction, id, &settings, &sealed, position, &actor).await?;
        let entry = audit::Entry {
            actor: &actor,
            action: "subscription.created",
            subject: &format!("subscription:{id}"),
            request_id: Some(context.id()),
            details: json!({ "types": settings.types, "subjects": settings.subjects, "enabled": settings.enabled }),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("commit_subscription"))?;
        state.signals.events_asked();
        let subscription = SubscriptionView::of(one(&state, id).await?, extent);
        Ok(Created::Created(Json(Typed(SubscriptionCreated {
            subscription,
            secret: shown.to_string(),
        }))))
    }

    /// Look at a subscription
    ///
    /// Shows a subscription and how it fares. Scope: viewer.
    #[oai(
        path = "/v1/subscriptions/:id",
        method = "get",
        operation_id = "get_subscription",
        tag = "Tag::Events"
    )]
    async fn get(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The subscription's id.
        id: Path<String>,
    ) -> Result<Json<Typed<SubscriptionView>>, Problem> {
        Ok(Json(Typed(shown(&state, parse(&id)?).await?)))
    }

    /// Change a subscription
    ///
    /// Changes where events go, which, or whether they do, within a second. One that is enabled again goes on where it was,
    /// as far as events are kept. Scope: admin.
    #[oai(
        path = "/v1/subscriptions/:id",
        method = "patch",
        operation_id = "change_subscription",
        tag = "Tag::Events"
    )]
    async fn patch(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The subscription's id.
        id: Path<String>,
        body: Sent<SubscriptionPatch>,
    ) -> Result<Json<Typed<SubscriptionView>>, Problem> {
        let id = parse(&id)?;
        let body = body.read()?;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_subscription"))?;
        // What the patch leaves out is as it was left by whoever changed it last.
        let was = subscriptions::lock(&mut transaction, id).await?.ok_or_else(not_found)?;
        let settings = body.settings(was, state.config.events.allow_private)?;
        subscriptions::update(&mut transaction, id, &settings)
            .await?
            .ok_or_else(not_found)?;
        let entry = audit::Entry {
            actor: &caller.0.actor(),
            action: "subscription.changed",
            subject: &format!("subscription:{id}"),
            request_id: Some(context.id()),
            details: json!({ "types": settings.types, "subjects": settings.subjects, "enabled": settings.enabled }),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("commit_subscription"))?;
        Ok(Json(Typed(shown(&state, id).await?)))
    }

    /// Delete a subscription
    ///
    /// Deletes a subscription with its log of deliveries, and answers with those that are left. Scope: admin.
    #[oai(
        path = "/v1/subscriptions/:id",
        method = "delete",
        operation_id = "delete_subscription",
        tag = "Tag::Events"
    )]
    async fn delete(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The subscription's id.
        id: Path<String>,
    ) -> Result<Json<Typed<SubscriptionsView>>, Problem> {
        let id = parse(&id)?;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_subscription"))?;
        if !subscriptions::delete(&mut transaction, id).await? {
            return Err(not_found());
        }
        let entry = audit::Entry {
            actor: &caller.0.actor(),
            action: "subscription.deleted",
            subject: &format!("subscription:{id}"),
            request_id: Some(context.id()),
            details: json!({}),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("commit_subscription"))?;
        Ok(Json(Typed(listed(&state).await?)))
    }
}

async fn listed(state: &State) -> Result<SubscriptionsView, Problem> {
    let records = subscriptions::list(&state.pool, None).await?;
    let extent = event_log::extent(&state.pool).await?;
    let items = records
        .into_iter()
        .map(|record| SubscriptionView::of(record, extent))
        .collect();
    Ok(SubscriptionsView { items })
}

async fn shown(state: &State, id: SubscriptionId) -> Result<SubscriptionView, Problem> {
    let record = one(state, id).await?;
    let extent = event_log::extent(&state.pool).await?;
    Ok(SubscriptionView::of(record, extent))
}
