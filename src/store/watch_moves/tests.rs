use serde_json::json;
use wireroom_jobs::{
    JobKind,
    monitor::{MessageFilter, WatchEvent},
    ports::{WatchBegun, WatchStart},
};

use super::*;
use crate::{
    cluster::testing::TestDatabase,
    store::{
        jobs::{self, NewJob},
        watches,
    },
};

const CHAT: i64 = -1_000_000_000_001;
const ONCE: FailoverArgs = FailoverArgs {
    delay_seconds: 0,
    tries: 1,
};

struct Bed {
    database: TestDatabase,
    sessions: Vec<SessionId>,
    attempt: AttemptKey,
}

impl Bed {
    /// A watch of the first of `sessions` that runs; the others are its backups, in that order.
    async fn new(sessions: usize) -> Self {
        let database = TestDatabase::new().await;
        let mut ids = Vec::new();
        for place in 0..sessions {
            let id = SessionId::generate();
            sqlx::query("INSERT INTO sessions (id, label, pool, state, state_reason, home_dc) VALUES ($1, $2, 'default', 'ready', 'x', 2)")
                .bind(id.0)
                .bind(format!("session{place}"))
                .execute(database.pool())
                .await
                .expect("a session");
            ids.push(id);
        }
        // By label and by id.
        let backups: Vec<String> = (1..sessions)
            .map(|place| {
                if place % 2 == 1 {
                    format!("session{place}")
                } else {
                    ids[place].to_string()
                }
            })
            .collect();
        let mut job = NewJob::new(
            JobKind::Monitor,
            json!({ "chat": CHAT.to_string(), "backups": backups }),
        );
        job.session = Some(ids[0]);
        let mut conn = database.pool().acquire().await.expect("a connection");
        jobs::enqueue(&mut conn, std::slice::from_ref(&job), std::time::Duration::ZERO)
            .await
            .expect("a job");
        let bed = Self {
            attempt: AttemptKey { job: job.id, fence: 1 },
            database,
            sessions: ids,
        };
        bed.run(0).await;
        bed
    }

    /// The job is claimed for that session, and begins.
    async fn run(&self, place: usize) -> WatchBegun {
        let mut conn = self.database.pool().acquire().await.expect("a connection");
        sqlx::query("UPDATE jobs SET state = 'running', fence = 1")
            .execute(&mut *conn)
            .await
            .expect("running");
        let start = WatchStart {
            chat_id: Some(CHAT),
            owner: 0,
            events: vec![WatchEvent::MessageNew],
            filter: MessageFilter::default(),
            retention_days: 30,
            newest: 7,
        };
        watches::begin(&mut conn, self.attempt, self.sessions[place], &start)
            .await
            .expect("begun")
    }

    async fn lose(&self, place: usize, failover: FailoverArgs) -> Failover {
        let mut conn = self.database.pool().acquire().await.expect("a connection");
        lose(
            &mut conn,
            self.attempt,
            self.sessions[place],
            "CHANNEL_PRIVATE",
            failover,
        )
        .await
        .expect("noted")
    }

    async fn session_of_job(&self) -> SessionId {
        sqlx::query_scalar("SELECT session_id FROM jobs")
            .fetch_one(self.database.pool())
            .await
            .expect("the job")
    }

    async fn count(&self, what: &'static str) -> i64 {
        sqlx::query_scalar(what)
            .fetch_one(self.database.pool())
            .await
            .expect("a count")
    }

    async fn execute(&self, statement: &'static str) {
        sqlx::query(statement)
            .execute(self.database.pool())
            .await
            .expect("done");
    }
}

#[tokio::test]
async fn the_list_is_gone_through_in_its_order_and_then_there_is_nobody() {
    let bed = Bed::new(3).await;
    assert_eq!(bed.lose(0, ONCE).await, Failover::Next);
    assert_eq!(bed.session_of_job().await, bed.sessions[1]);
    let WatchBegun::Watching(state) = bed.run(1).await else {
        panic!("the next one goes on");
    };
    assert!(
        state.filling && state.lost_reason.is_none() && state.last_message_id == 7,
        "{state:?}"
    );
    assert_eq!(bed.lose(1, ONCE).await, Failover::Next);
    assert_eq!(bed.session_of_job().await, bed.sessions[2]);
    bed.run(2).await;
    assert_eq!(bed.lose(2, ONCE).await, Failover::Exhausted);
    assert_eq!(
        bed.count("SELECT count(*) FROM watches WHERE state = 'exhausted'")
            .await,
        1
    );
    assert_eq!(
        bed.count("SELECT count(*) FROM events WHERE type = 'watch.access_lost'")
            .await,
        3
    );
    assert_eq!(
        bed.count("SELECT count(*) FROM events WHERE type = 'watch.switched'")
            .await,
        2
    );
    assert_eq!(
        bed.count("SELECT count(*) FROM events WHERE type = 'watch.exhausted'")
            .await,
        1
    );
}

