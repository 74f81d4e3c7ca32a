use poem::http::{Method, StatusCode};
use serde_json::{Value, json};
use wireroom_jobs::{
    monitor::{MessageFilter, WatchEvent},
    ports::{WatchBegun, WatchStart},
};

use crate::{
    api::tests::bed::{Answer, TestApi, send},
    ids::{JobId, SessionId},
    store::{attempt_data::AttemptKey, watches},
};

const CHAT: i64 = -1_000_000_000_001;
const ACCOUNT: i64 = 42;

struct Bed {
    api: TestApi,
    first: SessionId,
    second: SessionId,
}

impl Bed {
    async fn new() -> Self {
        let api = TestApi::new().await;
        let first = api.session("first", "ready").await;
        let second = api.session("second", "ready").await;
        Self { api, first, second }
    }

    async fn post(&self, path: &str, body: Option<Value>) -> Answer {
        let request = self.api.request(Method::POST, path);
        send(match body {
            Some(body) => request.body_json(&body),
            None => request,
        })
        .await
    }

    /// A monitor job that has begun; `None`: of private messages.
    async fn watch(&self, chat_id: Option<i64>) -> JobId {
        self.watch_of(chat_id, chat_id.map_or(ACCOUNT, |_| 0)).await
    }

    async fn watch_of(&self, chat_id: Option<i64>, owner: i64) -> JobId {
        let chat = chat_id.map_or_else(|| "private".to_owned(), |id| id.to_string());
        let body = json!({ "kind": "monitor", "session": "first", "args": { "chat": chat } });
        let job = self.api.post_job(&body).await.json();
        let id: JobId = job["id"].as_str().expect("an id").parse().expect("a job's id");
        let start = WatchStart {
            chat_id,
            owner,
            events: vec![WatchEvent::MessageNew],
            filter: MessageFilter::default(),
            retention_days: 30,
            newest: 7,
        };
        let mut conn = self.api.pool().acquire().await.expect("a connection");
        let attempt = AttemptKey { job: id, fence: 1 };
        let begun = watches::begin(&mut conn, attempt, self.first, &start)
            .await
            .expect("begun");
        assert!(matches!(begun, WatchBegun::Watching(_)));
        id
    }
}

#[tokio::test]
async fn watches_are_listed_and_shown() {
    let bed = Bed::new().await;
    let (chat, private) = (bed.watch(Some(CHAT)).await, bed.watch(None).await);
    let all = bed.api.get("/v1/watches?limit=1").await.json();
    assert_eq!(all["items"][0]["id"], json!(private));
    let cursor = all["next_cursor"].as_str().expect("one more");
    let rest = bed
        .api
        .get(&format!("/v1/watches?limit=1&cursor={cursor}"))
        .await
        .json();
    assert_eq!(
        (&rest["items"][0]["id"], &rest["next_cursor"]),
        (&json!(chat), &Value::Null)
    );
    let found = bed
        .api
        .get(&format!("/v1/watches?state=active&chat={CHAT}&session={}", bed.first))
        .await
        .json();
    assert_eq!(found["items"].as_array().map(Vec::len), Some(1), "{found}");
    let none = bed.api.get(&format!("/v1/watches?session={}", bed.second)).await.json();
    assert_eq!(none["items"], json!([]));
    let one = bed.api.get(&format!("/v1/watches/{chat}")).await.json();
    assert_eq!(
        (
            &one["state"],
            &one["filling"],
            &one["last_message_id"],
            &one["completeness"]["share"]
        ),
        (&json!("active"), &json!(true), &json!(7), &json!(1.0)),
        "{one}"
    );
    assert_eq!(bed.api.count("events WHERE type = 'watch.started'").await, 2);
}

