//! The holder over a real sandbox and a real database.

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
            lease: Duration::from_secs(3),
            renew: Duration::from_millis(500),
            margin: Duration::from_millis(600),
            max: 100,
            peer_cache: 100,
        },
        telegram,
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
        server: Some(ServerConfig { address, key_file }),
        call_deadline: Duration::from_secs(3),
        wait_in_place: Duration::from_secs(1),
        random_id_memory: Duration::from_mins(5),
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

fn port(session: &HeldSession) -> (JobTelegram, Arc<Guard>) {
    let guard = Arc::new(Guard::default());
    let hooks = AttemptHooks {
        job: JobId::generate(),
        guard: guard.clone(),
    };
    (session.telegram_for(hooks), guard)
}

fn draft(text: &str) -> Draft {
    Draft {
        text: text.to_owned(),
        format: TextFormat::Markdown,
        silent: false,
        link_preview: false,
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

#[tokio::test]
async fn a_session_is_imported_held_used_and_released() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    assert_eq!(session.id, world.imported[0].id);
    let (telegram, guard) = port(&session);
    let name = public_group(&world, 1000);

    let chat = telegram.resolve_username(&name).await.unwrap();
    assert_eq!(chat.username.as_deref(), Some(name.as_str()));
    let joined = telegram.join_chat(&chat).await.unwrap();
    let chat = match joined {
        Joined::Joined(chat) => chat,
        Joined::AlreadyMember => chat,
        Joined::ApprovalPending => panic!("a public group asks nobody"),
    };
    assert_eq!(telegram.join_chat(&chat).await.unwrap(), Joined::AlreadyMember);
    assert!(telegram.chat_by_id(chat.id).await.unwrap().member);
    let details = telegram.chat_details(&chat).await.unwrap();
    assert!(details.chat.member_count.is_some_and(|count| count >= 1000));

    let page = telegram.members(&chat, 0, 200).await.unwrap();
    assert_eq!(page.returned, 200);
    assert!(page.count >= 1000);
    let next = telegram.members(&chat, 200, 200).await.unwrap();
    assert!(page.members.iter().all(|member| !next.members.contains(member)));

    let since = SystemClock.now() - TimeDelta::seconds(5);
    let sent = telegram
        .send_message(&chat, 77, &draft("**Hello** from a test"))
        .await
        .unwrap();
    let found = telegram
        .own_messages_like(&chat, &draft("Hello from a test"), since)
        .await
        .unwrap();
    assert_eq!(found, [sent]);
    assert_eq!(
        telegram
            .own_messages_like(&chat, &draft("Something else"), since)
            .await
            .unwrap(),
        []
    );
    let again = telegram.send_message(&chat, 77, &draft("**Hello** from a test")).await;
    if let Err(error) = again {
        assert_eq!(error.decision, Decision::Done, "{error}");
    }
    assert_eq!(
        telegram
            .own_messages_like(&chat, &draft("Hello from a test"), since)
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        guard.asked.load(Ordering::Relaxed),
        1,
        "asked before the first call alone"
    );

    holder.shutdown(BOUND).await;
    assert!(session.lost.is_cancelled());
    assert_eq!(world.sandbox.controls().connections().len(), 0);
    assert_eq!(
        world
            .count("SELECT count(*) FROM session_leases WHERE owner IS NOT NULL")
            .await,
        0
    );
    assert!(
        world
            .count("SELECT count(*) FROM session_peers WHERE access_hash IS NOT NULL")
            .await
            >= 200
    );
    let error = telegram.resolve_username(&name).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.decision), ("lease_lost", Decision::Session));
    world.end().await;
}