#[tokio::test]
async fn a_watch_that_was_given_to_another_session_meanwhile_is_not_taken_from_it() {
    let bed = Bed::new(2).await;
    // By a switch: the one that runs cannot have heard of it.
    sqlx::query("UPDATE jobs SET session_id = $1")
        .bind(bed.sessions[1].0)
        .execute(bed.database.pool())
        .await
        .expect("given");
    assert_eq!(bed.lose(0, ONCE).await, Failover::Moved);
    assert_eq!(bed.session_of_job().await, bed.sessions[1]);
    let told = "SELECT (SELECT count(*) FROM watch_losses)
        + (SELECT count(*) FROM events WHERE type = 'watch.access_lost')";
    assert_eq!(bed.count(told).await, 0, "nothing is told or noted");
    assert_eq!(
        bed.count("SELECT count(*) FROM watches WHERE state = 'active'").await,
        1
    );
}

#[tokio::test]
async fn a_session_has_its_tries_and_one_event() {
    let bed = Bed::new(2).await;
    let thrice = FailoverArgs { tries: 3, ..ONCE };
    assert_eq!(bed.lose(0, thrice).await, Failover::Again);
    assert_eq!(bed.lose(0, thrice).await, Failover::Again);
    assert_eq!(bed.session_of_job().await, bed.sessions[0]);
    assert_eq!(bed.lose(0, thrice).await, Failover::Next);
    assert_eq!(
        bed.count("SELECT count(*) FROM events WHERE type = 'watch.access_lost'")
            .await,
        1
    );
}

#[tokio::test]
async fn a_loss_long_ago_does_not_count() {
    let bed = Bed::new(2).await;
    assert_eq!(bed.lose(0, ONCE).await, Failover::Next);
    bed.run(1).await;
    bed.execute("UPDATE watch_losses SET counts_until = counts_until - interval '1 hour'")
        .await;
    bed.execute("UPDATE jobs SET args = jsonb_set(args, '{backups}', '[\"session0\"]')")
        .await;
    assert_eq!(bed.lose(1, ONCE).await, Failover::Next);
    assert_eq!(bed.session_of_job().await, bed.sessions[0]);
}

#[tokio::test]
async fn a_watch_whose_session_is_lost_goes_to_none_that_lost_the_chat_within_its_own_time() {
    let bed = Bed::new(3).await;
    let patient = FailoverArgs {
        delay_seconds: 3_600,
        tries: 1,
    };
    assert_eq!(bed.lose(0, patient).await, Failover::Next);
    bed.run(1).await;
    // A quarter of an hour later: the first one's time is not over, since the list is gone through once an hour.
    bed.execute(
        "UPDATE watch_losses SET lost_at = lost_at - interval '15 minutes', counts_until = counts_until - interval '15 minutes'",
    )
    .await;
    bed.execute(
        "UPDATE jobs SET state = 'queued', args = jsonb_set(args, '{backups}', '[\"session0\", \"session2\"]')",
    )
    .await;
    bed.execute("UPDATE sessions SET state = 'banned' WHERE label = 'session1'")
        .await;
    let mut conn = bed.database.pool().acquire().await.expect("a connection");
    assert_eq!(leave_lost_sessions(&mut conn, 10).await.expect("looked").moved, 1);
    assert_eq!(bed.session_of_job().await, bed.sessions[2]);
}

#[tokio::test]
async fn a_backup_that_cannot_be_used_is_left_out() {
    let bed = Bed::new(3).await;
    bed.execute("UPDATE sessions SET state = 'banned' WHERE label = 'session1'")
        .await;
    assert_eq!(bed.lose(0, ONCE).await, Failover::Next);
    assert_eq!(bed.session_of_job().await, bed.sessions[2]);
}

