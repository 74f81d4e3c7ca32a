//! The rows that a login meets.

use reqwest::Method;
use serde_json::{Value, json};
use wireroom::sandbox::LOGIN_CODE;

use super::{Bench, Effect, Fault, Named, PASSWORD};

const CAROL: &str = "+999 66 2 0003";
const JUDY: &str = "+999 66 2 0010";

async fn begin_login(bench: &Bench, label: &str, phone: &str) -> Value {
    let body = json!({ "label": label, "phone": phone });
    let request = bench.stack.request(Method::POST, "/v1/sessions").json(&body);
    request.send().await.expect("answered").json().await.expect("JSON")
}

async fn step(bench: &Bench, session: &str, step: &str, body: Value) -> Value {
    let path = format!("/v1/sessions/{session}/{step}");
    let request = bench.stack.request(Method::POST, &path).json(&body);
    request.send().await.expect("answered").json().await.expect("JSON")
}

async fn give_up(bench: &Bench, session: &str) {
    let path = format!("/v1/sessions/{session}/login");
    let request = bench.stack.request(Method::DELETE, &path);
    assert!(request.send().await.expect("answered").status().is_success());
}

pub async fn login_refused(bench: &mut Bench, method: &str, problem: &str, error: &Named) {
    let effect = Effect::Error {
        code: error.code,
        name: error.name.clone(),
    };
    let label = format!("login {}", error.name);
    if method == "auth.sendCode" {
        bench.stack.fault(Fault::once(method, effect));
        // Each its own number: one that was flooded rests.
        bench.turn += 1;
        let number = format!("+9996629{:03}", bench.turn);
        let answer = begin_login(bench, &label, &number).await;
        assert_eq!(answer["code"], problem, "{error:?}: {answer}");
        return;
    }
    let phone = if method == "auth.checkPassword" { CAROL } else { JUDY };
    let begun = begin_login(bench, &label, phone).await;
    let session = begun["session"]
        .as_str()
        .unwrap_or_else(|| panic!("{begun}"))
        .to_owned();
    let calls = bench.stack.calls(method);
    let answer = if method == "auth.checkPassword" {
        step(bench, &session, "code", json!({ "code": LOGIN_CODE })).await;
        bench.stack.fault(Fault::once(method, effect));
        step(bench, &session, "password", json!({ "password": PASSWORD })).await
    } else {
        bench.stack.fault(Fault::once(method, effect));
        step(bench, &session, "code", json!({ "code": LOGIN_CODE })).await
    };
    assert_eq!(answer["code"], problem, "{error:?}: {answer}");
    assert_eq!(bench.stack.calls(method) - calls, 1, "{error:?}: nothing repeats it");
    give_up(bench, &session).await;
}

pub async fn password_needed(bench: &mut Bench, error: &Named) {
    let begun = begin_login(bench, &error.name, CAROL).await;
    let session = begun["session"]
        .as_str()
        .unwrap_or_else(|| panic!("{begun}"))
        .to_owned();
    let effect = Effect::Error {
        code: error.code,
        name: error.name.clone(),
    };
    bench.stack.fault(Fault::once("auth.signIn", effect));
    let answer = step(bench, &session, "code", json!({ "code": LOGIN_CODE })).await;
    assert_eq!(answer["state"], "password_needed", "{error:?}: {answer}");
    let shown = bench.stack.get(&format!("/v1/sessions/{session}")).await;
    assert_eq!(shown["state"], "password_needed", "no failure");
    give_up(bench, &session).await;
}
