//! The API over a database of one test, without a socket.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use poem::{
    EndpointExt, Response,
    endpoint::BoxEndpoint,
    http::{HeaderMap, Method, StatusCode},
    test::{TestClient, TestRequestBuilder},
};
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use wireroom_jobs::{JobKind, ports::Clock};

use crate::api::{ApiDeps, FinishedJobs, JobSignals, State, app};
use crate::{
    clock::SystemClock,
    cluster::testing::TestDatabase,
    config::{Config, Source},
    ids::{JobId, SessionId},
    store::{
        PgPool,
        api_keys::{self, KeyMaterial, Scope},
        jobs::{self, NewJob},
        notifications::Ring,
    },
};

/// A clock that a test can set forward.
pub struct TestClock(Mutex<TimeDelta>);

impl TestClock {
    pub fn advance(&self, by: TimeDelta) {
        *self.0.lock().expect("no test panics with the clock in hand") += by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> DateTime<Utc> {
        SystemClock.now() + *self.0.lock().expect("no test panics with the clock in hand")
    }
}

/// Counts what the queue would be told, and announces what a test says.
pub struct Signals {
    pub enqueued: AtomicUsize,
    pub cancelled: Mutex<Vec<JobId>>,
    pub changed: AtomicUsize,
    pub control_changed: AtomicUsize,
    pub sessions_changed: AtomicUsize,
    pub errands_asked: AtomicUsize,
    pub events_asked: AtomicUsize,
    pub finished: broadcast::Sender<Vec<JobId>>,
    pub logged: watch::Sender<i64>,
}

impl Default for Signals {
    fn default() -> Self {
        Self {
            enqueued: AtomicUsize::new(0),
            cancelled: Mutex::default(),
            changed: AtomicUsize::new(0),
            control_changed: AtomicUsize::new(0),
            sessions_changed: AtomicUsize::new(0),
            errands_asked: AtomicUsize::new(0),
            events_asked: AtomicUsize::new(0),
            finished: broadcast::channel(16).0,
            logged: watch::Sender::new(0),
        }
    }
}

#[async_trait]
impl FinishedJobs for broadcast::Receiver<Vec<JobId>> {
    async fn next(&mut self) -> Vec<JobId> {
        self.recv().await.unwrap_or_default()
    }
}

impl JobSignals for Signals {
    fn ring(&self, _: &[NewJob]) -> Option<Ring> {
        None
    }

    fn enqueued(&self, jobs: &[NewJob], _: Option<&Ring>) {
        self.enqueued.fetch_add(jobs.len(), Ordering::SeqCst);
    }

    fn changed(&self) {
        self.changed.fetch_add(1, Ordering::SeqCst);
    }

    fn control_changed(&self) {
        self.control_changed.fetch_add(1, Ordering::SeqCst);
    }

    fn sessions_changed(&self) {
        self.sessions_changed.fetch_add(1, Ordering::SeqCst);
    }

    fn errand_asked(&self) {
        self.errands_asked.fetch_add(1, Ordering::SeqCst);
    }

    fn events_asked(&self) {
        self.events_asked.fetch_add(1, Ordering::SeqCst);
    }

    fn finished(&self, jobs: &[JobId]) {
        // Nobody need wait.
        let _ = self.finished.send(jobs.to_vec());
    }

    fn watch_finished(&self) -> Box<dyn FinishedJobs> {
        Box::new(self.finished.subscribe())
    }

    fn logged_events(&self) -> watch::Receiver<i64> {
        self.logged.subscribe()
    }

    fn cancelled(&self, job: JobId) {
        self.cancelled
            .lock()
            .expect("no test panics with the list in hand")
            .push(job);
    }
}

/// A response, read whole.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("a header of text"))
    }

    /// Checks that this is a problem of that code, whole and well-formed, and gives its body.
    #[track_caller]
    pub fn problem(&self, code: &str) -> Value {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text);
        let body = self.json();
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["status"], self.status.as_u16());
        assert_eq!(body["type"], format!("urn:wireroom:problem:{code}"));
        assert_eq!(body["request_id"], self.header("x-request-id"));
        for field in ["title", "detail", "instance"] {
            assert!(
                body[field].as_str().is_some_and(|text| !text.is_empty()),
                "{field} of {body}"
            );
        }
        body
    }
}

/// The API over a fresh database.
pub struct TestApi {
    pub database: TestDatabase,
    pub clock: Arc<TestClock>,
    pub signals: Arc<Signals>,
    /// A key with the scope operator.
    pub key: String,
    client: TestClient<BoxEndpoint<'static, Response>>,
    state: Arc<State>,
    deps: ApiDeps,
    _shutdown: DropGuard,
}

impl TestApi {
    pub async fn new() -> Self {
        Self::with(|_| ()).await
    }

