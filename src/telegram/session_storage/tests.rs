use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use grammers_session::types::PeerAuth;

use super::*;
use crate::{
    cluster::testing::TestDatabase,
    config::Secret,
    ids::{SessionId, WorkerId},
    store::{
        intake::{self, Arrival, Filters, Recorded},
        leases,
        sessions::NewSession,
    },
};

const HOME: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 5), 443);
const LEASE: Duration = Duration::from_mins(1);

struct World {
    database: TestDatabase,
    vault: Vault,
    lease: LeaseKey,
}

impl World {
    async fn new() -> Self {
        let database = TestDatabase::new().await;
        let vault = Vault::parse(&Vault::generate("k1").unwrap()).unwrap();
        let id = SessionId::generate();
        let session = NewSession {
            id,
            label: "alice".to_owned(),
            pool: "default".to_owned(),
            account_id: 42,
            username: None,
            is_bot: false,
            home_dc: 2,
            dcs: vec![DcRow {
                dc_id: 2,
                ipv4: HOME.to_string(),
                ipv6: "[::]:443".to_owned(),
                auth_key: Some(vault.seal(&key_owner(id, 2), &[7; 256]).unwrap()),
            }],
        };
        let mut connection = database.pool().acquire().await.unwrap();
        sessions::insert_ready(&mut connection, &session).await.unwrap();
        let taken = leases::acquire(&mut connection, WorkerId::generate(), 1, 10, LEASE)
            .await
            .unwrap();
        drop(connection);
        Self {
            database,
            vault,
            lease: taken[0].key,
        }
    }

    async fn storage(&self, pinned: Option<SocketAddrV4>) -> PgSession {
        self.try_storage(pinned, 10).await.unwrap()
    }

    async fn try_storage(&self, pinned: Option<SocketAddrV4>, peer_cache: usize) -> Result<PgSession, StorageError> {
        let settings = StorageSettings {
            lease: self.lease,
            home_dc: 2,
            account_id: 42,
            username: None,
            is_bot: false,
            pinned,
            peer_cache,
        };
        PgSession::load(self.database.pool().clone(), self.vault.clone(), settings).await
    }

    /// The lease goes to somebody else.
    async fn lose_lease(&self) {
        sqlx::raw_sql("UPDATE session_leases SET fence = fence + 1")
            .execute(self.database.pool())
            .await
            .unwrap();
    }

    async fn stored_address(&self) -> String {
        sqlx::query_scalar("SELECT ipv4 FROM session_dcs WHERE dc_id = 2")
            .fetch_one(self.database.pool())
            .await
            .unwrap()
    }

    async fn advance(&self, storage: &PgSession, boxes: &[BoxState]) -> Recorded {
        let mut transaction = begin(self.database.pool(), "test").await.unwrap();
        let arrival = Arrival {
            lease: storage.lease(),
            account_id: storage.account_id(),
            boxes: boxes.to_vec(),
            incoming: Vec::new(),
            forgotten: Vec::new(),
        };
        let recorded = intake::record(&mut transaction, &mut Filters::default(), None, &[arrival]).await;
        commit(transaction, "test").await.unwrap();
        recorded.unwrap()[0]
    }
}

fn offer(ipv4: SocketAddrV4, key: Option<u8>) -> DcOption {
    DcOption {
        id: 2,
        ipv4,
        ipv6: SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 443, 0, 0),
        auth_key: key.map(|byte| [byte; 256]),
    }
}

fn user(id: i64, hash: i64) -> PeerInfo {
    PeerInfo::User {
        id,
        auth: Some(PeerAuth::from_hash(hash)),
        bot: Some(false),
        is_self: Some(false),
    }
}

fn channel(id: i64, pts: i32) -> BoxState {
    BoxState {
        update_box: id,
        pts: Some(pts),
        qts: None,
        date: None,
        seq: None,
    }
}

#[tokio::test]
async fn an_auth_key_is_never_replaced() {
    let world = World::new().await;
    let storage = world.storage(None).await;
    assert_eq!(storage.dc_option(2).unwrap().unwrap().auth_key, Some([7; 256]));
    storage.set_dc_option(&offer(HOME, Some(7))).await.unwrap();
    assert!(!storage.key_was_refused());
    let refused = storage.set_dc_option(&offer(HOME, Some(8))).await;
    assert!(matches!(refused, Err(StorageError::KeyRefused)));
    assert!(storage.key_was_refused());
    assert_eq!(
        world.storage(None).await.dc_option(2).unwrap().unwrap().auth_key,
        Some([7; 256])
    );
}

