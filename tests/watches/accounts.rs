//! Private messages are an account's, and an account may have several sessions here.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_account_with_two_sessions_has_one_watch_of_its_private_messages() {
    let stack = two_members().await;
    let again = ["session", "import-sandbox", "alice", "--label", "alice-again"];
    stack.command(&again).await;
    let _worker = stack.worker().await;
    let private = || json!({ "chat": "private" });
    let id = stack.monitor("alice", private()).await;
    stack.watched(&id, "alice").await;
    let second = stack.monitor("alice-again", private()).await;
    let second = stack.finished(&second).await;
    assert_eq!(
        (&second["state"], &second["result"]),
        (&json!("succeeded"), &json!({ "already_watched": true, "watch": id })),
        "{second}"
    );
    // Another account's are another thing.
    let other = stack.monitor("bob", private()).await;
    stack.watched(&other, "bob").await;
    stop(&stack, &other).await;

    let (alice, judy) = (stack.chat("alice"), stack.account("judy"));
    let write = |text: &str| {
        let controls = stack.sandbox.controls();
        let written = controls.with_world(|world| world.post_as(judy, alice, text));
        written.expect("written");
    };
    let wanted = texts(0..30);
    for text in &wanted[..10] {
        write(text);
    }
    stack.told_when(&wanted[..10]).await;
    // The account's other session goes on, by the same numbers.
    let request = stack.request(Method::POST, &format!("/v1/watches/{id}/switch"));
    let answer = request
        .json(&json!({ "session": "alice-again" }))
        .send()
        .await
        .expect("answered");
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    for text in &wanted[10..20] {
        write(text);
    }
    stack.watched(&id, "alice-again").await;
    for text in &wanted[20..] {
        write(text);
    }
    stack.told_when(&wanted).await;
    let request = stack.request(Method::POST, &format!("/v1/watches/{id}/switch"));
    let answer = request
        .json(&json!({ "session": "bob" }))
        .send()
        .await
        .expect("answered");
    assert_eq!(answer.status(), StatusCode::CONFLICT, "another account's");
    stop(&stack, &id).await;
    stack.finished(&id).await;
    stack.finished(&other).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_private_messages_goes_on_with_another_session_of_the_account() {
    let stack = two_members().await;
    let again = ["session", "import-sandbox", "alice", "--label", "alice-again"];
    stack.command(&again).await;
    let _worker = stack.worker().await;
    let id = stack.monitor("alice", json!({ "chat": "private" })).await;
    stack.watched(&id, "alice").await;
    let (alice, judy) = (stack.chat("alice"), stack.account("judy"));
    let write = |text: &str| {
        let controls = stack.sandbox.controls();
        let written = controls.with_world(|world| world.post_as(judy, alice, text));
        written.expect("written");
    };
    let wanted = texts(0..20);
    for text in &wanted[..10] {
        write(text);
    }
    stack.told_when(&wanted[..10]).await;
    // Logged out, while the account's other session is not; nobody has named that one.
    let name = "AUTH_KEY_UNREGISTERED".to_owned();
    stack.fault(Fault::once(
        "contacts.resolveUsername",
        Effect::Error { code: 401, name },
    ));
    let job = json!({ "kind": "join", "session": "alice", "args": { "chat": "@slow_pier", "action": "check" } });
    let job = stack.post_job(job).await;
    assert_eq!(stack.finished(&job).await["state"], "failed");
    for text in &wanted[10..] {
        write(text);
    }
    stack.watched(&id, "alice-again").await;
    stack.told_when(&wanted).await;
    let lost = "SELECT count(*) FROM events WHERE type = 'watch.access_lost'";
    assert_eq!(stack.figure(lost).await, 1);
    stop(&stack, &id).await;
    stack.finished(&id).await;
    stack.finish().await;
}
