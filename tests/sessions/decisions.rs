//! What each decision of the error table does to the job that meets it, to its session, and to what comes after: with the
//! whole program over a sandbox that answers by script.

use reqwest::Method;
use serde_json::{Value, json};
use wireroom_jobs::JobKind;

use super::*;
use crate::support::stack::{JOB_BOUND, Options, Stack};

const GROUP: &str = "@harbour_market";

/// A stack with one worker and these accounts, each in the group; requests name their session. It is noon: what is used up
/// for a day stays so.
async fn stack(accounts: &[&'static str]) -> (Stack, crate::support::process::Process) {
    let stack = Stack::with(Options {
        accounts: accounts.to_vec(),
        ..Options::default()
    })
    .await;
    stack.noon().await;
    let worker = stack.worker().await;
    for account in accounts {
        let job = run(&stack, JobKind::Join, account, json!({ "chat": GROUP })).await;
        assert_eq!(job["state"], "succeeded", "{job}");
    }
    (stack, worker)
}

async fn post(stack: &Stack, kind: JobKind, session: &str, args: Value) -> String {
    let body = json!({ "kind": kind.as_str(), "session": session, "args": args });
    stack.post_job(body).await
}

async fn run(stack: &Stack, kind: JobKind, session: &str, args: Value) -> Value {
    let id = post(stack, kind, session, args).await;
    stack.finished(&id).await
}

async fn publish(stack: &Stack, session: &str, text: &str) -> Value {
    run(stack, JobKind::Publish, session, json!({ "chat": GROUP, "text": text })).await
}

fn answer(stack: &Stack, method: &str, code: i32, name: &str) {
    let error = Effect::Error {
        code,
        name: name.to_owned(),
    };
    stack.fault(Fault::once(method, error));
}

async fn session(stack: &Stack, label: &str) -> Value {
    let list = stack.get("/v1/sessions").await;
    let items = list["items"].as_array().expect("items");
    let id = items
        .iter()
        .find(|session| session["label"] == label)
        .expect("it is there")["id"]
        .clone();
    stack
        .get(&format!("/v1/sessions/{}", id.as_str().expect("an id")))
        .await
}

async fn why(stack: &Stack, job: &str) -> Value {
    stack.get(&format!("/v1/jobs/{job}/why")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_about_the_job_and_its_target_leave_the_session_alone() {
    let (stack, _worker) = stack(&["alice"]).await;
    // Done.
    answer(&stack, "channels.joinChannel", 400, "USER_ALREADY_PARTICIPANT");
    let done = run(&stack, JobKind::Join, "alice", json!({ "chat": "@big_bazaar" })).await;
    assert_eq!(
        (&done["state"], &done["result"]["status"]),
        (&json!("succeeded"), &json!("already_member")),
        "{done}"
    );
    // Person, target, content, bug: the job fails, with a code that says which.
    for (code, name, expected) in [
        (403, "USER_PRIVACY_RESTRICTED", "person_refused"),
        (400, "USER_IS_BLOCKED", "person_refused"),
        (400, "INPUT_USER_DEACTIVATED", "person_refused"),
        (403, "CHAT_WRITE_FORBIDDEN", "write_forbidden"),
        (400, "CHAT_ADMIN_REQUIRED", "admin_required"),
        (400, "MESSAGE_TOO_LONG", "message_too_long"),
        (400, "SOMETHING_NEW", "telegram_error"),
    ] {
        answer(&stack, "messages.sendMessage", code, name);
        let failed = publish(&stack, "alice", "nobody reads this").await;
        assert_eq!(
            (&failed["state"], &failed["error"]["code"]),
            (&json!("failed"), &json!(expected)),
            "{failed}"
        );
        assert_eq!(
            (&failed["error"]["retryable"], &failed["attempt"]),
            (&json!(false), &json!(1)),
            "{failed}"
        );
        assert!(
            failed["error"]["message"]
                .as_str()
                .is_some_and(|message| message.contains(name)),
            "{failed}"
        );
    }
    assert_eq!(stack.count_messages("harbour_market", "nobody reads this"), 0);
    // Done, of a message: found and reported, not sent again.
    answer(&stack, "messages.sendMessage", 500, "RANDOM_ID_DUPLICATE");
    let sent = publish(&stack, "alice", "never sent").await;
    assert_eq!(
        (&sent["state"], &sent["result"]["message_id"]),
        (&json!("succeeded"), &json!(null)),
        "{sent}"
    );
    // Retry: another attempt.
    answer(&stack, "channels.getParticipants", 500, "RPC_CALL_FAIL");
    let args = json!({ "what": "members", "chat": GROUP, "purpose": "a test" });
    let again = run(&stack, JobKind::Scan, "alice", args).await;
    assert_eq!(
        (&again["state"], &again["attempt"]),
        (&json!("succeeded"), &json!(2)),
        "{again}"
    );
    let alice = session(&stack, "alice").await;
    assert_eq!(
        (&alice["state"], &alice["gates"], &alice["healthy"]),
        (&json!("ready"), &json!([]), &json!(true)),
        "{alice}"
    );
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_and_a_pending_request_put_the_job_off_and_cost_no_attempt() {
    let (stack, _worker) = stack(&["alice"]).await;
    answer(&stack, "messages.importChatInvite", 400, "INVITE_REQUEST_SENT");
    let link = json!({ "chat": format!("https://t.me/+{}", INVITES[0]) });
    let id = post(&stack, JobKind::Join, "alice", link).await;
    let pending = stack.job_when(&id, "put off", |job| job["state"] == "scheduled").await;
    assert_eq!(
        (&pending["wait_reason"]["code"], &pending["attempt"]),
        (&json!("approval_pending"), &json!(0)),
        "{pending}"
    );
    answer(&stack, "messages.sendMessage", 420, "FLOOD_WAIT_90");
    let args = json!({ "chat": GROUP, "text": "later" });
    let flooded = post(&stack, JobKind::Publish, "alice", args.clone()).await;
    let put_off = stack
        .job_when(&flooded, "put off", |job| job["state"] == "scheduled")
        .await;
    assert_eq!(
        (&put_off["wait_reason"]["code"], &put_off["attempt"]),
        (&json!("flood"), &json!(0)),
        "{put_off}"
    );
    let next = post(&stack, JobKind::Publish, "alice", args).await;
    let because = why(&stack, &next).await;
    assert_eq!(
        (&because["reason"]["code"], &because["state"]),
        (&json!("gate_closed"), &json!("queued")),
        "{because}"
    );
    let alice = session(&stack, "alice").await;
    assert_eq!(
        (&alice["gates"][0]["action"], &alice["gates"][0]["reason"]),
        (&json!("send"), &json!("FLOOD_WAIT"))
    );
    let floods = stack.get("/v1/floods").await;
    assert_eq!(
        (&floods["items"][0]["seconds"], &floods["items"][0]["job"]),
        (&json!(90), &json!(flooded)),
        "{floods}"
    );
    assert_eq!(alice["state"], "ready", "a flood is not a failure");
    // Other actions go on.
    let scan = json!({ "what": "members", "chat": GROUP, "purpose": "a test" });
    assert_eq!(run(&stack, JobKind::Scan, "alice", scan).await["state"], "succeeded");
    // The account is full: no more joins, for a day.
    answer(&stack, "channels.joinChannel", 400, "CHANNELS_TOO_MUCH");
    let full = run(&stack, JobKind::Join, "alice", json!({ "chat": "@big_bazaar" })).await;
    assert_eq!(full["error"]["code"], "channel_limit", "{full}");
    assert!(
        session(&stack, "alice").await["gates"]
            .as_array()
            .is_some_and(|gates| gates.len() == 2)
    );
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_cap_puts_off_one_job_holds_the_next_and_is_named() {
    let (stack, _worker) = stack(&["alice"]).await;
    let id = session(&stack, "alice").await["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/sessions/{id}/caps/message");
    let cap = |per_day: i32| json!({ "per_minute": 100, "per_hour": 100, "per_day": per_day });
    let set = async |per_day: i32| {
        let set = stack
            .request(Method::PUT, &path)
            .json(&cap(per_day))
            .send()
            .await
            .expect("answered");
        assert!(set.status().is_success());
    };
    set(1).await;
    assert_eq!(publish(&stack, "alice", "one").await["state"], "succeeded");
    let args = json!({ "chat": GROUP, "text": "two" });
    let second = post(&stack, JobKind::Publish, "alice", args).await;
    // Not claimed at all, or, when the holder was just told of the cap that was set, claimed once and put off.
    let named = async || {
        let because = why(&stack, &second).await;
        (because["reason"]["code"] == "cap_reached" && because["reason"]["until"].is_string()).then_some(())
    };
    until("the cap is named", named).await;
    let alice = session(&stack, "alice").await;
    let message = alice["caps"]
        .as_array()
        .expect("caps")
        .iter()
        .find(|cap| cap["action"] == "message")
        .expect("it")
        .clone();
    assert_eq!(
        (&message["day"], message["closed_until"].is_string()),
        (&json!({ "cap": 1, "used": 1, "left": 0 }), true)
    );
    // Raised, it opens at once: the job was never attempted.
    set(2).await;
    let sent = stack.finished(&second).await;
    assert_eq!(
        (&sent["state"], &sent["attempt"]),
        (&json!("succeeded"), &json!(1)),
        "{sent}"
    );
    // Lowered while the holder believes that there is room, the job itself meets it.
    set(3).await;
    sqlx::raw_sql("UPDATE session_caps SET per_day = 1")
        .execute(stack.database.pool())
        .await
        .expect("lowered");
    let third = post(
        &stack,
        JobKind::Publish,
        "alice",
        json!({ "chat": GROUP, "text": "three" }),
    )
    .await;
    let put_off = stack
        .job_when(&third, "put off", |job| job["state"] == "scheduled")
        .await;
    assert_eq!(
        (&put_off["wait_reason"]["code"], &put_off["attempt"]),
        (&json!("cap_reached"), &json!(0)),
        "{put_off}"
    );
    assert_eq!(stack.count_messages("harbour_market", "three"), 0);
    // A raised cap does not leave it waiting for midnight.
    set(4).await;
    assert_eq!(stack.finished(&third).await["state"], "succeeded");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_flood_stops_the_sessions_outreach_until_a_person_resumes_it() {
    let (stack, _worker) = stack(&["alice"]).await;
    answer(&stack, "messages.sendMessage", 400, "PEER_FLOOD");
    let failed = publish(&stack, "alice", "no").await;
    assert_eq!(
        (&failed["state"], &failed["error"]["code"]),
        (&json!("failed"), &json!("peer_flood")),
        "{failed}"
    );
    let limited = session(&stack, "alice").await;
    assert_eq!(
        (&limited["state"], &limited["state_reason"]),
        (&json!("limited"), &json!("PEER_FLOOD"))
    );
    let scan = json!({ "what": "members", "chat": GROUP, "purpose": "a test" });
    assert_eq!(
        run(&stack, JobKind::Scan, "alice", scan).await["state"],
        "succeeded",
        "it may read"
    );
    let waiting = post(
        &stack,
        JobKind::Publish,
        "alice",
        json!({ "chat": GROUP, "text": "yes" }),
    )
    .await;
    assert_eq!(why(&stack, &waiting).await["reason"]["code"], "session_not_ready");
    let path = format!("/v1/sessions/{}/resume", limited["id"].as_str().expect("an id"));
    let resumed = stack.request(Method::POST, &path).send().await.expect("answered");
    assert!(resumed.status().is_success());
    assert_eq!(stack.finished(&waiting).await["state"], "succeeded");
    let changes = "SELECT count(*) FROM events WHERE type = 'session.state_changed' AND data ->> 'from' IS NOT NULL";
    assert_eq!(stack.figure(changes).await, 2);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_is_never_connected_again_and_its_jobs_end_or_wait_for_a_person() {
    let (stack, _worker) = stack(&["alice", "bob", "dave", "erin"]).await;
    for (account, code, name, state) in [
        ("alice", 401, "SESSION_REVOKED", "logged_out"),
        ("bob", 401, "USER_DEACTIVATED_BAN", "banned"),
        ("dave", 420, "FROZEN_METHOD_INVALID", "frozen"),
        ("erin", 406, "AUTH_KEY_DUPLICATED", "quarantined"),
    ] {
        answer(&stack, "messages.sendMessage", code, name);
        let job = post(
            &stack,
            JobKind::Publish,
            account,
            json!({ "chat": GROUP, "text": "no" }),
        )
        .await;
        if state == "quarantined" {
            let waits = async || {
                let because = why(&stack, &job).await;
                (because["reason"]["code"] == "session_not_ready").then_some(())
            };
            until("it waits", waits).await;
        } else {
            // What the send came to is not in doubt: it was refused by name.
            let ended = stack.finished(&job).await;
            assert_eq!(ended["state"], "failed", "{ended}");
            let code = ended["error"]["code"].as_str().unwrap_or_default();
            assert!(["session_lost", "outcome_unknown"].contains(&code), "{ended}");
        }
        let lost = session(&stack, account).await;
        assert_eq!(
            (&lost["state"], &lost["state_reason"]),
            (&json!(state), &json!(name)),
            "{lost}"
        );
        assert_eq!(
            (&lost["lease"]["held"], &lost["healthy"]),
            (&json!(false), &json!(false)),
            "{lost}"
        );
    }
    assert_eq!(
        stack
            .figure("SELECT count(*) FROM events WHERE type = 'session.access_lost'")
            .await,
        4
    );
    let told = "SELECT count(*) FROM audit_log WHERE action = 'session.auth_key_duplicated'
        AND details -> 'terms' -> 0 ->> 'fence' = '1' AND details -> 'terms' -> 0 ->> 'host' IS NOT NULL
        AND details -> 'terms' -> 0 -> 'acquired_at' <> 'null'";
    assert_eq!(stack.figure(told).await, 1, "the incident shows who had the lease when");
    let closed = async || stack.sandbox.controls().connections().is_empty().then_some(());
    tokio::time::timeout(JOB_BOUND, until("closed", closed))
        .await
        .expect("in time");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_pool_that_may_not_begin_on_one_session_go_on_at_once_on_another() {
    let (stack, _worker) = stack(&["alice", "bob"]).await;
    let flood = Effect::flood_wait(600);
    let alice = stack.account("alice");
    stack.fault(Fault::once("contacts.resolveUsername", flood.clone()).of(alice));
    let args = json!({ "chat": GROUP, "text": "hello" });
    let flooded = post(&stack, JobKind::Publish, "alice", args.clone()).await;
    stack
        .job_when(&flooded, "put off", |job| job["state"] == "scheduled")
        .await;
    // Both sessions are free when they come: so one of them meets alice's gate, whose kind of job is open to her.
    let pause = json!({ "reason": "tests" });
    let pool = "/v1/pauses/pool/default";
    let paused = stack
        .request(Method::PUT, pool)
        .json(&pause)
        .send()
        .await
        .expect("answered");
    assert!(paused.status().is_success());
    let mut jobs = Vec::new();
    for _ in 0..4 {
        jobs.push(stack.post("publish", args.clone()).await);
    }
    let resumed = stack.request(Method::DELETE, pool).send().await.expect("answered");
    assert!(resumed.status().is_success());
    let bob = session(&stack, "bob").await["id"].clone();
    for job in &jobs {
        let job = stack.finished(job).await;
        assert_eq!((&job["state"], &job["session"]), (&json!("succeeded"), &bob), "{job}");
        assert_eq!(job["attempt"], 1, "it cost no attempt: {job}");
    }
    let turned_down = "SELECT count(*) FROM job_attempts WHERE outcome = 'snooze' AND wait_reason ->> 'code' = 'flood'";
    assert_eq!(stack.figure(turned_down).await, 2, "the named one, and one of the four");
    // With nobody left who may, they wait, and it is said why.
    stack.fault(Fault::once("contacts.resolveUsername", flood).of(stack.account("bob")));
    let last = post(&stack, JobKind::Publish, "bob", args.clone()).await;
    stack
        .job_when(&last, "put off", |job| job["state"] == "scheduled")
        .await;
    let waiting = stack.post("publish", args).await;
    let met = async || (stack.figure(turned_down).await == 4).then_some(());
    until("bob has turned it down", met).await;
    let named = async || {
        let because = why(&stack, &waiting).await;
        (because["reason"]["code"] == "gate_closed" && because["state"] == "queued").then_some(())
    };
    until("the gate is named", named).await;
    stack.finish().await;
}