    /// With another configuration.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let database = TestDatabase::new().await;
        let key = create_key(database.pool(), Scope::Operator).await;
        Self::over(database, key, change)
    }

    fn over(database: TestDatabase, key: String, change: impl FnOnce(&mut Config)) -> Self {
        let source = Source::from_values([("DATABASE_URL".to_owned(), database.url().to_owned())]);
        let mut config = Config::from_source(source).expect("a configuration");
        change(&mut config);
        let clock = Arc::new(TestClock(Mutex::new(TimeDelta::zero())));
        let signals = Arc::new(Signals::default());
        let deps = ApiDeps {
            pool: database.pool().clone(),
            config,
            signals: Arc::clone(&signals) as Arc<dyn JobSignals>,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
        };
        let state = State::new(deps.clone());
        let shutdown = CancellationToken::new();
        tokio::spawn(Arc::clone(&state.waiters).run(
            database.pool().clone(),
            Arc::clone(&state.signals),
            shutdown.clone(),
        ));
        tokio::spawn(Arc::clone(&state.followers).run(
            database.pool().clone(),
            Arc::clone(&state.signals),
            shutdown.clone(),
        ));
        Self {
            client: TestClient::new(app(Arc::clone(&state)).boxed()),
            state,
            deps,
            database,
            clock,
            signals,
            key,
            _shutdown: shutdown.drop_guard(),
        }
    }

    pub fn deps(&self) -> ApiDeps {
        self.deps.clone()
    }

    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.state)
    }

    /// Runs a statement of the test's own.
    pub async fn execute(&self, statement: &'static str) {
        sqlx::query(statement).execute(self.pool()).await.expect("a statement");
    }

    pub fn pool(&self) -> &PgPool {
        self.database.pool()
    }

    /// A key of that scope.
    pub async fn key(&self, scope: Scope) -> String {
        create_key(self.pool(), scope).await
    }

    /// A request with the operator's key.
    pub fn request(&self, method: Method, path: &str) -> TestRequestBuilder<'_, BoxEndpoint<'static, Response>> {
        self.bare(method, path)
            .header("Authorization", format!("Bearer {}", self.key))
    }

    /// A request without a key.
    pub fn bare(&self, method: Method, path: &str) -> TestRequestBuilder<'_, BoxEndpoint<'static, Response>> {
        self.client.request(method, path)
    }

    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    pub async fn post_job(&self, body: &Value) -> Answer {
        send(self.request(Method::POST, "/v1/jobs").body_json(body)).await
    }

    /// A session in that state, of the pool `default`.
    pub async fn session(&self, label: &str, state: &str) -> SessionId {
        let id = SessionId::generate();
        sqlx::query("INSERT INTO sessions (id, label, pool, state, state_reason, home_dc) VALUES ($1, $2, 'default', $3, 'as the test says', 2)")
            .bind(id.0)
            .bind(label)
            .bind(state)
            .execute(self.pool())
            .await
            .expect("a session");
        id
    }

    /// Moves a job to the finished ones, as a worker would.
    pub async fn finish(&self, id: JobId) {
        let statement = "WITH gone AS (DELETE FROM jobs WHERE id = $1 RETURNING *)
            INSERT INTO finished_jobs (id, kind, args, state, lane, pool, session_id, priority, run_at, attempt, max_attempts,
                fence, finished_at, result, tags, created_by, created_at)
            SELECT id, kind, args, 'succeeded', lane, pool, session_id, priority, run_at, 1, max_attempts, fence,
                wireroom_now(), '{\"status\": \"joined\"}', tags, created_by, created_at FROM gone";
        let moved = sqlx::query(statement)
            .bind(id.0)
            .execute(self.pool())
            .await
            .expect("finished");
        assert_eq!(moved.rows_affected(), 1);
    }

    /// A queued job, without a request.
    pub async fn stored_job(&self) -> JobId {
        let job = NewJob::new(JobKind::Join, json!({ "chat": "@reading_club" }));
        let mut conn = self.pool().acquire().await.expect("a connection");
        jobs::enqueue(&mut conn, std::slice::from_ref(&job), Duration::ZERO)
            .await
            .expect("a job");
        job.id
    }

    pub async fn count(&self, table: &str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
            .fetch_one(self.pool())
            .await
            .expect("a count")
    }
}

/// An API whose database does not answer.
pub fn over_nothing() -> BoxEndpoint<'static, Response> {
    app(detached()).boxed()
}

/// The state of an API whose database does not answer.
pub fn detached() -> Arc<State> {
    // Port 1 of the own machine takes no connection.
    let url = "postgres://nobody@127.0.0.1:1/nothing";
    let config = Config::from_source(Source::from_values([
        ("DATABASE_URL".to_owned(), url.to_owned()),
        ("WIREROOM_DATABASE_ACQUIRE_SECONDS".to_owned(), "0.2".to_owned()),
    ]))
    .expect("a configuration");
    State::new(ApiDeps {
        pool: crate::store::pool(&config.database).expect("a pool"),
        config,
        signals: Arc::new(Signals::default()),
        clock: Arc::new(SystemClock),
    })
}

pub async fn send(request: TestRequestBuilder<'_, BoxEndpoint<'static, Response>>) -> Answer {
    let response = request.send().await.0;
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.into_body().into_string().await.expect("a body of text");
    Answer { status, headers, text }
}

async fn create_key(pool: &PgPool, scope: Scope) -> String {
    let key = KeyMaterial::generate().expect("randomness");
    let mut conn = pool.acquire().await.expect("a connection");
    api_keys::create(&mut conn, &key, "test", scope, "cli")
        .await
        .expect("a key");
    key.text().expose().to_owned()
}
