//! Holders over one database and one sandbox: taking, sharing, losing and giving back leases.

use super::*;
use wireroom_jobs::scan::ports::{MemberList, ScanTelegram};

#[tokio::test]
async fn a_session_is_imported_held_used_and_released() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    assert_eq!(session.id, world.imported[0].id);
    let (telegram, guard) = port_of(&session);
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

    let page = telegram.members(&chat, &MemberList::Recent, 0, 200).await.unwrap();
    assert_eq!(page.returned, 200);
    assert!(page.count >= 1000);
    let next = telegram.members(&chat, &MemberList::Recent, 200, 200).await.unwrap();
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
async fn a_silent_connection_is_given_up_and_the_next_call_works() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let name = public_group(&world, 1000);
    world.sandbox.controls().silence_connections(None);
    let hung = telegram.resolve_username(&name).await.unwrap_err();
    assert_eq!(hung.decision, Decision::Retry, "{hung}");
    until("answers again", async || telegram.resolve_username(&name).await.ok()).await;
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
    let (telegram, _) = port_of(&session);
    telegram.resolve_username(&public_group(&world, 1000)).await.unwrap();
    assert!(!ending.is_finished());
    drop(job);
    ending.await.unwrap();
    assert!(session.lost.is_cancelled());
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
    let mut settings = holder_settings(WorkerId::generate(), world.telegram.clone());
    settings.sessions.lease = Duration::from_secs(8);
    // Long enough to look at the lease before it ends.
    settings.sessions.margin = Duration::from_secs(4);
    let holder = Holder::start(pool, world.vault.clone(), Arc::new(SystemClock), settings).unwrap();
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
    let (telegram, _) = port_of(&session);
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
    let (telegram, _) = port_of(&session);
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

#[tokio::test]
async fn a_lease_is_released_after_its_socket_is_closed() {
    let world = World::with_accounts(1).await;
    let mut settings = holder_settings(WorkerId::generate(), world.telegram.clone());
    // So long that it is not the end of trust which closes the connection.
    settings.sessions.lease = Duration::from_mins(10);
    settings.sessions.renew = Duration::from_mins(1);
    let holder = Holder::start(
        world.database.pool().clone(),
        world.vault.clone(),
        Arc::new(SystemClock),
        settings,
    )
    .unwrap();
    held(&holder, 1).await;
    assert_eq!(world.sandbox.controls().connections().len(), 1);
    // Nobody can release the lease while its row is locked: a holder that tried that first would keep its connection for
    // as long as it tries, 2 s.
    let mut lock = world.database.pool().begin().await.unwrap();
    sqlx::query("SELECT FROM session_leases FOR UPDATE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let ending = tokio::spawn({
        let holder = holder.clone();
        async move { holder.shutdown(BOUND).await }
    });
    let releasing = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '-- release_lease%'";
    until("releasing", async || (world.count(releasing).await == 1).then_some(())).await;
    until("closed", async || {
        world.sandbox.controls().connections().is_empty().then_some(())
    })
    .await;
    assert_eq!(world.count(releasing).await, 1, "it was closed before");
    let owned = "SELECT count(*) FROM session_leases WHERE owner IS NOT NULL";
    assert_eq!(world.count(owned).await, 1, "closed, and not released yet");
    lock.rollback().await.unwrap();
    timeout(BOUND, ending).await.unwrap().unwrap();
    assert_eq!(world.count(owned).await, 0);
    world.end().await;
}

#[tokio::test]
async fn a_slow_renewal_that_succeeds_does_not_stretch_the_holders_trust() {
    const RENEWING: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND wait_event_type = 'Lock' AND query LIKE '-- renew_leases%'
        AND query_start < clock_timestamp() - interval '5 seconds'";
    let world = World::with_accounts(1).await;
    let mut settings = holder_settings(WorkerId::generate(), world.telegram.clone());
    settings.sessions.lease = Duration::from_secs(14);
    settings.sessions.renew = Duration::from_secs(10);
    settings.sessions.margin = Duration::from_millis(100);
    let pool = world.database.pool().clone();
    let holder = Holder::start(pool, world.vault.clone(), Arc::new(SystemClock), settings).unwrap();
    let session = held(&holder, 1).await.remove(0);
    let lock = async || {
        let mut lock = world.database.pool().begin().await.unwrap();
        sqlx::query("SELECT FROM session_leases FOR UPDATE")
            .execute(&mut *lock)
            .await
            .unwrap();
        lock
    };
    let renewed_at = async || {
        sqlx::query_scalar::<_, chrono::DateTime<chrono::Utc>>("SELECT renewed_at FROM session_leases")
            .fetch_one(world.database.pool())
            .await
            .unwrap()
    };
    let before = renewed_at().await;
    let slow = lock().await;
    holder.look_again();
    until("renewing for long", async || {
        (world.count(RENEWING).await == 1).then_some(())
    })
    .await;
    slow.rollback().await.unwrap();
    until("renewed", async || (renewed_at().await > before).then_some(())).await;
    // No other renewal gets through.
    let last = lock().await;
    timeout(BOUND, session.lost.cancelled()).await.unwrap();
    // One machine, one clock.
    let lost_at = SystemClock.now();
    let expires_at: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("SELECT expires_at FROM session_leases")
        .fetch_one(world.database.pool())
        .await
        .unwrap();
    // The lease runs from when it was written, trust from when that was asked for: five seconds before, and some of them are
    // left for a look at the clock.
    assert!(
        lost_at < expires_at - TimeDelta::milliseconds(2500),
        "trusted until {lost_at}, and the lease ended at {expires_at}"
    );
    last.rollback().await.unwrap();
    holder.shutdown(BOUND).await;
    world.end().await;
}
