//! A login survives its worker, and is never done by two.

use wireroom::sandbox::{Effect, Fault, Misuse};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn another_worker_goes_on_when_the_first_is_killed() {
    let stack = empty().await;
    let first = stack.worker().await;
    let alice = begin(&stack, "alice", ALICE).await.session();
    let carol = begin(&stack, "carol", CAROL).await.session();
    code(&stack, &carol, LOGIN_CODE).await.login("password_needed");
    first.kill();
    let _second = stack.worker().await;
    code(&stack, &alice, LOGIN_CODE).await.login("done");
    let path = format!("/v1/sessions/{carol}/password");
    post(&stack, &path, json!({ "password": PASSWORD })).await.login("done");
    let taken_over = "SELECT count(*) FROM errands WHERE fence >= 2";
    assert_eq!(stack.figure(taken_over).await, 2, "both were taken over");
    assert_eq!(stack.calls("auth.sendCode"), 2, "no code was sent again");
    assert_erased(&stack).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_worker_may_have_authorised_is_undone_when_its_login_is_given_up() {
    let stack = empty().await;
    let first = stack.worker().await;
    let id = begin(&stack, "alice", ALICE).await.session();
    let alice = stack.account("alice");
    let authorised = async |keys: usize| {
        eventually(BOUND, async || match stack.sandbox.controls().keys(Some(alice)).len() {
            now if now == keys => Ok(()),
            now => Err(now),
        })
        .await;
    };
    // It is signed in, and never told.
    stack.fault(Fault::once("auth.signIn", Effect::LoseAnswer));
    let path = format!("/v1/sessions/{id}/code");
    let request = stack.request(Method::POST, &path).header("Prefer", "wait=1");
    let sent = request
        .json(&json!({ "code": LOGIN_CODE }))
        .send()
        .await
        .expect("answered");
    Answer::of(sent).await.problem("login_pending", 504);
    authorised(1).await;
    first.kill();
    delete(&stack, &format!("/v1/sessions/{id}/login"))
        .await
        .login("failed");
    assert_eq!(session(&stack, &id).await["state"], "new");
    let _second = stack.worker().await;
    authorised(0).await;
    assert_erased(&stack).await;
    log_in(&stack, "alice", ALICE).await;
    authorised(1).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_hands_its_logins_over_at_once() {
    let stack = empty().await;
    let mut first = stack.worker().await;
    let alice = begin(&stack, "alice", ALICE).await.session();
    let _second = stack.worker().await;
    first.terminate();
    assert!(first.wait_for_end(BOUND).await.success(), "{}", first.output());
    code(&stack, &alice, LOGIN_CODE).await.login("done");
    assert_eq!(stack.calls("auth.sendCode"), 1);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_no_worker_answers_can_be_continued() {
    let stack = empty().await;
    begin(&stack, "alice", ALICE).await.problem("no_worker", 503);
    assert_eq!(
        stack.figure("SELECT count(*) FROM sessions").await,
        0,
        "nothing is left"
    );
    let worker = stack.worker().await;
    worker.kill();
    let request = stack.request(Method::POST, "/v1/sessions").header("Prefer", "wait=1");
    let body = json!({ "label": "alice", "phone": ALICE });
    let pending = Answer::of(request.json(&body).send().await.expect("answered")).await;
    pending.problem("login_pending", 504);
    let id = pending.session();
    assert_eq!(pending.location, Some(format!("/v1/sessions/{id}/login")));
    assert_eq!(login(&stack, &id).await["state"], "working");
    code(&stack, &id, LOGIN_CODE).await.problem("login_in_progress", 409);
    let _worker = stack.worker().await;
    login_when(&stack, &id, "sent", |login| login["state"] == "code_needed").await;
    code(&stack, &id, LOGIN_CODE).await.login("done");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_workers_one_does_a_login() {
    let stack = empty().await;
    let _first = stack.worker().await;
    let _second = stack.worker().await;
    let logins = (1..=8).map(|number| {
        let stack = &stack;
        async move {
            let phone = format!("+999 66 2 {number:04}");
            let label = format!("racer {number}");
            let session = begin(stack, &label, &phone).await.session();
            let entered = code(stack, &session, LOGIN_CODE).await;
            if entered.body["state"] == "password_needed" {
                let path = format!("/v1/sessions/{session}/password");
                post(stack, &path, json!({ "password": PASSWORD })).await.login("done");
            } else {
                entered.login("done");
            }
        }
    });
    futures::future::join_all(logins).await;
    let once = "SELECT count(*) FROM errands WHERE state = 'done' AND fence = 1";
    assert_eq!(stack.figure(once).await, 8, "each was claimed once");
    assert_eq!((stack.calls("auth.sendCode"), stack.calls("auth.signIn")), (8, 8));
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_stopped_past_its_hold_sends_nothing_when_it_wakes() {
    let stack = empty().await;
    let mut first = stack.worker().await;
    let alice = begin(&stack, "alice", ALICE).await.session();
    first.pause();
    let _second = stack.worker().await;
    code(&stack, &alice, LOGIN_CODE).await.login("done");
    first.resume();
    eventually(BOUND, async || {
        let awake = "SELECT count(*) FROM workers WHERE heartbeat_at > wireroom_now() - interval '1 second'";
        match stack.figure(awake).await {
            2 => Ok(()),
            awake => Err(awake),
        }
    })
    .await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    eventually(BOUND, async || match stack.sandbox.controls().connections().len() {
        1 => Ok(()),
        open => Err(format!("{open} connections are open")),
    })
    .await;
    // A stopped process cannot hang up; what counts is that it sends nothing.
    let misuse = stack.sandbox.controls().take_incidents();
    assert!(
        misuse.iter().all(|incident| incident.kind == Misuse::OpenTwice),
        "bytes of one key came from two places: {misuse:?}"
    );
    assert!(first.is_alive(), "losing a login ends no process");
    stack.finish().await;
}
