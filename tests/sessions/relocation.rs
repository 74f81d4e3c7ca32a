//! A session whose account moves to another data centre while it is in use.

use std::{collections::BTreeSet, net::Ipv4Addr};

use wireroom::{
    proxy::Proxy,
    sandbox::{Effect, Fault},
    sessions::verify_master_keys,
    store::session_proxies::{self, By},
};

use super::*;
use crate::support::socks::Socks;

const AWAY: i32 = 4;

impl World {
    /// One account, and the addresses of all data centres configured.
    async fn with_data_centres() -> Self {
        let mut world = Self::with_accounts(1).await;
        let Some(SocketAddr::V4(away)) = world.sandbox.dc_addr(AWAY) else {
            panic!("the sandbox has a data centre 4");
        };
        let server = world.telegram.server.as_mut().unwrap();
        server.other_dcs.insert(AWAY, away);
        world
    }

    fn move_account(&self, dc: i32) {
        let controls = self.sandbox.controls();
        controls.move_account(self.imported[0].account_id, dc).unwrap();
    }

    fn dcs(&self) -> BTreeSet<i32> {
        let connections = self.sandbox.controls().connections();
        connections.iter().map(|open| open.dc).collect()
    }

    async fn home(&self) -> i64 {
        self.count("SELECT home_dc::bigint FROM sessions").await
    }

    async fn settled_in(&self, holder: &Arc<Holder>, dc: i32) -> Arc<HeldSession> {
        until("at home", async || {
            let held = holder.held().pop()?;
            (self.home().await == i64::from(dc) && self.dcs() == BTreeSet::from([dc])).then_some(held)
        })
        .await
    }

    async fn rests_because(&self) -> String {
        until("it rests", async || {
            let error = "SELECT error FROM session_breakers WHERE open_until > wireroom_now()";
            let query = sqlx::query_scalar(error).fetch_optional(self.database.pool());
            query.await.unwrap()
        })
        .await
    }
}

#[tokio::test]
async fn a_session_in_use_follows_its_account_through_its_proxy() {
    let world = World::with_data_centres().await;
    verify_master_keys(world.database.pool(), &world.vault).await.unwrap();
    let socks = Socks::open(Ipv4Addr::new(127, 0, 0, 2)).await;
    let proxy = Proxy::parse(&socks.url()).unwrap();
    let by = By {
        actor: "cli",
        request_id: None,
    };
    let mut conn = world.database.pool().acquire().await.unwrap();
    session_proxies::change(&mut conn, world.imported[0].id, Some(&proxy), by)
        .await
        .unwrap();
    let before = world.sandbox.controls().connections_made();
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let name = public_group(&world, 1000);
    telegram.resolve_username(&name).await.unwrap();

    world.move_account(AWAY);
    let told = telegram.resolve_username(&name).await.expect_err("it lives elsewhere");
    // Where the update stream was told first, this call loses its connection.
    let first = told.code == "USER_MIGRATE" && told.decision == Decision::Session;
    assert!(first || told.code == "connection_lost", "{told:?}");
    let session = world.settled_in(&holder, AWAY).await;
    let (telegram, _) = port_of(&session);
    telegram.resolve_username(&name).await.unwrap();
    let made = world.sandbox.controls().connections_made() - before;
    assert_eq!(socks.connections() as u64, made, "one was made without the proxy");
    let noted =
        r#"SELECT count(*) FROM audit_log WHERE action = 'session.home_moved' AND details = '{"from": 2, "to": 4}'"#;
    assert_eq!(world.count(noted).await, 1);
    assert_eq!(world.count("SELECT count(*) FROM session_breakers").await, 0);

    // Straight back: that is left alone.
    world.move_account(2);
    telegram
        .resolve_username(&name)
        .await
        .expect_err("it lives elsewhere again");
    let reason = world.rests_because().await;
    assert!(
        reason.contains("data centre 2") && reason.contains("ten minutes"),
        "{reason}"
    );
    assert_eq!(world.home().await, i64::from(AWAY));
    sqlx::query("UPDATE sessions SET home_since = home_since - interval '10 minutes'")
        .execute(world.database.pool())
        .await
        .unwrap();
    world.settled_in(&holder, 2).await;
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_session_that_cannot_be_taken_along_rests_and_stays_what_it_is() {
    let world = World::with_data_centres().await;
    let refused = Effect::Error {
        code: 400,
        name: "DC_ID_INVALID".to_owned(),
    };
    let fault = world.sandbox.controls().add_fault(Fault {
        count: None,
        ..Fault::once("auth.exportAuthorization", refused)
    });
    let holder = world.holder();
    held(&holder, 1).await;
    world.move_account(AWAY);
    let session = holder.held().remove(0);
    let (telegram, _) = port_of(&session);
    telegram
        .resolve_username(&public_group(&world, 1000))
        .await
        .expect_err("it lives elsewhere");
    let reason = world.rests_because().await;
    assert!(
        reason.contains("data centre 4") && reason.contains("DC_ID_INVALID"),
        "{reason}"
    );
    assert_eq!(world.row(world.imported[0].id).await.0, "ready");
    assert_eq!((world.home().await, world.dcs()), (2, BTreeSet::new()));
    world.sandbox.controls().remove_fault(fault);
    world.settled_in(&holder, AWAY).await;
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_move_that_fails_after_its_import_leaves_no_authorisation_behind() {
    let world = World::with_data_centres().await;
    let broken = Effect::ErrorAfter {
        code: 500,
        name: "INTERNAL".to_owned(),
    };
    let holder = world.holder();
    held(&holder, 1).await;
    let account = world.imported[0].account_id;
    let controls = world.sandbox.controls();
    let authorised = || controls.keys(Some(account)).len();
    assert_eq!(authorised(), 1);
    // Telegram's answer to the import is lost to us; and once it is good, and we cannot store it.
    let refuse_to_store = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'not today'; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE OF home_dc ON sessions FOR EACH ROW EXECUTE FUNCTION refuse()";
    for (fault, in_database) in [(Some("auth.importAuthorization"), None), (None, Some(refuse_to_store))] {
        if let Some(method) = fault {
            controls.add_fault(Fault::once(method, broken.clone()));
        }
        if let Some(sql) = in_database {
            sqlx::raw_sql(sql).execute(world.database.pool()).await.unwrap();
        }
        let imports = || {
            controls
                .calls()
                .by_method
                .get("auth.importAuthorization")
                .copied()
                .unwrap_or(0)
        };
        let before = imports();
        world.move_account(AWAY);
        let session = until("held", async || holder.held().pop()).await;
        let (telegram, _) = port_of(&session);
        telegram
            .resolve_username(&public_group(&world, 1000))
            .await
            .expect_err("it lives elsewhere");
        let reason = world.rests_because().await;
        assert!(reason.contains("data centre 4"), "{reason}");
        assert!(imports() > before);
        assert_eq!((authorised(), world.home().await), (1, 2));
        world.move_account(2);
        sqlx::query("DELETE FROM session_breakers")
            .execute(world.database.pool())
            .await
            .unwrap();
        held(&holder, 1).await;
    }
    sqlx::raw_sql("DROP TRIGGER refuse ON sessions")
        .execute(world.database.pool())
        .await
        .unwrap();
    world.move_account(AWAY);
    let (telegram, _) = port_of(&holder.held().remove(0));
    telegram
        .resolve_username(&public_group(&world, 1000))
        .await
        .expect_err("it lives elsewhere");
    world.settled_in(&holder, AWAY).await;
    holder.shutdown(BOUND).await;
    world.end().await;
}