#[tokio::test]
async fn what_nobody_has_met_is_a_target_that_fails() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port(&session);
    let nobody = telegram.resolve_username("nobody_by_that_name_here").await.unwrap_err();
    assert_eq!(
        (nobody.code.as_str(), nobody.decision),
        ("USERNAME_NOT_OCCUPIED", Decision::Target)
    );
    let unknown = telegram.chat_by_id(-1_001_111_111_111).await.unwrap_err();
    assert_eq!(
        (unknown.code.as_str(), unknown.decision),
        ("PEER_ID_INVALID", Decision::Target)
    );
    let dead = telegram.check_invite("nosuchinvite").await;
    assert!(
        matches!(&dead, Err(error) if error.decision == Decision::Target),
        "{dead:?}"
    );
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_short_flood_is_waited_out_and_a_long_one_closes_the_gate() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port(&session);
    let name = public_group(&world, 1000);
    let faults = world.sandbox.controls();

    faults.add_fault(Fault::once("contacts.resolveUsername", Effect::flood_wait(1)));
    let chat = telegram.resolve_username(&name).await.unwrap();
    assert_eq!(
        world
            .count("SELECT count(*) FROM floods WHERE waited_in_place AND seconds = 1")
            .await,
        1
    );

    let mut changed = holder.changed();
    changed.mark_unchanged();
    faults.add_fault(Fault::once("channels.getParticipants", Effect::flood_wait(60)));
    let flooded = telegram.members(&chat, 0, 10).await.unwrap_err();
    assert!(matches!(flooded.decision, Decision::Gate { until } if until > SystemClock.now() + TimeDelta::seconds(50)));
    assert_eq!(flooded.code, "FLOOD_WAIT");
    assert!(changed.has_changed().unwrap());
    assert_eq!(session.closed_actions(SystemClock.now()), [Action::Read]);
    let calls = faults.calls();
    let gated = telegram.members(&chat, 0, 10).await.unwrap_err();
    assert!(matches!(gated.decision, Decision::Gate { .. }));
    assert_eq!(faults.calls(), calls, "a closed gate costs no call");
    assert_eq!(world.count("SELECT count(*) FROM floods").await, 2);
    assert_eq!(
        world
            .count("SELECT count(*) FROM gates WHERE action = 'read' AND chat_id = 0")
            .await,
        1
    );

    // The next holder starts from the store.
    holder.shutdown(BOUND).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    assert_eq!(session.closed_actions(SystemClock.now()), [Action::Read]);
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_silent_connection_is_given_up_and_the_next_call_works() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port(&session);
    let name = public_group(&world, 1000);
    world.sandbox.controls().silence_connections(None);
    let hung = telegram.resolve_username(&name).await.unwrap_err();
    assert_eq!(hung.decision, Decision::Retry, "{hung}");
    until("answers again", async || telegram.resolve_username(&name).await.ok()).await;
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_dropped_connection_is_an_unknown_outcome() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port(&session);
    let chat = telegram.resolve_username(&public_group(&world, 1000)).await.unwrap();
    let Joined::Joined(chat) = telegram.join_chat(&chat).await.unwrap() else {
        panic!("not a member before");
    };
    world
        .sandbox
        .controls()
        .add_fault(Fault::once("messages.sendMessage", Effect::DropAfter));
    let since = SystemClock.now() - TimeDelta::seconds(5);
    let lost = telegram.send_message(&chat, 1234, &draft("once")).await.unwrap_err();
    assert_eq!(lost.decision, Decision::Retry, "{lost}");
    let look = async || telegram.own_messages_like(&chat, &draft("once"), since).await.ok();
    assert_eq!(until("looked", look).await.len(), 1, "it was sent");
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn two_workers_share_and_a_leaving_one_hands_over() {
    let world = World::with_accounts(2).await;
    let workers = [WorkerId::generate(), WorkerId::generate()];
    let first = world.holder_of(workers[0], world.database.pool().clone());
    held(&first, 2).await;
    let second = world.holder_of(workers[1], world.database.pool().clone());
    for worker in workers {
        sqlx::query("INSERT INTO workers (id, host, pid, version) VALUES ($1, 'h', 1, 'v')")
            .bind(worker.0)
            .execute(world.database.pool())
            .await
            .unwrap();
    }
    held(&first, 1).await;
    held(&second, 1).await;
    sqlx::query("UPDATE workers SET state = 'stopped' WHERE id = $1")
        .bind(workers[0].0)
        .execute(world.database.pool())
        .await
        .unwrap();
    first.shutdown(BOUND).await;
    held(&second, 2).await;
    second.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_session_with_a_job_is_handed_over_after_it() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let job = session.in_use.token();
    let ending = tokio::spawn({
        let holder = holder.clone();
        async move { holder.shutdown(BOUND).await }
    });
    until("leaving", async || holder.held().is_empty().then_some(())).await;
    let (telegram, _) = port(&session);
    telegram.resolve_username(&public_group(&world, 1000)).await.unwrap();
    assert!(!ending.is_finished());
    drop(job);
    ending.await.unwrap();
    assert!(session.lost.is_cancelled());
    world.end().await;
}

