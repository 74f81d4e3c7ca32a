//! What these tests lie in: a database, sessions that are rows and leases only, and functions that are closures.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use sqlx::{FromRow, PgPool};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wireroom::{
    clock::SystemClock,
    cluster::testing::TestDatabase,
    config::QueueConfig,
    ids::{JobId, SessionId, WorkerId},
    queue::{Attempt, HeldSession, Queue, QueueDeps, QueueHandle, Random, Runner, Sessions, Slots, Waker},
    store::{
        claims::{ClaimRequest, ClaimedJob, Group, Member, claim},
        jobs::{NewJob, enqueue},
        workers::{WorkerFacts, WorkerState, beat},
    },
};
use wireroom_jobs::{Action, JobKind, Lane, Outcome, ports::Clock};

use crate::support::wait::eventually;

pub const BOUND: Duration = Duration::from_secs(20);
pub const AGEING: Duration = Duration::from_mins(1);

/// A database and what is put into it.
pub struct Bed {
    pool: PgPool,
    /// Dropped with the bed; `None` when the database is somebody else's.
    _database: Option<TestDatabase>,
}

/// A job as any reader sees it.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct Seen {
    pub state: String,
    pub attempt: i32,
    pub fence: i64,
    pub session_id: Option<uuid::Uuid>,
    pub result: Option<Value>,
    pub error: Option<Value>,
    pub wait_reason: Option<Value>,
    pub started: bool,
}

impl Seen {
    pub fn error_code(&self) -> &str {
        self.error
            .as_ref()
            .and_then(|error| error["code"].as_str())
            .unwrap_or("")
    }

    pub fn wait_code(&self) -> &str {
        self.wait_reason
            .as_ref()
            .and_then(|reason| reason["code"].as_str())
            .unwrap_or("")
    }
}

impl Bed {
    pub async fn new() -> Self {
        let database = TestDatabase::new().await;
        Self {
            pool: database.pool().clone(),
            _database: Some(database),
        }
    }

