//! Floods of logins are recorded, and nothing is tried again before they are over.

use wireroom::sandbox::Fault;

use super::*;

/// Seconds that an answer asks to wait.
#[track_caller]
fn wait_of(answer: &Answer) -> u32 {
    let header = answer.retry_after.as_deref();
    header
        .unwrap_or_else(|| panic!("no Retry-After: {}", answer.body))
        .parse()
        .expect("seconds")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flooded_number_rests_under_every_label() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let flooded = begin(&stack, "first", "+999 00 00004").await;
    flooded.problem("login_flooded", 429);
    assert!((590..=600).contains(&wait_of(&flooded)));
    for label in ["first", "second"] {
        let again = begin(&stack, label, "+999 00 00004").await;
        again.problem("login_flooded", 429);
        assert!((500..=600).contains(&wait_of(&again)), "what is left of it");
    }
    assert_eq!(stack.calls("auth.sendCode"), 1, "Telegram is not asked before that");

    begin(&stack, "third", "+999 00 00002")
        .await
        .problem("phone_number_flooded", 429);
    let again = begin(&stack, "fourth", "+999 00 00002").await;
    again.problem("phone_number_flooded", 429);
    assert!((86_300..=86_400).contains(&wait_of(&again)), "a day");
    assert_eq!(stack.calls("auth.sendCode"), 2);
    let floods = stack.get("/v1/floods").await;
    let recorded: Vec<_> = floods["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|flood| {
            (
                flood["method"].as_str(),
                flood["error"].as_str(),
                flood["seconds"].as_i64(),
            )
        })
        .collect();
    assert_eq!(
        recorded,
        [
            (Some("auth.sendCode"), Some("PHONE_NUMBER_FLOOD"), Some(0)),
            (Some("auth.sendCode"), Some("FLOOD_WAIT"), Some(600)),
        ],
        "each once"
    );
    let plain = "SELECT count(*) FROM login_rests WHERE encode(target, 'escape') LIKE '%99900%'";
    assert_eq!(stack.figure(plain).await, 0, "nobody reads there whose number it is");

    // Another number goes on, and a rest that is over is over.
    log_in(&stack, "first", ALICE).await;
    let over = "UPDATE login_rests SET until = wireroom_now()";
    sqlx::query(over).execute(stack.database.pool()).await.expect("set");
    begin(&stack, "second", "+999 00 00004")
        .await
        .problem("login_flooded", 429);
    assert_eq!(stack.calls("auth.sendCode"), 4);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_in_the_middle_holds_the_next_step_back() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let id = begin(&stack, "alice", ALICE).await.session();
    stack.fault(Fault::once("auth.signIn", Effect::flood_wait(200)));
    code(&stack, &id, LOGIN_CODE).await.problem("login_flooded", 429);
    let early = code(&stack, &id, LOGIN_CODE).await;
    early.problem("login_flooded", 429);
    assert!((100..=200).contains(&wait_of(&early)));
    let resend = format!("/v1/sessions/{id}/resend");
    post_empty(&stack, &resend).await.problem("login_flooded", 429);
    assert_eq!((stack.calls("auth.signIn"), stack.calls("auth.resendCode")), (1, 0));
    let login = login(&stack, &id).await;
    assert_eq!(login["state"], "code_needed", "it goes on after that");
    let (until, end) = (login["retry_at"].as_str(), login["expires_at"].as_str());
    assert!(until.is_some() && until < end, "and is not given up before: {login}");
    let over = "UPDATE errands SET retry_at = wireroom_now()";
    sqlx::query(over).execute(stack.database.pool()).await.expect("set");
    code(&stack, &id, LOGIN_CODE).await.login("done");
    let recorded = "SELECT count(*) FROM floods WHERE method = 'auth.signIn' AND seconds = 200";
    assert_eq!(stack.figure(recorded).await, 1);

    // One that lasts longer than the code ends the login.
    let id = begin(&stack, "bob", BOB).await.session();
    stack.fault(Fault::once("auth.signIn", Effect::flood_wait(900)));
    code(&stack, &id, LOGIN_CODE).await.problem("login_flooded", 429);
    assert_eq!(super::login(&stack, &id).await["state"], "failed");
    begin(&stack, "bob", BOB).await.problem("login_flooded", 429);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_are_sent_again_five_times() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let id = begin(&stack, "alice", ALICE).await.session();
    let path = format!("/v1/sessions/{id}/resend");
    for sent in 1..=5 {
        assert_eq!(post_empty(&stack, &path).await.login("code_needed")["resends"], sent);
    }
    let sent = || stack.calls("auth.sendCode") + stack.calls("auth.resendCode");
    let before = sent();
    post_empty(&stack, &path).await.problem("login_resend_limit", 429);
    assert_eq!(sent(), before, "Telegram was not asked");
    code(&stack, &id, LOGIN_CODE).await.login("done");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_errand_that_was_flooded_is_not_tried_again_at_once() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let id = log_in(&stack, "alice", ALICE).await;
    until_held(&stack, &id).await;
    let path = format!("/v1/sessions/{id}");
    post(&stack, &format!("{path}/export"), json!({ "format": "telethon" })).await;
    stack.fault(Fault::once("users.getUsers", Effect::flood_wait(77)));
    let enable = format!("{path}/enable");
    let confirmed = json!({ "stopped_elsewhere": true });
    post(&stack, &enable, confirmed.clone())
        .await
        .problem("login_flooded", 429);
    let calls = stack.calls("users.getUsers");
    let again = post(&stack, &enable, confirmed).await;
    again.problem("login_flooded", 429);
    assert!((50..=77).contains(&wait_of(&again)));
    assert_eq!(stack.calls("users.getUsers"), calls);
    assert_eq!(session(&stack, &id).await["state"], "disabled");
    stack.finish().await;
}
