//! Workers that are killed at every step of reading a chat: each message once, in order.

use super::*;
use crate::support::{
    process::Process,
    stack::{Options, Stack},
};

/// How many messages are written around each kill.
const EACH: usize = 20;
const DIFFERENCE: &str = "updates.getChannelDifference";

/// A worker that reads the scene's chat, and what was written there so far.
struct Reader<'a> {
    stack: &'a Stack,
    scene: Scene<'a>,
    worker: Process,
    texts: Vec<String>,
}

impl Reader<'_> {
    fn write(&mut self) {
        let from = self.texts.len();
        let more = (from + 1..=from + EACH).map(|number| format!("message {number}"));
        let more: Vec<String> = more.collect();
        self.scene.post_all(more.clone());
        self.texts.extend(more);
    }

    async fn stored(&self) -> usize {
        usize::try_from(self.scene.figure("SELECT count(*) FROM messages").await).expect("a count")
    }

    async fn kill(&mut self) {
        self.worker.kill();
        self.worker.wait_for_end(BOUND).await;
        self.stack.sandbox.controls().clear_faults();
    }

    /// Starts another worker.
    async fn start(&mut self) {
        self.worker = self.stack.worker().await;
    }

    async fn caught_up(&self) {
        self.scene.told_in_order(&self.texts).await;
    }

    /// Loses an update, so that the next one shows that there is something to fetch.
    fn leave_a_gap(&mut self) {
        self.scene.lose_updates(Some(1));
        self.write();
    }

    async fn called(&self, method: &str, before: u64) {
        until("called", async || (self.stack.calls(method) > before).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_step_each_message_is_told_once_and_in_order() {
    let stack = Stack::with(Options::default()).await;
    let pool = stack.database.pool().clone();
    let session: SessionId = sqlx::query_scalar("SELECT id FROM sessions")
        .fetch_one(&pool)
        .await
        .expect("one session");
    let worker = stack.worker().await;
    let scene = Scene::begin(pool.clone(), &stack.sandbox, stack.account("alice"), session).await;
    scene.watch().await;
    let mut reader = Reader {
        stack: &stack,
        scene,
        worker,
        texts: Vec::new(),
    };

    // Between a commit and the next read, with more to come.
    reader.write();
    until("some are stored", async || (reader.stored().await > 0).then_some(())).await;
    reader.kill().await;
    reader.start().await;
    reader.caught_up().await;

    // Before the commit: its watch is locked.
    let mut lock = pool.begin().await.expect("begun");
    sqlx::query("SELECT FROM watches FOR UPDATE")
        .execute(&mut *lock)
        .await
        .expect("locked");
    reader.write();
    until("the worker waits", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%lock_watches%'";
        (reader.scene.figure(waiting).await > 0).then_some(())
    })
    .await;
    let before = reader.stored().await;
    reader.kill().await;
    lock.rollback().await.expect("let go");
    assert_eq!(reader.stored().await, before, "nothing was committed");
    reader.start().await;
    reader.caught_up().await;

    // While a difference is fetched.
    let calls = stack.calls(DIFFERENCE);
    stack.fault(Fault::once(DIFFERENCE, Effect::Delay { ms: 60_000 }).forever());
    reader.leave_a_gap();
    reader.called(DIFFERENCE, calls).await;
    reader.kill().await;
    reader.start().await;
    reader.caught_up().await;

    // While it catches up after a start.
    let calls = stack.calls("updates.getDifference");
    reader.kill().await;
    reader.write();
    stack.fault(Fault::once("updates.getDifference", Effect::Delay { ms: 60_000 }).forever());
    reader.start().await;
    reader.called("updates.getDifference", calls).await;
    reader.write();
    reader.kill().await;
    reader.start().await;
    reader.caught_up().await;

    // The connection is dropped in the midst of it, with the answer on its way.
    stack.fault(Fault::once(DIFFERENCE, Effect::DropAfter));
    reader.leave_a_gap();
    reader.caught_up().await;

    // Everything at once, again and again.
    for _ in 0..2 {
        reader.leave_a_gap();
        stack.sandbox.controls().drop_connections(None);
        reader.write();
        reader.kill().await;
        reader.start().await;
    }
    reader.caught_up().await;
    reader.worker.terminate();
    assert!(reader.worker.wait_for_end(BOUND).await.success());
    drop(reader);
    stack.finish().await;
}
