//! Caps and pacing over the sandbox: what is counted, what a spent cap does to jobs, and who opens it again.

use wireroom::store::{
    caps::{self, Cap, Capped},
    contact::Contact,
    suppressions::{self, Identity, NewSuppression, Suppressed},
};
use wireroom_jobs::{
    outreach::PersonRef,
    scan::ports::{MemberList, ScanTelegram},
};

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

/// Far from the end of a window, so that none ends during the test. Before there are leases, which a clock that leaps ends.
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
    cap(&world, world.imported[0].id, Capped::Message, 2).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let Joined::Joined(chat) = telegram.join_by_invite(INVITES[0]).await.unwrap() else {
        panic!("not a member before");
    };
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
    telegram.members(&chat, &MemberList::Recent, 0, 10).await.unwrap();
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
    cap(&world, world.imported[0].id, Capped::Join, 2).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    telegram.join_by_invite(INVITES[0]).await.unwrap();
    // Unheard: a look at the caps at the same time would leave the action open for the next call to find out.
    sqlx::raw_sql("UPDATE session_caps SET per_minute = 1, per_hour = 1, per_day = 1")
        .execute(world.database.pool())
        .await
        .unwrap();
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

const USED: &str = "SELECT coalesce(sum(day_used), 0)::bigint FROM session_cap_usage WHERE action = 'message'";

/// Something that happens after a call was counted and before it is made.
struct Meanwhile<F>(F);

#[async_trait]
impl<F, T> CallGuard for Meanwhile<F>
where
    F: Fn() -> T + Send + Sync,
    T: Future<Output = Result<(), GuardError>> + Send,
{
    async fn before_first_call(&self) -> Result<(), GuardError> {
        (self.0)().await
    }
}

fn port_with(session: &HeldSession, guard: impl CallGuard + 'static) -> JobTelegram {
    session.telegram_for(AttemptHooks {
        job: JobId::generate(),
        action: Action::Send,
        is_pooled: true,
        is_last: false,
        guard: Arc::new(guard),
    })
}