#[tokio::test]
async fn a_revoked_session_is_logged_out_and_left_alone() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port(&session);
    let id = world.imported[0].account_id;
    world.sandbox.controls().revoke_keys(id, Revocation::SignOut);
    let refused = until("noticed", async || {
        let answer = telegram.resolve_username("nobody_by_that_name_here").await.unwrap_err();
        (answer.decision == Decision::Session).then_some(answer)
    });
    refused.await;
    until("state", async || {
        (world.row(session.id).await.0 == "logged_out").then_some(())
    })
    .await;
    until("let go", async || (holder.leases() == 0).then_some(())).await;
    assert!(session.lost.is_cancelled());
    assert_eq!(
        world
            .count("SELECT count(*) FROM events WHERE type = 'session.access_lost'")
            .await,
        1
    );
    assert_eq!(
        world
            .count("SELECT count(*) FROM events WHERE type = 'session.state_changed'")
            .await,
        1
    );
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_key_the_server_forgot_is_never_replaced() {
    let world = World::with_accounts(1).await;
    let sealed = "SELECT md5(auth_key_sealed) FROM session_dcs WHERE auth_key_sealed IS NOT NULL";
    let key = |pool: PgPool| async move { sqlx::query_scalar::<_, String>(sealed).fetch_all(&pool).await.unwrap() };
    let before = key(world.database.pool().clone()).await;
    world
        .sandbox
        .controls()
        .revoke_keys(world.imported[0].account_id, Revocation::Forget);
    let holder = world.holder();
    let id = world.imported[0].id;
    until("state", async || (world.row(id).await.0 == "logged_out").then_some(())).await;
    assert_eq!(world.row(id).await.1.as_deref(), Some("AUTH_KEY_UNKNOWN"));
    assert_eq!(key(world.database.pool().clone()).await, before);
    holder.shutdown(BOUND).await;
    // A login gives it a new key on purpose.
    let again = world.import(0).await;
    assert_eq!(again.id, id);
    assert_eq!(world.row(id).await.0, "ready");
    world.end().await;
}

