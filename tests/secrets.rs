//! Secrets stay secret, however much is logged: real processes at the loudest level, with every library named, and
//! nothing of what they handle in what they wrote.

use reqwest::{Method, StatusCode};
use serde_json::json;
use wireroom::sandbox::{Effect, Fault};

use crate::support::{
    process::Process,
    stack::{Options, START_BOUND, Stack},
};

/// Everything, and by name what is quiet or cut off by itself.
const LOUD: &str = "trace,wireroom=trace,wireroom_jobs=trace,sqlx=trace,poem=trace,apalis=trace,apalis_core=trace,\
                    hyper=trace,tower=trace,grammers_client=trace,grammers_mtproto=trace,grammers_mtsender=trace,\
                    grammers_session=trace";

/// Words that stand in messages and in bodies, and nowhere else.
const TEXT: &str = "Quixotic zephyrs";
const REFUSED_TEXT: &str = "Vexing jackdaws";
/// In the place of a chat's name, by mistake.
const MISTAKEN_PHONE: &str = "+9996629999";

/// Runs of digits that are a made-up phone number's.
fn phone_numbers(output: &str) -> Vec<&str> {
    output
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| {
            (10..=12).contains(&digits.len()) && ["9996", "9997"].iter().any(|zone| digits.starts_with(zone))
        })
        .collect()
}

fn assert_silent(who: &str, output: &str, secrets: &[&str]) {
    assert!(output.contains("DEBUG sqlx"), "{who} was not loud:\n{output}");
    for (index, secret) in secrets.iter().enumerate() {
        let line = output.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "secret {index} is in what {who} wrote");
    }
    assert_eq!(phone_numbers(output), [] as [&str; 0], "in what {who} wrote");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_logged_at_the_loudest_level() {
    let stack = Stack::with(Options {
        variables: vec![("WIREROOM_LOG", LOUD.to_owned())],
        ..Options::default()
    })
    .await;
    let worker = stack.worker().await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    stack
        .succeed("publish", json!({ "chat": "@harbour_market", "text": TEXT }))
        .await;
    stack.succeed("join", json!({ "chat": "@harbour_notices" })).await;
    stack
        .fail("publish", json!({ "chat": "@harbour_notices", "text": TEXT }))
        .await;
    stack
        .succeed(
            "scan",
            json!({ "chat": "@harbour_market", "what": "members", "purpose": "a test" }),
        )
        .await;
    // A call that fails in transit is where a library would print the request.
    stack.fault(Fault::once("messages.sendMessage", Effect::DropAfter));
    stack
        .succeed(
            "publish",
            json!({ "chat": "@harbour_market", "text": format!("{TEXT}!") }),
        )
        .await;
    for body in [
        json!({ "kind": "publish", "args": { "chat": MISTAKEN_PHONE, "text": REFUSED_TEXT } }),
        json!({ "kind": "publish", "args": { "chat": "@harbour_market", "text": REFUSED_TEXT.repeat(300) } }),
        json!({ "kind": "publish", "args": { "chat": "@harbour_market", "txt": REFUSED_TEXT } }),
    ] {
        let refused = stack.request(Method::POST, "/v1/jobs").json(&body).send().await;
        let refused = refused.expect("answered");
        assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    }

    let variables: Vec<(&str, &str)> = stack
        .variables()
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut import = Process::wireroom(&["session", "import-sandbox", "carol"], &variables);
    assert!(import.wait_for_end(START_BOUND).await.success(), "{}", import.output());

    let master = variables.iter().find(|(name, _)| *name == "WIREROOM_MASTER_KEYS");
    let (_, master) = master.expect("one is set");
    let (_, master) = master.split_once(':').expect("id:key");
    let secrets = [TEXT, REFUSED_TEXT, MISTAKEN_PHONE, stack.key.as_str(), master];
    assert_silent("the API", &stack.api_output(), &secrets);
    assert_silent("the worker", &worker.output(), &secrets);
    assert_silent("the import", &import.output(), &secrets);
    stack.finish().await;
}