#[tokio::test]
async fn what_is_asked_wrongly_is_named() {
    let bed = Bed::new().await;
    for (path, field) in [
        ("/v1/watches?state=gone", "state"),
        ("/v1/watches?session=first", "session"),
        ("/v1/watches?chat=club", "chat"),
        ("/v1/watches/first", "id"),
    ] {
        let problem = bed.api.get(path).await.problem("invalid_parameter");
        assert_eq!(problem["field"], field, "{path}");
    }
    let nobody = "/v1/watches/01890000-0000-7000-8000-000000000000";
    bed.api.get(nobody).await.problem("watch_not_found");
    bed.post(&format!("{nobody}/stop"), None)
        .await
        .problem("watch_not_found");
    let body = json!({ "session": "second" });
    bed.post(&format!("{nobody}/switch"), Some(body))
        .await
        .problem("watch_not_found");
}

#[tokio::test]
async fn a_watch_that_is_stopped_records_nothing_from_the_answer_on() {
    let bed = Bed::new().await;
    let id = bed.watch(Some(CHAT)).await;
    // As when a worker has it.
    bed.api.execute("UPDATE jobs SET state = 'running', fence = 1").await;
    let stopped = bed.post(&format!("/v1/watches/{id}/stop"), None).await;
    assert_eq!(stopped.status, StatusCode::OK, "{}", stopped.text);
    assert_eq!(stopped.json()["state"], "stopped");
    assert_eq!(bed.api.count("jobs WHERE cancel_requested_at IS NOT NULL").await, 1);
    assert_eq!(*bed.api.signals.cancelled.lock().expect("no panic"), [id]);
    let again = bed.post(&format!("/v1/watches/{id}/stop"), None).await.json();
    assert_eq!(again["state"], "stopped");
    assert_eq!(bed.api.count("events WHERE type = 'watch.stopped'").await, 1);
    // The chat may be watched anew.
    bed.watch(Some(CHAT)).await;
}

#[tokio::test]
async fn whatever_ends_the_job_stops_the_watch() {
    let bed = Bed::new().await;
    let id = bed.watch(Some(CHAT)).await;
    let cancelled = bed.post(&format!("/v1/jobs/{id}/cancel"), None).await;
    assert_eq!(cancelled.status, StatusCode::OK, "{}", cancelled.text);
    assert_eq!(
        bed.api.get(&format!("/v1/watches/{id}")).await.json()["state"],
        "stopped"
    );
    let id = bed.watch(Some(CHAT)).await;
    bed.api.finish(id).await;
    assert_eq!(
        bed.api.get(&format!("/v1/watches/{id}")).await.json()["state"],
        "stopped"
    );
}

#[tokio::test]
async fn a_watch_is_given_to_another_session() {
    let bed = Bed::new().await;
    let id = bed.watch(Some(CHAT)).await;
    bed.api
        .execute("UPDATE jobs SET state = 'running', fence = 1, session_fence = 1")
        .await;
    let path = format!("/v1/watches/{id}/switch");
    let problem = bed
        .post(&path, Some(json!({ "session": "third" })))
        .await
        .problem("unknown_session");
    assert_eq!(problem["field"], "session");
    let switched = bed.post(&path, Some(json!({ "session": "second" }))).await;
    assert_eq!(switched.status, StatusCode::ACCEPTED, "{}", switched.text);
    let view = switched.json();
    assert_eq!(
        (&view["session"], &view["next_session"]),
        (&json!(bed.first), &json!(bed.second))
    );
    assert_eq!(*bed.api.signals.cancelled.lock().expect("no panic"), [id]);
    // Under no lease that anybody has: it is found, should nobody tell the worker.
    assert_eq!(bed.api.count("jobs WHERE session_fence = 0 AND session_bound").await, 1);
    assert_eq!(bed.api.count("audit_log WHERE action = 'watch.switched'").await, 1);
    bed.post(&path, Some(json!({ "session": "second" }))).await;
    assert_eq!(
        bed.api.count("audit_log WHERE action = 'watch.switched'").await,
        1,
        "it was there"
    );
}