    /// A bed in a migrated database of the caller's.
    pub fn over(pool: PgPool) -> Self {
        Self { pool, _database: None }
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub async fn run(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(self.pool()).await.expect(sql);
    }

    /// Moves the database's clock, for everyone.
    pub async fn move_clock(&self, seconds: i64) {
        let sql = format!(
            "CREATE OR REPLACE FUNCTION wireroom_now() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
             AS 'SELECT clock_timestamp() + interval ''{seconds} seconds'''"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(self.pool())
            .await
            .expect("the clock moves");
    }

    /// A ready session in `pool`, which is made when it is not there.
    pub async fn session(&self, pool: &str) -> SessionId {
        let id = SessionId::generate();
        sqlx::query("INSERT INTO pools (name) VALUES ($1) ON CONFLICT DO NOTHING")
            .bind(pool)
            .execute(self.pool())
            .await
            .expect("a pool");
        sqlx::query("INSERT INTO sessions (id, label, pool, state, home_dc) VALUES ($1, $2, $3, 'ready', 2)")
            .bind(id.0)
            .bind(id.to_string())
            .bind(pool)
            .execute(self.pool())
            .await
            .expect("a session");
        sqlx::query("INSERT INTO session_leases (session_id) VALUES ($1)")
            .bind(id.0)
            .execute(self.pool())
            .await
            .expect("a lease's row");
        id
    }

    /// Gives the session's lease to `worker` for a minute; returns the fence.
    pub async fn lease(&self, session: SessionId, worker: WorkerId) -> i64 {
        sqlx::query_scalar(
            "UPDATE session_leases SET owner = $2, fence = fence + 1, acquired_at = wireroom_now(),
                expires_at = wireroom_now() + interval '60 seconds'
             WHERE session_id = $1 RETURNING fence",
        )
        .bind(session.0)
        .bind(worker.0)
        .fetch_one(self.pool())
        .await
        .expect("a lease")
    }

    pub async fn expire_lease(&self, session: SessionId) {
        sqlx::query(
            "UPDATE session_leases SET expires_at = wireroom_now() - interval '1 second' WHERE session_id = $1",
        )
        .bind(session.0)
        .execute(self.pool())
        .await
        .expect("an expired lease");
    }

    pub async fn enqueue(&self, jobs: &[NewJob]) -> Vec<JobId> {
        let mut conn = self.pool().acquire().await.expect("a connection");
        enqueue(&mut conn, jobs, AGEING).await.expect("jobs are stored")
    }

    pub async fn enqueue_one(&self, job: NewJob) -> JobId {
        self.enqueue(&[job]).await[0]
    }

    pub async fn seen(&self, id: JobId) -> Option<Seen> {
        sqlx::query_as(
            "SELECT state, attempt, fence, session_id, result, error, wait_reason, started_at IS NOT NULL AS started
             FROM all_jobs WHERE id = $1",
        )
        .bind(id.0)
        .fetch_optional(self.pool())
        .await
        .expect("a look at the job")
    }

    pub async fn job(&self, id: JobId) -> Seen {
        self.seen(id).await.expect("the job is there")
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.pool()).await.expect(sql)
    }

    pub async fn until_state(&self, id: JobId, state: &str) -> Seen {
        eventually(BOUND, || async {
            let job = self.job(id).await;
            if job.state == state { Ok(job) } else { Err(job) }
        })
        .await
    }

    /// A worker that lives, without any process behind it.
    pub async fn worker(&self) -> WorkerId {
        let facts = facts();
        let mut conn = self.pool().acquire().await.expect("a connection");
        beat(&mut conn, &facts, WorkerState::Running, &[])
            .await
            .expect("a beat");
        facts.id
    }

    /// Claims up to `free` jobs for one session of `pool`, by statement alone.
    pub async fn claim(
        &self,
        worker: WorkerId,
        session: SessionId,
        fence: i64,
        pool: &str,
        free: i32,
    ) -> Vec<Box<ClaimedJob>> {
        let request = ClaimRequest {
            worker,
            members: vec![Member {
                session,
                fence,
                free,
                group: 0,
            }],
            groups: vec![bulk(pool, None)],
            take_suspect: true,
        };
        self.claim_with(&request).await
    }

    pub async fn claim_with(&self, request: &ClaimRequest) -> Vec<Box<ClaimedJob>> {
        let mut conn = self.pool().acquire().await.expect("a connection");
        claim(&mut conn, request).await.expect("a claim")
    }

    /// A session in `default`, leased to a new live worker.
    pub async fn worker_with_session(&self) -> (WorkerId, SessionId, i64) {
        let worker = self.worker().await;
        let session = self.session("default").await;
        let fence = self.lease(session, worker).await;
        (worker, session, fence)
    }
}

pub fn bulk(pool: &str, open_kinds: Option<Vec<JobKind>>) -> Group {
    Group {
        pool: pool.to_owned(),
        lane: Lane::Bulk,
        open_kinds,
        pooled: true,
    }
}

/// The time by this machine's clock, which is the database's too.
pub fn now() -> chrono::DateTime<chrono::Utc> {
    SystemClock.now()
}

pub fn facts() -> WorkerFacts {
    WorkerFacts {
        id: WorkerId::generate(),
        host: "test.example.com".to_owned(),
        pid: 1,
        version: "test".to_owned(),
    }
}

/// A job with args that nobody reads.
pub fn job() -> NewJob {
    NewJob::new(JobKind::Join, json!({}))
}

/// So many of them.
pub fn jobs(count: usize) -> Vec<NewJob> {
    std::iter::repeat_with(job).take(count).collect()
}

pub fn config() -> QueueConfig {
    QueueConfig {
        poll: Duration::from_millis(200),
        claim_batch: 100,
        heartbeat: Duration::from_millis(100),
        worker_dead: Duration::from_secs(1),
        ageing_step: AGEING,
        retention_days: 30,
        cancel_wait: Duration::from_secs(30),
        vacuum_after: 0,
        shutdown_soft: Duration::from_secs(5),
        shutdown_hard: Duration::from_millis(500),
    }
}

/// Sessions that are held because the test says so.
pub struct StaticSessions {
    held: Mutex<Vec<HeldSession>>,
    changed: watch::Sender<u64>,
}

impl StaticSessions {
    pub fn new(held: Vec<HeldSession>) -> Arc<Self> {
        Arc::new(Self {
            held: Mutex::new(held),
            changed: watch::channel(0).0,
        })
    }

