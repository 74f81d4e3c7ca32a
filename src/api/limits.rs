//! `GET/PUT/DELETE /v1/limits`: how many jobs of a kind or a pool run at a time, and how fast a key's jobs start.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{OpenApi, param::Path, payload::Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wireroom_jobs::JobKind;

use super::{
    State,
    auth::{Admin, Allowed, Caller, Viewer},
    document::Tag,
    jobs::body,
    problem::{Code, Problem},
    sent::Sent,
    shell::RequestContext,
    typed::Typed,
};
use crate::store::{
    self, PgConnection, audit, failed, holds,
    limits::{self, ConcurrencyLimit, LimitScope, RateLimit},
    pauses::{self, PauseScope},
    rates,
};

const MOST: i64 = 1_000_000;
/// In seconds: 366 days.
const LONGEST_PERIOD: f64 = 31_622_400.0;
const SHORTEST_PERIOD: f64 = 0.001;

/// How many may run at a time.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewConcurrencyLimit")]
pub struct ConcurrencyBody {
    /// Over all workers; 0 lets none start.
    #[schemars(range(min = 0, max = 1_000_000), example = 10)]
    max_running: i64,
}

/// How fast jobs that share a limit key start.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewRateLimit")]
pub struct RateBody {
    /// Starts in each period, evenly spread.
    #[schemars(range(min = 1, max = 1_000_000), example = 20)]
    starts: i64,
    /// Seconds, from 0.001 to 366 days.
    #[schemars(range(min = 0.001, max = 31_622_400.0), example = 60)]
    period_seconds: f64,
    /// Starts that may come at once after a quiet time; 1 when left out.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    burst: Option<i64>,
}

/// How many jobs of a kind or a pool run at a time, over all workers.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "ConcurrencyLimit")]
pub struct ConcurrencyView {
    /// `kind` or `pool`.
    #[schemars(extend("enum" = ["kind", "pool"]))]
    pub scope: &'static str,
    pub target: String,
    pub max_running: i32,
    /// How many run now.
    pub running: i64,
    /// The key that set it: `key:<id>`.
    pub set_by: String,
    pub set_at: DateTime<Utc>,
}

/// How fast jobs with a limit key start, over all workers.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "RateLimit")]
pub struct RateView {
    /// A whole limit key, or a class of keys: what stands before the first colon. Every key has its own bucket.
    pub key: String,
    pub starts: i32,
    pub period_seconds: f64,
    pub burst: i32,
    /// The key that set it: `key:<id>`.
    pub set_by: String,
    pub set_at: DateTime<Utc>,
}

/// Every limit.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Limits")]
pub struct LimitsView {
    pub concurrency: Vec<ConcurrencyView>,
    pub rates: Vec<RateView>,
}

impl ConcurrencyView {
    fn of(limit: ConcurrencyLimit, running: i64) -> Self {
        Self {
            scope: limit.scope.as_str(),
            target: limit.target,
            max_running: limit.max_running,
            running,
            set_by: limit.set_by,
            set_at: limit.set_at,
        }
    }
}

impl From<RateLimit> for RateView {
    fn from(limit: RateLimit) -> Self {
        Self {
            key: limit.name,
            starts: limit.starts,
            period_seconds: limit.period.as_secs_f64(),
            burst: limit.burst,
            set_by: limit.set_by,
            set_at: limit.set_at,
        }
    }
}

pub struct LimitsApi;

