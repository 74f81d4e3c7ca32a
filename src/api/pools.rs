//! `GET/POST /v1/pools` and `PUT /v1/sessions/{id}/pool`: sets of sessions that may stand in for one another.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{ApiResponse, OpenApi, param::Path, payload::Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    State,
    auth::{Admin, Allowed, Viewer},
    document::Tag,
    jobs::body,
    problem::{Code, Problem},
    sent::Sent,
    session_health::{SessionDetail, detail, not_found, parse},
    shell::RequestContext,
    typed::Typed,
};
use crate::store::{
    self, audit, failed,
    pauses::{self, PauseScope},
    pools::{self, Moved, PoolRecord},
};

const LONGEST_NAME: usize = 63;

/// A pool to be made.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewPool")]
pub struct NewPoolBody {
    /// 1 to 63 small letters, digits, `-` and `_`; a letter or a digit first.
    #[schemars(length(min = 1, max = 63), example = &"spring")]
    name: String,
}

/// Where a session is to go.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewPoolOfSession")]
pub struct MoveBody {
    /// The pool's name.
    #[schemars(length(min = 1, max = 63), example = &"spring")]
    pool: String,
}

/// A named set of sessions that may stand in for one another.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Pool")]
pub struct PoolView {
    pub name: String,
    pub created_at: DateTime<Utc>,
    pub sessions: i64,
    /// How many of them run jobs: those that are ready or limited.
    pub usable: i64,
    /// How many of them a worker holds.
    pub held: i64,
    /// Due jobs that wait for any of them.
    pub queued_jobs: i64,
    /// No job of it is claimed for now.
    pub paused: bool,
}

/// Every pool.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Pools")]
pub struct PoolsView {
    pub items: Vec<PoolView>,
}

/// The answer to a pool that was made.
#[derive(ApiResponse)]
enum Created {
    /// The pool.
    #[oai(status = 201)]
    Pool(Json<Typed<PoolView>>),
}

impl PoolView {
    fn of(pool: PoolRecord, paused: bool) -> Self {
        Self {
            name: pool.name,
            created_at: pool.created_at,
            sessions: pool.sessions,
            usable: pool.usable,
            held: pool.held,
            queued_jobs: pool.queued,
            paused,
        }
    }
}

pub struct PoolsApi;

#[OpenApi]
impl PoolsApi {
    /// List pools
    ///
    /// Lists every pool with its sessions and what waits for them. `PUT /v1/pauses/pool/{name}` pauses one. Scope: viewer.
    #[oai(
        path = "/v1/pools",
        method = "get",
        operation_id = "list_pools",
        tag = "Tag::Sessions"
    )]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
    ) -> Result<Json<Typed<PoolsView>>, Problem> {
        Ok(Json(Typed(PoolsView {
            items: all(state.0).await?,
        })))
    }

    /// Make a pool
    ///
    /// It has no sessions yet. Scope: admin.
    #[oai(
        path = "/v1/pools",
        method = "post",
        operation_id = "create_pool",
        tag = "Tag::Sessions"
    )]
    async fn create(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        body: Sent<NewPoolBody>,
    ) -> Result<Created, Problem> {
        let name = body.read()?.name;
        if !is_name(&name) {
            let message = "must be 1 to 63 small letters, digits, - and _, a letter or a digit first.";
            return Err(body::invalid("name", message));
        }
        let mut transaction = state.pool.begin().await.map_err(failed("begin_create_pool"))?;
        if !pools::create(&mut transaction, &name).await? {
            return Err(Problem::new(Code::PoolExists, "There is a pool of that name.").field("name"));
        }
        let entry = audit::Entry {
            actor: &caller.0.actor(),
            action: "pool.created",
            subject: &format!("pool:{name}"),
            request_id: Some(context.id()),
            details: json!({}),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("commit_create_pool"))?;
        let made = all(state.0).await?.into_iter().find(|pool| pool.name == name);
        let made = made.ok_or_else(|| Problem::internal("a pool that was made is not there"))?;
        Ok(Created::Pool(Json(Typed(made))))
    }

    /// Move a session
    ///
    /// Puts a session into another pool. Jobs that run on it finish first: until then it gets no others, and `moving_to`
    /// names the pool. Jobs that are bound to it stay with it. Scope: admin.
    #[oai(
        path = "/v1/sessions/:id/pool",
        method = "put",
        operation_id = "move_session",
        tag = "Tag::Sessions"
    )]
    async fn move_session(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The session's id.
        id: Path<String>,
        body: Sent<MoveBody>,
    ) -> Result<Json<Typed<SessionDetail>>, Problem> {
        let id = parse(&id)?;
        let pool = body.read()?.pool;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_move_session"))?;
        if !pauses::target_exists(&mut transaction, PauseScope::Pool, &pool).await? {
            return Err(Problem::new(Code::UnknownPool, "No pool has that name.").field("pool"));
        }
        if pools::move_session(&mut transaction, id, &pool).await? == Moved::Unknown {
            return Err(not_found());
        }
        let entry = audit::Entry {
            actor: &caller.0.actor(),
            action: "session.move_asked",
            subject: &format!("session:{id}"),
            request_id: Some(context.id()),
            details: json!({ "pool": pool }),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("commit_move_session"))?;
        state.signals.sessions_changed();
        state.signals.changed();
        Ok(Json(Typed(detail(state.0, id).await?)))
    }
}

