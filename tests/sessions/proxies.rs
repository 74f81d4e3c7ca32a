//! A session with a proxy is connected through it or not at all.

use std::net::{IpAddr, Ipv4Addr};

use wireroom::{
    proxy::Proxy,
    sessions::{rotate_master_keys, verify_master_keys},
    store::session_proxies::{self, By, Changed},
};

use super::*;
use crate::support::socks::Socks;

/// Connections through a proxy come from an address of its own.
const THIS_WAY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const THAT_WAY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const BY: By<'static> = By {
    actor: "key:test",
    request_id: None,
};

impl World {
    /// One account, and the place to seal for the workers published.
    async fn sealing() -> Self {
        let world = Self::with_accounts(1).await;
        verify_master_keys(world.database.pool(), &world.vault).await.unwrap();
        world
    }

    async fn change_proxy(&self, url: Option<&str>) -> Changed {
        let proxy = url.map(|url| Proxy::parse(url).unwrap());
        let mut transaction = self.database.pool().begin().await.unwrap();
        let session = self.imported[0].id;
        let changed = session_proxies::change(&mut transaction, session, proxy.as_ref(), BY).await;
        transaction.commit().await.unwrap();
        changed.unwrap()
    }

    async fn set_proxy(&self, url: Option<&str>) {
        assert_eq!(self.change_proxy(url).await, Changed::Now);
    }

    /// Where the open connections come from.
    fn peers(&self) -> Vec<IpAddr> {
        let connections = self.sandbox.controls().connections();
        let peer = |connection: &wireroom::sandbox::OpenConnection| connection.peer.expect("known").ip();
        connections.iter().map(peer).collect()
    }

    fn tired_holder(&self) -> Arc<Holder> {
        let mut settings = holder_settings(WorkerId::generate(), self.telegram.clone());
        settings.sessions.breaker_failures = 2;
        settings.sessions.breaker_rest = Duration::from_secs(1);
        let pool = self.database.pool().clone();
        Holder::start(pool, self.vault.clone(), Arc::new(SystemClock), settings).unwrap()
    }

    /// Waits until the session rests, and gives the reason.
    async fn rests(&self) -> String {
        until("it rests", async || {
            let error = "SELECT error FROM session_breakers WHERE open_until > wireroom_now()";
            let query = sqlx::query_scalar(error).fetch_optional(self.database.pool());
            query.await.unwrap()
        })
        .await
    }

