//! Retry, change, many at once, and why.

use std::sync::atomic::Ordering;

use poem::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{id_of, join, with};
use crate::{
    api::tests::bed::{Answer, TestApi, send},
    store::api_keys::Scope,
};

async fn post(api: &TestApi, path: &str, body: &Value) -> Answer {
    send(api.request(Method::POST, path).body_json(body)).await
}

async fn patch(api: &TestApi, path: &str, body: &Value) -> Answer {
    send(api.request(Method::PATCH, path).body_json(body)).await
}

async fn bare_post(api: &TestApi, path: &str) -> Answer {
    send(api.request(Method::POST, path)).await
}

#[tokio::test]
async fn a_finished_job_is_retried_once_and_a_live_one_is_not() {
    let api = TestApi::new().await;
    let job = api.post_job(&with("limit_key", json!("chat:7"))).await.json();
    let id = id_of(&job);
    let path = format!("/v1/jobs/{id}/retry");
    bare_post(&api, &path).await.problem("job_not_finished");
    api.finish(id).await;
    let answer = bare_post(&api, &path).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    let new = answer.json();
    assert_eq!((&new["retry_of"], &new["limit_key"]), (&json!(id), &json!("chat:7")));
    assert_eq!(new["args"], job["args"]);
    assert_eq!(answer.header("location"), format!("/v1/jobs/{}", id_of(&new)));
    let refused = bare_post(&api, &path).await.problem("already_retried");
    assert!(
        refused["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains(&id_of(&new).to_string()))
    );
    assert_eq!(api.signals.changed.load(Ordering::SeqCst), 1);
    let unknown = format!("/v1/jobs/{}/retry", crate::ids::JobId::generate());
    bare_post(&api, &unknown).await.problem("job_not_found");
    let list = api.get("/v1/jobs").await.json();
    assert_eq!(list["items"][0]["retry_of"], json!(id));
}

#[tokio::test]
async fn a_retried_broadcast_keeps_what_was_sent_and_what_may_have_been() {
    let api = TestApi::new().await;
    let args =
        json!({ "chats": ["@club_one", "@club_two", "@club_three", "@club_four", "@club_five"], "text": "Hello" });
    let job = api.post_job(&json!({ "kind": "publish", "args": args })).await.json();
    let id = id_of(&job);
    for statement in [
        "INSERT INTO publish_targets (job_id, position, chat_id, tries, outcome, error, message_id, message_date) VALUES
            ($1, 0, -1001, 0, 'sent', NULL, 7, now()), ($1, 1, -1002, 3, 'outcome_unknown', 'Look.', NULL, NULL),
            ($1, 2, -1003, 0, 'write_forbidden', 'No.', NULL, NULL), ($1, 3, -1004, 1, NULL, NULL, NULL, NULL)",
        "INSERT INTO job_effects (job_id, chat_id, session_id, random_id, attempted_at)
            VALUES ($1, -1004, gen_random_uuid(), 5, now())",
    ] {
        let inserted = sqlx::query(statement).bind(id.0).execute(api.pool()).await;
        inserted.expect("inserted");
    }
    api.finish(id).await;
    let retried = bare_post(&api, &format!("/v1/jobs/{id}/retry")).await.json();
    let targets = api.get(&format!("/v1/jobs/{}/targets", id_of(&retried))).await.json();
    let told: Vec<(i64, &str)> = targets["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|target| {
            let outcome = target["outcome"].as_str().expect("decided");
            (target["position"].as_i64().expect("a place"), outcome)
        })
        .collect();
    assert_eq!(told, [(0, "sent"), (1, "outcome_unknown"), (3, "outcome_unknown")]);
    assert_eq!(targets["items"][0]["message_id"], 7);
    let old = api.get(&format!("/v1/jobs/{id}/targets")).await.json();
    assert_eq!(old["items"].as_array().map(Vec::len), Some(4));
}

