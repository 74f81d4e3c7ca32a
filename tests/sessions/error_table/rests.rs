//! The rows after which the session, or its whole application, does less than before.

use reqwest::Method;
use serde_json::json;
use wireroom_jobs::JobKind;

use super::{Bench, Effect, Fault, LOSSES, Named, OTHER_GROUP, args, text, until};

const STATES: &str = "SELECT count(*) FROM events WHERE type = 'session.state_changed'";

pub async fn degraded(bench: &mut Bench, error: &Named) {
    let account = bench.account().await;
    // It does not answer before it has been seen degraded.
    let silent = Effect::Error {
        code: 500,
        name: "RPC_CALL_FAIL".to_owned(),
    };
    let fault = Fault::once("users.getUsers", silent)
        .of(bench.stack.account(account))
        .forever();
    let fault = bench.stack.sandbox.controls().add_fault(fault);
    bench.answer("channels.getParticipants", error, account);
    let job = bench
        .post(JobKind::Scan, account, args(JobKind::Scan, error), Some(1))
        .await;
    let job = bench.stack.finished(&job).await;
    assert_eq!(job["error"]["code"], "telegram_unavailable", "{error:?}: {job}");
    let session = bench
        .until_session(account, "degraded", |session| session["state"] == "degraded")
        .await;
    assert_eq!(
        (&session["state_reason"], &session["healthy"], &session["lease"]["held"]),
        (&json!(error.word()), &json!(false), &json!(true)),
        "{error:?}: {session}"
    );
    let waiting = bench
        .post(JobKind::Scan, account, args(JobKind::Scan, error), None)
        .await;
    let why = bench.why(&waiting).await;
    assert_eq!(why["reason"]["code"], "session_not_ready", "{error:?}: {why}");
    bench.stack.sandbox.controls().remove_fault(fault);
    assert_eq!(bench.stack.finished(&waiting).await["state"], "succeeded", "{error:?}");
    let session = bench.session(account).await;
    assert_eq!(
        (&session["state"], &session["state_reason"]),
        (&json!("ready"), &json!("ANSWERS_AGAIN")),
        "{error:?}"
    );
    let told = "SELECT count(*) FROM events WHERE type = 'session.state_changed' AND data ->> 'to' = 'degraded'
        AND data ->> 'from' = 'ready' AND data ->> 'reason' IS NOT NULL";
    assert!(bench.figure(told).await >= 1);
}

pub async fn lost(bench: &mut Bench, state: &str, error: &Named) {
    let account = bench.account().await;
    let (changes, losses) = (bench.figure(STATES).await, bench.figure(LOSSES).await);
    bench.answer("messages.sendMessage", error, account);
    let job = bench
        .post(JobKind::Publish, account, args(JobKind::Publish, error), None)
        .await;
    if state == "quarantined" {
        let waits = async || (bench.why(&job).await["reason"]["code"] == "session_not_ready").then_some(());
        until("it waits for a person", waits).await;
    } else {
        let job = bench.stack.finished(&job).await;
        let code = job["error"]["code"].as_str().unwrap_or_default();
        assert!(["session_lost", "outcome_unknown"].contains(&code), "{error:?}: {job}");
    }
    let session = bench
        .until_session(account, "let go", |session| session["lease"]["held"] == false)
        .await;
    assert_eq!(
        (&session["state"], &session["state_reason"], &session["healthy"]),
        (&json!(state), &json!(error.word()), &json!(false)),
        "{error:?}: {session}"
    );
    let events = (
        bench.figure(STATES).await - changes,
        bench.figure(LOSSES).await - losses,
    );
    assert_eq!(events, (1, 1), "{error:?}");
    let incidents = "SELECT count(*) FROM audit_log WHERE action = 'session.auth_key_duplicated'
        AND jsonb_array_length(details -> 'terms') > 0";
    assert!(
        bench.figure(incidents).await == 1 || state != "quarantined",
        "{error:?}"
    );
    assert_eq!(
        bench.stack.count_messages("harbour_market", &text(error)),
        0,
        "{error:?}"
    );
    bench.spoil(account).await;
}

pub async fn gated(bench: &mut Bench, error: &Named) {
    let account = bench.account().await;
    bench.answer("messages.sendMessage", error, account);
    let job = bench
        .post(JobKind::Publish, account, args(JobKind::Publish, error), None)
        .await;
    bench.put_off(&job, "flood", error).await;
    let session = bench.session(account).await;
    assert_eq!(
        (
            &session["state"],
            &session["gates"][0]["action"],
            &session["gates"][0]["reason"]
        ),
        (&json!("ready"), &json!("send"), &json!(error.word())),
        "{error:?}: {session}"
    );
    let floods = bench.stack.get("/v1/floods").await;
    assert_eq!(
        (&floods["items"][0]["error"], &floods["items"][0]["job"]),
        (&json!(error.word()), &json!(job)),
        "{error:?}"
    );
    let next = bench
        .post(JobKind::Publish, account, args(JobKind::Publish, error), None)
        .await;
    assert_eq!(bench.why(&next).await["reason"]["code"], "gate_closed", "{error:?}");
    let scan = bench.run(JobKind::Scan, account, args(JobKind::Scan, error)).await;
    assert_eq!(scan["state"], "succeeded", "{error:?}: other actions go on");
    bench.spoil(account).await;
}

