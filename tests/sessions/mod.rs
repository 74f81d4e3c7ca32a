//! Sessions over a real sandbox and a real database, with everything in this process.

mod caps;
mod decisions;
mod error_table;
mod experiments;
mod health;
mod holding;
mod login;
mod losses;
mod pause;
mod port;
mod proxies;
mod relocation;
mod rotation;
mod takeovers;
mod updates;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::TimeDelta;
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use wireroom::{
    clock::SystemClock,
    cluster::testing::TestDatabase,
    config::{Secret, ServerConfig, SessionsConfig, TelegramConfig},
    ids::{JobId, SessionId, WorkerId},
    sandbox::{Effect, Fault, Revocation, Sandbox, SandboxConfig, SandboxHandle},
    sessions::{HeldSession, Holder, HolderError, HolderSettings, ImportAccount, ImportError, Imported, import},
    telegram::port::{AttemptHooks, CallGuard, GuardError, JobTelegram},
    vault::Vault,
};
use wireroom_jobs::{
    Action,
    ports::{ChatType, Clock, Decision, Draft, Invite, Joined, Telegram, TextFormat},
};

use crate::support::proxy::TcpProxy;

/// The second factor of the world's accounts that have one.
const PASSWORD: &str = "sandbox";
const INVITES: [&str; 5] = [
    wireroom::sandbox::world::links::PRIVATE_GROUP,
    wireroom::sandbox::world::links::APPROVAL_GROUP,
    wireroom::sandbox::world::links::EXPIRED,
    wireroom::sandbox::world::links::APPROVAL_CHANNEL,
    wireroom::sandbox::world::links::REVOKED,
];
const BOUND: Duration = Duration::from_secs(30);

/// A database and a sandbox with some of its accounts imported.
struct World {
    database: TestDatabase,
    sandbox: SandboxHandle,
    vault: Vault,
    telegram: TelegramConfig,
    imported: Vec<Imported>,
    _files: TempDir,
}

impl World {
    async fn with_accounts(count: usize) -> Self {
        let database = TestDatabase::new().await;
        let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
        let files = tempfile::tempdir().unwrap();
        let key_file: PathBuf = files.path().join("sandbox.pem");
        std::fs::write(&key_file, sandbox.public_key_pem()).unwrap();
        let vault = Vault::parse(&Vault::generate("k1").unwrap()).unwrap();
        let telegram = telegram_config(sandbox.addr(), key_file);
        let mut world = Self {
            database,
            sandbox,
            vault,
            telegram,
            imported: Vec::new(),
            _files: files,
        };
        for index in 0..count {
            let imported = world.import(index).await;
            world.imported.push(imported);
        }
        world
    }

    fn account(&self, index: usize) -> ImportAccount {
        let accounts = self.sandbox.controls().with_world(|world| world.accounts());
        let row = accounts
            .into_iter()
            .filter(|row| !row.has_password)
            .nth(index)
            .expect("that many accounts");
        ImportAccount {
            label: row.username.clone().unwrap_or_else(|| format!("account{index}")),
            pool: "default".to_owned(),
            phone: Secret::new(row.phone),
            code: Secret::new(self.sandbox.login_code()),
            password: None,
        }
    }

    async fn import(&self, index: usize) -> Imported {
        import(self.database.pool(), &self.vault, &self.telegram, &self.account(index))
            .await
            .unwrap()
    }

    fn holder(&self) -> Arc<Holder> {
        self.holder_of(WorkerId::generate(), self.database.pool().clone())
    }

    fn holder_of(&self, worker: WorkerId, pool: PgPool) -> Arc<Holder> {
        let settings = holder_settings(worker, self.telegram.clone());
        Holder::start(pool, self.vault.clone(), Arc::new(SystemClock), settings).unwrap()
    }

    async fn row(&self, session: SessionId) -> (String, Option<String>) {
        sqlx::query_as("SELECT state, state_reason FROM sessions WHERE id = $1")
            .bind(session.0)
            .fetch_one(self.database.pool())
            .await
            .unwrap()
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.database.pool()).await.unwrap()
    }

    async fn end(self) {
        assert_eq!(self.sandbox.incidents(), [], "a key was used from two places");
        self.sandbox.shutdown().await;
    }
}

fn holder_settings(worker: WorkerId, telegram: TelegramConfig) -> HolderSettings {
    HolderSettings {
        worker,
        sessions: SessionsConfig {
            // Twelve renewals may be late before a session is lost that nobody meant to lose.
            lease: Duration::from_secs(6),
            renew: Duration::from_millis(500),
            margin: Duration::from_millis(600),
            max: 100,
            healthy: Duration::from_mins(10),
            pace: Duration::ZERO,
            breaker_failures: 5,
            breaker_rest: Duration::from_secs(1),
            connects_per_second: 1_000,
            peer_cache: 100,
        },
        telegram,
        person_key: None,
        stop_words: Arc::default(),
        worker_fresh: Duration::from_mins(1),
    }
}

fn telegram_config(server: SocketAddr, key_file: PathBuf) -> TelegramConfig {
    let SocketAddr::V4(address) = server else {
        panic!("the sandbox listens on IPv4");
    };
    TelegramConfig {
        api_id: None,
        api_hash: None,
        server: Some(ServerConfig {
            address,
            other_dcs: std::collections::BTreeMap::new(),
            key_file,
        }),
        call_deadline: Duration::from_secs(3),
        wait_in_place: Duration::from_secs(1),
        random_id_memory: Duration::from_mins(5),
        probe_after: Duration::from_secs(65),
        silence: Duration::from_mins(15),
    }
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looked = timeout(BOUND, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    looked.await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

async fn held(holder: &Arc<Holder>, count: usize) -> Vec<Arc<HeldSession>> {
    until("held", async || Some(holder.held()).filter(|held| held.len() == count)).await
}

#[derive(Default)]
struct Guard {
    asked: AtomicUsize,
}

#[async_trait]
impl CallGuard for Guard {
    async fn before_first_call(&self) -> Result<(), GuardError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn port_of(session: &HeldSession) -> (JobTelegram, Arc<Guard>) {
    let guard = Arc::new(Guard::default());
    let hooks = AttemptHooks {
        job: JobId::generate(),
        action: Action::Send,
        is_pooled: true,
        is_last: false,
        guard: guard.clone(),
    };
    (session.telegram_for(hooks), guard)
}

fn draft(text: &str) -> Draft {
    Draft {
        text: text.to_owned(),
        format: TextFormat::Markdown,
        ..Draft::default()
    }
}

/// A public group of the world, by name.
fn public_group(world: &World, at_least: i32) -> String {
    let chats = world.sandbox.controls().with_world(|world| world.chats());
    let chat = chats
        .into_iter()
        .find(|chat| chat.username.is_some() && chat.members >= at_least);
    chat.and_then(|chat| chat.username).expect("a public group")
}
