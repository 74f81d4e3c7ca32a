//! Sessions that come from elsewhere and go there, and those that end.

use wireroom::sandbox::Fault;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_out_and_comes_back_only_when_it_was_stopped_elsewhere() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let id = log_in(&stack, "alice", ALICE).await;
    until_held(&stack, &id).await;
    let path = format!("/v1/sessions/{id}");
    let exported = post(&stack, &format!("{path}/export"), json!({ "format": "pyrogram" })).await;
    assert_eq!(exported.status, 200, "{}", exported.body);
    let text = exported.body["session"].as_str().expect("a string session").to_owned();
    let row = session(&stack, &id).await;
    assert_eq!(
        (row["state"].as_str(), row["state_reason"].as_str()),
        (Some("disabled"), Some("EXPORTED"))
    );
    assert_eq!(
        stack.sandbox.controls().connections().len(),
        0,
        "its worker has hung up"
    );
    let audit = "SELECT count(*) FROM audit_log WHERE action = 'session.exported' AND actor LIKE 'key:%'";
    assert_eq!(stack.figure(audit).await, 1);
    assert_eq!(
        stack.figure("SELECT count(*) FROM pauses").await,
        0,
        "nothing is held back any more"
    );

    let refused = post(&stack, &format!("{path}/enable"), json!({ "stopped_elsewhere": false })).await;
    let detail = refused.problem("confirmation_needed", 422)["detail"]
        .as_str()
        .expect("text")
        .to_owned();
    assert!(
        detail.contains("AUTH_KEY_DUPLICATED") && detail.contains("/v1/sessions/qr"),
        "{detail}"
    );
    post(&stack, &format!("{path}/enable"), json!({ "stopped_elsewhere": true }))
        .await
        .login("done");
    assert_eq!(session(&stack, &id).await["state"], "ready");
    until_held(&stack, &id).await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;

    // The same authorisation under another label, once the first is out of use and was not logged out.
    delete(&stack, &format!("{path}?log_out=false")).await;
    let calls = stack.calls("users.getUsers");
    let imported = post(
        &stack,
        "/v1/sessions/import",
        json!({ "label": "copy", "session": text }),
    )
    .await;
    let login = imported.login("done");
    assert!(
        login["next"].as_str().expect("text").contains("stopped_elsewhere"),
        "{login}"
    );
    let copy = imported.session();
    let row = session(&stack, &copy).await;
    assert_eq!(
        (row["state"].as_str(), row["state_reason"].as_str()),
        (Some("disabled"), Some("IMPORTED"))
    );
    assert_eq!(
        (
            stack.sandbox.controls().connections().len(),
            stack.calls("users.getUsers")
        ),
        (0, calls),
        "never connected"
    );
    post(
        &stack,
        &format!("/v1/sessions/{copy}/enable"),
        json!({ "stopped_elsewhere": true }),
    )
    .await
    .login("done");
    assert!(stack.calls("users.getUsers") > calls, "checked with a call");
    let row = session(&stack, &copy).await;
    assert_eq!(
        (row["state"].as_str(), row["username"].as_str()),
        (Some("ready"), Some("alice"))
    );
    assert_erased(&stack).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_telethon_session_that_is_over_is_found_out_before_it_counts() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let id = log_in(&stack, "bob", BOB).await;
    until_held(&stack, &id).await;
    let exported = post(
        &stack,
        &format!("/v1/sessions/{id}/export"),
        json!({ "format": "telethon" }),
    )
    .await;
    let text = exported.body["session"].as_str().expect("a string session").to_owned();
    assert_eq!(text.len(), 353);
    stack
        .sandbox
        .controls()
        .revoke_keys(stack.account("bob"), wireroom::sandbox::Revocation::SignOut);
    let imported = post(
        &stack,
        "/v1/sessions/import",
        json!({ "label": "late", "session": text }),
    )
    .await;
    imported.login("done");
    let late = imported.session();
    let calls = stack.calls("users.getUsers");
    post(
        &stack,
        &format!("/v1/sessions/{late}/enable"),
        json!({ "stopped_elsewhere": true }),
    )
    .await
    .problem("authorisation_shared", 409);
    assert_eq!(stack.calls("users.getUsers"), calls, "never connected");
    assert_eq!(session(&stack, &late).await["state"], "disabled");
    delete(&stack, &format!("/v1/sessions/{id}?log_out=false")).await;
    post(
        &stack,
        &format!("/v1/sessions/{late}/enable"),
        json!({ "stopped_elsewhere": true }),
    )
    .await
    .problem("authorisation_over", 422);
    assert_eq!(session(&stack, &late).await["state"], "logged_out");
    let nonsense = json!({ "label": "nonsense", "session": "1hello" });
    post(&stack, "/v1/sessions/import", nonsense)
        .await
        .problem("session_format_unknown", 422);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_logged_out_logged_in_again_and_deleted() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let id = log_in(&stack, "alice", ALICE).await;
    until_held(&stack, &id).await;
    post_empty(&stack, &format!("/v1/sessions/{id}/log-out"))
        .await
        .login("done");
    assert_eq!(stack.calls("auth.logOut"), 1);
    let row = session(&stack, &id).await;
    assert_eq!(
        (row["state"].as_str(), row["state_reason"].as_str()),
        (Some("logged_out"), Some("LOGGED_OUT_BY_OWNER"))
    );
    assert_eq!(
        stack.figure("SELECT count(*) FROM session_dcs").await,
        0,
        "its keys are gone"
    );
    let path = format!("/v1/sessions/{id}/export");
    post(&stack, &path, json!({ "format": "telethon" }))
        .await
        .problem("session_state_conflict", 409);

    let begun = begin(&stack, "alice", BOB).await;
    code(&stack, &begun.session(), LOGIN_CODE)
        .await
        .problem("other_account", 409);
    assert_eq!(stack.calls("auth.logOut"), 2, "what was not wanted is undone");
    assert_eq!(session(&stack, &id).await["state"], "logged_out");
    assert_eq!(log_in(&stack, "alice", ALICE).await, id, "the same session");
    until_held(&stack, &id).await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;

    // Kept waiting by somebody else's pause, which the deletion leaves alone.
    let pause = stack.request(Method::PUT, "/v1/pauses/session/alice");
    let pause = pause
        .json(&json!({ "reason": "a test" }))
        .send()
        .await
        .expect("answered");
    assert_eq!(pause.status(), 200);
    let job = json!({ "kind": "join", "args": { "chat": "@reading_club" }, "session": "alice" });
    let job = stack.post_job(job).await;
    delete(&stack, &format!("/v1/sessions/{id}"))
        .await
        .problem("session_busy", 409);
    post_empty(&stack, &format!("/v1/jobs/{job}/cancel")).await;
    let deleted = delete(&stack, &format!("/v1/sessions/{id}")).await;
    assert_eq!(deleted.body["logged_out"], true, "{}", deleted.body);
    assert_eq!(stack.calls("auth.logOut"), 3);
    assert_eq!(stack.figure("SELECT count(*) FROM sessions").await, 0);
    assert_eq!(stack.sandbox.controls().connections().len(), 0);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_used_elsewhere_when_it_is_enabled_is_an_incident() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let id = log_in(&stack, "alice", ALICE).await;
    until_held(&stack, &id).await;
    let path = format!("/v1/sessions/{id}");
    let exported = post(&stack, &format!("{path}/export"), json!({ "format": "telethon" })).await;
    assert_eq!(exported.status, 200, "{}", exported.body);
    stack.fault(Fault::once("users.getUsers", error(406, "AUTH_KEY_DUPLICATED")));
    post(&stack, &format!("{path}/enable"), json!({ "stopped_elsewhere": true }))
        .await
        .problem("authorisation_over", 422);
    let row = session(&stack, &id).await;
    assert_eq!(
        (row["state"].as_str(), row["state_reason"].as_str()),
        (Some("quarantined"), Some("AUTH_KEY_DUPLICATED"))
    );
    let incident =
        "SELECT count(*) FROM audit_log WHERE action = 'session.auth_key_duplicated' AND actor LIKE 'worker:%'
        AND jsonb_array_length(details -> 'terms') = 1";
    assert_eq!(stack.figure(incident).await, 1, "it shows who had the session's lease");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_nobody_waited_for_is_asked_for_again() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let id = log_in(&stack, "alice", ALICE).await;
    until_held(&stack, &id).await;
    let path = format!("/v1/sessions/{id}/export");
    let telethon = json!({ "format": "telethon" });
    let pending = ask(&stack, Method::POST, &path, telethon.clone()).await;
    let told = pending.problem("login_pending", 504)["detail"]
        .as_str()
        .expect("text")
        .to_owned();
    assert!(told.contains("ask again"), "{told}");
    let done = login_when(&stack, &id, "done", |login| login["state"] == "done").await;
    assert!(done["next"].as_str().expect("text").contains("export again"), "{done}");
    let exported = post(&stack, &path, telethon).await;
    assert_eq!(exported.status, 200, "{}", exported.body);
    let text = exported.body["session"].as_str().expect("a string session").to_owned();
    delete(&stack, &format!("/v1/sessions/{id}?log_out=false")).await;

    // Whose an imported Telethon session is, nobody knows before it was enabled; a Pyrogram one names that.
    let imported = post(
        &stack,
        "/v1/sessions/import",
        json!({ "label": "copy", "session": text }),
    )
    .await;
    imported.login("done");
    let copy = format!("/v1/sessions/{}", imported.session());
    let pyrogram = json!({ "format": "pyrogram" });
    let refused = post(&stack, &format!("{copy}/export"), pyrogram.clone()).await;
    let refused = refused.problem("session_state_conflict", 409);
    assert_eq!(refused["field"], "format");
    assert!(
        refused["detail"].as_str().expect("text").contains("/enable"),
        "{refused}"
    );
    let out = post(&stack, &format!("{copy}/export"), json!({ "format": "telethon" })).await;
    assert_eq!(out.body["session"].as_str(), Some(text.as_str()), "as it came in");
    post(&stack, &format!("{copy}/enable"), json!({ "stopped_elsewhere": true }))
        .await
        .login("done");
    let out = post(&stack, &format!("{copy}/export"), pyrogram).await;
    assert_eq!(out.body["session"].as_str().map(str::len), Some(362), "{}", out.body);
    assert_erased(&stack).await;
    stack.finish().await;
}
