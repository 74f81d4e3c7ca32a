use std::collections::HashSet;

use sqlx::PgPool;

use super::*;
use crate::{
    cluster::testing::TestDatabase,
    store::{
        applications,
        caps::{self, Capped},
        gates, session_logins,
        sessions::{self, NewSession, SessionState, StateChange},
    },
};

const LEASE: Duration = Duration::from_mins(1);
const API_ID: i32 = 7;

async fn database_with(count: usize) -> TestDatabase {
    let database = TestDatabase::new().await;
    let mut connection = database.pool().acquire().await.unwrap();
    for index in 0..count {
        let session = NewSession {
            id: SessionId::generate(),
            label: format!("session {index}"),
            pool: "default".to_owned(),
            account_id: i64::try_from(index).unwrap(),
            username: None,
            is_bot: false,
            home_dc: 2,
            dcs: Vec::new(),
        };
        sessions::insert_ready(&mut connection, &session).await.unwrap();
    }
    drop(connection);
    database
}

async fn take(pool: &PgPool, owner: WorkerId, limit: usize) -> Vec<LeaseKey> {
    let mut connection = pool.acquire().await.unwrap();
    let taken = acquire(&mut connection, owner, API_ID, limit, LEASE).await.unwrap();
    taken.into_iter().map(|lease| lease.key).collect()
}