    pub fn replace(&self, held: Vec<HeldSession>) {
        *self.held.lock().unwrap() = held;
        self.changed.send_modify(|version| *version += 1);
    }
}

impl Sessions for StaticSessions {
    fn held(&self) -> Vec<HeldSession> {
        self.held.lock().unwrap().clone()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

pub fn held(id: SessionId, fence: i64, slots: i32) -> HeldSession {
    HeldSession {
        id,
        pool: "default".to_owned(),
        fence,
        slots: Slots {
            bulk: slots,
            ..Slots::default()
        },
        closed: BTreeSet::<Action>::new(),
        pooled: true,
        watches: true,
        lost: CancellationToken::new(),
        leaving: CancellationToken::new(),
        in_use: TaskTracker::new(),
        watching: TaskTracker::new(),
    }
}

/// The args that a function was called with.
pub fn args(attempt: &Attempt) -> Value {
    serde_json::from_str(attempt.job.args.get()).expect("JSON")
}

/// A function that is a closure.
pub struct Function<F>(pub F);

#[async_trait]
impl<F> Runner for Function<F>
where
    F: Fn(Attempt) -> BoxFuture<'static, Outcome> + Send + Sync + 'static,
{
    async fn run(&self, attempt: Attempt) -> Outcome {
        (self.0)(attempt).await
    }
}

pub fn function<F, Fut>(run: F) -> Arc<dyn Runner>
where
    F: Fn(Attempt) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    Arc::new(Function(move |attempt| -> BoxFuture<'static, Outcome> {
        Box::pin(run(attempt))
    }))
}

/// A function that stops only when it is asked to.
pub fn waits_for_cancel() -> Arc<dyn Runner> {
    function(|attempt| async move {
        attempt.cancellation.cancelled().await;
        Outcome::Cancelled
    })
}

/// Randomness that is a number.
pub struct Fixed(pub f64);

impl Random for Fixed {
    fn unit(&self) -> f64 {
        self.0
    }
}

/// A queue that runs in this process with one session.
pub struct Running {
    pub handle: QueueHandle,
    pub waker: Waker,
    pub worker: WorkerId,
    pub session: SessionId,
    pub held: HeldSession,
    pub sessions: Arc<StaticSessions>,
}

impl Bed {
    /// Starts a queue whose one session has `slots` slots.
    pub async fn start(&self, slots: i32, runner: Arc<dyn Runner>) -> Running {
        let session = self.session("default").await;
        self.start_on(session, slots, runner, config()).await
    }

    pub async fn start_on(
        &self,
        session: SessionId,
        slots: i32,
        runner: Arc<dyn Runner>,
        config: QueueConfig,
    ) -> Running {
        self.start_over(self.pool().clone(), session, slots, runner, config)
            .await
    }

    /// Starts a queue whose connections are `pool`'s.
    pub async fn start_over(
        &self,
        pool: PgPool,
        session: SessionId,
        slots: i32,
        runner: Arc<dyn Runner>,
        config: QueueConfig,
    ) -> Running {
        self.start_timed(pool, session, slots, runner, config, JobKind::attempt_timeout)
            .await
    }

    /// Starts a queue whose attempts may take so long.
    pub async fn start_timed(
        &self,
        pool: PgPool,
        session: SessionId,
        slots: i32,
        runner: Arc<dyn Runner>,
        config: QueueConfig,
        attempt_timeout: fn(JobKind) -> Duration,
    ) -> Running {
        let worker = facts();
        let fence = self.lease(session, worker.id).await;
        let held = held(session, fence, slots);
        let sessions = StaticSessions::new(vec![held.clone()]);
        let waker = Waker::start(pool.clone());
        let id = worker.id;
        let deps = QueueDeps {
            pool,
            config,
            waker: waker.clone(),
            worker,
            sessions: sessions.clone(),
            runner,
            random: Arc::new(Fixed(0.0)),
        };
        Running {
            handle: Queue::start_with(deps, attempt_timeout)
                .await
                .expect("the queue starts"),
            waker,
            worker: id,
            session,
            held,
            sessions,
        }
    }
}

/// Counts calls.
#[derive(Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    pub fn up(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}
