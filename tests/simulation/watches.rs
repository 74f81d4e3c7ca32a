//! Chats that are watched meanwhile: what is told of one is what was said in it from the watch's beginning on, in order, each
//! message once, without a hole however far it has come, and nothing after it was stopped.

use std::collections::{BTreeMap, HashMap};

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    act::id_of,
    bed::Bed,
    plan::{ACCOUNTS, PRIVATE_CHAT, WATCHED},
    settle::{BOUND, Quiet},
};
use crate::support::wait::INTERVAL;

/// Who writes where nobody's session does.
const WRITER: &str = "judy";

/// A monitor job that was asked for, and what it watches.
pub struct Watched {
    pub job: Uuid,
    pub chat: &'static str,
    /// How many messages it had told of when it was over.
    pub told_at_the_end: Option<usize>,
}

#[derive(Debug, Clone)]
struct WatchRow {
    begun_after: i32,
    is_active: bool,
}

impl Bed {
    pub async fn watch(&mut self, chat: &'static str, session: usize) {
        let label = ACCOUNTS[session].0;
        let backups: Vec<&str> = ACCOUNTS
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| *name != label)
            .collect();
        let body = json!({
            "kind": "monitor", "session": label,
            "args": { "chat": chat, "backups": backups, "failover": { "delay_seconds": 1, "tries": 1 } },
        });
        let job = id_of(&self.expect(Method::POST, "/v1/jobs", Some(&body), &[202]).await);
        self.model.acknowledged.insert(job);
        self.model.watches.push(Watched {
            job,
            chat,
            told_at_the_end: None,
        });
    }

    /// Somebody writes, whom no session belongs to.
    pub fn say(&mut self, chat: &'static str, count: usize) {
        let first = self.model.said;
        self.model.said += count;
        self.sandbox.controls().with_world(|world| {
            let (who, chat) = (world.find_peer(WRITER), world.find_peer(chat));
            let (Some(wireroom::sandbox::world::PeerKey::User(who)), Some(chat)) = (who, chat) else {
                panic!("the sandbox has them")
            };
            for number in first..first + count {
                world.post_as(who, chat, &format!("Said {number}")).expect("posted");
            }
        });
    }

    pub async fn switch_watch(&mut self, number: usize, session: usize) {
        let path = format!("/v1/watches/{}/switch", self.model.watches[number].job);
        let body = json!({ "session": ACCOUNTS[session].0 });
        // 404: it has not begun, or found the chat watched. 409: it is over.
        self.expect(Method::POST, &path, Some(&body), &[200, 202, 404, 409])
            .await;
    }

    pub async fn stop_watch(&mut self, number: usize) {
        let job = self.model.watches[number].job;
        let path = format!("/v1/watches/{job}/stop");
        let (status, answer) = self.call(Method::POST, &path, None, None).await;
        match status {
            // From the answer on.
            200 => {
                let told = told(&self.pool).await.remove(&job).unwrap_or_default().len();
                self.model.watches[number].told_at_the_end.get_or_insert(told);
            }
            404 => {
                let path = format!("/v1/jobs/{job}/cancel");
                self.expect(Method::POST, &path, None, &[200, 202, 409]).await;
            }
            _ => assert_eq!(status, 409, "{answer}"),
        }
    }

    /// A session sees the chat no more, or sees it again.
    pub fn put_out(&self, session: usize) {
        let account = self.sessions[session].account_id;
        self.sandbox.controls().with_world(|world| {
            let chat = world.find_peer(PRIVATE_CHAT).expect("the chat");
            // Who is out already stays out.
            let _ = world.ban(chat, account);
        });
    }

    pub fn let_in(&self, session: usize) {
        let account = self.sessions[session].account_id;
        self.sandbox.controls().with_world(|world| {
            let chat = world.find_peer(PRIVATE_CHAT).expect("the chat");
            world.put_in(chat, account).expect("let in");
        });
    }

    /// The numbers of the messages in a chat that somebody wrote, in order.
    fn written(&self, chat: &str) -> Vec<i32> {
        self.sandbox.controls().with_world(|world| {
            let chat = world.find_peer(chat).expect("the chat");
            let messages = world.messages_of(chat).into_iter();
            let mut ids: Vec<i32> = messages
                .filter(|message| !message.text.is_empty())
                .map(|message| message.id)
                .collect();
            ids.sort_unstable();
            ids
        })
    }

    /// What a watch is to tell in the end, and what it has told.
    fn both(&self, watched: &Watched, row: &WatchRow, told: &BTreeMap<Uuid, Vec<i32>>) -> (Vec<i32>, Vec<i32>) {
        let mut written = self.written(watched.chat);
        written.retain(|id| *id > row.begun_after);
        (written, told.get(&watched.job).cloned().unwrap_or_default())
    }

    /// How many messages all watches told of.
    pub async fn told(&self) -> usize {
        told(&self.pool).await.values().map(Vec::len).sum()
    }

    pub async fn check_watches(&mut self) {
        // First what was told: what is written meanwhile may be told later.
        let (told, rows) = (told(&self.pool).await, rows(&self.pool).await);
        let mut ended = Vec::new();
        for (number, watched) in self.model.watches.iter().enumerate() {
            let Some(row) = rows.get(&watched.job) else {
                assert!(!told.contains_key(&watched.job), "no watch of {} tells", watched.job);
                continue;
            };
            let (written, told) = self.both(watched, row, &told);
            assert!(
                written.starts_with(&told),
                "watch {} of {} from {} on told {told:?}, and these were written: {written:?}",
                watched.job,
                watched.chat,
                row.begun_after
            );
            match watched.told_at_the_end {
                Some(count) => assert_eq!(told.len(), count, "watch {} goes on after its end", watched.job),
                None if row.is_active => {}
                // The next looks hold it to this one.
                None => ended.push((number, told.len())),
            }
        }
        for (number, count) in ended {
            self.model.watches[number].told_at_the_end = Some(count);
        }
    }

    /// Every watch that goes on has told all that was written; then it is stopped.
    pub async fn watches_catch_up(&mut self) {
        for session in 0..ACCOUNTS.len() {
            self.let_in(session);
        }
        for chat in WATCHED {
            self.say(chat, 3);
        }
        let (begun, mut quiet) = (Instant::now(), Quiet::default());
        loop {
            let (told, rows) = (told(&self.pool).await, rows(&self.pool).await);
            let active = |watched: &&Watched| rows.get(&watched.job).is_some_and(|row| row.is_active);
            let behind: Vec<String> = self
                .model
                .watches
                .iter()
                .filter(active)
                .filter_map(|watched| {
                    let (written, told) = self.both(watched, &rows[&watched.job], &told);
                    let left = written.len() - told.len().min(written.len());
                    (left > 0).then(|| format!("{} of {}: {left} of {}", watched.job, watched.chat, written.len()))
                })
                .collect();
            if behind.is_empty() {
                break;
            }
            assert!(
                begun.elapsed() < BOUND,
                "watches do not catch up within {BOUND:?} of the last fault: {behind:?}\n{}",
                self.why_all().await
            );
            let told: usize = told.values().map(Vec::len).sum();
            self.leap_when_quiet(&mut quiet, told).await;
            tokio::time::sleep(INTERVAL).await;
        }
        for number in 0..self.model.watches.len() {
            self.stop_watch(number).await;
        }
    }
}

/// The numbers of the messages that each watch told of, in the order of the events.
async fn told(pool: &PgPool) -> BTreeMap<Uuid, Vec<i32>> {
    let rows: Vec<(Uuid, i32)> = sqlx::query_as(
        "SELECT (data ->> 'watch')::uuid, (data -> 'message' ->> 'id')::int FROM events WHERE type = 'message.new' ORDER BY id",
    )
    .fetch_all(pool)
    .await
    .expect("events");
    let mut told: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
    for (watch, message) in rows {
        told.entry(watch).or_default().push(message);
    }
    told
}

async fn rows(pool: &PgPool) -> HashMap<Uuid, WatchRow> {
    let rows: Vec<(Uuid, i32, bool)> = sqlx::query_as("SELECT id, begun_after, state = 'active' FROM watches")
        .fetch_all(pool)
        .await
        .expect("watches");
    let rows = rows.into_iter().map(|(id, begun_after, is_active)| {
        let row = WatchRow { begun_after, is_active };
        (id, row)
    });
    rows.collect()
}