pub async fn gated_in_chat(bench: &mut Bench, error: &Named) {
    let account = bench.account().await;
    bench.answer("messages.sendMessage", error, account);
    let job = bench
        .post(JobKind::Publish, account, args(JobKind::Publish, error), None)
        .await;
    bench.put_off(&job, "slow_mode", error).await;
    let session = bench.session(account).await;
    assert!(
        session["gates"][0]["action"] == "send" && session["gates"][0]["chat_id"].is_number(),
        "{error:?}: {session}"
    );
    let joined = bench.run(JobKind::Join, account, json!({ "chat": OTHER_GROUP })).await;
    assert_eq!(joined["state"], "succeeded", "{joined}");
    let args = json!({ "chat": OTHER_GROUP, "text": text(error) });
    let elsewhere = bench.run(JobKind::Publish, account, args).await;
    assert_eq!(elsewhere["state"], "succeeded", "{error:?}: {elsewhere}");
    bench.spoil(account).await;
}

pub async fn limited(bench: &mut Bench, error: &Named) {
    let account = bench.account().await;
    bench.answer("messages.sendMessage", error, account);
    let job = bench
        .run(JobKind::Publish, account, args(JobKind::Publish, error))
        .await;
    assert_eq!(job["error"]["code"], "peer_flood", "{error:?}: {job}");
    let session = bench.session(account).await;
    assert_eq!(
        (&session["state"], &session["state_reason"]),
        (&json!("limited"), &json!(error.word()))
    );
    let scan = bench.run(JobKind::Scan, account, args(JobKind::Scan, error)).await;
    assert_eq!(scan["state"], "succeeded", "it may read");
    let waiting = bench
        .post(JobKind::Publish, account, args(JobKind::Publish, error), None)
        .await;
    assert_eq!(bench.why(&waiting).await["reason"]["code"], "session_not_ready");
    let path = format!("/v1/sessions/{}/resume", bench.ids[account]);
    let resumed = bench.stack.request(Method::POST, &path).send().await.expect("answered");
    assert!(resumed.status().is_success());
    assert_eq!(bench.stack.finished(&waiting).await["state"], "succeeded");
}

pub async fn full(bench: &mut Bench, error: &Named) {
    let account = bench.account().await;
    bench.answer("channels.joinChannel", error, account);
    let job = bench.run(JobKind::Join, account, json!({ "chat": OTHER_GROUP })).await;
    assert_eq!(job["error"]["code"], "channel_limit", "{error:?}: {job}");
    let session = bench.session(account).await;
    assert_eq!(
        (
            &session["state"],
            &session["gates"][0]["action"],
            &session["gates"][0]["reason"]
        ),
        (&json!("ready"), &json!("join_channel"), &json!(error.word())),
        "{error:?}: {session}"
    );
    bench.spoil(account).await;
}

pub async fn application_stopped(bench: &mut Bench, error: &Named) {
    const LET_GO: &str = "SELECT count(*) FROM session_leases WHERE owner IS NOT NULL";
    let account = bench.account().await;
    let changes = bench.figure(STATES).await;
    bench.answer("messages.sendMessage", error, account);
    let job = bench
        .post(JobKind::Publish, account, args(JobKind::Publish, error), None)
        .await;
    let all = async || (bench.figure(LET_GO).await == 0).then_some(());
    until("every session of the application is let go", all).await;
    let session = bench.session(account).await;
    assert_eq!(
        (&session["state"], &session["application"]["refused"]["reason"]),
        (&json!("ready"), &json!(error.word())),
        "{error:?}: {session}"
    );
    let named = async || (bench.why(&job).await["reason"]["code"] == "application_refused").then_some(());
    until("it is named", named).await;
    assert_eq!(bench.figure(STATES).await, changes, "no account changed");
    let told = "SELECT count(*) FROM events WHERE type = 'application.refused' AND data ->> 'api_id' = '12345'";
    assert!(bench.figure(told).await >= 1);
    let application = session["application"]["id"].as_str().expect("an id");
    let path = format!("/v1/applications/{application}/resume");
    let resumed = bench.stack.request(Method::POST, &path).send().await.expect("answered");
    assert!(resumed.status().is_success(), "{}", resumed.status());
    let job = bench.stack.finished(&job).await;
    assert_eq!(job["state"], "succeeded", "{error:?}: {job}");
}