#[tokio::test]
async fn a_watch_that_ended_or_is_private_is_not_switched() {
    let bed = Bed::new().await;
    let body = || Some(json!({ "session": "second" }));
    let private = bed.watch(None).await;
    bed.post(&format!("/v1/watches/{private}/switch"), body())
        .await
        .problem("watch_not_switchable");
    let id = bed.watch(Some(CHAT)).await;
    bed.post(&format!("/v1/watches/{id}/stop"), None).await;
    bed.post(&format!("/v1/watches/{id}/switch"), body())
        .await
        .problem("watch_not_switchable");
}

#[tokio::test]
async fn private_messages_go_to_a_session_of_the_same_account_alone() {
    let bed = Bed::new().await;
    let id = bed.watch(None).await;
    let path = format!("/v1/watches/{id}/switch");
    let body = || Some(json!({ "session": "second" }));
    bed.api
        .execute("UPDATE sessions SET account_id = 43 WHERE label = 'second'")
        .await;
    let problem = bed.post(&path, body()).await.problem("watch_not_switchable");
    assert!(
        problem["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("account"))
    );
    bed.api
        .execute("UPDATE sessions SET account_id = 42 WHERE label = 'second'")
        .await;
    let switched = bed.post(&path, body()).await;
    assert_eq!(switched.status, StatusCode::ACCEPTED, "{}", switched.text);
    assert_eq!(switched.json()["next_session"], json!(bed.second));
}

#[tokio::test]
async fn a_bot_is_given_no_watch() {
    let bed = Bed::new().await;
    let id = bed.watch(Some(CHAT)).await;
    bed.api
        .execute("UPDATE sessions SET is_bot = true WHERE label = 'second'")
        .await;
    let job = |session: &str, backups: Value| json!({ "kind": "monitor", "session": session, "args": { "chat": "@reading_club", "backups": backups } });
    for (body, field) in [
        (job("second", json!([])), "session"),
        (job("first", json!(["second"])), "args.backups[0]"),
    ] {
        let problem = bed.api.post_job(&body).await.problem("session_is_bot");
        assert_eq!(problem["field"], field);
    }
    let schedule = json!({ "name": "nightly", "cron": "0 3 * * *", "job": job("second", json!([])) });
    let problem = bed
        .post("/v1/schedules", Some(schedule))
        .await
        .problem("session_is_bot");
    assert_eq!(problem["field"], "job.session");
    let path = format!("/v1/watches/{id}/switch");
    let problem = bed
        .post(&path, Some(json!({ "session": "second" })))
        .await
        .problem("session_is_bot");
    assert_eq!(problem["field"], "session");
    // Other kinds are a bot's as they were.
    let join = json!({ "kind": "join", "session": "second", "args": { "chat": "@reading_club" } });
    let taken = bed.api.post_job(&join).await;
    assert_eq!(taken.status, StatusCode::ACCEPTED, "{}", taken.text);
}

#[tokio::test]
async fn a_watch_of_a_pool_waits_for_a_persons_session() {
    let bed = Bed::new().await;
    let job = json!({ "kind": "monitor", "args": { "chat": "@reading_club" } });
    let id = bed.api.post_job(&job).await.json()["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let sessions = async || {
        let why = bed.api.get(&format!("/v1/jobs/{id}/why")).await;
        why.json()["sessions"]["total"].clone()
    };
    assert_eq!(sessions().await, 2);
    bed.api
        .execute("UPDATE sessions SET is_bot = true WHERE label = 'second'")
        .await;
    assert_eq!(sessions().await, 1, "a bot watches nothing");
}

#[tokio::test]
async fn backups_are_sessions_that_exist() {
    let bed = Bed::new().await;
    let job = |backups: Value| json!({ "kind": "monitor", "session": "first", "args": { "chat": "@reading_club", "backups": backups } });
    let refused = bed
        .api
        .post_job(&job(json!(["second", "third"])))
        .await
        .problem("unknown_session");
    assert_eq!(refused["field"], "args.backups[1]");
    let taken = bed.api.post_job(&job(json!(["second"]))).await;
    assert_eq!(taken.status, StatusCode::ACCEPTED, "{}", taken.text);
}