#[OpenApi]
impl LimitsApi {
    /// List limits
    ///
    /// Lists every limit, and how many jobs run under it. Scope: viewer.
    #[oai(
        path = "/v1/limits",
        method = "get",
        operation_id = "list_limits",
        tag = "Tag::Control"
    )]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
    ) -> Result<Json<Typed<LimitsView>>, Problem> {
        let mut conn = store::connection(&state.pool, "limits").await?;
        Ok(Json(Typed(all(&mut conn).await?)))
    }

    /// Limit a kind
    ///
    /// At most so many jobs of the kind run at a time, over all workers; those that run already finish. Scope: admin.
    #[oai(
        path = "/v1/limits/kind/:target",
        method = "put",
        operation_id = "limit_kind",
        tag = "Tag::Control"
    )]
    async fn limit_kind(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The kind.
        target: Path<String>,
        body: Sent<ConcurrencyBody>,
    ) -> Result<Json<Typed<ConcurrencyView>>, Problem> {
        if JobKind::parse(&target).is_none() {
            return Err(Problem::new(Code::UnknownKind, "No kind has that name.").field("target"));
        }
        let change = Change::new(state.0, &caller.0, context.0);
        change.set_concurrency(LimitScope::Kind, &target, &body).await
    }

    /// Remove the limit of a kind
    ///
    /// Answers with the limits that are left. Scope: admin.
    #[oai(
        path = "/v1/limits/kind/:target",
        method = "delete",
        operation_id = "unlimit_kind",
        tag = "Tag::Control"
    )]
    async fn unlimit_kind(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The kind.
        target: Path<String>,
    ) -> Result<Json<Typed<LimitsView>>, Problem> {
        let change = Change::new(state.0, &caller.0, context.0);
        change.remove_concurrency(LimitScope::Kind, &target).await
    }

    /// Limit a pool
    ///
    /// At most so many jobs of the pool run at a time, over all workers; those that run already finish. Scope: admin.
    #[oai(
        path = "/v1/limits/pool/:target",
        method = "put",
        operation_id = "limit_pool",
        tag = "Tag::Control"
    )]
    async fn limit_pool(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The pool.
        target: Path<String>,
        body: Sent<ConcurrencyBody>,
    ) -> Result<Json<Typed<ConcurrencyView>>, Problem> {
        let mut conn = store::connection(&state.pool, "pause_target_exists").await?;
        if !pauses::target_exists(&mut conn, PauseScope::Pool, &target).await? {
            return Err(Problem::new(Code::UnknownPool, "No pool has that name.").field("target"));
        }
        drop(conn);
        let change = Change::new(state.0, &caller.0, context.0);
        change.set_concurrency(LimitScope::Pool, &target, &body).await
    }

    /// Remove the limit of a pool
    ///
    /// Answers with the limits that are left. Scope: admin.
    #[oai(
        path = "/v1/limits/pool/:target",
        method = "delete",
        operation_id = "unlimit_pool",
        tag = "Tag::Control"
    )]
    async fn unlimit_pool(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The pool.
        target: Path<String>,
    ) -> Result<Json<Typed<LimitsView>>, Problem> {
        let change = Change::new(state.0, &caller.0, context.0);
        change.remove_concurrency(LimitScope::Pool, &target).await
    }

    /// Limit a key
    ///
    /// Jobs whose `limit_key` is this key, or of this class (what stands before the first colon), start no faster, over all
    /// workers; each key by itself. A job that finds no start left stands in line, behind those that came before it:
    /// within a key the line goes before the priority. Scope: admin.
    #[oai(
        path = "/v1/limits/key/:target",
        method = "put",
        operation_id = "limit_key",
        tag = "Tag::Control"
    )]
    async fn limit_key(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The key or the class.
        target: Path<String>,
        body: Sent<RateBody>,
    ) -> Result<Json<Typed<RateView>>, Problem> {
        let change = Change::new(state.0, &caller.0, context.0);
        change.set_rate(body::limit_key(target.0)?, &body).await
    }

    /// Remove the limit of a key
    ///
    /// Jobs that stand in line may start at once. Answers with the limits that are left. Scope: admin.
    #[oai(
        path = "/v1/limits/key/:target",
        method = "delete",
        operation_id = "unlimit_key",
        tag = "Tag::Control"
    )]
    async fn unlimit_key(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The key or the class.
        target: Path<String>,
    ) -> Result<Json<Typed<LimitsView>>, Problem> {
        let change = Change::new(state.0, &caller.0, context.0);
        change.remove_rate(&target).await
    }
}

async fn all(conn: &mut PgConnection) -> Result<LimitsView, Problem> {
    let controls = holds::controls(conn).await?;
    let concurrency = controls.limits.concurrency.into_iter().zip(controls.running);
    Ok(LimitsView {
        concurrency: concurrency
            .map(|(limit, running)| ConcurrencyView::of(limit, running))
            .collect(),
        rates: controls.limits.rates.into_iter().map(RateView::from).collect(),
    })
}

/// Who changes a limit, in which request.
struct Change<'a> {
    state: &'a State,
    actor: String,
    request_id: &'a str,
}