#[tokio::test]
async fn a_waiting_job_is_changed_and_any_other_is_not() {
    let api = TestApi::new().await;
    let job = api.post_job(&join()).await.json();
    let path = format!("/v1/jobs/{}", id_of(&job));
    let changed = patch(&api, &path, &json!({ "priority": 7, "run_at": "2026-12-01T00:00:00Z" })).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.text);
    assert_eq!(
        (&changed.json()["priority"], &changed.json()["state"]),
        (&json!(7), &json!("scheduled"))
    );
    patch(&api, &path, &json!({})).await.problem("missing_field");
    let refused = patch(&api, &path, &json!({ "priority": 101 }))
        .await
        .problem("invalid_value");
    assert_eq!(refused["field"], "priority");
    patch(&api, &path, &json!({ "prio": 1 })).await.problem("unknown_field");
    patch(&api, &path, &json!({ "run_at": "soon" }))
        .await
        .problem("invalid_value");
    api.execute("UPDATE jobs SET state = 'running'").await;
    patch(&api, &path, &json!({ "priority": 1 }))
        .await
        .problem("job_running");
    api.finish(id_of(&job)).await;
    patch(&api, &path, &json!({ "priority": 1 }))
        .await
        .problem("job_finished");
    assert_eq!(api.count("audit_log WHERE action = 'job.changed'").await, 1);
}

#[tokio::test]
async fn a_dry_run_counts_and_the_run_does_what_it_counted() {
    let api = TestApi::new().await;
    for _ in 0..3 {
        api.post_job(&with("tags", json!(["spring"]))).await;
    }
    let other = api.post_job(&join()).await.json();
    let mut body = json!({ "filter": { "tag": "spring" }, "dry_run": true });
    let counted = post(&api, "/v1/jobs/bulk/cancel", &body).await.json();
    assert_eq!(
        counted,
        json!({ "dry_run": true, "cancelled": 3, "requested": 0, "left": 0 })
    );
    assert_eq!(api.count("jobs").await, 4);
    body["dry_run"] = json!(false);
    body["limit"] = json!(2);
    let done = post(&api, "/v1/jobs/bulk/cancel", &body).await.json();
    assert_eq!(
        done,
        json!({ "dry_run": false, "cancelled": 2, "requested": 0, "left": 1 })
    );
    let done = post(&api, "/v1/jobs/bulk/cancel", &body).await.json();
    assert_eq!((&done["cancelled"], &done["left"]), (&json!(1), &json!(0)));
    let left = api.get(&format!("/v1/jobs/{}", id_of(&other))).await.json();
    assert_eq!(left["state"], "queued");

    let filter = json!({ "filter": { "tag": "spring", "state": "cancelled" }, "dry_run": true });
    let counted = post(&api, "/v1/jobs/bulk/retry", &filter).await.json();
    assert_eq!(counted["retried"], 3);
    let filter = json!({ "filter": { "tag": "spring", "state": "cancelled" } });
    let done = post(&api, "/v1/jobs/bulk/retry", &filter).await.json();
    assert_eq!(
        done,
        json!({ "dry_run": false, "retried": 3, "session_not_ready": 0, "left": 0 })
    );
    let again = post(&api, "/v1/jobs/bulk/retry", &filter).await.json();
    assert_eq!(again["retried"], 0);
}

#[tokio::test]
async fn a_bulk_request_without_a_filter_or_with_a_wrong_one_is_refused() {
    let api = TestApi::new().await;
    for (body, code, field) in [
        (json!({ "filter": {} }), "invalid_value", "filter"),
        (json!({}), "missing_field", "filter"),
        (json!({ "filter": { "kind": "walk" } }), "unknown_kind", "filter.kind"),
        (
            json!({ "filter": { "state": "failed" } }),
            "invalid_value",
            "filter.state",
        ),
        (
            json!({ "filter": { "tag": "a" }, "limit": 0 }),
            "invalid_value",
            "limit",
        ),
        (
            json!({ "filter": { "colour": "red" } }),
            "unknown_field",
            "filter.colour",
        ),
    ] {
        let answer = post(&api, "/v1/jobs/bulk/cancel", &body).await;
        assert_eq!(answer.problem(code)["field"], field);
    }
    let viewer = api.key(Scope::Viewer).await;
    let request = api
        .bare(Method::POST, "/v1/jobs/bulk/cancel")
        .header("Authorization", format!("Bearer {viewer}"))
        .body_json(&json!({ "filter": { "kind": "join" } }));
    send(request).await.problem("forbidden");
}

