//! Caps and pacing over the sandbox: what is counted, what a spent cap does to jobs, and who opens it again.

use wireroom::store::caps::{self, Cap, Capped};

use super::*;

async fn cap(world: &World, session: SessionId, capped: Capped, per_day: i32) {
    let cap = Cap {
        per_minute: per_day,
        per_hour: per_day,
        per_day,
    };
    let mut conn = world.database.pool().acquire().await.unwrap();
    caps::set(&mut conn, Some(session), capped, cap, "key:test")
        .await
        .unwrap();
}

/// Far from the end of a window, so that none ends during the test.
async fn noon(world: &World) {
    sqlx::raw_sql(
        "CREATE TABLE test_start AS SELECT clock_timestamp() AS at;
        CREATE OR REPLACE FUNCTION wireroom_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS
        'SELECT date_trunc(''day'', at, ''UTC'') + interval ''12 hours 5 seconds'' + (clock_timestamp() - at) FROM test_start'",
    )
    .execute(world.database.pool())
    .await
    .unwrap();
}

#[tokio::test]
async fn a_spent_cap_refuses_without_a_call_closes_the_action_and_survives_the_holder() {
    let world = World::with_accounts(1).await;
    noon(&world).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let Joined::Joined(chat) = telegram.join_by_invite(INVITES[0]).await.unwrap() else {
        panic!("not a member before");
    };
    cap(&world, session.id, Capped::Message, 2).await;
    telegram.send_message(&chat, 1, &draft("one")).await.unwrap();
    assert_eq!(session.closed_actions(), []);
    telegram.send_message(&chat, 2, &draft("two")).await.unwrap();
    assert_eq!(
        session.closed_actions(),
        [Action::Send],
        "closed by the last use, not by the first refusal"
    );
    let calls = world.sandbox.controls().calls();
    let refused = telegram.send_message(&chat, 3, &draft("three")).await.unwrap_err();
    assert_eq!(refused.code, "cap_reached");
    assert!(refused.message.contains("2 times a day"), "{}", refused.message);
    let end: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("SELECT date_trunc('day', wireroom_now(), 'UTC') + interval '1 day'")
            .fetch_one(world.database.pool())
            .await
            .unwrap();
    assert_eq!(refused.decision, Decision::Gate { until: end });
    assert_eq!(world.sandbox.controls().calls(), calls, "a spent cap costs no call");
    telegram.members(&chat, 0, 10).await.unwrap();
    // The next holder starts from the store.
    holder.shutdown(BOUND).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    assert_eq!(session.closed_actions(), [Action::Send]);
    // An admin raises it: the holder hears of that with a renewal, or at once when it is told.
    cap(&world, session.id, Capped::Message, 3).await;
    holder.look_again();
    until("opened", async || session.closed_actions().is_empty().then_some(())).await;
    let (telegram, _) = port_of(&session);
    telegram.send_message(&chat, 3, &draft("three")).await.unwrap();
    assert_eq!(session.closed_actions(), [Action::Send]);
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_cap_lowered_below_what_was_used_holds_from_the_next_call_on() {
    let world = World::with_accounts(1).await;
    noon(&world).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    telegram.join_by_invite(INVITES[0]).await.unwrap();
    cap(&world, session.id, Capped::Join, 1).await;
    let chat = telegram.resolve_username(&public_group(&world, 1000)).await.unwrap();
    let refused = telegram.join_chat(&chat).await.unwrap_err();
    assert_eq!(refused.code, "cap_reached", "{refused}");
    assert_eq!(session.closed_actions(), [Action::Join]);
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_flood_waited_out_in_place_is_one_use() {
    let world = World::with_accounts(1).await;
    noon(&world).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let Joined::Joined(chat) = telegram.join_by_invite(INVITES[0]).await.unwrap() else {
        panic!("not a member before");
    };
    cap(&world, session.id, Capped::Message, 1).await;
    world
        .sandbox
        .controls()
        .add_fault(Fault::once("messages.sendMessage", Effect::flood_wait(1)));
    telegram.send_message(&chat, 1, &draft("one")).await.unwrap();
    let used = "SELECT sum(day_used)::bigint FROM session_cap_usage WHERE action = 'message'";
    assert_eq!(world.count(used).await, 1);
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn calls_of_one_session_keep_their_distance() {
    const PACE: Duration = Duration::from_millis(300);
    let world = World::with_accounts(1).await;
    let mut settings = holder_settings(WorkerId::generate(), world.telegram.clone());
    settings.sessions.pace = PACE;
    let holder = Holder::start(
        world.database.pool().clone(),
        world.vault.clone(),
        Arc::new(SystemClock),
        settings,
    )
    .unwrap();
    let session = held(&holder, 1).await.remove(0);
    let name = public_group(&world, 1000);
    let started = tokio::time::Instant::now();
    // Two attempts at once: the distance is the session's.
    let calls = (0..2).map(|_| async {
        let (telegram, _) = port_of(&session);
        telegram.resolve_username(&name).await.unwrap();
        telegram.resolve_username(&name).await.unwrap();
    });
    futures::future::join_all(calls).await;
    assert!(started.elapsed() >= PACE * 3, "{:?}", started.elapsed());
    holder.shutdown(BOUND).await;
    world.end().await;
}