async fn all(state: &State) -> Result<Vec<PoolView>, Problem> {
    let mut conn = store::connection(&state.pool, "list_pools").await?;
    let (pauses, _) = pauses::active(&mut conn).await?;
    let is_paused = |name: &str| {
        pauses.iter().any(|pause| match pause.scope {
            PauseScope::Everything => true,
            PauseScope::Pool => pause.target == name,
            PauseScope::Session | PauseScope::Kind => false,
        })
    };
    let pools = pools::all(&mut conn).await?.into_iter();
    Ok(pools
        .map(|pool| {
            let paused = is_paused(&pool.name);
            PoolView::of(pool, paused)
        })
        .collect())
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= LONGEST_NAME && name.starts_with(allowed) && name.chars().all(|c| allowed(c) || c == '-' || c == '_')
}

#[cfg(test)]
mod tests {
    use poem::http::{Method, StatusCode};
    use serde_json::json;

    use crate::{
        api::tests::bed::{TestApi, send},
        store::api_keys::Scope,
    };

    #[tokio::test]
    async fn a_pool_is_made_listed_and_a_session_nobody_holds_moves_at_once() {
        let api = TestApi::new().await;
        let admin = format!("Bearer {}", api.key(Scope::Admin).await);
        let id = api.session("one", "ready").await;
        let make = async |name: &str| {
            let request = api.bare(Method::POST, "/v1/pools").body_json(&json!({ "name": name }));
            send(request.header("Authorization", &admin)).await
        };
        let made = make("spring").await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
        make("spring").await.problem("pool_exists");
        for wrong in ["", "Spring", "-spring", "a b"] {
            make(wrong).await.problem("invalid_value");
        }
        let to = async |pool: &str| {
            let request = api.bare(Method::PUT, &format!("/v1/sessions/{id}/pool"));
            send(
                request
                    .body_json(&json!({ "pool": pool }))
                    .header("Authorization", &admin),
            )
            .await
        };
        to("nowhere").await.problem("unknown_pool");
        let moved = to("spring").await.json();
        assert_eq!((&moved["pool"], &moved["moving_to"]), (&json!("spring"), &json!(null)));
        api.execute(
            "INSERT INTO session_leases (session_id, owner, expires_at)
            SELECT id, gen_random_uuid(), wireroom_now() + interval '1 minute' FROM sessions",
        )
        .await;
        let held = to("default").await.json();
        assert_eq!(
            (&held["pool"], &held["moving_to"]),
            (&json!("spring"), &json!("default"))
        );
        let back = to("spring").await.json();
        assert_eq!(
            (&back["pool"], &back["moving_to"]),
            (&json!("spring"), &json!(null)),
            "it stays"
        );
        api.execute("INSERT INTO pauses (scope, target, reason, paused_by) VALUES ('pool', 'spring', 'r', 'key:t')")
            .await;
        let pools = api.get("/v1/pools").await.json();
        let spring = pools["items"]
            .as_array()
            .expect("items")
            .iter()
            .find(|pool| pool["name"] == "spring");
        let spring = spring.expect("it is listed");
        assert_eq!(
            (&spring["sessions"], &spring["held"], &spring["paused"]),
            (&json!(1), &json!(1), &json!(true))
        );
        assert_eq!(api.count("events WHERE type = 'session.pool_changed'").await, 1);
        let operator = api
            .request(Method::POST, "/v1/pools")
            .body_json(&json!({ "name": "summer" }));
        send(operator).await.problem("forbidden");
    }
}