impl<'a> Change<'a> {
    fn new(state: &'a State, caller: &Caller, context: &'a RequestContext) -> Self {
        Self {
            state,
            actor: caller.actor(),
            request_id: context.id(),
        }
    }

    async fn set_concurrency(
        &self,
        scope: LimitScope,
        target: &str,
        body: &Sent<ConcurrencyBody>,
    ) -> Result<Json<Typed<ConcurrencyView>>, Problem> {
        let max_running = body::within("max_running", Some(body.read()?.max_running), 0, MOST)?.unwrap_or(0);
        let mut transaction = self.state.pool.begin().await.map_err(failed("begin_set_limit"))?;
        let limit = limits::set_concurrency(&mut transaction, scope, target, max_running, &self.actor).await?;
        let running = limits::running(&mut transaction, std::slice::from_ref(&limit)).await?;
        let details = json!({ "max_running": max_running });
        self.record(&mut transaction, "limit.set", scope.as_str(), target, details)
            .await?;
        transaction.commit().await.map_err(failed("commit_set_limit"))?;
        self.state.signals.control_changed();
        let running = running.first().copied().unwrap_or(0);
        Ok(Json(Typed(ConcurrencyView::of(limit, running))))
    }

    async fn remove_concurrency(&self, scope: LimitScope, target: &str) -> Result<Json<Typed<LimitsView>>, Problem> {
        let mut transaction = self.state.pool.begin().await.map_err(failed("begin_remove_limit"))?;
        if !limits::remove_concurrency(&mut transaction, scope, target).await? {
            return Err(not_found());
        }
        self.removed(transaction, scope.as_str(), target).await
    }

    async fn set_rate(&self, name: String, body: &Sent<RateBody>) -> Result<Json<Typed<RateView>>, Problem> {
        let body = body.read()?;
        let starts = body::within("starts", Some(body.starts), 1, MOST)?.unwrap_or(1);
        let burst = body::within("burst", body.burst, 1, MOST)?.unwrap_or(1);
        if !(SHORTEST_PERIOD..=LONGEST_PERIOD).contains(&body.period_seconds) {
            let message = format!("must be from {SHORTEST_PERIOD} to {LONGEST_PERIOD}.");
            return Err(body::invalid("period_seconds", message));
        }
        let period = Duration::from_secs_f64(body.period_seconds);
        let mut transaction = self.state.pool.begin().await.map_err(failed("begin_set_limit"))?;
        let limit = limits::set_rate(&mut transaction, &name, starts, period, burst, &self.actor).await?;
        let details = json!({ "starts": starts, "period_seconds": body.period_seconds, "burst": burst });
        self.record(&mut transaction, "limit.set", "key", &name, details)
            .await?;
        transaction.commit().await.map_err(failed("commit_set_limit"))?;
        self.state.signals.control_changed();
        self.dissolve_line(&name).await?;
        Ok(Json(Typed(limit.into())))
    }

    async fn remove_rate(&self, name: &str) -> Result<Json<Typed<LimitsView>>, Problem> {
        let mut transaction = self.state.pool.begin().await.map_err(failed("begin_remove_limit"))?;
        if !limits::remove_rate(&mut transaction, name).await? {
            return Err(not_found());
        }
        let answer = self.removed(transaction, "key", name).await?;
        self.dissolve_line(name).await?;
        Ok(answer)
    }

    /// Jobs in line were given their turns under the limit as it was.
    async fn dissolve_line(&self, name: &str) -> Result<(), Problem> {
        let mut conn = store::connection(&self.state.pool, "dissolve_line").await?;
        while rates::dissolve_line(&mut conn, name).await? == rates::BATCH {}
        self.state.signals.changed();
        Ok(())
    }

    async fn removed(
        &self,
        mut transaction: sqlx::Transaction<'_, sqlx::Postgres>,
        scope: &str,
        target: &str,
    ) -> Result<Json<Typed<LimitsView>>, Problem> {
        self.record(&mut transaction, "limit.removed", scope, target, json!({}))
            .await?;
        let left = all(&mut transaction).await?;
        transaction.commit().await.map_err(failed("commit_remove_limit"))?;
        self.state.signals.control_changed();
        Ok(Json(Typed(left)))
    }