/// Moves the database's clock, for everything it compares.
async fn pass(pool: &PgPool, seconds: i64) {
    let statement = format!(
        "CREATE OR REPLACE FUNCTION wireroom_now() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
         AS 'SELECT clock_timestamp() + interval ''{seconds} seconds'''"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(pool)
        .await
        .unwrap();
}

#[test]
fn the_fair_share_is_rounded_up() {
    let share = |sessions, workers| Census { sessions, workers }.fair_share();
    assert_eq!(share(10, 1), 10);
    assert_eq!(share(10, 3), 4);
    assert_eq!(share(2, 3), 1);
    assert_eq!(share(0, 3), 0);
    assert_eq!(share(5, 0), 5);
}

#[tokio::test]
async fn ten_concurrent_acquirers_take_no_session_twice() {
    let database = database_with(25).await;
    let takers = (0..10).map(|_| {
        let pool = database.pool().clone();
        tokio::spawn(async move { take(&pool, WorkerId::generate(), 3).await })
    });
    let mut taken = Vec::new();
    for taker in takers.collect::<Vec<_>>() {
        taken.extend(taker.await.unwrap());
    }
    // Whoever met locked rows got fewer; the rest is still free.
    taken.extend(take(database.pool(), WorkerId::generate(), 100).await);
    let sessions: HashSet<_> = taken.iter().map(|key| key.session).collect();
    assert_eq!((sessions.len(), taken.len()), (25, 25));
}

#[tokio::test]
async fn a_lease_is_taken_over_after_it_has_expired_and_not_before() {
    let database = database_with(1).await;
    let first = take(database.pool(), WorkerId::generate(), 10).await;
    assert_eq!(take(database.pool(), WorkerId::generate(), 10).await, []);
    pass(database.pool(), 61).await;
    let second = take(database.pool(), WorkerId::generate(), 10).await;
    assert_eq!(second.len(), 1);
    assert!(second[0].fence > first[0].fence);
}

#[tokio::test]
async fn an_old_renewal_or_release_cannot_touch_a_newer_term_of_the_same_holder() {
    let database = database_with(1).await;
    let me = WorkerId::generate();
    let old = take(database.pool(), me, 1).await[0];
    pass(database.pool(), 61).await;
    let new = take(database.pool(), me, 1).await[0];
    let mut connection = database.pool().acquire().await.unwrap();
    assert_eq!(renew(&mut connection, me, API_ID, &[old], LEASE).await.unwrap(), []);
    assert!(!release(&mut connection, old).await.unwrap());
    let fenced = hold(&mut connection, old, "test").await;
    assert!(matches!(fenced, Err(StoreError::Fenced { .. })));
    hold(&mut connection, new, "test").await.unwrap();
    let renewed = renew(&mut connection, me, API_ID, &[old, new], LEASE).await.unwrap();
    assert_eq!(renewed.iter().map(|renewed| renewed.key).collect::<Vec<_>>(), [new]);
    assert!(release(&mut connection, new).await.unwrap());
    let again = take(database.pool(), me, 1).await[0];
    assert!(
        again.fence > new.fence,
        "a released lease is free at once, and its fence goes on"
    );
}

#[tokio::test]
async fn an_expired_lease_is_not_renewed_even_when_nobody_has_taken_it() {
    let database = database_with(1).await;
    let me = WorkerId::generate();
    let key = take(database.pool(), me, 1).await[0];
    pass(database.pool(), 61).await;
    let mut connection = database.pool().acquire().await.unwrap();
    assert_eq!(renew(&mut connection, me, API_ID, &[key], LEASE).await.unwrap(), []);
}

#[tokio::test]
async fn a_renewal_tells_when_the_session_may_not_be_held_any_more() {
    let database = database_with(2).await;
    let me = WorkerId::generate();
    let keys = take(database.pool(), me, 2).await;
    sqlx::query("UPDATE sessions SET state = 'disabled' WHERE id = $1")
        .bind(keys[0].session.0)
        .execute(database.pool())
        .await
        .unwrap();
    let mut connection = database.pool().acquire().await.unwrap();
    let renewed = renew(&mut connection, me, API_ID, &keys, LEASE).await.unwrap();
    let holdable: HashSet<_> = renewed.iter().filter(|r| r.holdable).map(|r| r.key).collect();
    assert_eq!((renewed.len(), holdable), (2, HashSet::from([keys[1]])));
    release(&mut connection, keys[0]).await.unwrap();
    drop(connection);
    assert_eq!(
        take(database.pool(), me, 10).await,
        [],
        "a disabled session is not taken"
    );
}

#[tokio::test]
async fn a_held_lease_does_not_change_hands_before_the_write_ends() {
    let database = database_with(1).await;
    let key = take(database.pool(), WorkerId::generate(), 1).await[0];
    let mut writing = database.pool().begin().await.unwrap();
    hold(&mut writing, key, "test").await.unwrap();
    pass(database.pool(), 61).await;
    assert_eq!(take(database.pool(), WorkerId::generate(), 1).await, []);
    writing.commit().await.unwrap();
    assert_eq!(take(database.pool(), WorkerId::generate(), 1).await.len(), 1);
}

#[tokio::test]
async fn the_census_counts_workers_that_beat() {
    let database = database_with(4).await;
    let me = WorkerId::generate();
    sqlx::raw_sql(
        "INSERT INTO workers (id, host, pid, version, state, heartbeat_at) VALUES
            (gen_random_uuid(), 'a', 1, 'v', 'running', wireroom_now()),
            (gen_random_uuid(), 'b', 1, 'v', 'running', wireroom_now() - interval '1 hour'),
            (gen_random_uuid(), 'c', 1, 'v', 'draining', wireroom_now())",
    )
    .execute(database.pool())
    .await
    .unwrap();
    let mut connection = database.pool().acquire().await.unwrap();
    let counted = census(&mut connection, me, API_ID, Duration::from_secs(15))
        .await
        .unwrap();
    assert_eq!(
        counted,
        Census {
            sessions: 4,
            workers: 2
        }
    );
}

#[tokio::test]
async fn a_change_of_state_is_written_once_with_its_events_and_its_incident() {
    let database = database_with(1).await;
    let key = take(database.pool(), WorkerId::generate(), 1).await[0];
    let change = StateChange {
        to: SessionState::LoggedOut,
        reason: "AUTH_KEY_DUPLICATED".to_owned(),
        incident: Some("session.auth_key_duplicated"),
    };
    let mut connection = database.pool().acquire().await.unwrap();
    assert!(sessions::change_state(&mut connection, key, &change).await.unwrap());
    assert!(!sessions::change_state(&mut connection, key, &change).await.unwrap());
    let types: Vec<String> = sqlx::query_scalar("SELECT type FROM events ORDER BY id")
        .fetch_all(database.pool())
        .await
        .unwrap();
    assert_eq!(
        types,
        ["session.state_changed", "session.state_changed", "session.access_lost"]
    );
    let incidents: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_log")
        .fetch_one(database.pool())
        .await
        .unwrap();
    assert_eq!(incidents, 1);
}

#[tokio::test]
async fn a_limit_does_not_bring_a_session_back_that_was_taken_out_of_use() {
    let database = database_with(1).await;
    let key = take(database.pool(), WorkerId::generate(), 1).await[0];
    sqlx::raw_sql("UPDATE sessions SET state = 'disabled'")
        .execute(database.pool())
        .await
        .unwrap();
    let change = |to| StateChange {
        to,
        reason: "PEER_FLOOD".to_owned(),
        incident: None,
    };
    let mut connection = database.pool().acquire().await.unwrap();
    let limited = change(SessionState::Limited);
    assert!(!sessions::change_state(&mut connection, key, &limited).await.unwrap());
    let banned = change(SessionState::Banned);
    assert!(sessions::change_state(&mut connection, key, &banned).await.unwrap());
}

/// Waits until a statement of this database waits for a lock, or `other` is done.
async fn somebody_waits(pool: &PgPool, other: &tokio::task::JoinHandle<Result<(), StoreError>>) {
    loop {
        let waits: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        if waits > 0 || other.is_finished() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_login_and_a_change_of_state_at_once_do_not_wait_for_each_other_for_ever() {
    let database = database_with(1).await;
    let key = take(database.pool(), WorkerId::generate(), 1).await[0];
    let mut writing = database.pool().begin().await.unwrap();
    hold(&mut writing, key, "test").await.unwrap();
    let login = tokio::spawn({
        let pool = database.pool().clone();
        async move {
            let mut transaction = pool.begin().await.unwrap();
            let new = session_logins::Authorisation {
                id: key.session,
                account_id: Some(1),
                username: None,
                is_bot: false,
                home_dc: 2,
                dcs: &[],
            };
            session_logins::replace_keys(&mut transaction, &new).await?;
            session_logins::set_state(&mut transaction, key.session, SessionState::Ready, Some("LOGGED_IN")).await?;
            transaction.commit().await.map_err(failed("test"))
        }
    });
    somebody_waits(database.pool(), &login).await;
    let change = StateChange {
        to: SessionState::Banned,
        reason: "USER_DEACTIVATED".to_owned(),
        incident: None,
    };
    assert!(sessions::change_state(&mut writing, key, &change).await.unwrap());
    writing.commit().await.unwrap();
    login.await.unwrap().unwrap();
    let mut connection = database.pool().acquire().await.unwrap();
    let stale = hold(&mut connection, key, "test").await;
    assert!(matches!(stale, Err(StoreError::Fenced { .. })), "the login came last");
}

#[tokio::test]
async fn a_use_of_a_cap_and_a_deletion_at_once_do_not_wait_for_each_other_for_ever() {
    let database = database_with(1).await;
    let key = take(database.pool(), WorkerId::generate(), 1).await[0];
    let mut using = database.pool().begin().await.unwrap();
    caps::take(&mut using, key.session, Capped::Message, 1, None)
        .await
        .unwrap();
    let deletion = tokio::spawn({
        let pool = database.pool().clone();
        async move {
            let mut connection = pool.acquire().await.unwrap();
            session_logins::delete(&mut connection, key.session).await.map(|_| ())
        }
    });
    somebody_waits(database.pool(), &deletion).await;
    caps::take(&mut using, key.session, Capped::Message, 1, Some(7))
        .await
        .unwrap();
    using.commit().await.unwrap();
    deletion.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_fence_that_moves_on_without_a_holder_has_a_time() {
    let database = database_with(1).await;
    let times = async || -> Vec<Option<DateTime<Utc>>> {
        sqlx::query_scalar("SELECT acquired_at FROM session_leases")
            .fetch_all(database.pool())
            .await
            .unwrap()
    };
    assert_eq!(times().await, [None]);
    let session = sqlx::query_scalar("SELECT id FROM sessions")
        .fetch_one(database.pool())
        .await
        .map(SessionId)
        .unwrap();
    let again = NewSession {
        id: session,
        label: "session 0".to_owned(),
        pool: "default".to_owned(),
        account_id: 0,
        username: None,
        is_bot: false,
        home_dc: 2,
        dcs: Vec::new(),
    };
    let mut connection = database.pool().acquire().await.unwrap();
    sessions::login_again(&mut connection, &again).await.unwrap();
    let first = times().await;
    assert!(first[0].is_some());
    sqlx::raw_sql(
        "INSERT INTO session_dcs (session_id, dc_id, ipv4, ipv6) SELECT id, 2, '127.0.0.1:1', '' FROM sessions",
    )
    .execute(database.pool())
    .await
    .unwrap();
    take(database.pool(), WorkerId::generate(), 1).await;
    let held = times().await;
    crate::store::sandbox_sessions::end_leases(&mut connection)
        .await
        .unwrap();
    assert!(times().await > held && held > first);
}

#[tokio::test]
async fn every_state_a_session_is_in_has_an_event_with_its_reason() {
    let database = database_with(1).await;
    let mut connection = database.pool().acquire().await.unwrap();
    let session = sqlx::query_scalar("SELECT id FROM sessions")
        .fetch_one(database.pool())
        .await
        .map(SessionId)
        .unwrap();
    sqlx::raw_sql("UPDATE sessions SET state = 'logged_out'")
        .execute(database.pool())
        .await
        .unwrap();
    let again = NewSession {
        id: session,
        label: "session 0".to_owned(),
        pool: "default".to_owned(),
        account_id: 0,
        username: None,
        is_bot: false,
        home_dc: 2,
        dcs: Vec::new(),
    };
    sessions::login_again(&mut connection, &again).await.unwrap();
    let unused = session_logins::UnusedSession {
        id: SessionId::generate(),
        label: "unused",
        pool: "default",
        application: None,
        state: SessionState::New,
        reason: Some("LOGIN_BEGUN"),
    };
    assert!(session_logins::insert_unused(&mut connection, &unused).await.unwrap());
    let told: Vec<(Option<String>, String, String)> = sqlx::query_as(
        "SELECT data ->> 'from', data ->> 'to', data ->> 'reason' FROM events WHERE type = 'session.state_changed' ORDER BY id",
    )
    .fetch_all(database.pool())
    .await
    .unwrap();
    let change =
        |from: Option<&str>, to: &str, reason: &str| (from.map(str::to_owned), to.to_owned(), reason.to_owned());
    assert_eq!(
        told,
        [
            change(None, "ready", "LOGGED_IN"),
            change(Some("logged_out"), "ready", "LOGGED_IN"),
            change(None, "new", "LOGIN_BEGUN"),
        ]
    );
    let reason: String = sqlx::query_scalar("SELECT state_reason FROM sessions WHERE label = 'session 0'")
        .fetch_one(database.pool())
        .await
        .unwrap();
    assert_eq!(reason, "LOGGED_IN");
}

#[tokio::test]
async fn a_refused_applications_sessions_are_neither_taken_nor_kept_nor_counted() {
    let database = database_with(2).await;
    let me = WorkerId::generate();
    let keys = take(database.pool(), me, 1).await;
    let mut connection = database.pool().acquire().await.unwrap();
    // One session has an application of its own, which is another id.
    sqlx::query(
        "WITH a AS (INSERT INTO applications (id, label, api_id, api_hash_sealed, sealed_with)
            VALUES (gen_random_uuid(), 'other', 8, '', '') RETURNING id)
        UPDATE sessions SET application_id = a.id FROM a WHERE sessions.id <> $1",
    )
    .bind(keys[0].session.0)
    .execute(database.pool())
    .await
    .unwrap();
    for (is_news, reason) in [(true, "API_ID_INVALID"), (false, "API_ID_PUBLISHED_FLOOD")] {
        let told = applications::refuse(&mut connection, keys[0], API_ID, reason)
            .await
            .unwrap();
        assert_eq!(told, is_news);
    }
    let renewed = renew(&mut connection, me, API_ID, &keys, LEASE).await.unwrap();
    assert!(!renewed[0].holdable);
    let counted = census(&mut connection, me, API_ID, Duration::from_secs(15))
        .await
        .unwrap();
    assert_eq!(counted.sessions, 1);
    assert!(release(&mut connection, keys[0]).await.unwrap());
    let taken = take(database.pool(), me, 10).await;
    assert!(taken.len() == 1 && taken[0].session != keys[0].session);
}

#[tokio::test]
async fn a_gate_of_a_newer_versions_action_keeps_no_session_from_being_held() {
    let database = database_with(1).await;
    let key = take(database.pool(), WorkerId::generate(), 1).await[0];
    sqlx::raw_sql(
        "ALTER TABLE gates DROP CONSTRAINT gates_action_check;
        INSERT INTO gates (session_id, action, reason, opens_at)
        SELECT id, a, 'FLOOD_WAIT', wireroom_now() + interval '1 hour' FROM sessions, unnest(ARRAY['dance', 'invite']) a",
    )
    .execute(database.pool())
    .await
    .unwrap();
    let mut connection = database.pool().acquire().await.unwrap();
    let closed = gates::closed(&mut connection, key.session).await.unwrap();
    let actions: Vec<_> = closed.iter().map(|gate| gate.action).collect();
    assert_eq!(actions, [wireroom_jobs::Action::Invite]);
}