#[tokio::test]
async fn a_duplicated_key_is_an_incident() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port(&session);
    let duplicated = Effect::Error {
        code: 406,
        name: "AUTH_KEY_DUPLICATED".to_owned(),
    };
    world
        .sandbox
        .controls()
        .add_fault(Fault::once("contacts.resolveUsername", duplicated));
    let error = telegram.resolve_username("anybody").await.unwrap_err();
    assert_eq!(error.decision, Decision::Session);
    until("state", async || {
        (world.row(session.id).await.0 == "logged_out").then_some(())
    })
    .await;
    let incidents = "SELECT count(*) FROM audit_log WHERE action = 'session.auth_key_duplicated'";
    assert_eq!(world.count(incidents).await, 1);
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_limited_account_sends_nothing_until_a_person_lifts_it() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port(&session);
    let chat = telegram.resolve_username(&public_group(&world, 1000)).await.unwrap();
    let flood = Effect::Error {
        code: 400,
        name: "PEER_FLOOD".to_owned(),
    };
    world
        .sandbox
        .controls()
        .add_fault(Fault::once("messages.sendMessage", flood));
    let error = telegram.send_message(&chat, 1, &draft("hello")).await.unwrap_err();
    assert_eq!(error.decision, Decision::Campaign);
    assert_eq!(world.row(session.id).await.0, "limited");
    assert_eq!(session.closed_actions(SystemClock.now()), [Action::Send]);
    assert_eq!(
        telegram
            .send_message(&chat, 2, &draft("hello"))
            .await
            .unwrap_err()
            .decision,
        Decision::Campaign
    );
    assert!(
        telegram
            .resolve_username(chat.username.as_deref().unwrap())
            .await
            .is_ok(),
        "it may read"
    );
    // Long enough that a renewal has seen the limit.
    let renewed = "SELECT count(*) FROM session_leases l JOIN sessions s ON s.id = l.session_id
        WHERE l.renewed_at > s.state_since";
    until("renewed", async || (world.count(renewed).await == 1).then_some(())).await;
    sqlx::raw_sql("UPDATE sessions SET state = 'ready'")
        .execute(world.database.pool())
        .await
        .unwrap();
    until("lifted", async || {
        session.closed_actions(SystemClock.now()).is_empty().then_some(())
    })
    .await;
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_lost_lease_closes_the_connection_and_changes_nothing() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    holder.stop_acquiring();
    // As after a pause in which another worker took over.
    sqlx::query("UPDATE session_leases SET owner = $1, fence = fence + 1")
        .bind(WorkerId::generate().0)
        .execute(world.database.pool())
        .await
        .unwrap();
    timeout(BOUND, session.lost.cancelled()).await.unwrap();
    until("closed", async || {
        world.sandbox.controls().connections().is_empty().then_some(())
    })
    .await;
    until("let go", async || (holder.leases() == 0).then_some(())).await;
    let others = "SELECT count(*) FROM session_leases WHERE owner IS NOT NULL AND fence = 2";
    assert_eq!(world.count(others).await, 1, "the other's lease is untouched");
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn cut_off_from_postgres_the_connection_is_closed_before_the_lease_ends() {
    let world = World::with_accounts(1).await;
    let proxy = TcpProxy::to_url(world.database.url()).await;
    let pool = PgPool::connect(&proxy.rewrite(world.database.url())).await.unwrap();
    let holder = world.holder_of(WorkerId::generate(), pool);
    let session = held(&holder, 1).await.remove(0);
    proxy.blackhole();
    timeout(BOUND, session.lost.cancelled()).await.unwrap();
    until("closed", async || {
        world.sandbox.controls().connections().is_empty().then_some(())
    })
    .await;
    let held = "SELECT count(*) FROM session_leases WHERE owner IS NOT NULL AND expires_at > wireroom_now()";
    assert_eq!(
        world.count(held).await,
        1,
        "the lease had not ended when the connection was closed"
    );
    let (telegram, _) = port(&session);
    let refused = telegram.resolve_username("anybody").await.unwrap_err();
    assert_eq!(
        (refused.code.as_str(), refused.decision),
        ("lease_lost", Decision::Session)
    );
    proxy.resume();
    // It takes the session again by itself, under a new fence.
    let again = until("held again", async || holder.held().into_iter().next()).await;
    assert!(again.fence > session.fence);
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn updates_are_read_and_their_place_is_stored() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port(&session);
    let name = public_group(&world, 1000);
    let chat = telegram.resolve_username(&name).await.unwrap();
    telegram.join_chat(&chat).await.unwrap();
    let post = |text: &str| {
        world.sandbox.controls().with_world(|sandbox| {
            let group = sandbox.find_peer(&name).expect("it exists");
            let accounts = sandbox.accounts();
            let writers = accounts.iter().filter(|row| row.id != world.imported[0].account_id);
            let ids: Vec<_> = writers.map(|row| row.id).collect();
            let posted = ids.into_iter().any(|id| sandbox.post_as(id, group, text).is_ok());
            assert!(posted, "somebody else may write there");
        });
    };
    let pts = async || {
        let sql = "SELECT max(pts) FROM session_update_states WHERE box <> 0";
        sqlx::query_scalar::<_, Option<i32>>(sql)
            .fetch_one(world.database.pool())
            .await
            .unwrap()
    };
    post("first");
    let before = until("stored", pts).await;
    holder.shutdown(BOUND).await;
    post("while nobody is there");
    let holder = world.holder();
    held(&holder, 1).await;
    until("caught up", async || pts().await.filter(|pts| *pts > before)).await;
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_second_factor_is_asked_for() {
    let mut world = World::with_accounts(0).await;
    let accounts = world.sandbox.controls().with_world(|world| world.accounts());
    let row = accounts
        .into_iter()
        .find(|row| row.has_password)
        .expect("an account with a password");
    let account = |password: Option<&str>| ImportAccount {
        label: "two factors".to_owned(),
        pool: "second".to_owned(),
        phone: Secret::new(row.phone.clone()),
        code: Secret::new(world.sandbox.login_code()),
        password: password.map(Secret::new),
    };
    let attempt =
        async |account: &ImportAccount| import(world.database.pool(), &world.vault, &world.telegram, account).await;
    assert!(matches!(
        attempt(&account(None)).await,
        Err(ImportError::PasswordNeeded)
    ));
    assert!(matches!(
        attempt(&account(Some("wrong"))).await,
        Err(ImportError::Password)
    ));
    let mut wrong_code = account(Some(PASSWORD));
    wrong_code.code = Secret::new("00000");
    assert!(matches!(attempt(&wrong_code).await, Err(ImportError::Code)));
    assert_eq!(
        world.count("SELECT count(*) FROM sessions").await,
        0,
        "nothing is left of a failed login"
    );
    let imported = attempt(&account(Some(PASSWORD))).await.unwrap();
    assert_eq!(imported.account_id, row.id);
    assert_eq!(
        world.sandbox.controls().connections().len(),
        0,
        "closed before it is ready"
    );
    world.imported.push(imported);
    let holder = world.holder();
    assert_eq!(held(&holder, 1).await[0].pool, "second");
    let again = attempt(&account(Some(PASSWORD))).await;
    assert!(matches!(again, Err(ImportError::InUse { .. })), "{again:?}");
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_join_request_waits_for_an_admin() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port(&session);
    let link = wireroom::sandbox::world::links::APPROVAL_GROUP;
    let Invite::Preview { request_needed, .. } = telegram.check_invite(link).await.unwrap() else {
        panic!("not a member before");
    };
    assert!(request_needed);
    assert_eq!(telegram.join_by_invite(link).await.unwrap(), Joined::ApprovalPending);
    let plain = wireroom::sandbox::world::links::PRIVATE_GROUP;
    let Joined::Joined(chat) = telegram.join_by_invite(plain).await.unwrap() else {
        panic!("nobody has to approve");
    };
    assert!(chat.member);
    assert_eq!(telegram.join_by_invite(plain).await.unwrap(), Joined::AlreadyMember);
    assert!(matches!(telegram.check_invite(plain).await.unwrap(), Invite::Member(known) if known.id == chat.id));
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn names_and_links_say_what_they_are() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port(&session);
    let chats = world.sandbox.controls().with_world(|world| world.chats());
    let broadcast = chats.iter().find(|chat| chat.username.is_some() && chat.members > 0);
    assert!(broadcast.is_some());
    let mut kinds = Vec::new();
    for name in chats.iter().filter_map(|chat| chat.username.as_deref()) {
        kinds.push(telegram.resolve_username(name).await.unwrap().chat_type);
    }
    assert!(
        kinds.contains(&ChatType::Channel) && kinds.contains(&ChatType::Supergroup),
        "{kinds:?}"
    );
    for link in INVITES {
        match telegram.check_invite(link).await {
            Ok(Invite::Preview { title, .. }) => assert!(!title.is_empty()),
            Ok(Invite::Member(chat) | Invite::Peek(chat)) => assert!(!chat.title.is_empty()),
            Err(error) => assert_eq!(error.decision, Decision::Target, "{error}"),
        }
    }
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_holder_without_an_application_is_refused() {
    let database = TestDatabase::new().await;
    let vault = Vault::parse(&Vault::generate("k1").unwrap()).unwrap();
    let telegram = TelegramConfig {
        server: None,
        ..telegram_config(SocketAddr::from(([127, 0, 0, 1], 1)), PathBuf::new())
    };
    let settings = holder_settings(WorkerId::generate(), telegram);
    let refused = Holder::start(database.pool().clone(), vault, Arc::new(SystemClock), settings);
    assert!(matches!(refused, Err(HolderError::NoApplication)));
}
