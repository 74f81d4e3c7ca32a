//! Health: calls to silent sessions, checks on demand, rests of those that keep failing, moves between pools.

use serde_json::Value;
use wireroom::store::{pools, session_checks};

use super::*;

impl World {
    fn holder_with(&self, change: impl FnOnce(&mut HolderSettings)) -> Arc<Holder> {
        let mut settings = holder_settings(WorkerId::generate(), self.telegram.clone());
        change(&mut settings);
        let pool = self.database.pool().clone();
        Holder::start(pool, self.vault.clone(), Arc::new(SystemClock), settings).unwrap()
    }
}

#[tokio::test]
async fn a_silent_session_is_called_and_an_active_one_is_left_alone() {
    let world = World::with_accounts(1).await;
    let holder = world.holder_with(|settings| settings.sessions.healthy = Duration::from_secs(5));
    let session = held(&holder, 1).await.remove(0);
    let calls = || {
        world
            .sandbox
            .controls()
            .calls()
            .by_method
            .get("users.getUsers")
            .copied()
            .unwrap_or(0)
    };
    let before = calls();
    until("called", async || (calls() > before).then_some(())).await;
    let noted = "SELECT count(*) FROM sessions WHERE last_call_at > wireroom_now() - interval '3 seconds'";
    until("noted", async || (world.count(noted).await == 1).then_some(())).await;
    let (telegram, _) = port_of(&session);
    let name = public_group(&world, 1000);
    let before = calls();
    let busy = tokio::time::Instant::now() + Duration::from_secs(6);
    while tokio::time::Instant::now() < busy {
        telegram.resolve_username(&name).await.unwrap();
    }
    assert_eq!(calls(), before, "its own calls say enough");
    holder.shutdown(BOUND).await;
    world.end().await;
}

async fn check(world: &World, session: SessionId, holder: &Holder) -> Value {
    let mut conn = world.database.pool().acquire().await.unwrap();
    let id = session_checks::request(&mut conn, session, "key:test").await.unwrap();
    holder.look_again();
    until("answered", async || {
        let answer = session_checks::answered(world.database.pool(), id).await.unwrap();
        answer.map(|(_, answer)| answer)
    })
    .await
}

#[tokio::test]
async fn a_check_says_whether_the_session_answers_now() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let good = check(&world, session.id, &holder).await;
    assert!(good["ok"] == true && good["milliseconds"].is_number(), "{good}");
    let flood = Fault::once("users.getUsers", Effect::flood_wait(30));
    world.sandbox.controls().add_fault(flood);
    let flooded = check(&world, session.id, &holder).await;
    assert_eq!(
        (&flooded["ok"], flooded["code"].as_str()),
        (&Value::Bool(false), Some("FLOOD_WAIT"))
    );
    assert_eq!(world.count("SELECT count(*) FROM floods WHERE job_id IS NULL").await, 1);
    world.sandbox.controls().silence_connections(None);
    let silent = check(&world, session.id, &holder).await;
    assert_eq!(
        silent["code"], "call_deadline",
        "a connection that is open is not a session that answers"
    );
    holder.shutdown(BOUND).await;
    world.end().await;
}

const OPEN: &str = "SELECT count(*) FROM session_breakers WHERE open_until > wireroom_now()";

