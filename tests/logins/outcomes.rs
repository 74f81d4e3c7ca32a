//! Each outcome of a login is told apart.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_logged_in_and_its_session_runs_jobs() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let begun = begin(&stack, "shop-1", ALICE).await;
    assert_eq!(begun.status, 201);
    let session_path = begun.location.clone().expect("where it is");
    let login = begun.login("code_needed");
    assert_eq!(login["code"]["sent_by"], "app");
    assert_eq!(login["code"]["length"], 5);
    assert_eq!(login["code"]["next"], "sms");
    let id = begun.session();
    assert_eq!(session_path, format!("/v1/sessions/{id}"));
    assert_eq!(session(&stack, &id).await["state"], "code_needed");

    code(&stack, &id, "00000").await.problem("login_code_wrong", 422);
    code(&stack, &id, "99999").await.problem("login_code_expired", 410);
    assert_eq!(
        super::login(&stack, &id).await["wrong_tries"],
        1,
        "an old code is not a wrong one"
    );
    let resent = post_empty(&stack, &format!("/v1/sessions/{id}/resend")).await;
    assert_eq!(resent.login("code_needed")["code"]["sent_by"], "sms");
    let path = format!("/v1/sessions/{id}/password");
    post(&stack, &path, json!({ "password": "x" }))
        .await
        .problem("login_out_of_turn", 409);
    code(&stack, &id, " 222-22 ").await.login("done");

    let ready = session(&stack, &id).await;
    assert_eq!(ready["state"], "ready");
    assert_eq!(ready["username"], "alice");
    assert_eq!(ready["account_id"], stack.account("alice"));
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    code(&stack, &id, LOGIN_CODE).await.problem("login_not_found", 404);
    begin(&stack, "shop-1", ALICE).await.problem("session_exists", 409);
    let audit = "SELECT count(*) FROM audit_log WHERE action IN ('session.login_begun', 'session.logged_in')";
    assert_eq!(stack.figure(audit).await, 2);
    let events = "SELECT count(*) FROM events WHERE type = 'session.state_changed'";
    assert_eq!(stack.figure(events).await, 3, "new, code_needed and ready");
    assert_erased(&stack).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_number_that_telegram_refuses_has_its_own_answer() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    for (number, problem, status, state) in [
        ("+999 00 00001", "phone_number_banned", 422, "banned"),
        ("+999 00 00002", "phone_number_flooded", 429, "new"),
        ("+999 00 00003", "phone_number_invalid", 422, "new"),
        ("+999 00 00004", "login_flooded", 429, "new"),
        ("+999 00 00005", "phone_number_flooded", 429, "new"),
        ("+999 00 00006", "application_invalid", 422, "new"),
        ("+1 555 0100", "phone_number_invalid", 422, "new"),
    ] {
        let refused = begin(&stack, &format!("session {}", &number[number.len() - 3..]), number).await;
        refused.problem(problem, status);
        if problem == "login_flooded" {
            let seconds: u32 = refused.retry_after.as_deref().expect("when").parse().expect("seconds");
            assert!((590..=600).contains(&seconds), "{seconds}");
        }
        let id = refused.session();
        assert_eq!(session(&stack, &id).await["state"], state, "{number}");
        let login = login(&stack, &id).await;
        assert_eq!(
            (login["state"].as_str(), login["problem"].as_str()),
            (Some("failed"), Some(problem))
        );
        code(&stack, &id, LOGIN_CODE).await.problem(problem, status);
    }
    // A number nobody has registered looks like any other until its code is entered.
    let begun = begin(&stack, "nobody", "+999 66 9 1234").await;
    code(&stack, &begun.session(), LOGIN_CODE)
        .await
        .problem("phone_number_unregistered", 422);
    for (body, code, field) in [
        (json!({ "label": "x", "phone": "hello" }), "invalid_value", "phone"),
        (
            json!({ "label": "x", "phone": ALICE, "proxy": "http://127.0.0.1:1" }),
            "invalid_value",
            "proxy",
        ),
        (
            json!({ "label": "x", "bot_token": "no token" }),
            "invalid_value",
            "bot_token",
        ),
        (json!({ "label": ALICE, "phone": ALICE }), "invalid_value", "label"),
        (json!({ "label": "x" }), "missing_field", "phone"),
        (
            json!({ "label": "x", "phone": ALICE, "pool": "nowhere" }),
            "unknown_pool",
            "pool",
        ),
        (
            json!({ "label": "x", "phone": ALICE, "application": "mine" }),
            "unknown_application",
            "application",
        ),
    ] {
        let refused = post(&stack, "/v1/sessions", body).await;
        assert_eq!(refused.problem(code, 422)["field"], field);
    }
    assert_eq!(stack.sandbox.controls().connections().len(), 0, "nothing is open");
    assert_erased(&stack).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_is_asked_for_with_its_hint() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let begun = begin(&stack, "carol", CAROL).await;
    let id = begun.session();
    let asked = code(&stack, &id, LOGIN_CODE).await;
    assert_eq!(
        asked.login("password_needed")["password_hint"],
        wireroom::sandbox::PASSWORD_HINT
    );
    assert_eq!(session(&stack, &id).await["state"], "password_needed");
    code(&stack, &id, LOGIN_CODE).await.problem("login_out_of_turn", 409);
    let path = format!("/v1/sessions/{id}/password");
    post(&stack, &path, json!({ "password": "wrong" }))
        .await
        .problem("password_wrong", 422);
    post(&stack, &path, json!({ "password": PASSWORD })).await.login("done");
    assert_eq!(session(&stack, &id).await["state"], "ready");
    assert_erased(&stack).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fifth_wrong_code_ends_the_login() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let id = begin(&stack, "clumsy", ALICE).await.session();
    for _ in 0..4 {
        code(&stack, &id, "11111").await.problem("login_code_wrong", 422);
    }
    code(&stack, &id, "11111").await.problem("login_too_many_tries", 429);
    code(&stack, &id, LOGIN_CODE).await.problem("login_too_many_tries", 429);
    // The label may be used again at once.
    assert_eq!(log_in(&stack, "clumsy", ALICE).await, id);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_given_up_leaves_nothing() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let id = begin(&stack, "given up", ALICE).await.session();
    begin(&stack, "given up", ALICE).await.problem("login_in_progress", 409);
    let path = format!("/v1/sessions/{id}/login");
    delete(&stack, &path).await.login("failed");
    delete(&stack, &path).await.problem("login_not_found", 404);
    code(&stack, &id, LOGIN_CODE).await.problem("login_cancelled", 410);
    assert_eq!(session(&stack, &id).await["state"], "new");
    eventually(BOUND, async || match stack.sandbox.controls().connections().len() {
        0 => Ok(()),
        open => Err(format!("{open} connections are open")),
    })
    .await;
    assert_erased(&stack).await;
    // One that nobody goes on with is given up by itself.
    let id = begin(&stack, "forgotten", ALICE).await.session();
    let late = "UPDATE errands SET expires_at = wireroom_now() WHERE state = 'code_needed'";
    sqlx::query(late).execute(stack.database.pool()).await.expect("set");
    login_when(&stack, &id, "expired", |login| login["problem"] == "login_expired").await;
    assert_erased(&stack).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_is_logged_in_by_its_token() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let bot = stack.account("harbour_bot");
    let wrong = json!({ "label": "bot", "bot_token": format!("{bot}:harbour_bot-elsewhere") });
    post(&stack, "/v1/sessions", wrong)
        .await
        .problem("bot_token_invalid", 422);
    let right = json!({ "label": "bot", "bot_token": format!("{bot}:harbour_bot-sandbox") });
    let done = post(&stack, "/v1/sessions", right).await;
    done.login("done");
    let ready = session(&stack, &done.session()).await;
    assert_eq!((&ready["is_bot"], &ready["account_id"]), (&json!(true), &json!(bot)));
    eventually(BOUND, async || {
        let session = session(&stack, &done.session()).await;
        session["last_call_at"].as_str().map(str::to_owned).ok_or(session)
    })
    .await;
    assert_erased(&stack).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qr_code_is_shown_made_anew_and_scanned() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let begun = post(&stack, "/v1/sessions/qr", json!({ "label": "scanned" })).await;
    let shown = begun.login("scan_needed");
    let url = shown["qr"]["url"].as_str().expect("a URL").to_owned();
    assert!(url.starts_with("tg://login?token="), "{url}");
    let png = shown["qr"]["png"].as_str().expect("a picture");
    assert!(png.starts_with("iVBORw0KGgo"), "a PNG in base64");
    let id = begun.session();
    // Due to be made anew, as far as the worker knows.
    let due = "UPDATE errands SET qr_expires_at = wireroom_now() WHERE state = 'scan_needed'";
    sqlx::query(due).execute(stack.database.pool()).await.expect("set");
    let anew = login_when(&stack, &id, "made anew", |login| login["qr"]["url"] != url.as_str()).await;
    let url = anew["qr"]["url"].as_str().expect("a URL").to_owned();
    let controls = stack.sandbox.controls();
    controls.accept_login(&url, stack.account("bob")).expect("scanned");
    login_when(&stack, &id, "done", |login| login["state"] == "done").await;
    assert_eq!(session(&stack, &id).await["username"], "bob");

    let begun = post(&stack, "/v1/sessions/qr", json!({ "label": "with a password" })).await;
    let events = stack.request(Method::GET, &format!("/v1/sessions/{}/login/events", begun.session()));
    let events = events.send().await.expect("answered");
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let (id, url) = (
        begun.session(),
        begun.body["qr"]["url"].as_str().expect("a URL").to_owned(),
    );
    controls.accept_login(&url, stack.account("carol")).expect("scanned");
    login_when(&stack, &id, "asked for", |login| login["state"] == "password_needed").await;
    let path = format!("/v1/sessions/{id}/password");
    post(&stack, &path, json!({ "password": PASSWORD })).await.login("done");
    // The stream tells each of these, and ends by itself.
    let told = tokio::time::timeout(BOUND, events.text())
        .await
        .expect("in time")
        .expect("text");
    let told: Vec<(&str, Value)> = told
        .split("\n\n")
        .filter_map(|block| block.strip_prefix("event: ")?.split_once("\ndata: "))
        .map(|(name, data)| (name, serde_json::from_str(data).expect("JSON")))
        .collect();
    let states: Vec<(&str, &str)> = told
        .iter()
        .map(|(name, login)| (*name, login["state"].as_str().expect("a state")))
        .collect();
    assert_eq!(
        (states.first(), states.last()),
        (Some(&("login", "scan_needed")), Some(&("final", "done"))),
        "{states:?}"
    );
    assert!(states.contains(&("login", "password_needed")), "{states:?}");
    assert_erased(&stack).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_whose_login_is_given_up_midway_is_not_logged_in_at_telegram() {
    use wireroom::sandbox::{Effect, Fault};
    let stack = empty().await;
    let _worker = stack.worker().await;
    let bot = stack.account("harbour_bot");
    stack.fault(Fault::once("auth.importBotAuthorization", Effect::Delay { ms: 4_000 }));
    let token = json!({ "label": "bot", "bot_token": format!("{bot}:harbour_bot-sandbox") });
    let id = ask(&stack, Method::POST, "/v1/sessions", token).await.session();
    until_called(&stack, "auth.importBotAuthorization", 1).await;
    delete(&stack, &format!("/v1/sessions/{id}/login"))
        .await
        .login("failed");
    until_called(&stack, "auth.logOut", 1).await;
    eventually(BOUND, async || {
        let (keys, open) = (
            stack.sandbox.controls().keys(Some(bot)).len(),
            stack.sandbox.controls().connections().len(),
        );
        if (keys, open) == (0, 0) {
            Ok(())
        } else {
            Err(format!("{keys} keys are signed in, {open} connections are open"))
        }
    })
    .await;
    assert_eq!(session(&stack, &id).await["state"], "new");
    assert_erased(&stack).await;
    stack.finish().await;
}
