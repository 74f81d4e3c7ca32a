//! Accounts that live in another data centre than the one a login begins in.

use std::collections::BTreeSet;

use wireroom::sandbox::{Effect, Fault};

use super::*;

/// Where logins begin, and where the accounts of these tests live.
const FIRST: i32 = 2;
const HOME: i32 = 4;

fn move_account(stack: &Stack, username: &str) {
    let account = stack.account(username);
    stack
        .sandbox
        .controls()
        .move_account(account, HOME)
        .expect("there is one");
}

/// The data centres of the open connections.
fn connected_to(stack: &Stack) -> BTreeSet<i32> {
    let connections = stack.sandbox.controls().connections();
    connections.iter().map(|open| open.dc).collect()
}

/// Waits until the session is held and answers; its connection leads home.
async fn until_held_at_home(stack: &Stack, id: &str, worker: Option<&str>) -> Value {
    let held = eventually(BOUND, async || {
        let session = session(stack, id).await;
        let holder = session["worker"].as_str();
        let dcs = connected_to(stack);
        if holder.is_some() && holder != worker && session["healthy"] == true && dcs == BTreeSet::from([HOME]) {
            Ok(session)
        } else {
            Err((session, dcs))
        }
    })
    .await;
    assert_eq!(held["home_dc"], HOME);
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_follows_to_the_accounts_data_centre_and_its_session_goes_straight_there() {
    let stack = empty().await;
    move_account(&stack, "alice");
    let first = stack.worker().await;
    let begun = begin(&stack, "alice", ALICE).await;
    begun.login("code_needed");
    let id = begun.session();
    assert_eq!(connected_to(&stack), BTreeSet::from([HOME]), "the first one is left");
    // Whoever goes on with it goes on there.
    first.kill();
    let mut second = stack.worker().await;
    code(&stack, &id, LOGIN_CODE).await.login("done");
    assert_eq!(stack.calls("auth.sendCode"), 2, "once in each");
    let held = until_held_at_home(&stack, &id, None).await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;

    second.terminate();
    assert!(second.wait_for_end(BOUND).await.success(), "{}", second.output());
    let made = stack.sandbox.controls().connections_made();
    let _third = stack.worker().await;
    until_held_at_home(&stack, &id, held["worker"].as_str()).await;
    stack.succeed("join", json!({ "chat": "@harbour_notices" })).await;
    assert_eq!(
        stack.sandbox.controls().connections_made(),
        made + 1,
        "the one connection that is open leads home, and there was no other"
    );
    assert_erased(&stack).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qr_code_is_taken_along_to_the_accounts_data_centre() {
    let stack = empty().await;
    for account in ["bob", "carol"] {
        move_account(&stack, account);
    }
    let _worker = stack.worker().await;
    let scan = async |label: &str, account: &str| {
        let begun = post(&stack, "/v1/sessions/qr", json!({ "label": label })).await;
        let url = begun.login("scan_needed")["qr"]["url"]
            .as_str()
            .expect("a URL")
            .to_owned();
        let controls = stack.sandbox.controls();
        controls.accept_login(&url, stack.account(account)).expect("scanned");
        begun.session()
    };
    let bob = scan("bob", "bob").await;
    login_when(&stack, &bob, "done", |login| login["state"] == "done").await;
    until_held_at_home(&stack, &bob, None).await;
    assert_eq!(stack.calls("auth.importLoginToken"), 1);
    // The password is asked for, and given, where the account lives.
    let carol = scan("carol", "carol").await;
    login_when(&stack, &carol, "scanned", |login| login["state"] == "password_needed").await;
    let path = format!("/v1/sessions/{carol}/password");
    post(&stack, &path, json!({ "password": PASSWORD })).await.login("done");
    until_held_at_home(&stack, &carol, None).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_and_an_import_follow_too() {
    let stack = empty().await;
    for account in ["harbour_bot", "erin"] {
        move_account(&stack, account);
    }
    let bot = stack.account("harbour_bot");
    stack.command(&["session", "import-sandbox", "erin"]).await;
    let worker = stack.worker().await;
    let body = json!({ "label": "bot", "bot_token": format!("{bot}:harbour_bot-sandbox") });
    let done = post(&stack, "/v1/sessions", body).await;
    done.login("done");
    until_held_at_home(&stack, &done.session(), None).await;
    let homes = "SELECT count(*) FROM sessions WHERE home_dc = 4 AND state = 'ready'";
    assert_eq!(stack.figure(homes).await, 2);
    // Its keys lead home from elsewhere, too.
    let path = format!("/v1/sessions/{}", done.session());
    let exported = post(&stack, &format!("{path}/export"), json!({ "format": "telethon" })).await;
    let text = exported.body["session"].as_str().expect("a string session").to_owned();
    delete(&stack, &format!("{path}?log_out=false")).await;
    let imported = post(
        &stack,
        "/v1/sessions/import",
        json!({ "label": "again", "session": text }),
    )
    .await;
    let enable = format!("/v1/sessions/{}/enable", imported.session());
    post(&stack, &enable, json!({ "stopped_elsewhere": true }))
        .await
        .login("done");
    until_held_at_home(&stack, &imported.session(), None).await;
    drop(worker);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_comes_to_the_wrong_place_is_sent_again_in_the_right_one() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let id = begin(&stack, "alice", ALICE).await.session();
    assert_eq!(connected_to(&stack), BTreeSet::from([FIRST]));
    move_account(&stack, "alice");
    // The code was sent where the account lived then.
    code(&stack, &id, LOGIN_CODE).await.login("code_needed");
    code(&stack, &id, LOGIN_CODE).await.login("done");
    until_held_at_home(&stack, &id, None).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_sent_round_in_a_circle_ends() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    for name in ["PHONE_MIGRATE_4", "PHONE_MIGRATE_2", "PHONE_MIGRATE_4"] {
        let migrate = Effect::Error {
            code: 303,
            name: name.to_owned(),
        };
        stack.fault(Fault::once("auth.sendCode", migrate));
    }
    begin(&stack, "moved", ALICE).await.problem("login_unsupported", 422);
    assert_eq!(stack.calls("auth.sendCode"), 3);
    stack.finish().await;
}
