//! A deploy: the previous release's processes run on while the schema becomes this one's, and beside this release's after it.
//! Run by `.ci/previous`, which builds the previous release and names its program in `PREVIOUS_WIREROOM`, and its source in
//! `PREVIOUS_SOURCE`.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wireroom::cluster::testing::NO_CAPS;

use crate::support::{
    process::Process,
    stack::{JOB_BOUND, Options, Program, START_BOUND, Stack},
    wait::eventually,
};

const CHAT: &str = "@harbour_market";

/// A client that publishes one text after the other through one API, each when the one before has its result.
struct Load {
    /// Texts that were sent, as the results say.
    done: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Load {
    fn start(stack: &Stack, name: &'static str, api: SocketAddr) -> Self {
        let (client, key) = stack.client();
        let done = Arc::new(Mutex::new(Vec::new()));
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (done, stop) = (done.clone(), stop.clone());
            async move {
                for number in 0.. {
                    if stop.is_cancelled() {
                        return;
                    }
                    let text = format!("{name} {number}");
                    publish(&client, &key, api, &text).await;
                    done.lock().expect("not poisoned").push(text);
                }
            }
        });
        Self { done, stop, task }
    }

    fn count(&self) -> usize {
        self.done.lock().expect("not poisoned").len()
    }

    /// Waits until `more` jobs have succeeded from now on.
    async fn goes_on(&self, more: usize) {
        let wanted = self.count() + more;
        eventually(JOB_BOUND, async || {
            assert!(!self.task.is_finished(), "the client ended by itself");
            let count = self.count();
            if count >= wanted { Ok(()) } else { Err(count) }
        })
        .await;
    }

    /// Ends it after the job under way; what it has published.
    async fn end(self) -> Vec<String> {
        self.stop.cancel();
        self.task.await.expect("every job succeeded");
        Arc::into_inner(self.done)
            .expect("its task has ended")
            .into_inner()
            .expect("not poisoned")
    }
}

/// Posts a job through the API at `api` and waits for its success.
async fn publish(client: &Client, key: &str, api: SocketAddr, text: &str) {
    let request = client.post(format!("http://{api}/v1/jobs")).bearer_auth(key);
    let body = json!({ "kind": "publish", "args": { "chat": CHAT, "text": text } });
    let response = request.json(&body).send().await.expect("answered");
    let status = response.status();
    let job: Value = response.json().await.expect("JSON");
    assert_eq!(status, StatusCode::ACCEPTED, "{job}");
    let id = job["id"].as_str().expect("an id").to_owned();
    eventually(JOB_BOUND, async || {
        let request = client.get(format!("http://{api}/v1/jobs/{id}")).bearer_auth(key);
        let job: Value = request.send().await.expect("answered").json().await.expect("JSON");
        if job["finished_at"].is_string() {
            assert_eq!(job["state"], "succeeded", "{job}");
            Ok(())
        } else {
            Err(job)
        }
    })
    .await;
}

fn previous_release() -> Program {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is set by .ci/previous"));
    let example = format!("{}/.env.example", variable("PREVIOUS_SOURCE"));
    let known = std::fs::read_to_string(&example).unwrap_or_else(|error| panic!("{example}: {error}"));
    Program::other(variable("PREVIOUS_WIREROOM"), known)
}

/// Waits until `count` workers each have succeeded with a job that was enqueued from now on.
async fn share_the_work(stack: &Stack, count: i64) {
    let since: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("SELECT wireroom_now()")
        .fetch_one(stack.database.pool())
        .await
        .expect("answered");
    eventually(JOB_BOUND, async || {
        let workers: i64 = sqlx::query_scalar(
            "SELECT count(DISTINCT worker_id) FROM finished_jobs WHERE state = 'succeeded' AND created_at > $1",
        )
        .bind(since)
        .fetch_one(stack.database.pool())
        .await
        .expect("answered");
        if workers == count { Ok(()) } else { Err(workers) }
    })
    .await;
}

