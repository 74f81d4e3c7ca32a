use std::sync::atomic::Ordering;

use poem::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{id_of, join};
use crate::{
    api::tests::bed::{TestApi, send},
    ids::JobId,
};

#[tokio::test]
async fn a_job_is_stored_and_shown() {
    let api = TestApi::new().await;
    let mut body = join();
    body["priority"] = json!(5);
    body["tags"] = json!(["launch", "a:b", "launch"]);
    body["max_attempts"] = json!(3);
    let answer = api.post_job(&body).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    let job = answer.json();
    let id = id_of(&job);
    assert_eq!(answer.header("location"), format!("/v1/jobs/{id}"));
    assert_eq!(answer.header("preference-applied"), "");
    assert_eq!(job["state"], "queued");
    assert_eq!(job["kind"], "join");
    assert_eq!(job["args"], json!({ "chat": "@reading_club" }));
    assert_eq!(job["pool"], "default");
    assert_eq!(job["priority"], 5);
    assert_eq!(job["tags"], json!(["launch", "a:b"]));
    assert_eq!(job["max_attempts"], 3);
    assert_eq!(job["wait_reason"]["code"], "pool_empty");
    for absent in [
        "session",
        "started_at",
        "finished_at",
        "worker",
        "progress",
        "result",
        "error",
        "deadline",
    ] {
        assert_eq!(job.get(absent), Some(&Value::Null), "{absent}");
    }
    assert_eq!(api.signals.enqueued.load(Ordering::SeqCst), 1);
    assert_eq!(api.get(&format!("/v1/jobs/{id}")).await.json(), job);

    let (actor, subject): (String, String) =
        sqlx::query_as("SELECT actor, subject FROM audit_log WHERE action = 'job.created'")
            .fetch_one(api.pool())
            .await
            .expect("an audit row");
    assert_eq!(subject, format!("job:{id}"));
    assert_eq!(job["created_by"], actor);
}

#[tokio::test]
async fn a_waiting_job_says_what_it_waits_for() {
    let api = TestApi::new().await;
    let id = id_of(&api.post_job(&join()).await.json());
    let job = format!("/v1/jobs/{id}");
    let reason = async || api.get(&job).await.json()["wait_reason"]["code"].clone();
    assert_eq!(reason().await, "pool_empty");
    let session = api.session("Anna", "disabled").await;
    assert_eq!(reason().await, "no_ready_session");
    api.execute("UPDATE sessions SET state = 'ready'").await;
    assert_eq!(reason().await, "no_worker");
    api.execute(
        "INSERT INTO session_leases (session_id, owner, fence, expires_at)
         SELECT id, gen_random_uuid(), 1, wireroom_now() + interval '1 minute' FROM sessions",
    )
    .await;
    assert_eq!(reason().await, Value::Null);
    assert_eq!(api.get(&format!("{job}/why")).await.json()["reason"]["code"], "queued");
    api.execute(
        "INSERT INTO gates (session_id, action, reason, opens_at)
         SELECT id, 'join', 'FLOOD_WAIT', wireroom_now() + interval '1 hour' FROM sessions",
    )
    .await;
    assert_eq!(reason().await, "gate_closed");
    let why = api.get(&format!("{job}/why")).await.json();
    assert!(why["reason"]["until"].is_string(), "{why}");
    assert_eq!(
        why["sessions"],
        json!({ "total": 1, "ready": 1, "held": 1, "open": 0, "opens_at": why["reason"]["until"] })
    );
    assert_eq!(
        api.get("/v1/jobs").await.json()["items"][0]["wait_reason"]["code"],
        "gate_closed"
    );
    let shown = api.get(&format!("/v1/sessions/{session}")).await.json();
    assert_eq!(shown["gates"][0]["action"], "join");
    assert_eq!(shown["gates"][0]["chat_id"], Value::Null);
}

#[tokio::test]
async fn a_page_is_stable_while_jobs_come_in() {
    let api = TestApi::new().await;
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(id_of(&api.post_job(&join()).await.json()));
    }
    api.finish(made[2]).await;
    let mut seen = Vec::new();
    let mut path = "/v1/jobs?limit=3".to_owned();
    loop {
        let page = api.get(&path).await.json();
        seen.extend(page["items"].as_array().expect("items").iter().map(id_of));
        api.post_job(&join()).await;
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        path = format!("/v1/jobs?limit=3&cursor={cursor}");
    }
    made.reverse();
    assert_eq!(seen, made);
}

#[tokio::test]
async fn lists_are_filtered_and_leave_the_text_of_messages_out() {
    let api = TestApi::new().await;
    let session = api.session("Anna", "ready").await;
    let mut publish = json!({
        "kind": "publish", "args": { "chat": "@reading_club", "text": "the parcel" }, "session": "Anna", "tags": ["t"],
    });
    let published = id_of(&api.post_job(&publish).await.json());
    let joined = id_of(&api.post_job(&join()).await.json());
    api.finish(joined).await;

    let list = async |query: String| {
        let answer = api.get(&format!("/v1/jobs{query}")).await;
        assert!(!answer.text.contains("the parcel"));
        let items = answer.json()["items"].clone();
        items.as_array().expect("items").iter().map(id_of).collect::<Vec<_>>()
    };
    assert_eq!(list(String::new()).await, [joined, published]);
    for (query, expected) in [
        ("?kind=publish".to_owned(), Some(published)),
        ("?kind=scan".to_owned(), None),
        ("?state=succeeded".to_owned(), Some(joined)),
        ("?state=queued".to_owned(), Some(published)),
        (format!("?session={session}"), Some(published)),
        ("?tag=t".to_owned(), Some(published)),
        ("?tag=u".to_owned(), None),
        ("?pool=other".to_owned(), None),
        ("?since=2999-01-01T00:00:00Z".to_owned(), None),
        ("?until=2001-01-01T00:00:00Z".to_owned(), None),
        ("?kind=join&until=2999-01-01T00:00:00%2B02:00".to_owned(), Some(joined)),
    ] {
        assert_eq!(list(query.clone()).await, Vec::from_iter(expected), "{query}");
    }
    publish["args"]["text"] = json!("the parcel");
    let whole = api.get(&format!("/v1/jobs/{published}")).await.json();
    assert_eq!(whole["args"]["text"], "the parcel");
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once_and_a_running_one_is_asked() {
    let api = TestApi::new().await;
    let cancel = async |id: JobId| send(api.request(Method::POST, &format!("/v1/jobs/{id}/cancel"))).await;
    let waiting = id_of(&api.post_job(&join()).await.json());
    let answer = cancel(waiting).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()["state"], "cancelled");
    assert_eq!(
        cancel(waiting).await.status,
        StatusCode::OK,
        "once more changes nothing"
    );

    let running = id_of(&api.post_job(&join()).await.json());
    api.execute("UPDATE jobs SET state = 'running'").await;
    let answer = cancel(running).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert!(answer.json()["cancel_requested_at"].is_string());
    assert_eq!(*api.signals.cancelled.lock().expect("the list"), [running]);
    assert_eq!(
        api.get(&format!("/v1/jobs/{running}/why")).await.json()["reason"]["code"],
        "cancelling"
    );

    let ended = id_of(&api.post_job(&join()).await.json());
    api.finish(ended).await;
    cancel(ended).await.problem("job_finished");
    cancel(JobId::generate()).await.problem("job_not_found");
    let audited: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_log WHERE action = 'job.cancelled'")
        .fetch_one(api.pool())
        .await
        .expect("a count");
    assert_eq!(audited, 2);
}
