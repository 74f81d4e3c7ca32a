//! Sessions that the libraries themselves made, brought to Wireroom over the API.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::*;

/// Imports it, sees that nobody connects with it before its owner says so, and joins a chat with it.
async fn brought_in(stack: &Stack, username: &str, field: &str, value: &str) {
    let calls = stack.sandbox.controls().connections_made();
    let imported = post(stack, "/v1/sessions/import", json!({ "label": username, field: value })).await;
    assert_eq!(imported["state"], "done", "{imported}");
    let path = format!("/v1/sessions/{}", imported["session"].as_str().expect("a session"));
    let disabled = stack.get(&path).await;
    assert_eq!(
        (&disabled["state"], &disabled["state_reason"]),
        (&json!("disabled"), &json!("IMPORTED"))
    );
    assert_eq!(stack.sandbox.controls().connections_made(), calls, "never connected");
    let stopped = json!({ "stopped_elsewhere": true });
    assert_eq!(post(stack, &format!("{path}/enable"), stopped).await["state"], "done");
    let ready = stack.get(&path).await;
    assert_eq!(
        (&ready["state"], &ready["username"], &ready["is_bot"]),
        (&json!("ready"), &json!(username), &json!(false))
    );
    let join = json!({ "kind": "join", "session": username, "args": { "chat": "@harbour_market" } });
    let id = stack.post_job(join).await;
    let joined = stack.finished(&id).await;
    assert_eq!(joined["state"], "succeeded", "{joined}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_a_library_made_is_imported_and_works() {
    let stack = Stack::with(Options {
        accounts: vec![],
        ..Options::default()
    })
    .await;
    let _worker = stack.worker().await;
    let home = tempfile::tempdir().expect("a directory");
    let path = |name: &str| home.path().join(name).to_str().expect("UTF-8").to_owned();

    let file = path("script.session");
    let made_by_telethon = ["+9996620001", file.as_str()];
    TELETHON
        .check("telethon_made.py", &stack.sandbox, &made_by_telethon, "")
        .await;
    let bytes = std::fs::read(&file).expect("it made one");
    brought_in(&stack, "alice", "session_file", &STANDARD.encode(bytes)).await;

    let file = path("string");
    let made_by_kurigram = ["+9996620002", file.as_str()];
    KURIGRAM
        .check("kurigram_made.py", &stack.sandbox, &made_by_kurigram, "")
        .await;
    let text = std::fs::read_to_string(&file).expect("it made one");
    brought_in(&stack, "bob", "session", &text).await;
    stack.finish().await;
}