async fn exits_cleanly(mut process: Process) {
    process.terminate();
    let status = process.wait_for_end(START_BOUND).await;
    assert!(status.success(), "{status}: {}", process.output());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by .ci/previous"]
async fn the_previous_release_runs_on_while_this_one_is_deployed() {
    let previous = previous_release();
    let accounts = vec!["alice", "bob"];
    let program = Some(previous.clone());
    let options = Options {
        accounts,
        program,
        ..Options::default()
    };
    let mut stack = Stack::with(options).await;
    let knows_marks = stack.figure(MARKS_TABLE).await == 1;
    let old_worker = stack.worker().await;
    for session in stack.get("/v1/sessions").await["items"].as_array().expect("a list") {
        let id = stack
            .post_job(json!({ "kind": "join", "args": { "chat": CHAT }, "session": session["id"] }))
            .await;
        assert_eq!(stack.finished(&id).await["state"], "succeeded");
    }
    let schedule = stack.schedule_each_second(CHAT).await;
    let old_load = Load::start(&stack, "old", stack.api_addr);
    old_load.goes_on(5).await;
    stack.ticks_go_on(2).await;

    // The schema changes under both of them.
    stack.upgrade();
    let output = stack.command(&["migrate"]).await;
    sqlx::raw_sql(NO_CAPS)
        .execute(stack.database.pool())
        .await
        .expect("no caps");
    let migrated = !output.contains("; 0 migration(s)");
    old_load.goes_on(10).await;
    stack.ticks_go_on(2).await;

    // Both releases beside each other: each takes jobs of the other's API.
    let new_worker = stack.worker().await;
    let old_api = stack.replace_api().await;
    let new_load = Load::start(&stack, "new", stack.api_addr);
    share_the_work(&stack, 2).await;
    old_load.goes_on(5).await;
    new_load.goes_on(5).await;
    stack.ticks_go_on(2).await;

    // The old ones go.
    let mut texts = old_load.end().await;
    exits_cleanly(old_worker).await;
    exits_cleanly(old_api).await;
    new_load.goes_on(5).await;
    stack.ticks_go_on(2).await;
    if migrated {
        roll_back(&stack, &previous, knows_marks).await;
    }
    texts.extend(new_load.end().await);

    stack.end_of_each_second(&schedule).await;
    let twice = "SELECT count(*) FROM (SELECT id FROM finished_jobs GROUP BY id HAVING count(*) > 1) d";
    assert_eq!(stack.figure(twice).await, 0, "a job has two results");
    for text in &texts {
        assert_eq!(stack.count_messages("harbour_market", text), 1, "{text}");
    }
    eventually(JOB_BOUND, async || {
        match stack.figure("SELECT count(*) FROM jobs").await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    let failed = "SELECT count(*) FROM finished_jobs WHERE state <> 'succeeded'";
    assert_eq!(stack.figure(failed).await, 0);
    exits_cleanly(new_worker).await;
    stack.finish().await;
}

const MARKS_TABLE: &str = "SELECT count(*) FROM pg_class WHERE relname = 'schema_compatibility'";

/// The previous release, started again on the new schema: it runs when this release says that it may, and says so once; one
/// from before such marks refuses.
async fn roll_back(stack: &Stack, previous: &Program, knows_marks: bool) {
    let mut worker = previous.start(&["worker"], stack.variables());
    if knows_marks {
        worker.wait_for_line("worker is ready", START_BOUND).await;
        let warnings = worker.output().matches("migrated by a newer release").count();
        assert_eq!(warnings, 1, "{}", worker.output());
        share_the_work(stack, 2).await;
        exits_cleanly(worker).await;
    } else {
        let status = worker.wait_for_end(START_BOUND).await;
        assert!(
            !status.success() && worker.output().contains("newer Wireroom"),
            "{}",
            worker.output()
        );
    }
}
