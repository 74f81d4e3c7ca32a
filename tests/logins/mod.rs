//! Logins over the API, done by real workers against a sandbox: what each outcome is told as, and what is left of it.

mod applications;
mod authorisations;
mod floods;
mod migrations;
mod outcomes;
mod proxies;
mod put_back;
mod takeover;
mod terminal;

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use wireroom::sandbox::{Effect, LOGIN_CODE};

use crate::support::{
    stack::{Options, Stack},
    wait::eventually,
};

/// How long a login's step may take, a worker's death included.
const BOUND: Duration = Duration::from_secs(45);
const ALICE: &str = "+999 66 2 0001";
const BOB: &str = "+999 66 2 0002";
/// The account with a second factor.
const CAROL: &str = "+999 66 2 0003";
const PASSWORD: &str = "sandbox";

/// A response with its body.
#[derive(Debug)]
struct Answer {
    status: u16,
    retry_after: Option<String>,
    location: Option<String>,
    body: Value,
}

impl Answer {
    async fn of(response: Response) -> Self {
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            Some(value.to_str().expect("text").to_owned())
        };
        Self {
            status: response.status().as_u16(),
            retry_after: header("retry-after"),
            location: header("location"),
            body: response.json().await.expect("JSON"),
        }
    }

    #[track_caller]
    fn problem(&self, code: &str, status: u16) -> &Value {
        assert_eq!(
            (self.body["code"].as_str(), self.status),
            (Some(code), status),
            "{}",
            self.body
        );
        &self.body
    }

    #[track_caller]
    fn login(&self, state: &str) -> &Value {
        assert_eq!(self.body["state"], state, "{}", self.body);
        &self.body
    }

    #[track_caller]
    fn session(&self) -> String {
        self.body["session"]
            .as_str()
            .unwrap_or_else(|| panic!("no session in {}", self.body))
            .to_owned()
    }
}

/// A stack without sessions.
async fn empty() -> Stack {
    Stack::with(Options {
        accounts: vec![],
        ..Options::default()
    })
    .await
}

async fn post(stack: &Stack, path: &str, body: Value) -> Answer {
    let request = stack.request(Method::POST, path).json(&body);
    Answer::of(request.send().await.expect("answered")).await
}

async fn post_empty(stack: &Stack, path: &str) -> Answer {
    let request = stack.request(Method::POST, path);
    Answer::of(request.send().await.expect("answered")).await
}

async fn delete(stack: &Stack, path: &str) -> Answer {
    let request = stack.request(Method::DELETE, path);
    Answer::of(request.send().await.expect("answered")).await
}

async fn begin(stack: &Stack, label: &str, phone: &str) -> Answer {
    post(stack, "/v1/sessions", json!({ "label": label, "phone": phone })).await
}

async fn code(stack: &Stack, session: &str, code: &str) -> Answer {
    post(stack, &format!("/v1/sessions/{session}/code"), json!({ "code": code })).await
}

/// Logs an account without a second factor in; returns the session's id.
async fn log_in(stack: &Stack, label: &str, phone: &str) -> String {
    let begun = begin(stack, label, phone).await;
    begun.login("code_needed");
    let session = begun.session();
    code(stack, &session, LOGIN_CODE).await.login("done");
    session
}

async fn session(stack: &Stack, id: &str) -> Value {
    stack.get(&format!("/v1/sessions/{id}")).await
}

async fn login(stack: &Stack, id: &str) -> Value {
    stack.get(&format!("/v1/sessions/{id}/login")).await
}

fn error(code: i32, name: &str) -> Effect {
    Effect::Error {
        code,
        name: name.to_owned(),
    }
}

/// Asks and waits for nobody.
async fn ask(stack: &Stack, method: Method, path: &str, body: Value) -> Answer {
    let request = stack.request(method, path).header("Prefer", "wait=0").json(&body);
    Answer::of(request.send().await.expect("answered")).await
}

async fn until_held(stack: &Stack, id: &str) {
    eventually(BOUND, async || {
        let session = session(stack, id).await;
        if session["worker"].is_string() && session["last_call_at"].is_string() {
            Ok(())
        } else {
            Err(session)
        }
    })
    .await;
}

/// Waits until the sandbox was asked for a method so often.
async fn until_called(stack: &Stack, method: &str, calls: u64) {
    eventually(BOUND, async || match stack.calls(method) {
        seen if seen >= calls => Ok(()),
        seen => Err(format!("{seen} calls of {method}")),
    })
    .await;
}

/// Waits until the session's login is as `wanted` says.
async fn login_when(stack: &Stack, id: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(BOUND, async || {
        let login = login(stack, id).await;
        if wanted(&login) {
            Ok(login)
        } else {
            Err(format!("not {what}: {login}"))
        }
    })
    .await
}

/// Nothing sealed is left in errands that ended, and no phone number, code or password anywhere in them.
async fn assert_erased(stack: &Stack) {
    let left = "SELECT count(*) FROM errands WHERE state IN ('done', 'failed')
        AND num_nonnulls(input_sealed, progress_sealed, output_sealed, qr_url, password_hint) > 0";
    // Of one that was given up, its worker erases the rest once it has hung up.
    eventually(BOUND, async || match stack.figure(left).await {
        0 => Ok(()),
        left => Err(format!("something sealed is left of {left} logins that ended")),
    })
    .await;
}
