//! What a simulation runs in: a database, a sandbox, the API and its workers, all in this process.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use reqwest::{Client, Method};
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::OnceCell, task::JoinHandle, time::Instant};
use wireroom::{
    cli,
    cluster::testing::TestDatabase,
    config::{Config, Secret, Source},
    lifecycle::Shutdown,
    queue::Waker,
    sandbox::{LOGIN_CODE, Sandbox, SandboxConfig, SandboxHandle, world::World},
    sessions::{ImportAccount, Imported, import},
    store::{
        self,
        api_keys::{self, KeyMaterial, Scope},
    },
    vault::Vault,
};

use super::{
    check::Checker,
    model::Model,
    plan::{ACCOUNTS, SLOTS},
    time::{self, SimClock},
    watch,
    worker::Worker,
};
use crate::support::{stack::http_client, wait::eventually};

/// Longer than a lease, with some to spare.
pub const LONGER_THAN_A_LEASE: Duration = Duration::from_millis(2600);
const LEASES: Duration = Duration::from_secs(20);
const SETUP: Duration = Duration::from_mins(1);

pub struct Bed {
    pub seed: u64,
    pub model: Model,
    pub checker: Checker,
    pub clock: SimClock,
    pub pool: PgPool,
    pub sandbox: SandboxHandle,
    pub sessions: Vec<Imported>,
    pub workers: [Option<Worker>; SLOTS],
    pub config: Config,
    /// The fault that slows every call down, and by how many milliseconds.
    pub slow: Option<(u64, u64)>,
    client: Client,
    address: SocketAddr,
    key: String,
    api: JoinHandle<anyhow::Result<()>>,
    api_shutdown: Shutdown,
    _files: TempDir,
    _database: TestDatabase,
}

impl Bed {
    /// Two workers, four sessions that are in one chat, and nothing to do.
    pub async fn new(seed: u64) -> Self {
        let database = TestDatabase::new().await;
        let pool = database.pool().clone();
        watch::install(&pool).await;
        let sandbox = sandbox(seed).await;
        let files = tempfile::tempdir().expect("a temporary directory");
        let key_file = files.path().join("sandbox.pem");
        std::fs::write(&key_file, sandbox.public_key_pem()).expect("written");
        let config = config(&database, &sandbox, &key_file);
        let clock = SimClock::default();
        let sessions = sessions(&config, &pool, &sandbox).await;
        let key = api_key(&pool).await;
        let (address, api, api_shutdown) = api(&config, &clock).await;
        let mut bed = Self {
            seed,
            model: Model::default(),
            checker: Checker::default(),
            clock,
            pool,
            sandbox,
            sessions,
            workers: [None, None, None],
            config,
            slow: None,
            client: http_client(),
            address,
            key,
            api,
            api_shutdown,
            _files: files,
            _database: database,
        };
        bed.start(0).await;
        bed.start(1).await;
        bed.join_a_chat().await;
        for session in 0..ACCOUNTS.len() {
            bed.let_in(session);
        }
        bed.lift_limits_of_outreach().await;
        bed
    }

    /// Starts a worker and waits until it is ready: one that cannot reach its database ends, as a process does.
    pub async fn start(&mut self, slot: usize) {
        let worker = Worker::start(&self.config, Arc::new(self.clock.clone())).await;
        eventually(SETUP, async || {
            let beats = sqlx::query_scalar("SELECT count(*) FROM workers WHERE id = $1").bind(worker.id.0);
            match beats.fetch_one(&self.pool).await.expect("workers") {
                0_i64 => Err("it is not ready"),
                _ => Ok(()),
            }
        })
        .await;
        self.workers[slot] = Some(worker);
    }

    pub async fn advance(&self, seconds: i64) {
        let keeps_house = self
            .workers
            .iter()
            .flatten()
            .any(|worker| worker.silent_since.is_none());
        time::advance(&self.clock, &self.pool, self.sandbox.controls(), seconds, keeps_house).await;
    }

