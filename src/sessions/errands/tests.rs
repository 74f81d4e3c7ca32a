//! The desk's parts, on a database of the test's own.

use super::*;
use crate::{
    cluster::testing::TestDatabase,
    config::{Config, Source},
    ids::SessionId,
    sessions::{rotate_master_keys, verify_master_keys},
    store::{
        errand_work::Reply,
        errands::{CHALLENGE, ErrandState, Step, Task},
        login_requests::{self, Asker, Begun, LoginRequest, StepAsked},
        sessions::SessionState,
    },
    telegram::login::AuthKey,
};

fn vault(ids: &[&str]) -> (Vault, String) {
    let keys: Vec<String> = ids
        .iter()
        .map(|id| Vault::generate(id).unwrap().expose().to_owned())
        .collect();
    let text = keys.join(",");
    (Vault::parse(&Secret::new(text.as_str())).unwrap(), text)
}

const ASKER: Asker<'static> = Asker {
    actor: "cli",
    request_id: None,
};

async fn begun(database: &TestDatabase, vault: &Vault) -> (SessionId, crate::ids::ErrandId) {
    verify_master_keys(database.pool(), vault).await.unwrap();
    let mut conn = database.pool().acquire().await.unwrap();
    let request = LoginRequest {
        label: "a",
        pool: None,
        application: None,
        proxy: None,
        task: Task::Phone,
        input: Some(b"+9996620001"),
    };
    match login_requests::begin_login(&mut conn, &request, ASKER).await.unwrap() {
        Begun::Now { session, errand } => (session, errand),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_hash_follows_the_rotation_of_master_keys() {
    let database = TestDatabase::new().await;
    let (old, text) = vault(&["k1"]);
    let id = ApplicationId::generate();
    let (key_id, slot) = old.slot().unwrap();
    let sealed = Sealed {
        key_id: key_id.to_owned(),
        bytes: slot.seal(&applications::hash_owner(id), b"hash").unwrap(),
    };
    let mut conn = database.pool().acquire().await.unwrap();
    assert!(applications::insert(&mut conn, id, "mine", 7, &sealed).await.unwrap());
    let new = Vault::generate("k2").unwrap();
    let both = Vault::parse(&Secret::new(format!("{},{text}", new.expose()))).unwrap();
    assert_eq!(reseal_applications(database.pool(), &both).await.unwrap(), 1);
    assert_eq!(reseal_applications(database.pool(), &both).await.unwrap(), 0);
    let kept = applications::sealed(&mut conn, id).await.unwrap().unwrap();
    let alone = Vault::parse(&new).unwrap();
    let hash = alone.open_letter(&applications::hash_owner(id), &kept.hash).unwrap();
    assert_eq!(hash.as_slice(), b"hash");
}

#[tokio::test]
async fn a_rotation_names_the_keys_that_a_login_needs_until_it_is_over() {
    let database = TestDatabase::new().await;
    let (old, text) = vault(&["k1"]);
    let (session, _) = begun(&database, &old).await;
    let new = Vault::generate("k2").unwrap();
    let both = Vault::parse(&Secret::new(format!("{},{text}", new.expose()))).unwrap();
    let rotate = async || {
        let rotated = rotate_master_keys(database.pool(), &both, Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(rotated.still_used, [] as [&str; 0], "nothing that lasts");
        rotated.used_for_now
    };
    assert_eq!(rotate().await, ["k1"], "the number is sealed under it");
    let mut conn = database.pool().acquire().await.unwrap();
    login_requests::give_up(&mut conn, session, ASKER).await.unwrap();
    assert_eq!(rotate().await, [] as [&str; 0]);
}

#[tokio::test]
async fn an_errand_is_claimed_once_and_by_a_worker_that_can_open_it() {
    let database = TestDatabase::new().await;
    let (vault, _) = vault(&["k1"]);
    begun(&database, &vault).await;
    let mut conn = database.pool().acquire().await.unwrap();
    let lease = Duration::from_mins(1);
    let other = ["k9".to_owned()];
    let none = errand_work::claim(&mut conn, WorkerId::generate(), &other, 10, lease).await;
    assert!(none.unwrap().is_empty(), "it could not open it");
    let ours = ["k1".to_owned()];
    let claims = (0..10).map(|_| {
        let (pool, ours) = (database.pool().clone(), ours.clone());
        async move {
            let mut conn = pool.acquire().await.unwrap();
            let claimed = errand_work::claim(&mut conn, WorkerId::generate(), &ours, 10, lease).await;
            claimed.unwrap().len()
        }
    });
    let claimed: usize = futures::future::join_all(claims).await.into_iter().sum();
    assert_eq!(claimed, 1);
}

#[tokio::test]
async fn a_worker_whose_hold_is_over_changes_nothing() {
    let database = TestDatabase::new().await;
    let (vault, _) = vault(&["k1"]);
    let (session, errand) = begun(&database, &vault).await;
    let mut conn = database.pool().acquire().await.unwrap();
    let ours = ["k1".to_owned()];
    let mut claim = async |lease| {
        let claimed = errand_work::claim(&mut conn, WorkerId::generate(), &ours, 1, lease).await;
        claimed.unwrap().pop().map(|claimed| claimed.key)
    };
    let first = claim(Duration::ZERO).await.expect("free");
    let second = claim(Duration::from_mins(1)).await.expect("its hold has run out");
    assert!(second.fence > first.fence);
    let code_needed = Reply {
        state: Some(ErrandState::CodeNeeded),
        ..Reply::default()
    };
    let stale = errand_work::reply(&mut conn, first, 1, &code_needed).await;
    assert!(matches!(stale, Err(StoreError::Fenced { .. })));
    assert!(
        !errand_work::renew(&mut conn, first, Duration::from_mins(1))
            .await
            .unwrap()
    );
    errand_work::release(&mut conn, first).await.unwrap();
    errand_work::reply(&mut conn, second, 1, &code_needed).await.unwrap();
    let work = errand_work::load(&mut conn, second).await.unwrap();
    assert_eq!((work.state, work.answered), (ErrandState::CodeNeeded, 1));
    assert!(work.input.is_none(), "erased by the answer");

    // Of two codes at once one is taken; the other hears that.
    let one = login_requests::ask_step(&mut conn, session, Step::Code, Some(b"1"))
        .await
        .unwrap();
    assert!(matches!(one, StepAsked::Now { seq: 2, .. }), "{one:?}");
    let other = login_requests::ask_step(&mut conn, session, Step::Code, Some(b"2"))
        .await
        .unwrap();
    assert!(matches!(other, StepAsked::Busy), "{other:?}");
    login_requests::give_up(&mut conn, session, ASKER).await.unwrap();
    let late = errand_work::reply(&mut conn, second, 2, &code_needed).await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })), "it was given up");
    let record = errands::get(&mut conn, errand).await.unwrap().unwrap();
    assert_eq!(record.problem, Some(ErrandProblem::Cancelled));
    assert!(record.expires_at - record.updated_at <= chrono::TimeDelta::from_std(CHALLENGE).unwrap());
}

