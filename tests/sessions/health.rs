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
        // Long enough to look at it while it rests.
        settings.sessions.breaker_rest = Duration::from_secs(6);
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
        "SELECT count(*) FROM session_breakers WHERE trips = 2 AND open_until > wireroom_now() + interval '6 seconds'";
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

#[tokio::test]
async fn a_breaker_that_could_not_be_closed_is_closed_as_soon_as_it_can_be() {
    let world = World::with_accounts(1).await;
    sqlx::raw_sql(
        "INSERT INTO session_breakers (session_id, trips, open_until, error)
            SELECT id, 3, wireroom_now() - interval '1 second', 'x' FROM sessions;
        CREATE SEQUENCE tries;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM nextval(''tries''); RAISE EXCEPTION ''not now''; END';
        CREATE TRIGGER refuse BEFORE DELETE ON session_breakers FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .execute(world.database.pool())
    .await
    .unwrap();
    let holder = world.holder();
    held(&holder, 1).await;
    let tried = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM tries";
    until("tried again", async || (world.count(tried).await >= 2).then_some(())).await;
    sqlx::raw_sql("DROP TRIGGER refuse ON session_breakers")
        .execute(world.database.pool())
        .await
        .unwrap();
    let closed = async || (world.count("SELECT count(*) FROM session_breakers").await == 0).then_some(());
    until("closed", closed).await;
    assert_eq!(holder.held().len(), 1, "it was held all the while");
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_degraded_session_is_called_after_rests_that_grow_and_a_check_that_answers_ends_it() {
    let world = World::with_accounts(1).await;
    let holder = world.holder_with(|settings| settings.sessions.breaker_rest = Duration::from_mins(1));
    let session = held(&holder, 1).await.remove(0);
    let trouble = Effect::Error {
        code: 500,
        name: "RPC_CALL_FAIL".to_owned(),
    };
    let fault = Fault::once("contacts.resolveUsername", trouble).times(2);
    world.sandbox.controls().add_fault(fault);
    let guard = Arc::new(Guard::default());
    let port = |is_last| {
        session.telegram_for(AttemptHooks {
            job: JobId::generate(),
            action: Action::Send,
            is_pooled: true,
            is_last,
            guard: guard.clone(),
        })
    };
    let name = public_group(&world, 1000);
    assert!(port(false).resolve_username(&name).await.is_err());
    assert!(session.takes_jobs(), "another attempt follows");
    assert!(port(true).resolve_username(&name).await.is_err());
    assert!(!session.takes_jobs());
    let state = async |wanted: &str| (world.row(session.id).await.0 == wanted).then_some(());
    until("degraded", async || state("degraded").await).await;
    assert_eq!(world.row(session.id).await.1.as_deref(), Some("RPC_CALL_FAIL"));
    // It is held and connected, and a renewal lets it be.
    let renewed = "SELECT count(*) FROM session_leases l JOIN sessions s ON s.id = l.session_id
        WHERE l.renewed_at > s.state_since AND l.owner IS NOT NULL";
    until("renewed", async || (world.count(renewed).await == 1).then_some(())).await;
    assert_eq!(world.sandbox.controls().connections().len(), 1);
    // Whoever holds it next sees it through, too, and looks at once.
    holder.shutdown(BOUND).await;
    assert_eq!(world.row(session.id).await.0, "degraded");
    let silent = Effect::Error {
        code: 500,
        name: "RPC_CALL_FAIL".to_owned(),
    };
    let holder = world.holder_with(|settings| settings.sessions.breaker_rest = Duration::from_mins(1));
    until("connected", async || (holder.leases() == 1).then_some(())).await;
    until("ready", async || state("ready").await).await;
    let session = held(&holder, 1).await.remove(0);
    // A person's check does not wait for the rest to be over.
    world
        .sandbox
        .controls()
        .add_fault(Fault::once("contacts.resolveUsername", silent));
    let port = session.telegram_for(AttemptHooks {
        job: JobId::generate(),
        action: Action::Send,
        is_pooled: true,
        is_last: true,
        guard,
    });
    assert!(port.resolve_username(&name).await.is_err());
    until("degraded", async || state("degraded").await).await;
    assert_eq!(check(&world, session.id, &holder).await["ok"], true);
    until("ready", async || state("ready").await).await;
    until("takes jobs", async || session.takes_jobs().then_some(())).await;
    let told =
        "SELECT count(*) FROM events WHERE type = 'session.state_changed' AND data ->> 'reason' = 'ANSWERS_AGAIN'";
    assert_eq!(world.count(told).await, 2);
    assert_eq!(
        world
            .count("SELECT count(*) FROM events WHERE type = 'session.access_lost'")
            .await,
        0
    );
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn an_application_that_telegram_does_not_take_stops_its_sessions_until_a_person_says_so() {
    let world = World::with_accounts(2).await;
    let invalid = Effect::Error {
        code: 400,
        name: "API_ID_INVALID".to_owned(),
    };
    let holder = world.holder();
    let session = held(&holder, 2).await.remove(0);
    world
        .sandbox
        .controls()
        .add_fault(Fault::once("users.getUsers", invalid));
    let (telegram, _) = port_of(&session);
    let checked = check(&world, session.id, &holder).await;
    assert_eq!(checked["code"], "API_ID_INVALID");
    until("all let go", async || (holder.leases() == 0).then_some(())).await;
    assert_eq!(
        telegram.resolve_username("anybody").await.unwrap_err().decision,
        Decision::Session
    );
    assert!(world.sandbox.controls().connections().is_empty());
    assert_eq!(
        world.count("SELECT count(*) FROM sessions WHERE state = 'ready'").await,
        2
    );
    assert_eq!(
        world
            .count("SELECT count(*) FROM events WHERE type = 'application.refused'")
            .await,
        1
    );
    assert_eq!(world.count("SELECT count(*) FROM session_breakers").await, 0);
    sqlx::raw_sql("DELETE FROM refused_api_ids")
        .execute(world.database.pool())
        .await
        .unwrap();
    holder.look_again();
    held(&holder, 2).await;
    holder.shutdown(BOUND).await;
    world.end().await;
}