    async fn connected_from(&self, from: Ipv4Addr) {
        until("connected that way", async || {
            (self.peers() == [IpAddr::V4(from)]).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_session_is_connected_through_its_proxy_and_through_nothing_else_when_that_is_dead() {
    let world = World::sealing().await;
    let socks = Socks::with_credentials(THIS_WAY).await;
    world.set_proxy(Some(&socks.url())).await;
    let holder = world.tired_holder();
    let session = held(&holder, 1).await.remove(0);
    world.connected_from(THIS_WAY).await;
    let (telegram, _) = port_of(&session);
    telegram.resolve_username(&public_group(&world, 1000)).await.unwrap();

    socks.kill().await;
    until("hung up", async || world.peers().is_empty().then_some(())).await;
    let made = world.sandbox.controls().connections_made();
    until("told to the job", async || {
        let answer = telegram.resolve_username(&public_group(&world, 1000)).await;
        let code = answer.expect_err("nobody can be asked").code;
        // Otherwise it has not been dialled again yet.
        (code == "proxy_failed").then_some(())
    })
    .await;
    assert_eq!(world.rests().await, "the session's SOCKS5 proxy cannot be reached");
    until("let go", async || (holder.leases() == 0).then_some(())).await;
    // Half-open once more, and no better.
    let trips = "SELECT trips::bigint FROM session_breakers";
    until("tried again", async || (world.count(trips).await >= 2).then_some(())).await;
    assert_eq!(
        world.sandbox.controls().connections_made(),
        made,
        "a connection was made without the proxy"
    );

    // Another proxy: tried at once, however long it was to rest.
    sqlx::query("UPDATE session_breakers SET open_until = wireroom_now() + interval '1 hour'")
        .execute(world.database.pool())
        .await
        .unwrap();
    let other = Socks::open(THAT_WAY).await;
    world.set_proxy(Some(&other.url())).await;
    held(&holder, 1).await;
    world.connected_from(THAT_WAY).await;
    assert_eq!(world.count("SELECT count(*) FROM session_breakers").await, 0);
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_proxy_that_is_set_under_its_holder_is_used_at_once_and_one_that_is_removed_is_left() {
    let world = World::sealing().await;
    let holder = world.holder();
    held(&holder, 1).await;
    world.connected_from(Ipv4Addr::LOCALHOST).await;
    let fence = "SELECT fence FROM session_leases";
    let before = world.count(fence).await;
    let socks = Socks::open(THIS_WAY).await;
    world.set_proxy(Some(&socks.url())).await;
    world.connected_from(THIS_WAY).await;
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    telegram.resolve_username(&public_group(&world, 1000)).await.unwrap();
    // What is not another way is no reason to hang up.
    let made = world.sandbox.controls().connections_made();
    world.set_proxy(Some(&socks.url())).await;
    let version = "SELECT settings_version FROM sessions";
    let wanted = world.count(version).await;
    holder.look_again();
    telegram.resolve_username(&public_group(&world, 1000)).await.unwrap();
    assert_eq!(world.sandbox.controls().connections_made(), made, "at version {wanted}");
    world.set_proxy(None).await;
    assert_eq!(world.change_proxy(None).await, Changed::Not);
    world.connected_from(Ipv4Addr::LOCALHOST).await;
    assert_eq!(world.count(fence).await, before, "the holder kept it");
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn each_way_in_which_a_proxy_fails_is_told_apart() {
    let world = World::sealing().await;
    let made = world.sandbox.controls().connections_made();
    let socks = Socks::with_credentials(THIS_WAY).await;
    let silent = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for (url, reason) in [
        (
            socks.url_with_wrong_password(),
            "the session's SOCKS5 proxy refuses its user name and password",
        ),
        (
            format!("socks5://{}", socks.address()),
            "the session's SOCKS5 proxy asks for a user name and a password, and it has none",
        ),
        (
            format!("socks5://{}", world.sandbox.control_addr()),
            "what the session's proxy answers is not SOCKS5",
        ),
        (
            "socks5://proxy.invalid:1080".to_owned(),
            "the session's SOCKS5 proxy cannot be reached",
        ),
        (
            format!("socks5://{}", silent.local_addr().unwrap()),
            "the session's SOCKS5 proxy does not answer in time",
        ),
    ] {
        world.set_proxy(Some(&url)).await;
        let holder = world.tired_holder();
        assert_eq!(world.rests().await, reason);
        holder.shutdown(BOUND).await;
    }
    assert_eq!(world.sandbox.controls().connections_made(), made);
    world.end().await;
}

#[tokio::test]
async fn a_worker_that_knows_no_proxies_does_not_get_the_session() {
    let world = World::sealing().await;
    let id = world.imported[0].id;
    // As the release before takes a lease.
    let old = "UPDATE session_leases SET owner = gen_random_uuid(), fence = fence + 1, expires_at = wireroom_now() + interval '1 second'";
    let take = async || {
        let taken = sqlx::query(old).execute(world.database.pool()).await.unwrap();
        taken.rows_affected()
    };
    assert_eq!(take().await, 1);
    assert_eq!(
        world.change_proxy(Some("socks5://127.0.0.1:1")).await,
        Changed::OldHolder,
        "it would go on without"
    );
    sqlx::query("UPDATE session_leases SET owner = NULL, expires_at = '-infinity'")
        .execute(world.database.pool())
        .await
        .unwrap();
    let socks = Socks::open(THIS_WAY).await;
    world.set_proxy(Some(&socks.url())).await;
    assert_eq!(take().await, 0);
    let holder = world.holder();
    assert_eq!(held(&holder, 1).await.remove(0).id, id);
    world.connected_from(THIS_WAY).await;
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_proxy_follows_the_rotation_of_master_keys() {
    let old = Vault::generate("old").unwrap();
    let new = Vault::generate("new").unwrap();
    let mut world = World::with_accounts(0).await;
    world.vault = Vault::parse(&old).unwrap();
    let imported = world.import(0).await;
    world.imported.push(imported);
    verify_master_keys(world.database.pool(), &world.vault).await.unwrap();
    let socks = Socks::with_credentials(THIS_WAY).await;
    world.set_proxy(Some(&socks.url())).await;
    let both = Vault::parse(&Secret::new(format!("{},{}", new.expose(), old.expose()))).unwrap();
    let rotated = rotate_master_keys(world.database.pool(), &both, BOUND).await.unwrap();
    assert_eq!(
        (rotated.resealed, rotated.still_used.len()),
        (2, 0),
        "a key and a proxy"
    );
    // Without the key it is under, nobody connects it, and the reason says which key that is.
    let holder = world.holder();
    let error = world.rests().await;
    assert!(error.contains("`new`"), "{error}");
    holder.shutdown(BOUND).await;
    world.vault = Vault::parse(&new).unwrap();
    sqlx::query("DELETE FROM session_breakers")
        .execute(world.database.pool())
        .await
        .unwrap();
    let holder = world.holder();
    held(&holder, 1).await;
    world.connected_from(THIS_WAY).await;
    holder.shutdown(BOUND).await;
    world.end().await;
}
