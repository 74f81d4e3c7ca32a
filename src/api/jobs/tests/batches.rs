//! Batches: how they come in, what is refused and named how, and how they are counted to their end.

use std::{fmt::Write as _, io, sync::atomic::Ordering, time::Duration};

use futures::{StreamExt as _, future::join_all, stream};
use poem::{
    Body,
    http::{Method, StatusCode},
};
use serde_json::{Value, json};

use super::{join, with};
use crate::{
    api::tests::bed::{Answer, TestApi, send},
    ids::{BatchId, JobId},
    store::batches,
};

async fn post(api: &TestApi, body: &Value) -> Answer {
    send(api.request(Method::POST, "/v1/jobs/batch").body_json(body)).await
}

async fn post_text(api: &TestApi, media_type: &str, query: &str, body: String) -> Answer {
    let request = api
        .request(Method::POST, &format!("/v1/jobs/batch{query}"))
        .content_type(media_type)
        .body(body);
    send(request).await
}

async fn post_lines(api: &TestApi, query: &str, lines: String) -> Answer {
    post_text(api, "application/x-ndjson", query, lines).await
}

fn jobs(count: usize) -> Value {
    json!({ "jobs": vec![join(); count] })
}

fn ids(answer: &Answer) -> Vec<JobId> {
    let body = answer.json();
    let items = body["items"].as_array().expect("items").iter();
    items.filter_map(|item| item["job"].as_str()?.parse().ok()).collect()
}

async fn batch(api: &TestApi, created: &Answer) -> Value {
    let answer = api.get(created.header("location")).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    answer.json()
}

#[tokio::test]
async fn ten_thousand_jobs_are_one_batch_and_one_wake_up() {
    let api = TestApi::new().await;
    let answer = post(&api, &jobs(10_000)).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    let body = answer.json();
    assert_eq!(body["batch"]["total"], 10_000);
    assert_eq!(body["batch"]["counts"]["queued"], 10_000);
    assert_eq!(body["batch"]["state"], "running");
    let mut ids = ids(&answer);
    assert!(
        body["items"]
            .as_array()
            .expect("items")
            .iter()
            .enumerate()
            .all(|(index, item)| item["index"] == index && item["outcome"] == "created")
    );
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 10_000);
    assert_eq!(api.count("jobs").await, 10_000);
    assert_eq!(api.signals.enqueued.load(Ordering::SeqCst), 1, "one wake-up");
    assert_eq!(batch(&api, &answer).await, body["batch"]);
    assert_eq!(api.count("audit_log WHERE action = 'batch.created'").await, 1);

    // A worker's statement ends them all.
    api.execute(
        "WITH gone AS (DELETE FROM jobs RETURNING *)
        INSERT INTO finished_jobs (id, kind, args, state, lane, pool, priority, run_at, attempt, max_attempts, fence,
            finished_at, tags, created_at)
        SELECT id, kind, args, 'succeeded', lane, pool, priority, run_at, 1, max_attempts, 1, wireroom_now(), tags,
            created_at FROM gone",
    )
    .await;
    let done = batch(&api, &answer).await;
    assert_eq!(
        (&done["state"], &done["counts"]["succeeded"]),
        (&json!("finished"), &json!(10_000))
    );
    assert_eq!(api.count("events WHERE type = 'batch.finished'").await, 1);
    post(&api, &jobs(10_001)).await.problem("too_many_jobs");
    assert_eq!(api.count("jobs").await, 0);
}

#[tokio::test]
async fn lines_are_taken_as_they_come() {
    let api = TestApi::new().await;
    let mut lines = String::new();
    for priority in 0..2500 {
        writeln!(lines, "{}", with("priority", json!(priority % 100))).expect("a line");
    }
    let answer = post_lines(&api, "", lines).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    assert_eq!(answer.json()["batch"]["counts"]["queued"], 2500);
    assert_eq!(answer.json()["items"][2499]["line"], 2500);
    assert_eq!(api.count("jobs WHERE priority = 42").await, 25);
    let first = ids(&answer)[42];
    assert_eq!(api.get(&format!("/v1/jobs/{first}")).await.json()["priority"], 42);
}