#[tokio::test]
async fn without_an_application_telegram_itself_is_not_asked() {
    let variables = [
        ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing"),
        ("TELEGRAM_API_ID", "7"),
    ];
    let source = Source::from_values(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let config = Config::from_source(source).unwrap();
    let net = LoginNet::read(&config.telegram).await.unwrap();
    assert!(environment(&config.telegram, &net).is_none(), "its hash is missing");
    let (first, _) = net.address(2).unwrap();
    assert_eq!(first.port(), 443);
    assert!(net.address(9).is_err());
}

/// Lets the errand's time be over, and the grace after it.
async fn let_it_expire(database: &TestDatabase) {
    sqlx::query("UPDATE errands SET expires_at = wireroom_now() - interval '1 minute'")
        .execute(database.pool())
        .await
        .unwrap();
}

async fn state_of(database: &TestDatabase, session: SessionId) -> (String, Option<String>) {
    sqlx::query_as("SELECT state, state_reason FROM sessions WHERE id = $1")
        .bind(session.0)
        .fetch_one(database.pool())
        .await
        .unwrap()
}

async fn desk(database: &TestDatabase, vault: &Vault) -> Arc<Desk> {
    let variables = [("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing")];
    let source = Source::from_values(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let config = Config::from_source(source).unwrap();
    let settings = DeskSettings {
        worker: WorkerId::generate(),
        sessions: config.sessions,
        telegram: config.telegram,
    };
    let (clock, bell) = (Arc::new(crate::clock::SystemClock), Arc::new(Notify::new()));
    Desk::start(database.pool().clone(), vault.clone(), clock, settings, bell)
        .await
        .unwrap()
}

#[tokio::test]
async fn what_no_worker_can_open_ends_and_says_which_key_it_wants() {
    let database = TestDatabase::new().await;
    let (lost, _) = vault(&["k1"]);
    let (session, errand) = begun(&database, &lost).await;
    let mut conn = database.pool().acquire().await.unwrap();
    sqlx::query("UPDATE sessions SET state = 'code_needed'")
        .execute(&mut *conn)
        .await
        .unwrap();
    // The key is gone for good; a worker with another one does the housekeeping.
    sqlx::query("DELETE FROM vault_keys").execute(&mut *conn).await.unwrap();
    let (other, _) = vault(&["k2"]);
    verify_master_keys(database.pool(), &other).await.unwrap();
    let desk = desk(&database, &other).await;
    desk.tidy().await.unwrap();
    assert!(
        errands::live(&mut conn, session).await.unwrap().is_some(),
        "it is not over yet"
    );
    let_it_expire(&database).await;
    desk.tidy().await.unwrap();
    let ended = errands::get(&mut conn, errand).await.unwrap().unwrap();
    assert_eq!(
        (ended.state, ended.problem, ended.reason.as_deref()),
        (
            ErrandState::Failed,
            Some(ErrandProblem::Expired),
            Some("NO_WORKER_WITH_KEY:k1")
        )
    );
    assert_eq!(
        state_of(&database, session).await,
        ("new".to_owned(), Some("LOGIN_EXPIRED".to_owned()))
    );
    desk.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn what_nobody_took_up_stands_in_nobodys_way() {
    let database = TestDatabase::new().await;
    let (vault, _) = vault(&["k1"]);
    let (session, errand) = begun(&database, &vault).await;
    let mut conn = database.pool().acquire().await.unwrap();
    let request = LoginRequest {
        label: "a",
        pool: None,
        application: None,
        proxy: None,
        task: Task::Qr,
        input: None,
    };
    let early = login_requests::begin_login(&mut conn, &request, ASKER).await.unwrap();
    assert_eq!(early, Begun::Busy { session });
    let_it_expire(&database).await;
    let late = login_requests::begin_login(&mut conn, &request, ASKER).await.unwrap();
    assert!(
        matches!(late, Begun::Now { session: same, .. } if same == session),
        "{late:?}"
    );
    let ended = errands::get(&mut conn, errand).await.unwrap().unwrap();
    assert_eq!(ended.problem, Some(ErrandProblem::Expired));

    // One that a worker holds is the worker's to end.
    let lease = Duration::from_mins(1);
    let held = errand_work::claim(&mut conn, WorkerId::generate(), &[], 1, lease)
        .await
        .unwrap();
    assert_eq!(held.len(), 1);
    let_it_expire(&database).await;
    assert_eq!(errand_upkeep::end_abandoned(&mut conn, None, 10).await.unwrap(), 0);

    // An errand that took its session out of use gives it back, to its jobs too.
    sqlx::raw_sql(
        "UPDATE errands SET state = 'failed', lease_until = '-infinity' WHERE state = 'working';
        UPDATE sessions SET state = 'limited', state_reason = 'PEER_FLOOD';
        INSERT INTO session_dcs (session_id, dc_id, ipv4, ipv6, auth_key_sealed, sealed_with)
            SELECT id, 2, '127.0.0.1:1', '[::1]:1', 'x', 'k1' FROM sessions",
    )
    .execute(&mut *conn)
    .await
    .unwrap();
    let delete = login_requests::begin_errand(&mut conn, session, Task::Delete, Some(b"{}"), None, ASKER);
    assert!(matches!(delete.await.unwrap(), Some(Begun::Now { .. })));
    sqlx::query("UPDATE sessions SET state = 'disabled', state_reason = 'DELETING'")
        .execute(&mut *conn)
        .await
        .unwrap();
    let_it_expire(&database).await;
    assert_eq!(errand_upkeep::end_abandoned(&mut conn, None, 10).await.unwrap(), 1);
    assert_eq!(
        state_of(&database, session).await,
        ("limited".to_owned(), Some("PEER_FLOOD".to_owned()))
    );
    let held_back: i64 = sqlx::query_scalar("SELECT count(*) FROM pauses")
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    assert_eq!(held_back, 0);
}

#[tokio::test]
async fn a_hash_that_was_changed_meanwhile_is_not_overwritten() {
    let database = TestDatabase::new().await;
    let (vault, _) = vault(&["k1"]);
    let id = ApplicationId::generate();
    let (key_id, slot) = vault.slot().unwrap();
    let seal = |hash: &[u8]| Sealed {
        key_id: key_id.to_owned(),
        bytes: slot.seal(&applications::hash_owner(id), hash).unwrap(),
    };
    let (read, changed) = (seal(b"old"), seal(b"new"));
    let mut conn = database.pool().acquire().await.unwrap();
    assert!(applications::insert(&mut conn, id, "mine", 7, &read).await.unwrap());
    applications::set_hash(&mut conn, id, &changed).await.unwrap();
    assert!(!applications::reseal(&mut conn, id, &read, &seal(b"old")).await.unwrap());
    let kept = applications::sealed(&mut conn, id).await.unwrap().unwrap();
    assert_eq!(kept.hash, changed);
    assert!(
        applications::reseal(&mut conn, id, &changed, &seal(b"new"))
            .await
            .unwrap()
    );
}

/// Held by the compiler: what has a secret in it is wiped when it is dropped.
#[test]
fn secrets_are_wiped() {
    fn wiped<T: zeroize::ZeroizeOnDrop>() {}
    wiped::<Secret>();
    wiped::<errands::Portable>();
    wiped::<progress::Progress>();
    wiped::<AuthKey>();
    let mut progress = progress::Progress::default();
    progress.set_phone(&Secret::new("+9996620001"));
    let shown = format!("{:?}", Secret::new("+9996620001"));
    assert!(!shown.contains("999"), "{shown}");
}

#[test]
fn a_fingerprint_tells_nothing_and_is_the_same_in_every_worker_with_the_key() {
    let (one, text) = vault(&["k1"]);
    let same = Vault::parse(&Secret::new(text)).unwrap();
    let of = |vault: &Vault, text: &str| vault.fingerprints(text);
    assert_eq!(of(&one, "phone:+9996620001"), of(&same, "phone:+9996620001"));
    assert_ne!(of(&one, "phone:+9996620001"), of(&one, "phone:+9996620002"));
    let (other, _) = vault(&["k1"]);
    assert_ne!(of(&one, "phone:+9996620001"), of(&other, "phone:+9996620001"));
}

#[tokio::test]
async fn a_login_that_was_stored_after_all_is_not_undone() {
    let database = TestDatabase::new().await;
    let (vault, _) = vault(&["k1"]);
    begun(&database, &vault).await;
    let mut conn = database.pool().acquire().await.unwrap();
    let ours = ["k1".to_owned()];
    let claimed = errand_work::claim(&mut conn, WorkerId::generate(), &ours, 1, Duration::from_mins(1)).await;
    // Without an application nothing is dialled.
    let desk = desk(&database, &vault).await;
    let mut run = Run::new(desk, claimed.unwrap().remove(0), Moment::now());
    run.progress.set_key(AuthKey::read(&[7; 256]).as_ref());
    for (state, undone) in [("done", false), ("failed", true)] {
        // Its commit was done, and the answer to it lost.
        run.authorised = true;
        sqlx::query("UPDATE errands SET state = $1")
            .bind(state)
            .execute(&mut *conn)
            .await
            .unwrap();
        run.undo().await;
        assert_eq!(run.authorised, !undone, "{state}");
    }
}

#[tokio::test]
async fn every_state_that_a_session_may_be_in_can_be_put_back() {
    let database = TestDatabase::new().await;
    let check: String = sqlx::query_scalar(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint
        WHERE conrelid = 'sessions'::regclass AND conname = 'sessions_state_check'",
    )
    .fetch_one(database.pool())
    .await
    .unwrap();
    let words: Vec<&str> = check.split('\'').skip(1).step_by(2).collect();
    assert!(words.contains(&"ready"), "{check}");
    for word in &words {
        let state = SessionState::parse(word).unwrap_or_else(|| panic!("{word} is not in SessionState::ALL"));
        assert_eq!(state.as_str(), *word);
    }
    assert_eq!(words.len(), SessionState::ALL.len());
}