#[tokio::test]
async fn a_watch_leaves_a_session_that_is_lost() {
    let bed = Bed::new(2).await;
    bed.execute("UPDATE jobs SET state = 'queued'").await;
    let mut conn = bed.database.pool().acquire().await.expect("a connection");
    assert_eq!(
        leave_lost_sessions(&mut conn, 10).await.expect("looked"),
        Left::default()
    );
    bed.execute("UPDATE sessions SET state = 'banned', state_reason = 'USER_DEACTIVATED_BAN' WHERE label = 'session0'")
        .await;
    let left = leave_lost_sessions(&mut conn, 10).await.expect("looked");
    assert_eq!((left.moved, left.ended.len()), (1, 0));
    assert_eq!(bed.session_of_job().await, bed.sessions[1]);
    bed.execute("UPDATE sessions SET state = 'disabled' WHERE label = 'session1'")
        .await;
    assert_eq!(
        leave_lost_sessions(&mut conn, 10).await.expect("looked"),
        Left::default(),
        "it may come back"
    );
    bed.execute("UPDATE sessions SET state = 'logged_out' WHERE label = 'session1'")
        .await;
    let left = leave_lost_sessions(&mut conn, 10).await.expect("looked");
    assert_eq!(left.ended, [bed.attempt.job]);
    assert_eq!(
        bed.count("SELECT count(*) FROM finished_jobs WHERE error ->> 'code' = 'exhausted'")
            .await,
        1
    );
    assert_eq!(
        bed.count("SELECT count(*) FROM watches WHERE state = 'exhausted'")
            .await,
        1
    );
    assert_eq!(bed.count("SELECT count(*) FROM watch_losses").await, 0);
}

#[tokio::test]
async fn a_watch_outlives_its_session_and_keeps_its_place() {
    let bed = Bed::new(2).await;
    bed.execute("UPDATE jobs SET state = 'queued'").await;
    bed.execute("UPDATE sessions SET state = 'banned' WHERE label = 'session0'")
        .await;
    let mut conn = bed.database.pool().acquire().await.expect("a connection");
    assert_eq!(leave_lost_sessions(&mut conn, 10).await.expect("looked").moved, 1);
    bed.execute("DELETE FROM sessions WHERE label = 'session0'").await;
    let WatchBegun::Watching(state) = bed.run(1).await else {
        panic!("the next one goes on");
    };
    assert!(state.filling && state.last_message_id == 7, "{state:?}");
}

#[tokio::test]
async fn what_one_session_was_told_while_it_read_is_not_held_against_what_the_next_one_reads() {
    let bed = Bed::new(2).await;
    bed.execute("INSERT INTO watch_changes (watch_id, message_id, deleted) SELECT id, 9, true FROM watches")
        .await;
    bed.run(0).await;
    assert_eq!(
        bed.count("SELECT count(*) FROM watch_changes").await,
        1,
        "it goes on where it was"
    );
    assert_eq!(bed.lose(0, ONCE).await, Failover::Next);
    bed.run(1).await;
    assert_eq!(bed.count("SELECT count(*) FROM watch_changes").await, 0);
}

#[tokio::test]
async fn what_exists_is_looked_for_once() {
    let bed = Bed::new(1).await;
    bed.execute(
        "INSERT INTO messages (chat_id, owner, message_id, watch_id, session_id, date, digest, from_history, expires_at)
         SELECT w.chat_id, 0, n, w.id, w.session_id, now(), 0, false, 'infinity' FROM watches w, unnest(ARRAY[8, 10]) n",
    )
    .await;
    bed.execute("UPDATE watches SET filling = false, last_message_id = 10")
        .await;
    let mut conn = bed.database.pool().acquire().await.expect("a connection");
    let counted = async || bed.count("SELECT checked * 100 + missed FROM watches").await;
    // 6 and 7 are from before the watch, 11 is on its way.
    watches::check(&mut conn, bed.attempt.job, &[11, 10, 9, 8, 7, 6])
        .await
        .expect("looked");
    assert_eq!(counted().await, 301);
    watches::check(&mut conn, bed.attempt.job, &[11, 10, 9, 8, 7, 6])
        .await
        .expect("looked");
    assert_eq!(counted().await, 301, "once each");
}

#[tokio::test]
async fn what_comes_in_while_the_check_waits_is_not_missed() {
    let bed = Bed::new(1).await;
    bed.execute("UPDATE watches SET filling = false").await;
    let mut intake = bed.database.pool().begin().await.expect("begun");
    sqlx::raw_sql(
        "INSERT INTO messages (chat_id, owner, message_id, watch_id, session_id, date, digest, from_history, expires_at)
         SELECT w.chat_id, 0, 8, w.id, w.session_id, now(), 0, false, 'infinity' FROM watches w;
         UPDATE watches SET last_message_id = 8",
    )
    .execute(&mut *intake)
    .await
    .expect("come in");
    let mut conn = bed.database.pool().acquire().await.expect("a connection");
    let check = watches::check(&mut conn, bed.attempt.job, &[8]);
    let let_go = async {
        waits_for_a_lock(&bed).await;
        intake.commit().await.expect("committed");
    };
    tokio::join!(check, let_go).0.expect("looked");
    let counted = "SELECT checked * 100 + missed FROM watches";
    assert_eq!(bed.count(counted).await, 100, "it is there");
}