#[tokio::test]
async fn all_or_nothing_stores_nothing_and_names_each_wrong_job() {
    let api = TestApi::new().await;
    let mut items = vec![join(); 1500];
    items[3] = with("priority", json!(101));
    items[1200] = with("pool", json!("nowhere"));
    items[1201] = json!("join");
    // The mode comes last, and is what counts all the same.
    let body = format!(r#"{{"jobs": {}, "mode": "all_or_nothing"}}"#, json!(items));
    let answer = post_text(&api, "application/json", "", body).await;
    let problem = answer.problem("batch_refused");
    let wrong: Vec<(&Value, &Value, &Value)> = problem["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| (&item["index"], &item["error"]["code"], &item["error"]["field"]))
        .collect();
    assert_eq!(
        wrong,
        [
            (&json!(3), &json!("invalid_value"), &json!("priority")),
            (&json!(1200), &json!("unknown_pool"), &json!("pool")),
            (&json!(1201), &json!("wrong_type"), &Value::Null),
        ]
    );
    for table in ["jobs", "batches", "events"] {
        assert_eq!(api.count(table).await, 0, "{table}");
    }
    assert_eq!(api.count("audit_log").await, 1, "of the key alone");
    assert_eq!(api.signals.enqueued.load(Ordering::SeqCst), 0, "nobody is woken");
}

#[tokio::test]
async fn per_item_stores_the_others_and_names_lines() {
    let api = TestApi::new().await;
    let secret = "the-parcel-is-under-the-bridge";
    let large = with("tags", json!(["x".repeat(1024 * 1024)]));
    let lines = format!(
        "{}\r\n\n{{\"kind\": \"{secret}\n{}\n  \n{large}\n{}",
        join(),
        with("run_at", json!("2001-01-01T00:00:00Z")),
        with("session", json!("nobody")),
    );
    let answer = post_lines(&api, "?mode=per_item", lines).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    assert!(!answer.text.contains(secret));
    let body = answer.json();
    let items: Vec<(&Value, &Value, &Value)> = body["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| (&item["line"], &item["outcome"], &item["error"]["code"]))
        .collect();
    let (created, refused) = (json!("created"), json!("refused"));
    assert_eq!(
        items,
        [
            (&json!(1), &created, &Value::Null),
            (&json!(3), &refused, &json!("invalid_json")),
            (&json!(4), &created, &Value::Null),
            (&json!(6), &refused, &json!("body_too_large")),
            (&json!(7), &refused, &json!("unknown_session")),
        ]
    );
    assert_eq!(body["batch"]["total"], 2);
    assert_eq!(body["batch"]["mode"], "per_item");
    assert_eq!(api.count("jobs WHERE batch_id IS NOT NULL").await, 2);
    let none = post_lines(&api, "?mode=per_item", "{}\n".to_owned()).await;
    none.problem("batch_refused");
    assert_eq!(api.count("batches").await, 1);
}

#[tokio::test]
async fn the_jobs_of_a_batch_are_listed_cancelled_and_retried_by_it() {
    let api = TestApi::new().await;
    let other = ids(&post(&api, &jobs(2)).await);
    let answer = post(&api, &jobs(5)).await;
    let mut mine = ids(&answer);
    let batch = answer.json()["batch"]["id"].as_str().expect("an id").to_owned();
    post(&api, &jobs(2)).await;
    api.finish(mine[1]).await;
    api.finish(other[0]).await;

    let first = api.get(&format!("/v1/jobs?batch={batch}&limit=3")).await.json();
    let cursor = first["next_cursor"].as_str().expect("there is more");
    let second = api
        .get(&format!("/v1/jobs?batch={batch}&limit=3&cursor={cursor}"))
        .await
        .json();
    assert_eq!(second["next_cursor"], Value::Null);
    let listed: Vec<JobId> = [first, second]
        .iter()
        .flat_map(|page| page["items"].as_array().expect("items"))
        .map(|job| job["id"].as_str().expect("an id").parse().expect("an id"))
        .collect();
    mine.reverse();
    assert_eq!(listed, mine, "all five, the latest first, the finished one among them");
    let finished = api.get(&format!("/v1/jobs?batch={batch}&state=succeeded")).await.json();
    assert_eq!(finished["items"].as_array().map(Vec::len), Some(1));
    let nobody = api.get(&format!("/v1/jobs?batch={}", BatchId::generate())).await.json();
    assert_eq!(nobody["items"], json!([]));
    assert_eq!(
        api.get("/v1/jobs?batch=7").await.problem("invalid_parameter")["field"],
        "batch"
    );

    let body = json!({ "filter": { "batch": batch } });
    let cancel = send(api.request(Method::POST, "/v1/jobs/bulk/cancel").body_json(&body)).await;
    assert_eq!(cancel.json()["cancelled"], 4, "{}", cancel.text);
    assert_eq!(api.count("jobs").await, 3, "those of the other batches");
    for dry_run in [true, false] {
        let body = json!({ "filter": { "batch": batch, "state": "cancelled" }, "dry_run": dry_run });
        let retry = send(api.request(Method::POST, "/v1/jobs/bulk/retry").body_json(&body)).await;
        assert_eq!(retry.json()["retried"], 4, "{}", retry.text);
    }
    let wrong = json!({ "filter": { "batch": "7" } });
    let answer = send(api.request(Method::POST, "/v1/jobs/bulk/cancel").body_json(&wrong)).await;
    assert_eq!(answer.problem("invalid_value")["field"], "filter.batch");
}

#[tokio::test]
async fn a_body_of_another_shape_is_refused() {
    let api = TestApi::new().await;
    for (body, code, field) in [
        ("[]", "wrong_type", ""),
        ("{}", "missing_field", "jobs"),
        (r#"{"jobs": {}}"#, "wrong_type", "jobs"),
        (r#"{"jobs": []}"#, "invalid_value", "jobs"),
        (r#"{"jobs": [], "jobs": []}"#, "invalid_value", "jobs"),
        (r#"{"jobs": [], "mod": 1}"#, "unknown_field", "mod"),
        (r#"{"jobs": [], "+9996620001": 1}"#, "unknown_field", ""),
        (r#"{"jobs": [], "mode": "some"}"#, "invalid_value", "mode"),
        (r#"{"jobs": [], "mode": 1}"#, "wrong_type", "mode"),
        (r#"{"jobs": ["#, "invalid_json", ""),
        (r#"{"jobs": []} x"#, "invalid_json", ""),
        ("", "invalid_json", ""),
    ] {
        let problem = post_text(&api, "application/json", "", body.to_owned())
            .await
            .problem(code);
        assert_eq!(
            problem["field"].as_str().unwrap_or_default(),
            field,
            "{body}: {problem}"
        );
    }
    post_lines(&api, "", "\n \n".to_owned()).await.problem("invalid_value");
    post_lines(&api, "?mode=some", format!("{}\n", join()))
        .await
        .problem("invalid_parameter");
    let text = post_text(&api, "text/plain", "", join().to_string()).await;
    text.problem("unsupported_media_type");
    let large = json!({ "jobs": [with("tags", json!(["x".repeat(1024 * 1024)]))] }).to_string();
    post_text(&api, "application/json", "", large)
        .await
        .problem("body_too_large");
    let limit = 64 * 1024 * 1024;
    post_lines(&api, "", " ".repeat(limit + 1))
        .await
        .problem("body_too_large");
    assert_eq!(api.count("jobs").await, 0);
}

#[tokio::test]
async fn an_equal_batch_is_given_the_first_answer_in_either_format() {
    let api = TestApi::new().await;
    let items = [join(), with("priority", json!(1))];
    let request = |media_type: &str, body: String| {
        api.request(Method::POST, "/v1/jobs/batch")
            .header("Idempotency-Key", "k")
            .content_type(media_type)
            .body(body)
    };
    let as_json = json!({ "jobs": items, "mode": "all_or_nothing" }).to_string();
    let answers = join_all((0..6).map(|_| send(request("application/json", as_json.clone())))).await;
    let lines = format!("{}\n{}\n", items[0], items[1]);
    let again = send(request("application/x-ndjson", lines)).await;
    for answer in answers.iter().chain([&again]) {
        // Six at a time are more than a process takes in.
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            answer.problem("too_many_batches");
            continue;
        }
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
        assert_eq!(answer.json(), again.json());
        assert_eq!(answer.header("location"), again.header("location"));
    }
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(api.count("jobs").await, 2);
    assert_eq!(api.count("batches").await, 1);
    let other = json!({ "jobs": items, "mode": "per_item" }).to_string();
    send(request("application/json", other))
        .await
        .problem("idempotency_key_reused");
}

#[tokio::test]
async fn unique_keys_hold_within_a_batch_and_across() {
    let api = TestApi::new().await;
    let keyed = |key: &str, on_conflict: &str, chat: &str| {
        let mut body = join();
        body["args"]["chat"] = json!(chat);
        body["unique_key"] = json!(key);
        body["on_conflict"] = json!(on_conflict);
        body
    };
    let held = api.post_job(&keyed("held", "reject", "@reading_held")).await.json();
    let body = json!({ "mode": "per_item", "jobs": [
        keyed("a", "reject", "@reading_one"),
        keyed("a", "reject", "@reading_two"),
        keyed("a", "return_existing", "@reading_three"),
        keyed("a", "replace", "@reading_four"),
        keyed("held", "return_existing", "@reading_five"),
        keyed("held", "reject", "@reading_six"),
        join(),
    ] });
    let answer = post(&api, &body).await;
    let items = answer.json()["items"].clone();
    let outcome = |index: usize| items[index]["outcome"].as_str().unwrap_or_default().to_owned();
    let outcomes: Vec<String> = (0..7).map(outcome).collect();
    assert_eq!(
        outcomes,
        [
            "created", "refused", "existing", "replaced", "existing", "refused", "created"
        ]
    );
    assert_eq!(items[1]["job"], items[0]["job"]);
    assert_eq!(items[4]["job"], held["id"]);
    assert_eq!(items[5]["error"]["code"], "unique_key_conflict");
    let first = items[0]["job"].as_str().expect("a job");
    let job = api.get(&format!("/v1/jobs/{first}")).await.json();
    assert_eq!(job["args"]["chat"], "@reading_four");
    assert_eq!(answer.json()["batch"]["total"], 2);

    let existing = json!({ "jobs": [keyed("held", "return_existing", "@reading_seven")] });
    let answer = post(&api, &existing).await;
    assert_eq!(answer.json()["batch"]["state"], "finished", "it has no job of its own");
    assert_eq!(api.count("events WHERE type = 'batch.finished'").await, 1);
}

#[tokio::test]
async fn a_batch_counts_its_jobs_and_tells_its_end_once() {
    let api = TestApi::new().await;
    let mut body = jobs(12);
    body["jobs"][11]["run_at"] = json!("2026-12-01T00:00:00Z");
    let answer = post(&api, &body).await;
    let ids = ids(&answer);
    assert_eq!(
        api.signals.enqueued.load(Ordering::SeqCst),
        2,
        "one that is due and one ahead stand for all"
    );
    // A job of no batch changes nothing.
    let lone = api.stored_job().await;
    api.finish(lone).await;
    join_all(ids[..10].iter().map(|id| api.finish(*id))).await;
    let cancel = format!("/v1/jobs/{}/cancel", ids[11]);
    send(api.request(Method::POST, &cancel)).await;
    let seen = batch(&api, &answer).await;
    assert_eq!(seen["state"], "running");
    assert_eq!(
        seen["counts"],
        json!({ "scheduled": 0, "queued": 1, "running": 0, "succeeded": 10, "failed": 0, "cancelled": 1 })
    );
    assert_eq!(api.count("events").await, 0);
    api.finish(ids[10]).await;
    let seen = batch(&api, &answer).await;
    assert_eq!(
        (&seen["state"], &seen["counts"]["succeeded"]),
        (&json!("finished"), &json!(11))
    );
    let (subject, data): (String, Value) = sqlx::query_as("SELECT subject, data FROM events")
        .fetch_one(api.pool())
        .await
        .expect("one event");
    let id = seen["id"].as_str().expect("an id");
    assert_eq!(subject, format!("batch:{id}"));
    assert_eq!(
        data,
        json!({ "batch": id, "total": 12, "succeeded": 11, "failed": 0, "cancelled": 1 })
    );

    let mut conn = api.pool().acquire().await.expect("a connection");
    assert_eq!(batches::sweep(&mut conn, 30, 10).await.expect("swept"), 0);
    api.execute("UPDATE batches SET finished_at = wireroom_now() - interval '31 days'")
        .await;
    assert_eq!(batches::sweep(&mut conn, 30, 10).await.expect("swept"), 1);
    api.get(&format!("/v1/batches/{id}")).await.problem("batch_not_found");
    api.get(&format!("/v1/batches/{}", BatchId::generate()))
        .await
        .problem("batch_not_found");
    api.get("/v1/batches/x").await.problem("invalid_parameter");
}

#[tokio::test]
async fn ends_at_the_same_moment_tell_the_end_once() {
    let api = TestApi::new().await;
    for _ in 0..5 {
        let answer = post(&api, &jobs(16)).await;
        let ids = ids(&answer);
        join_all(ids.iter().map(|id| api.finish(*id))).await;
        assert_eq!(batch(&api, &answer).await["counts"]["succeeded"], 16);
    }
    assert_eq!(api.count("events WHERE type = 'batch.finished'").await, 5);
}

/// Takes as long as a body may stand still: eight seconds.
#[tokio::test]
async fn a_body_that_stands_still_is_given_up_and_leaves_nothing() {
    let api = TestApi::new().await;
    let line = format!("{}\n", join());
    // Enough for a chunk to be stored before it stops.
    let some = (0..2500).map(move |_| Ok::<_, io::Error>(line.clone()));
    let body = stream::iter(some).chain(stream::pending());
    let request = api
        .request(Method::POST, "/v1/jobs/batch")
        .header("Idempotency-Key", "k")
        .content_type("application/x-ndjson")
        .body(Body::from_bytes_stream(body));
    let answered = tokio::time::timeout(Duration::from_mins(1), send(request)).await;
    let problem = answered.expect("it is given up").problem("body_timeout");
    assert_eq!(problem["detail"], "A body may stand still for at most 8 s.");
    for table in ["jobs", "batches", "batch_jobs", "idempotency_keys"] {
        assert_eq!(api.count(table).await, 0, "{table}");
    }
    assert_eq!(api.signals.enqueued.load(Ordering::SeqCst), 0, "nobody is woken");
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_nothing() {
    let api = TestApi::new().await;
    let line = format!("{}\n", join());
    let whole = (0..2500).map(move |_| Ok(line.clone()));
    let broken = std::iter::once(Err(io::Error::other("the connection is gone")));
    let request = api
        .request(Method::POST, "/v1/jobs/batch")
        .header("Idempotency-Key", "k")
        .content_type("application/x-ndjson")
        .body(Body::from_bytes_stream(stream::iter(whole.chain(broken))));
    send(request).await.problem("bad_request");
    for table in ["jobs", "batches", "idempotency_keys"] {
        assert_eq!(api.count(table).await, 0, "{table}");
    }
    assert_eq!(api.signals.enqueued.load(Ordering::SeqCst), 0, "nobody is woken");
}