    async fn record(
        &self,
        conn: &mut PgConnection,
        action: &str,
        scope: &str,
        target: &str,
        details: Value,
    ) -> Result<(), Problem> {
        let entry = audit::Entry {
            actor: &self.actor,
            action,
            subject: &format!("{scope}:{target}"),
            request_id: Some(self.request_id),
            details,
        };
        Ok(audit::record(conn, entry).await?)
    }
}

fn not_found() -> Problem {
    Problem::new(Code::LimitNotFound, "There is no such limit.")
}

#[cfg(test)]
mod tests {
    use poem::http::{Method, StatusCode};
    use serde_json::{Value, json};

    use crate::{
        api::tests::bed::{Answer, TestApi, send},
        store::api_keys::Scope,
    };

    struct Admin {
        api: TestApi,
        key: String,
    }

    impl Admin {
        async fn new() -> Self {
            let api = TestApi::new().await;
            let key = api.key(Scope::Admin).await;
            Self { api, key }
        }

        async fn put(&self, path: &str, body: &Value) -> Answer {
            let request = self.api.bare(Method::PUT, path).body_json(body);
            send(request.header("Authorization", format!("Bearer {}", self.key))).await
        }

        async fn delete(&self, path: &str) -> Answer {
            let request = self.api.bare(Method::DELETE, path);
            send(request.header("Authorization", format!("Bearer {}", self.key))).await
        }
    }

    #[tokio::test]
    async fn limits_are_set_listed_with_what_runs_and_removed() {
        let admin = Admin::new().await;
        admin.api.stored_job().await;
        admin.api.execute("UPDATE jobs SET state = 'running'").await;
        let set = admin.put("/v1/limits/kind/join", &json!({ "max_running": 5 })).await;
        assert_eq!(set.status, StatusCode::OK, "{}", set.text);
        assert_eq!(set.json()["running"], 1);
        admin.put("/v1/limits/pool/default", &json!({ "max_running": 3 })).await;
        let rate = json!({ "starts": 20, "period_seconds": 60 });
        let set = admin.put("/v1/limits/key/campaign:spring", &rate).await;
        assert_eq!(set.json()["burst"], 1, "{}", set.text);
        let list = admin.api.get("/v1/limits").await.json();
        assert_eq!(list["concurrency"].as_array().map(Vec::len), Some(2));
        assert_eq!(list["rates"][0]["key"], "campaign:spring");
        for path in ["kind/join", "pool/default", "key/campaign:spring"] {
            let left = admin.delete(&format!("/v1/limits/{path}")).await;
            assert_eq!(left.status, StatusCode::OK, "{}", left.text);
            admin
                .delete(&format!("/v1/limits/{path}"))
                .await
                .problem("limit_not_found");
        }
        assert_eq!(admin.api.count("audit_log WHERE action LIKE 'limit.%'").await, 6);
    }

    #[tokio::test]
    async fn a_changed_rate_frees_the_line_of_every_key_of_its_class() {
        let admin = Admin::new().await;
        for key in ["chat:1", "chat:2", "campaign:1"] {
            let mut body = json!({ "kind": "join", "args": { "chat": "@reading_club" } });
            body["limit_key"] = json!(key);
            admin.api.post_job(&body).await;
        }
        admin
            .api
            .execute("UPDATE jobs SET state = 'scheduled', limit_turn = true, run_at = '2098-01-01'")
            .await;
        admin
            .put("/v1/limits/key/chat", &json!({ "starts": 1, "period_seconds": 1 }))
            .await;
        assert_eq!(
            admin.api.count("jobs WHERE state = 'queued' AND NOT limit_turn").await,
            2
        );
    }

    #[tokio::test]
    async fn what_cannot_be_limited_is_refused_and_so_is_an_operator() {
        let admin = Admin::new().await;
        let most = json!({ "max_running": 1 });
        admin.put("/v1/limits/kind/walk", &most).await.problem("unknown_kind");
        admin
            .put("/v1/limits/pool/nowhere", &most)
            .await
            .problem("unknown_pool");
        let wrong = json!({ "max_running": -1 });
        admin.put("/v1/limits/kind/join", &wrong).await.problem("invalid_value");
        let wrong = json!({ "starts": 1, "period_seconds": 0 });
        admin.put("/v1/limits/key/chat", &wrong).await.problem("invalid_value");
        let operator = admin.api.request(Method::PUT, "/v1/limits/kind/join").body_json(&most);
        send(operator).await.problem("forbidden");
    }
}