#[tokio::test]
async fn a_session_that_keeps_failing_rests_longer_each_time_until_it_answers() {
    let world = World::with_accounts(1).await;
    let fails = Effect::Error {
        code: 500,
        name: "RPC_CALL_FAIL".to_owned(),
    };
    world
        .sandbox
        .controls()
        .add_fault(Fault::once("users.getUsers", fails).forever());
    let tired = |settings: &mut HolderSettings| {
        settings.sessions.breaker_failures = 2;
        settings.sessions.breaker_rest = Duration::from_secs(2);
    };
    let holder = world.holder_with(tired);
    // Whoever would take it meets the same breaker.
    let other = world.holder_with(tired);
    until("open", async || (world.count(OPEN).await == 1).then_some(())).await;
    until("let go", async || (holder.leases() + other.leases() == 0).then_some(())).await;
    assert!(world.sandbox.controls().connections().is_empty(), "it rests");
    let error: String = sqlx::query_scalar("SELECT error FROM session_breakers")
        .fetch_one(world.database.pool())
        .await
        .unwrap();
    assert_eq!(error, "Telegram answered RPC_CALL_FAIL");
    let calls = || {
        world
            .sandbox
            .controls()
            .calls()
            .by_method
            .get("users.getUsers")
            .copied()
            .unwrap_or(0)
    };
    let before = calls();
    let again =
        "SELECT count(*) FROM session_breakers WHERE trips = 2 AND open_until > wireroom_now() + interval '3 seconds'";
    until("open again", async || (world.count(again).await == 1).then_some(())).await;
    assert_eq!(calls() - before, 1, "half-open, one attempt decides");
    world.sandbox.controls().clear_faults();
    until("closed", async || {
        (world.count("SELECT count(*) FROM session_breakers").await == 0).then_some(())
    })
    .await;
    until("held", async || {
        (holder.held().len() + other.held().len() == 1).then_some(())
    })
    .await;
    assert_eq!(
        world
            .count("SELECT count(*) FROM events WHERE type = 'session.breaker_changed'")
            .await,
        3
    );
    assert_eq!(
        world.row(world.imported[0].id).await.0,
        "ready",
        "resting is no state of the account"
    );
    holder.shutdown(BOUND).await;
    other.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_flood_is_not_a_failure() {
    let world = World::with_accounts(1).await;
    let floods = Fault::once("users.getUsers", Effect::flood_wait(1)).times(3);
    world.sandbox.controls().add_fault(floods);
    let holder = world.holder_with(|settings| settings.sessions.breaker_failures = 1);
    held(&holder, 1).await;
    assert_eq!(world.count("SELECT count(*) FROM floods").await, 3);
    assert_eq!(
        world.count("SELECT count(*) FROM session_terms").await,
        1,
        "it was never let go"
    );
    assert_eq!(
        world
            .count("SELECT count(*) FROM events WHERE type = 'session.breaker_changed'")
            .await,
        0
    );
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_session_moves_to_its_new_pool_when_its_job_has_ended() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let job = session.in_use.token();
    let mut transaction = world.database.pool().begin().await.unwrap();
    assert!(pools::create(&mut transaction, "spring").await.unwrap());
    let moved = pools::move_session(&mut transaction, session.id, "spring")
        .await
        .unwrap();
    assert_eq!(moved, pools::Moved::Later);
    transaction.commit().await.unwrap();
    holder.look_again();
    until("leaving", async || holder.held().is_empty().then_some(())).await;
    let (telegram, _) = port_of(&session);
    telegram.resolve_username(&public_group(&world, 1000)).await.unwrap();
    let pool = async || {
        sqlx::query_scalar::<_, String>("SELECT pool FROM sessions")
            .fetch_one(world.database.pool())
            .await
            .unwrap()
    };
    assert_eq!(pool().await, "default", "its job is a job of that pool");
    drop(job);
    let session = held(&holder, 1).await.remove(0);
    assert_eq!((session.pool.as_str(), pool().await.as_str()), ("spring", "spring"));
    assert_eq!(
        world
            .count("SELECT count(*) FROM events WHERE type = 'session.pool_changed'")
            .await,
        1
    );
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_key_that_is_missing_is_named_and_the_session_rests() {
    let world = World::with_accounts(1).await;
    let other = Vault::parse(&Vault::generate("k2").unwrap()).unwrap();
    let settings = holder_settings(WorkerId::generate(), world.telegram.clone());
    let holder = Holder::start(world.database.pool().clone(), other, Arc::new(SystemClock), settings).unwrap();
    until("open", async || (world.count(OPEN).await == 1).then_some(())).await;
    let error: String = sqlx::query_scalar("SELECT error FROM session_breakers")
        .fetch_one(world.database.pool())
        .await
        .unwrap();
    assert!(
        error.contains("`k1`") && error.contains("WIREROOM_MASTER_KEYS"),
        "{error}"
    );
    holder.shutdown(BOUND).await;
    world.end().await;
}