    /// A request to the API; its status and body. An answer of 500 or above is a failure.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>, key: Option<&str>) -> (u16, Value) {
        let mut request = self
            .client
            .request(method.clone(), format!("http://{}{path}", self.address))
            .bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let response = request.send().await.expect("the API answers");
        let status = response.status().as_u16();
        let text = response.text().await.expect("a whole answer");
        assert!(status < 500, "{method} {path}: {status} {text}");
        let body = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).expect("JSON")
        };
        (status, body)
    }

    /// The same, with one of these statuses.
    pub async fn expect(&self, method: Method, path: &str, body: Option<&Value>, wanted: &[u16]) -> Value {
        let (status, answer) = self.call(method.clone(), path, body, None).await;
        assert!(
            wanted.contains(&status),
            "{method} {path} with {body:?}: {status} {answer}"
        );
        answer
    }

    /// Every session is held by a worker that lives and is not silent.
    pub async fn all_sessions_are_held(&self) {
        let live: Vec<_> = self.workers.iter().flatten().map(|worker| worker.id.0).collect();
        eventually(LEASES, async || {
            let held: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM session_leases WHERE owner = ANY ($1) AND expires_at > wireroom_now()",
            )
            .bind(&live)
            .fetch_one(&self.pool)
            .await
            .expect("leases");
            if usize::try_from(held) == Ok(ACCOUNTS.len()) {
                Ok(())
            } else {
                Err(format!("{held} sessions are held"))
            }
        })
        .await;
    }

    /// Ends all of it.
    pub async fn end(mut self) {
        for worker in self.workers.iter_mut().filter_map(Option::take) {
            worker.stop().await.expect("an idle worker stops");
        }
        self.api_shutdown.begin();
        let ended = tokio::time::timeout(SETUP, self.api).await.expect("the API stops");
        ended.expect("the API does not panic").expect("the API stops well");
        let calls = self.sandbox.controls().calls();
        assert!(
            calls.panicked.is_empty() && calls.unimplemented.is_empty(),
            "a sandbox that cannot: {calls:?}"
        );
        self.sandbox.shutdown().await;
    }

    /// Limits of campaigns are tested elsewhere: here much is invited in little time.
    async fn lift_limits_of_outreach(&self) {
        let body = json!({ "per_target_per_day": 1_000_000, "person_rest_days": 30 });
        self.expect(Method::PUT, "/v1/outreach/limits", Some(&body), &[200])
            .await;
    }

    async fn join_a_chat(&mut self) {
        let begun = Instant::now();
        for session in &self.sessions {
            let body = json!({ "kind": "join", "args": { "chat": "@harbour_market" }, "session": session.label });
            let job = self.expect(Method::POST, "/v1/jobs", Some(&body), &[202]).await;
            let path = format!("/v1/jobs/{}", job["id"].as_str().expect("an id"));
            eventually(SETUP.saturating_sub(begun.elapsed()), async || {
                let job = self.expect(Method::GET, &path, None, &[200]).await;
                if job["state"] == "succeeded" { Ok(()) } else { Err(job) }
            })
            .await;
        }
    }
}

/// The RSA key takes long to make: one for all simulations of this process.
async fn sandbox(seed: u64) -> SandboxHandle {
    static KEY: OnceCell<(TempDir, PathBuf)> = OnceCell::const_new();
    let key_of = async || {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("key.pem");
        let config = SandboxConfig {
            key_file: Some(path.clone()),
            ..SandboxConfig::default()
        };
        Sandbox::start(config)
            .await
            .expect("the sandbox starts")
            .shutdown()
            .await;
        (dir, path)
    };
    let (_, key) = KEY.get_or_init(key_of).await;
    let config = SandboxConfig {
        seed,
        key_file: Some(key.clone()),
        ..SandboxConfig::default()
    };
    Sandbox::start(config).await.expect("the sandbox starts")
}