#[tokio::test]
async fn the_stored_key_survives_a_write_that_carries_another() {
    let world = World::new().await;
    let mut connection = world.database.pool().acquire().await.unwrap();
    let row = DcRow {
        dc_id: 2,
        ipv4: HOME.to_string(),
        ipv6: "[::]:443".to_owned(),
        auth_key: Some(world.vault.seal(&key_owner(world.lease.session, 2), &[9; 256]).unwrap()),
    };
    sessions::save_dc(&mut connection, world.lease, &row).await.unwrap();
    assert_eq!(
        world.storage(None).await.dc_option(2).unwrap().unwrap().auth_key,
        Some([7; 256])
    );
}

#[tokio::test]
async fn a_key_sealed_for_another_session_does_not_open() {
    let world = World::new().await;
    let other = world
        .vault
        .seal(&key_owner(SessionId::generate(), 2), &[7; 256])
        .unwrap();
    sqlx::query("UPDATE session_dcs SET auth_key_sealed = $1")
        .bind(other.bytes)
        .execute(world.database.pool())
        .await
        .unwrap();
    assert!(matches!(world.try_storage(None, 10).await, Err(StorageError::Vault(_))));
    let wrong = Vault::parse(&Vault::generate("k1").unwrap()).unwrap();
    let world = World { vault: wrong, ..world };
    assert!(matches!(world.try_storage(None, 10).await, Err(StorageError::Vault(_))));
    assert!(Vault::parse(&Secret::new("k1")).is_err());
}

#[tokio::test]
async fn grammers_is_sent_through_the_entrance_and_the_real_address_is_kept() {
    let world = World::new().await;
    let storage = world.storage(None).await;
    let entrance = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 40_000);
    storage.set_entrance(entrance);
    assert_eq!(storage.dc_option(2).unwrap().unwrap().ipv4, entrance);
    storage.set_dc_option(&offer(entrance, Some(7))).await.unwrap();
    assert_eq!(world.stored_address().await, HOME.to_string());
    let moved = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 9), 443);
    storage.set_dc_option(&offer(moved, None)).await.unwrap();
    assert_eq!(world.stored_address().await, moved.to_string());
    assert_eq!(storage.home_address(), moved);
    assert!(
        storage.dc_option(4).unwrap().is_none(),
        "only the home data centre is reached"
    );
}

#[tokio::test]
async fn a_configured_servers_address_is_pinned() {
    let world = World::new().await;
    let pinned = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4430);
    let storage = world.storage(Some(pinned)).await;
    assert_eq!(storage.home_address(), pinned);
    let said = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 9), 443);
    storage.set_dc_option(&offer(said, Some(7))).await.unwrap();
    assert_eq!(storage.home_address(), pinned);
    assert_eq!(world.stored_address().await, HOME.to_string());
}

#[tokio::test]
async fn peers_are_written_behind_and_read_through() {
    let world = World::new().await;
    let storage = world.try_storage(None, 1).await.unwrap();
    storage.learn((1..=50).map(|id| user(id, id * 10))).await.unwrap();
    storage.flush().await.unwrap();
    let found = storage.find_peer(PeerId::user(7).unwrap()).await.unwrap();
    assert_eq!(found, Some(user(7, 70)), "it is no longer in memory");
    // A mention without a hash erases nothing.
    let mention = PeerInfo::User {
        id: 7,
        auth: None,
        bot: None,
        is_self: None,
    };
    storage.learn([mention]).await.unwrap();
    storage.flush().await.unwrap();
    let fresh = world.storage(None).await;
    assert_eq!(
        fresh.find_peer(PeerId::user(7).unwrap()).await.unwrap(),
        Some(user(7, 70))
    );
    assert_eq!(fresh.find_peer(PeerId::user(51).unwrap()).await.unwrap(), None);
}

#[tokio::test]
async fn a_peer_that_is_met_again_costs_no_write() {
    let world = World::new().await;
    let storage = world.try_storage(None, 1).await.unwrap();
    let versions = || async {
        let rows: Vec<(i64, String)> = sqlx::query_as("SELECT peer_id, xmin::text FROM session_peers ORDER BY peer_id")
            .fetch_all(world.database.pool())
            .await
            .unwrap();
        rows
    };
    storage.learn((1..=50).map(|id| user(id, id * 10))).await.unwrap();
    storage.flush().await.unwrap();
    let written = versions().await;
    assert_eq!(written.len(), 50);
    storage.learn((1..=50).map(|id| user(id, id * 10))).await.unwrap();
    storage.flush().await.unwrap();
    assert_eq!(versions().await, written);
    storage.learn([user(7, 71)]).await.unwrap();
    storage.flush().await.unwrap();
    let changed = versions().await;
    let differ: Vec<i64> = changed
        .iter()
        .zip(&written)
        .filter(|(now, then)| now != then)
        .map(|(now, _)| now.0)
        .collect();
    assert_eq!(differ, [7]);
    let fresh = world.storage(None).await;
    assert_eq!(
        fresh.find_peer(PeerId::user(7).unwrap()).await.unwrap(),
        Some(user(7, 71))
    );
}

