//! Campaigns over real processes, the sandbox and Postgres: each outcome, nobody twice whatever dies, and everything that
//! stops an invitation.

mod changes;
mod crashes;
mod endings;
mod erasure;
mod outcomes;
mod planted;
mod replies;
mod stops;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    stack::{JOB_BOUND, Options, Stack, patience},
    wait::eventually,
};

const CHAT: &str = "@harbour_market";
const TEXT: &str = "You asked about the market. Come in: {link}";
/// The text as it arrives.
const SENT: &str = "You asked about the market. Come in: https://t.me/harbour_market";
/// 32 bytes of made-up key.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A stack whose sessions are in the chat, with its workers to be started.
async fn stack_of(accounts: Vec<&'static str>) -> Stack {
    stack_with(accounts, Vec::new()).await
}

/// The same with more variables.
async fn stack_with(accounts: Vec<&'static str>, mut variables: Vec<(&'static str, String)>) -> Stack {
    variables.push(("WIREROOM_PERSON_KEY", KEY.to_owned()));
    let stack = Stack::with(Options {
        accounts: accounts.clone(),
        variables,
        ..Options::default()
    })
    .await;
    for account in accounts {
        join(&stack, account);
    }
    stack
}

/// Puts an account into the chat, without a job.
fn join(stack: &Stack, account: &str) {
    let (chat, user) = (stack.chat("harbour_market"), stack.account(account));
    stack
        .sandbox
        .controls()
        .with_world(|world| world.put_in(chat, user))
        .expect("in the chat");
}

async fn send(stack: &Stack, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
    let response = stack.request(method, path).json(body).send().await.expect("answered");
    let status = response.status();
    (status, response.json().await.unwrap_or_default())
}

async fn post(stack: &Stack, path: &str, body: &Value) -> Value {
    let (status, answer) = send(stack, Method::POST, path, body).await;
    assert!(status.is_success(), "POST {path}: {answer}");
    answer
}

/// A campaign with these differences from the usual one; its path.
async fn campaign(stack: &Stack, change: Value) -> String {
    let mut body = json!({
        "name": "Spring", "chat": CHAT, "text": TEXT, "per_day": 1000, "stop_after": 1000, "session": "alice",
    });
    let fields = change.as_object().expect("fields").clone();
    body.as_object_mut().expect("fields").extend(fields);
    if body["mode"] == "add" {
        body["text"] = Value::Null;
    }
    let made = post(stack, "/v1/campaigns", &body).await;
    format!("/v1/campaigns/{}", made["id"].as_str().expect("an id"))
}

/// Puts people on the list with a proof.
async fn list(stack: &Stack, campaign: &str, names: &[&str]) {
    let items: Vec<Value> = names
        .iter()
        .map(|name| json!({ "username": name, "basis": "import", "proof": "a form", "supplied_by": "Maria" }))
        .collect();
    let added = post(stack, &format!("{campaign}/people"), &json!({ "items": items })).await;
    assert_eq!(added["added"], names.len(), "{added}");
}

/// Starts the campaign; its job's id.
async fn resume(stack: &Stack, campaign: &str) -> String {
    let running = post(stack, &format!("{campaign}/resume"), &json!({})).await;
    running["job"].as_str().expect("a job").to_owned()
}

/// Waits until the campaign's job has dealt with everybody; its result.
async fn done(stack: &Stack, job: &str) -> Value {
    let job = stack.finished(job).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    job["result"].clone()
}

/// What became of somebody on the list.
async fn outcome(stack: &Stack, campaign: &str, name: &str) -> Value {
    let people = stack.get(&format!("{campaign}/people?limit=1000")).await;
    let items = people["items"].as_array().expect("a list");
    let person = items.iter().find(|person| person["username"] == name);
    person.unwrap_or_else(|| panic!("{name} is not listed"))["outcome"].clone()
}

/// How many messages with the invitation an account has sent.
fn invitations_of(stack: &Stack, account: &str) -> usize {
    stack.count_messages(account, SENT)
}

/// Waits until the condition holds, by the sandbox or the database.
async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    eventually(JOB_BOUND, async || {
        if condition().await {
            Ok(())
        } else {
            Err(what.to_owned())
        }
    })
    .await;
}

async fn suppress(stack: &Stack, who: Value) {
    let mut body = who;
    body["reason"] = json!("asked for it");
    let (status, answer) = send(stack, Method::POST, "/v1/suppressions", &body).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
}

/// Makes jobs that wait ready now.
async fn hurry(stack: &Stack) {
    sqlx::query("UPDATE jobs SET run_at = wireroom_now() WHERE state = 'scheduled'")
        .execute(stack.database.pool())
        .await
        .expect("changed");
}