fn config(database: &TestDatabase, sandbox: &SandboxHandle, key_file: &Path) -> Config {
    let master = Vault::generate("test").expect("random").expose().to_owned();
    let values = [
        ("DATABASE_URL", database.url().to_owned()),
        ("WIREROOM_DATABASE_MAX_CONNECTIONS", "8".to_owned()),
        ("WIREROOM_DATABASE_ACQUIRE_SECONDS", "2".to_owned()),
        ("WIREROOM_DATABASE_IDLE_TRANSACTION_SECONDS", "1".to_owned()),
        ("WIREROOM_MASTER_KEYS", master),
        ("WIREROOM_TELEGRAM_SERVER", sandbox.addr().to_string()),
        ("WIREROOM_TELEGRAM_SERVER_KEY", key_file.display().to_string()),
        ("WIREROOM_TELEGRAM_CALL_SECONDS", "1.5".to_owned()),
        ("WIREROOM_TELEGRAM_WAIT_IN_PLACE_SECONDS", "1".to_owned()),
        ("WIREROOM_SESSIONS_LEASE_SECONDS", "2".to_owned()),
        ("WIREROOM_SESSIONS_RENEW_SECONDS", "0.4".to_owned()),
        ("WIREROOM_SESSIONS_MARGIN_SECONDS", "0.7".to_owned()),
        ("WIREROOM_QUEUE_POLL_SECONDS", "0.2".to_owned()),
        ("WIREROOM_QUEUE_HEARTBEAT_SECONDS", "0.25".to_owned()),
        ("WIREROOM_QUEUE_WORKER_DEAD_SECONDS", "1.5".to_owned()),
        ("WIREROOM_QUEUE_CANCEL_SECONDS", "2".to_owned()),
        // What was acknowledged is looked for at the end, however far the clock has gone.
        ("WIREROOM_QUEUE_RETENTION_DAYS", "3650".to_owned()),
        ("WIREROOM_SHUTDOWN_SOFT_SECONDS", "1".to_owned()),
        ("WIREROOM_SHUTDOWN_HARD_SECONDS", "0.5".to_owned()),
    ];
    let values = values.map(|(name, value)| (name.to_owned(), value));
    Config::from_source(Source::from_values(values)).expect("a configuration")
}

async fn sessions(config: &Config, pool: &PgPool, sandbox: &SandboxHandle) -> Vec<Imported> {
    let vault = cli::worker::vault(config).expect("a vault");
    let accounts = sandbox.controls().with_world(|world: &mut World| world.accounts());
    let mut sessions = Vec::new();
    for (name, pool_name) in ACCOUNTS {
        sqlx::query("INSERT INTO pools (name) VALUES ($1) ON CONFLICT DO NOTHING")
            .bind(pool_name)
            .execute(pool)
            .await
            .expect("a pool");
        let row = accounts.iter().find(|row| row.username.as_deref() == Some(name));
        let account = ImportAccount {
            label: name.to_owned(),
            pool: pool_name.to_owned(),
            phone: Secret::new(row.expect("the account").phone.clone()),
            code: Secret::new(LOGIN_CODE),
            password: None,
        };
        let imported = import(pool, &vault, &config.telegram, &account).await;
        sessions.push(imported.expect("logged in"));
    }
    // One of them runs two jobs at a time.
    sqlx::query("UPDATE sessions SET bulk_slots = 2 WHERE label = 'bob'")
        .execute(pool)
        .await
        .expect("slots");
    sessions
}

async fn api_key(pool: &PgPool) -> String {
    let key = KeyMaterial::generate().expect("random");
    let mut conn = pool.acquire().await.expect("a connection");
    api_keys::create(&mut conn, &key, "simulation", Scope::Admin, "cli")
        .await
        .expect("a key");
    key.text().expose().to_owned()
}

async fn api(config: &Config, clock: &SimClock) -> (SocketAddr, JoinHandle<anyhow::Result<()>>, Shutdown) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let shutdown = Shutdown::new();
    let (config, clock, told) = (config.clone(), Arc::new(clock.clone()), shutdown.clone());
    let api = tokio::spawn(async move {
        let pool = store::pool(&config.database)?;
        let waker = Waker::start(pool.clone());
        cli::api::serve(&config, pool, waker, clock, listener, &told).await
    });
    (address, api, shutdown)
}