#[tokio::test]
async fn many_peers_are_stored_without_waiting_for_more() {
    let world = World::new().await;
    let storage = world.storage(None).await;
    let many = i64::try_from(CROWD).unwrap();
    storage.learn((1..many).map(|id| user(id, id))).await.unwrap();
    let soon = || tokio::time::timeout(Duration::from_millis(1), storage.is_crowded());
    soon().await.expect_err("they are too few");
    storage.learn([user(many, many)]).await.unwrap();
    soon().await.expect("there are enough");
}

#[tokio::test]
async fn it_knows_who_it_is_without_asking() {
    let world = World::new().await;
    let storage = world.storage(None).await;
    let myself = storage.peer(PeerId::self_user()).await.unwrap().unwrap();
    assert!(matches!(
        myself,
        PeerInfo::User {
            id: 42,
            is_self: Some(true),
            ..
        }
    ));
    assert_eq!(
        storage.find_peer(PeerId::user(42).unwrap()).await.unwrap(),
        Some(myself)
    );
}

#[tokio::test]
async fn a_known_box_is_never_overwritten_by_a_seed() {
    let world = World::new().await;
    let storage = world.storage(None).await;
    storage
        .set_update_state(UpdateState::Channel { id: 9, pts: 100 })
        .await
        .unwrap();
    storage
        .set_update_state(UpdateState::Channel { id: 9, pts: 500 })
        .await
        .unwrap();
    let all = UpdatesState {
        pts: 10,
        qts: 1,
        date: 20,
        seq: 2,
        channels: vec![ChannelState { id: 8, pts: 7 }],
    };
    storage.set_update_state(UpdateState::All(all.clone())).await.unwrap();
    let newer = UpdatesState { pts: 99, ..all };
    storage.set_update_state(UpdateState::All(newer)).await.unwrap();
    let loaded = storage.updates_state().await.unwrap();
    assert_eq!((loaded.pts, loaded.qts, loaded.date, loaded.seq), (10, 1, 20, 2));
    assert_eq!(
        loaded.channels,
        [ChannelState { id: 8, pts: 7 }, ChannelState { id: 9, pts: 100 }]
    );
}

#[tokio::test]
async fn what_was_read_is_stored_per_box() {
    let world = World::new().await;
    let storage = world.storage(None).await;
    let account = |pts, qts, date| BoxState {
        update_box: ACCOUNT_BOX,
        pts,
        qts,
        date: Some(date),
        seq: Some(3),
    };
    let stored = Recorded::Stored { troubled: false };
    let boxes = [account(Some(5), None, 50), channel(9, 2)];
    assert_eq!(world.advance(&storage, &boxes).await, stored);
    assert_eq!(world.advance(&storage, &[account(None, Some(4), 54)]).await, stored);
    let loaded = storage.updates_state().await.unwrap();
    assert_eq!((loaded.pts, loaded.qts, loaded.date, loaded.seq), (5, 4, 54, 3));
    assert_eq!(loaded.channels, [ChannelState { id: 9, pts: 2 }]);
}

#[tokio::test]
async fn nothing_is_written_without_the_lease() {
    let world = World::new().await;
    let storage = world.storage(None).await;
    world.lose_lease().await;
    let fenced = |result: Result<(), StorageError>| {
        assert!(
            matches!(result, Err(StorageError::Store(StoreError::Fenced { .. }))),
            "{result:?}"
        );
    };
    let moved = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 9), 443);
    fenced(storage.set_dc_option(&offer(moved, None)).await);
    fenced(storage.set_update_state(UpdateState::Channel { id: 9, pts: 1 }).await);
    assert_eq!(world.advance(&storage, &[channel(9, 2)]).await, Recorded::Fenced);
    storage.learn([user(1, 1)]).await.unwrap();
    fenced(storage.flush().await);
    assert_eq!(
        storage.find_peer(PeerId::user(1).unwrap()).await.unwrap(),
        Some(user(1, 1)),
        "kept for another try"
    );
    for table in ["session_peers", "session_update_states"] {
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
            .fetch_one(world.database.pool())
            .await
            .unwrap();
        assert_eq!(count, 0, "{table}");
    }
    assert_eq!(world.stored_address().await, HOME.to_string());
}