fn codes(why: &Value) -> Vec<&str> {
    let reasons = why["reasons"].as_array().into_iter().flatten();
    reasons.filter_map(|reason| reason["code"].as_str()).collect()
}

#[tokio::test]
async fn why_names_everything_that_holds_a_job() {
    let api = TestApi::new().await;
    api.stored_job().await;
    let job = api
        .post_job(&with("deadline", json!("2099-01-01T00:00:00Z")))
        .await
        .json();
    let why_path = format!("/v1/jobs/{}/why", id_of(&job));
    let pause = json!({ "reason": "a quiet day", "until": "2098-01-01T00:00:00Z" });
    for path in ["/v1/pauses/everything", "/v1/pauses/kind/join"] {
        let paused = send(api.request(Method::PUT, path).body_json(&pause)).await;
        assert_eq!(paused.status, StatusCode::OK, "{}", paused.text);
    }
    let admin = api.key(Scope::Admin).await;
    let limit = api
        .bare(Method::PUT, "/v1/limits/pool/default")
        .header("Authorization", format!("Bearer {admin}"))
        .body_json(&json!({ "max_running": 0 }));
    assert_eq!(send(limit).await.status, StatusCode::OK);
    let why = api.get(&why_path).await.json();
    assert_eq!(
        codes(&why),
        ["paused", "paused", "pool_empty", "limit_reached", "in_line", "deadline"]
    );
    assert_eq!(why["reason"]["code"], "paused");
    assert_eq!(why["reasons"][0]["until"], "2098-01-01T00:00:00Z");
    assert_eq!(why["reasons"][1]["data"]["target"], "join");
    assert_eq!(why["reasons"][3]["data"]["max_running"], 0);
    assert_eq!(why["reasons"][4]["data"]["ahead"], 1);
    let shown = api.get(&format!("/v1/jobs/{}", id_of(&job))).await.json();
    assert_eq!(shown["wait_reason"]["code"], "paused");

    api.execute("UPDATE jobs SET state = 'running', worker_id = new_job_id(), cancel_requested_at = wireroom_now()")
        .await;
    let why = api.get(&why_path).await.json();
    assert_eq!(codes(&why), ["cancelling"]);
    assert!(why["reason"]["until"].is_string(), "when it is abandoned: {why}");
    api.finish(id_of(&job)).await;
    let why = api.get(&why_path).await.json();
    assert_eq!(codes(&why), ["succeeded"]);
    assert!(why["reasons"][0]["data"]["finished_at"].is_string());

    let other = api.post_job(&join()).await.json();
    let path = format!("/v1/jobs/{}", id_of(&other));
    assert_eq!(
        post(&api, &format!("{path}/cancel"), &json!({})).await.status,
        StatusCode::OK
    );
    let why = api.get(&format!("{path}/why")).await.json();
    let by = other["created_by"].as_str().expect("a key");
    assert_eq!(why["reason"]["message"], format!("It was cancelled by {by}."));
    assert_eq!(why["reasons"][0]["data"]["cancelled_by"], by);
}

#[tokio::test]
async fn why_names_the_jobs_that_have_the_slots() {
    let api = TestApi::new().await;
    let session = api.session("alice", "ready").await;
    api.execute(
        "INSERT INTO session_leases (session_id, owner, fence, expires_at)
         SELECT id, new_job_id(), 1, wireroom_now() + interval '1 hour' FROM sessions
         ON CONFLICT (session_id) DO UPDATE SET owner = excluded.owner, expires_at = excluded.expires_at",
    )
    .await;
    let first = api.post_job(&with("session", json!("alice"))).await.json();
    let free = api.get(&format!("/v1/jobs/{}/why", id_of(&first))).await.json();
    assert_eq!(codes(&free), ["queued"], "its slot is free: {free}");
    api.execute("UPDATE jobs SET state = 'running', worker_id = new_job_id(), claimed_at = wireroom_now()")
        .await;
    let pinned = api.post_job(&with("session", json!("alice"))).await.json();
    let why = api.get(&format!("/v1/jobs/{}/why", id_of(&pinned))).await.json();
    assert_eq!(codes(&why), ["session_busy"]);
    assert_eq!(
        why["reasons"][0]["data"],
        json!({ "lane": "bulk", "slots": 1, "jobs": [first["id"]] })
    );
    assert_eq!(
        why["reason"]["message"],
        format!("The one slot of the session {session} in the lane bulk is taken: it runs when that job has ended.")
    );
    let pooled = api.post_job(&join()).await.json();
    let why = api.get(&format!("/v1/jobs/{}/why", id_of(&pooled))).await.json();
    assert_eq!(codes(&why), ["pool_busy"]);
    api.execute("UPDATE sessions SET bulk_slots = 3").await;
    let why = api.get(&format!("/v1/jobs/{}/why", id_of(&pooled))).await.json();
    assert_eq!(codes(&why), ["queued"]);
}

