//! What came to nothing leaves the session as it was.

use wireroom::sandbox::Fault;

use super::*;

/// State, reason and pool.
async fn standing(stack: &Stack, id: &str) -> (String, Option<String>, String) {
    let row = session(stack, id).await;
    let text = |name: &str| row[name].as_str().map(str::to_owned);
    (
        text("state").expect("a state"),
        text("state_reason"),
        text("pool").expect("a pool"),
    )
}

fn stands(state: &str, reason: Option<&str>) -> (String, Option<String>, String) {
    (state.to_owned(), reason.map(str::to_owned), "default".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_moves_with_its_new_login_and_not_before() {
    let stack = empty().await;
    let hash = "00112233445566778899aabbccddeeff";
    let _worker = stack.worker().await;
    let made = post(&stack, "/v1/pools", json!({ "name": "writers" })).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let application = json!({ "label": "shops", "api_id": 77, "api_hash": hash });
    let application = post(&stack, "/v1/applications", application).await;
    let id = log_in(&stack, "alice", ALICE).await;
    until_held(&stack, &id).await;
    post_empty(&stack, &format!("/v1/sessions/{id}/log-out"))
        .await
        .login("done");
    let out = stands("logged_out", Some("LOGGED_OUT_BY_OWNER"));
    assert_eq!(standing(&stack, &id).await, out);

    let anew = json!({ "label": "alice", "phone": ALICE, "pool": "writers", "application": "shops" });
    post(&stack, "/v1/sessions", anew.clone()).await.login("code_needed");
    assert_eq!(standing(&stack, &id).await.2, "default", "not before it succeeds");
    let in_use = format!("/v1/applications/{}", application.body["id"].as_str().expect("an id"));
    delete(&stack, &in_use).await.problem("application_in_use", 409);
    delete(&stack, &format!("/v1/sessions/{id}/login"))
        .await
        .login("failed");
    assert_eq!(standing(&stack, &id).await, out, "all of it as it was");
    let belongs = "SELECT count(*) FROM sessions s JOIN applications a ON a.id = s.application_id WHERE a.api_id = 77";
    assert_eq!(stack.figure(belongs).await, 0);

    post(&stack, "/v1/sessions", anew).await.login("code_needed");
    code(&stack, &id, LOGIN_CODE).await.login("done");
    let moved = standing(&stack, &id).await;
    assert_eq!((moved.0.as_str(), moved.2.as_str()), ("ready", "writers"));
    assert_eq!(stack.figure(belongs).await, 1);
    until_held(&stack, &id).await;
    let alice = stack.account("alice");
    let named: Vec<Option<i32>> = stack
        .sandbox
        .controls()
        .keys(Some(alice))
        .iter()
        .map(|key| key.api_id)
        .collect();
    assert_eq!(named, [Some(77)], "it connects with the application it logged in with");

    // Who names neither changes neither.
    post_empty(&stack, &format!("/v1/sessions/{id}/log-out"))
        .await
        .login("done");
    log_in(&stack, "alice", ALICE).await;
    assert_eq!(standing(&stack, &id).await.2, "writers");
    assert_eq!(stack.figure(belongs).await, 1);
    // Who names one changes that one.
    post_empty(&stack, &format!("/v1/sessions/{id}/log-out"))
        .await
        .login("done");
    let back = json!({ "label": "alice", "phone": ALICE, "pool": "default" });
    post(&stack, "/v1/sessions", back).await.login("code_needed");
    code(&stack, &id, LOGIN_CODE).await.login("done");
    assert_eq!(standing(&stack, &id).await.2, "default");
    assert_eq!(stack.figure(belongs).await, 1);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_out_that_failed_leaves_the_session_in_use() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let id = log_in(&stack, "alice", ALICE).await;
    until_held(&stack, &id).await;
    let path = format!("/v1/sessions/{id}");
    let out = format!("{path}/log-out");
    let before = standing(&stack, &id).await;
    stack.fault(Fault::once("auth.logOut", error(500, "RPC_CALL_FAIL")));
    post_empty(&stack, &out).await.problem("telegram_unavailable", 502);
    assert_eq!(
        (before.0.as_str(), standing(&stack, &id).await),
        ("ready", before.clone())
    );
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;

    // A limit is not lifted by it, nor by an export and another one.
    let limited = "UPDATE sessions SET state = 'limited', state_reason = 'PEER_FLOOD'";
    sqlx::query(limited).execute(stack.database.pool()).await.expect("set");
    stack.fault(Fault::once("auth.logOut", error(500, "RPC_CALL_FAIL")));
    delete(&stack, &path).await.problem("telegram_unavailable", 502);
    assert_eq!(standing(&stack, &id).await, stands("limited", Some("PEER_FLOOD")));
    for _ in 0..2 {
        post(&stack, &format!("{path}/export"), json!({ "format": "telethon" })).await;
        assert_eq!(
            standing(&stack, &id).await,
            stands("disabled", Some("EXPORTED_WHILE_LIMITED"))
        );
    }
    post(&stack, &format!("{path}/enable"), json!({ "stopped_elsewhere": true }))
        .await
        .login("done");
    assert_eq!(standing(&stack, &id).await.0, "limited");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_out_that_is_given_up_leaves_the_session_in_use_by_one() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let id = log_in(&stack, "alice", ALICE).await;
    until_held(&stack, &id).await;
    let before = standing(&stack, &id).await;
    // Not run before it is answered, and it is answered late: the worker's connection is open meanwhile.
    stack.fault(Fault::once("auth.logOut", Effect::Blackhole));
    ask(&stack, Method::POST, &format!("/v1/sessions/{id}/log-out"), json!({}))
        .await
        .problem("login_pending", 504);
    until_called(&stack, "auth.logOut", 1).await;
    assert_eq!(standing(&stack, &id).await.0, "disabled");
    delete(&stack, &format!("/v1/sessions/{id}/login"))
        .await
        .login("failed");
    assert_eq!(standing(&stack, &id).await, before);
    // Held again once the first connection is closed: the sandbox would see two.
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    assert_eq!(stack.sandbox.controls().take_incidents(), []);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_finds_a_job_leaves_the_session_to_it() {
    let stack = empty().await;
    let mut worker = stack.worker().await;
    let id = log_in(&stack, "alice", ALICE).await;
    until_held(&stack, &id).await;
    let before = standing(&stack, &id).await;
    worker.terminate();
    assert!(worker.wait_for_end(BOUND).await.success());
    ask(&stack, Method::DELETE, &format!("/v1/sessions/{id}"), json!({}))
        .await
        .problem("login_pending", 504);
    let job = json!({ "kind": "join", "args": { "chat": "@harbour_market" }, "session": "alice" });
    let job = stack.post_job(job).await;
    let _worker = stack.worker().await;
    let ended = login_when(&stack, &id, "over", |login| login["state"] == "failed").await;
    assert_eq!(ended["problem"], "session_busy");
    assert_eq!(stack.calls("auth.logOut"), 0);
    assert_eq!(stack.finished(&job).await["state"], "succeeded");
    assert_eq!(standing(&stack, &id).await, before);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_comes_after_the_session_was_logged_out_stops_no_deletion() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let id = log_in(&stack, "alice", ALICE).await;
    until_held(&stack, &id).await;
    stack.fault(Fault::once("auth.logOut", Effect::Hold));
    let path = format!("/v1/sessions/{id}");
    let late = async {
        until_called(&stack, "auth.logOut", 1).await;
        // The API refuses one by now; a schedule's tick may be on its way.
        let job = "INSERT INTO jobs (id, kind, args, state, lane, pool, session_id, session_bound, priority, rank, run_at,
                max_attempts, created_by, created_at)
            SELECT gen_random_uuid(), 'join', '{\"chat\": \"@reading_club\"}', 'queued', 'bulk', 'default', id, true, 0, 0,
                wireroom_now(), 5, 'test', wireroom_now() FROM sessions";
        sqlx::query(job).execute(stack.database.pool()).await.expect("stored");
        stack.sandbox.controls().clear_faults();
    };
    let (deleted, ()) = tokio::join!(delete(&stack, &path), late);
    assert_eq!(
        (deleted.status, &deleted.body["logged_out"]),
        (200, &json!(true)),
        "{}",
        deleted.body
    );
    assert_eq!(stack.figure("SELECT count(*) FROM sessions").await, 0);
    eventually(BOUND, async || {
        let lost = "SELECT count(*) FROM finished_jobs WHERE state = 'failed' AND error ->> 'code' = 'session_lost'";
        match (
            stack.figure(lost).await,
            stack.figure("SELECT count(*) FROM jobs").await,
        ) {
            (1, 0) => Ok(()),
            (lost, left) => Err(format!("{lost} lost, {left} left")),
        }
    })
    .await;
    stack.finish().await;
}