/// Returns when somebody waits for another's lock.
async fn waits_for_a_lock(bed: &Bed) {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    for _ in 0..500 {
        if bed.count(waiting).await > 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("nobody waits");
}

#[tokio::test]
async fn a_chat_has_one_watch() {
    let bed = Bed::new(1).await;
    let other = AttemptKey {
        job: JobId::generate(),
        fence: 1,
    };
    let start = WatchStart {
        chat_id: Some(CHAT),
        owner: 0,
        events: vec![WatchEvent::MessageNew],
        filter: MessageFilter::default(),
        retention_days: 30,
        newest: 9,
    };
    let mut conn = bed.database.pool().acquire().await.expect("a connection");
    let begun = watches::begin(&mut conn, other, bed.sessions[0], &start)
        .await
        .expect("asked");
    assert_eq!(
        begun,
        WatchBegun::Other {
            watch: bed.attempt.job.0
        }
    );
    let private = WatchStart { chat_id: None, ..start };
    let begun = watches::begin(&mut conn, other, bed.sessions[0], &private)
        .await
        .expect("asked");
    assert!(
        matches!(begun, WatchBegun::Watching(_)),
        "private messages are another thing"
    );
}

#[tokio::test]
async fn the_private_messages_of_an_account_have_one_watch_whichever_session_begins() {
    let bed = Bed::new(3).await;
    bed.execute("DELETE FROM watches").await;
    let begin = async |job: JobId, place: usize, owner: i64| {
        let start = WatchStart {
            chat_id: None,
            owner,
            events: vec![WatchEvent::MessageNew],
            filter: MessageFilter::default(),
            retention_days: 30,
            newest: 9,
        };
        let mut transaction = bed.database.pool().begin().await.expect("begun");
        let attempt = AttemptKey { job, fence: 1 };
        let begun = watches::begin(&mut transaction, attempt, bed.sessions[place], &start)
            .await
            .expect("asked");
        transaction.commit().await.expect("committed");
        begun
    };
    let (first, second, other) = (JobId::generate(), JobId::generate(), JobId::generate());
    // Whoever is the first, the other one is told.
    let (one, two) = tokio::join!(begin(first, 0, 42), begin(second, 1, 42));
    let (watching, told) = match (one, two) {
        (WatchBegun::Watching(_), WatchBegun::Other { watch }) => (first, watch),
        (WatchBegun::Other { watch }, WatchBegun::Watching(_)) => (second, watch),
        both => panic!("one watches: {both:?}"),
    };
    assert_eq!(told, watching.0);
    assert!(
        matches!(begin(other, 2, 43).await, WatchBegun::Watching(_)),
        "of another account"
    );
    bed.execute("DELETE FROM watches WHERE owner = 43").await;
    // On the account's other session it goes on by the same numbers.
    let place = usize::from(watching == first);
    let WatchBegun::Watching(state) = begin(watching, place, 42).await else {
        panic!("it goes on");
    };
    assert!(
        state.filling && !state.renumbered && state.last_message_id == 9,
        "{state:?}"
    );
}

#[tokio::test]
async fn of_two_watches_of_one_accounts_private_messages_the_first_goes_on() {
    let bed = Bed::new(2).await;
    bed.execute("UPDATE watches SET chat_id = NULL, owner = 42").await;
    let later = AttemptKey {
        job: JobId::generate(),
        fence: 1,
    };
    // As the release before began it.
    sqlx::query(
        "INSERT INTO watches (id, session_id, owner, events, filter, retention_days) VALUES ($1, $2, 42, '{}', '{}', 30)",
    )
    .bind(later.job.0)
    .bind(bed.sessions[1].0)
    .execute(bed.database.pool())
    .await
    .expect("a second watch");
    let start = WatchStart {
        chat_id: None,
        owner: 42,
        events: vec![WatchEvent::MessageNew],
        filter: MessageFilter::default(),
        retention_days: 30,
        newest: 9,
    };
    let mut conn = bed.database.pool().acquire().await.expect("a connection");
    let begun = watches::begin(&mut conn, later, bed.sessions[1], &start)
        .await
        .expect("asked");
    assert_eq!(
        begun,
        WatchBegun::Other {
            watch: bed.attempt.job.0
        }
    );
    let begun = watches::begin(&mut conn, bed.attempt, bed.sessions[0], &start)
        .await
        .expect("asked");
    assert!(matches!(begun, WatchBegun::Watching(_)), "{begun:?}");
}
