use std::net::SocketAddr;

use super::*;
use crate::{
    cluster::testing::TestDatabase,
    config::{Secret, ServerConfig, TelegramConfig},
    ids::WorkerId,
    sandbox::{Sandbox, SandboxConfig, SandboxHandle},
    sessions::{ImportAccount, import},
    store::leases,
    telegram::{session_storage::StorageSettings, trust::Moment},
    vault::Vault,
};

const BOUND: Duration = Duration::from_secs(30);

struct World {
    _database: TestDatabase,
    sandbox: SandboxHandle,
    connection: Arc<Connection>,
}

/// One imported account, held and connected.
async fn connected() -> World {
    let database = TestDatabase::new().await;
    let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
    let files = tempfile::tempdir().unwrap();
    let key_file = files.path().join("sandbox.pem");
    std::fs::write(&key_file, sandbox.public_key_pem()).unwrap();
    let vault = Vault::parse(&Vault::generate("k1").unwrap()).unwrap();
    let SocketAddr::V4(address) = sandbox.addr() else {
        panic!("the sandbox listens on IPv4");
    };
    let telegram = TelegramConfig {
        api_id: None,
        api_hash: None,
        server: Some(ServerConfig {
            address,
            other_dcs: std::collections::BTreeMap::new(),
            key_file,
        }),
        call_deadline: Duration::from_secs(5),
        wait_in_place: Duration::ZERO,
        random_id_memory: Duration::ZERO,
        probe_after: Duration::from_secs(65),
        silence: Duration::from_mins(15),
    };
    let phone = sandbox.controls().with_world(|world| world.accounts())[0].phone.clone();
    let account = ImportAccount {
        label: "alice".to_owned(),
        pool: "default".to_owned(),
        phone: Secret::new(phone),
        code: Secret::new(sandbox.login_code()),
        password: None,
    };
    let imported = import(database.pool(), &vault, &telegram, &account).await.unwrap();
    let start = Moment::now();
    let mut database_connection = database.pool().acquire().await.unwrap();
    let lease = leases::acquire(&mut database_connection, WorkerId::generate(), 1, 1, BOUND * 2)
        .await
        .unwrap()
        .remove(0);
    drop(database_connection);
    let settings = StorageSettings {
        lease: lease.key,
        home_dc: lease.home_dc,
        account_id: imported.account_id,
        username: None,
        is_bot: false,
        pinned: Some(address),
        peer_cache: 10,
    };
    let storage = PgSession::load(database.pool().clone(), vault, settings).await.unwrap();
    let settings = ConnectionSettings {
        health_call: Duration::from_mins(10),
        api_id: 1,
        call_deadline: telegram.call_deadline,
        known_dcs: Arc::from([2]),
        catch_up: Arc::new(Semaphore::new(1)),
        probe_after: telegram.probe_after,
        silence: telegram.silence,
        recorder: Recorder::start(database.pool().clone(), Arc::default(), None),
        elsewhere: None,
    };
    let trust = Arc::new(Trust::new(start, BOUND * 2));
    let connection = Connection::open(Arc::new(storage), None, trust, settings).unwrap();
    World {
        _database: database,
        sandbox,
        connection,
    }
}

async fn becomes(ready: &mut watch::Receiver<bool>, wanted: bool) {
    timeout(BOUND, ready.wait_for(|is| *is == wanted))
        .await
        .expect("in time")
        .expect("the connection is there");
}

#[tokio::test]
async fn a_panic_in_grammers_costs_the_connection_and_nothing_else() {
    let world = connected().await;
    let mut ready = world.connection.ready();
    becomes(&mut ready, true).await;
    let link = world.connection.link.borrow().clone().unwrap();
    // grammers asserts that a request has a constructor.
    let answer = link
        .raw_invoke_in_dc(world.connection.storage.home_dc(), Vec::new())
        .await;
    assert!(matches!(answer, Err(InvocationError::Dropped(_))), "{answer:?}");
    becomes(&mut ready, false).await;
    becomes(&mut ready, true).await;
    let request = tl::functions::help::GetNearestDc {};
    world.connection.call(&request).await.unwrap();
    assert!(world.connection.incident().is_none());
    world.connection.close().await;
    assert_eq!(world.sandbox.controls().connections().len(), 0);
    assert_eq!(world.sandbox.incidents(), []);
}

#[tokio::test]
async fn a_closed_connection_calls_nobody() {
    let world = connected().await;
    becomes(&mut world.connection.ready(), true).await;
    world.connection.close().await;
    let calls = world.sandbox.controls().calls();
    let refused = world.connection.call(&tl::functions::help::GetNearestDc {}).await;
    assert!(matches!(refused, Err(CallError::LeaseLost)), "{refused:?}");
    assert_eq!(world.sandbox.controls().calls(), calls);
}