/// A session in a group.
async fn joined(holder: &Arc<Holder>) -> (Arc<HeldSession>, wireroom_jobs::ports::Chat) {
    let session = held(holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let Joined::Joined(chat) = telegram.join_by_invite(INVITES[0]).await.unwrap() else {
        panic!("not a member before");
    };
    (session, chat)
}

#[tokio::test]
async fn a_call_that_never_left_gives_its_use_back() {
    let mut world = World::with_accounts(1).await;
    let proxy = TcpProxy::to(world.sandbox.addr()).await;
    let SocketAddr::V4(before_telegram) = proxy.address() else {
        panic!("the proxy listens on IPv4");
    };
    world.telegram.server.as_mut().expect("the sandbox").address = before_telegram;
    noon(&world).await;
    cap(&world, world.imported[0].id, Capped::Message, 1).await;
    let holder = world.holder();
    let (session, chat) = joined(&holder).await;
    let given_back = async |what: &str| {
        until(what, async || (world.count(USED).await == 0).then_some(())).await;
        until(what, async || session.closed_actions().is_empty().then_some(())).await;
        let closed = "SELECT count(*) FROM session_cap_usage WHERE action = 'message' AND closed_until IS NOT NULL";
        assert_eq!(world.count(closed).await, 0, "{what}");
    };
    // It could not be bound.
    let telegram = port_with(&session, Meanwhile(|| async { Err(GuardError::Fenced) }));
    let refused = telegram.send_message(&chat, 1, &draft("one")).await.unwrap_err();
    assert_eq!(refused.code, "fenced");
    given_back("not bound").await;
    // Cancelled before it was made.
    let counted = Arc::new(tokio::sync::Notify::new());
    let telegram = port_with(&session, {
        let (counted, pool) = (counted.clone(), world.database.pool().clone());
        Meanwhile(move || {
            let (counted, pool) = (counted.clone(), pool.clone());
            async move {
                let used: i64 = sqlx::query_scalar(USED).fetch_one(&pool).await.unwrap();
                assert_eq!(used, 1, "counted before it is made");
                counted.notify_one();
                std::future::pending().await
            }
        })
    });
    let two = draft("two");
    tokio::select! {
        _ = telegram.send_message(&chat, 2, &two) => panic!("it waits"),
        () = counted.notified() => {}
    }
    given_back("cancelled").await;
    // The connection is lost, and there is nothing to connect to. A call that is not counted finds that out first: what is
    // written before may have left.
    proxy.end().await;
    let (telegram, _) = port_of(&session);
    let cut_off = telegram.resolve_username("harbour_market").await.unwrap_err();
    assert_eq!(cut_off.decision, Decision::Retry, "{cut_off}");
    let telegram = port_with(&session, Meanwhile(|| async { Ok(()) }));
    let lost = telegram.send_message(&chat, 3, &draft("three")).await.unwrap_err();
    assert_eq!(lost.decision, Decision::Retry, "{lost}");
    given_back("not connected").await;
    // Trust is lost.
    let (lost, pool) = (session.lost.clone(), world.database.pool().clone());
    let telegram = port_with(
        &session,
        Meanwhile(move || {
            let (lost, pool) = (lost.clone(), pool.clone());
            async move {
                sqlx::raw_sql("UPDATE session_leases SET owner = gen_random_uuid(), fence = fence + 1")
                    .execute(&pool)
                    .await
                    .unwrap();
                lost.cancelled().await;
                Ok(())
            }
        }),
    );
    let lost = telegram.send_message(&chat, 4, &draft("four")).await.unwrap_err();
    assert_eq!(lost.code, "lease_lost", "{lost}");
    until("given back", async || (world.count(USED).await == 0).then_some(())).await;
    assert_eq!(
        world.sandbox.controls().calls().by_method.get("messages.sendMessage"),
        None
    );
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_call_that_may_have_left_stays_counted() {
    let world = World::with_accounts(1).await;
    noon(&world).await;
    cap(&world, world.imported[0].id, Capped::Message, 1).await;
    let holder = world.holder();
    let (session, chat) = joined(&holder).await;
    for (effect, text) in [
        (Effect::Drop, "dropped"),
        (Effect::Blackhole, "unanswered"),
        (Effect::DropAfter, "unheard"),
    ] {
        until("answers", async || session.takes_jobs().then_some(())).await;
        world
            .sandbox
            .controls()
            .add_fault(Fault::once("messages.sendMessage", effect));
        let (telegram, _) = port_of(&session);
        let unknown = telegram.send_message(&chat, 1, &draft(text)).await.unwrap_err();
        assert_eq!(unknown.decision, Decision::Retry, "{unknown}");
        assert_eq!(world.count(USED).await, 1, "{text}");
        assert_eq!(session.closed_actions(), [Action::Send], "{text}");
        sqlx::raw_sql(
            "UPDATE session_cap_usage SET minute_used = 0, hour_used = 0, day_used = 0 WHERE action = 'message'",
        )
        .execute(world.database.pool())
        .await
        .unwrap();
        cap(&world, session.id, Capped::Message, 1).await;
        holder.look_again();
        until("opened", async || session.closed_actions().is_empty().then_some(())).await;
    }
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn an_attempt_that_may_not_begin_here_is_anothers_and_neither_bound_nor_counted() {
    let world = World::with_accounts(1).await;
    noon(&world).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    sqlx::raw_sql("UPDATE session_cap_defaults SET per_day = 0 WHERE action = 'join'")
        .execute(world.database.pool())
        .await
        .unwrap();
    let (telegram, guard) = port_of(&session);
    let refused = telegram.join_by_invite(INVITES[0]).await.unwrap_err();
    assert!(
        refused.code == "cap_reached" && matches!(refused.decision, Decision::Elsewhere { .. }),
        "{refused:?}"
    );
    assert_eq!(guard.asked.load(Ordering::Relaxed), 0, "the job is not this session's");
    // Found closed before the call.
    let again = telegram.join_by_invite(INVITES[0]).await.unwrap_err();
    assert!(matches!(again.decision, Decision::Elsewhere { .. }), "{again:?}");
    assert!(!session.takes_pooled(), "of its kind of job no other comes here");
    // After a call it is bound, and waits.
    telegram.resolve_username(&public_group(&world, 1000)).await.unwrap();
    let bound = telegram.join_by_invite(INVITES[0]).await.unwrap_err();
    assert!(matches!(bound.decision, Decision::Gate { .. }), "{bound:?}");
    holder.shutdown(BOUND).await;
    world.end().await;
}

const IN_FLIGHT: &str = "SELECT count(*) FROM outreach_calls WHERE until > wireroom_now()";

#[tokio::test]
async fn a_first_message_that_may_still_leave_is_in_flight() {
    let world = World::with_accounts(1).await;
    noon(&world).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let [dave, erin] = ["dave", "erin"].map(|name| PersonRef::Username(name.into()));
    let dave = telegram.person(&dave).await.unwrap();
    telegram.send_message(&dave.chat, 1, &draft("one")).await.unwrap();
    assert_eq!(world.count(IN_FLIGHT).await, 0, "it was answered");
    let erin = telegram.person(&erin).await.unwrap();
    let controls = world.sandbox.controls();
    controls.add_fault(Fault::once("messages.sendMessage", Effect::Blackhole));
    let unknown = telegram.send_message(&erin.chat, 2, &draft("two")).await.unwrap_err();
    assert_eq!(
        (unknown.code.as_str(), unknown.decision),
        ("call_deadline", Decision::Retry)
    );
    assert_eq!(world.count(IN_FLIGHT).await, 1, "it may leave with the next connection");
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn whoever_is_suppressed_while_a_flood_is_waited_out_is_not_called_again() {
    let world = World::with_accounts(1).await;
    noon(&world).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let dave = telegram.person(&PersonRef::Username("dave".into())).await.unwrap();
    let contact = Contact::default();
    contact.is(Identity::of(&dave, None), None);
    let hooks = AttemptHooks {
        job: JobId::generate(),
        action: Action::Invite,
        is_pooled: false,
        is_last: false,
        guard: Arc::new(Guard::default()),
    };
    let telegram = session.telegram_for(hooks).asking(contact);
    let controls = world.sandbox.controls();
    controls.add_fault(Fault::once("messages.sendMessage", Effect::flood_wait(1)));
    let said = draft("one");
    let sending = telegram.send_message(&dave.chat, 1, &said);
    let suppressing = async {
        until("the first call", async || {
            let calls = controls.calls();
            calls.by_method.contains_key("messages.sendMessage").then_some(())
        })
        .await;
        let mut conn = world.database.pool().acquire().await.unwrap();
        let row = NewSuppression {
            who: Suppressed::User(dave.user_id),
            reason: "x".into(),
        };
        suppressions::add(&mut conn, &[row], "api", "key:test").await.unwrap();
    };
    let (refused, ()) = tokio::join!(sending, suppressing);
    let refused = refused.unwrap_err();
    assert_eq!(
        (refused.code.as_str(), refused.decision),
        ("suppressed", Decision::Person { suppress: false })
    );
    assert_eq!(controls.calls().by_method["messages.sendMessage"], 1);
    assert_eq!(world.count(IN_FLIGHT).await, 0);
    // Nor begun.
    let refused = telegram.send_message(&dave.chat, 2, &said).await.unwrap_err();
    assert_eq!(refused.code, "suppressed");
    assert_eq!(controls.calls().by_method["messages.sendMessage"], 1);
    assert_eq!(world.count(USED).await, 1, "and not counted");
    holder.shutdown(BOUND).await;
    world.end().await;
}