#[tokio::test]
async fn why_names_what_nobody_set_and_how_a_job_ended() {
    let api = TestApi::new().await;
    api.session("alice", "ready").await;
    let job = api.post_job(&with("session", json!("alice"))).await.json();
    let path = format!("/v1/jobs/{}/why", id_of(&job));
    let why = async || api.get(&path).await.json();
    assert_eq!(codes(&why().await), ["no_worker"]);
    api.execute("UPDATE sessions SET state = 'banned', state_reason = 'told by Telegram'")
        .await;
    let seen = why().await;
    assert_eq!(codes(&seen), ["session_not_ready"]);
    assert_eq!(
        seen["reason"]["message"],
        "The job's session is banned: told by Telegram."
    );
    api.execute("UPDATE jobs SET kind = 'dance', suspect = true").await;
    api.execute(
        "INSERT INTO jobs (id, kind, args, state, lane, pool, session_bound, rank, run_at, max_attempts, suspect, created_at, claimed_at)
         VALUES (new_job_id(), 'join', '{}', 'running', 'bulk', 'default', false, 0, now(), 1, true, now(), now())",
    )
    .await;
    let seen = why().await;
    assert_eq!(codes(&seen), ["unknown_kind", "suspect"]);
    assert_eq!(seen["reasons"][0]["data"]["kind"], "dance");
    api.execute("UPDATE jobs SET kind = 'join'").await;
    api.execute("DELETE FROM sessions").await;
    assert_eq!(codes(&why().await), ["session_gone", "suspect"]);

    api.finish(id_of(&job)).await;
    api.execute(
        "UPDATE finished_jobs SET state = 'failed', result = NULL,
            error = '{\"code\": \"chat_not_found\", \"message\": \"Nobody has this name.\", \"retryable\": false}'",
    )
    .await;
    let seen = why().await;
    assert_eq!(
        (&seen["state"], codes(&seen)),
        (&json!("failed"), vec!["chat_not_found"])
    );
    assert_eq!(seen["reason"]["message"], "Nobody has this name.");
}

#[tokio::test]
async fn why_names_the_turn_of_a_job_in_its_keys_line() {
    let api = TestApi::new().await;
    let job = api.post_job(&with("limit_key", json!("campaign:spring"))).await.json();
    api.execute(
        "INSERT INTO rate_limits (name, starts, period_seconds, burst, set_by) VALUES ('campaign', 2, 60, 1, 'key:a')",
    )
    .await;
    api.execute(
        "UPDATE jobs SET state = 'scheduled', limit_turn = true, run_at = '2098-01-01',
            wait_reason = '{\"code\": \"rate_limited\", \"message\": \"x\"}'",
    )
    .await;
    let why = api.get(&format!("/v1/jobs/{}/why", id_of(&job))).await.json();
    assert_eq!(codes(&why), ["rate_limited"]);
    assert_eq!(why["reasons"][0]["until"], "2098-01-01T00:00:00Z");
    assert_eq!(
        why["reasons"][0]["data"],
        json!({ "limit_key": "campaign:spring", "starts": 2, "period_seconds": 60.0 })
    );
    let refused = api.post_job(&with("limit_key", json!("a b"))).await;
    assert_eq!(refused.problem("invalid_value")["field"], "limit_key");
}
