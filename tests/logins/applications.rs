//! Sessions connect with the application they belong to.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_session_belongs_to_an_application_and_the_environments_is_the_default() {
    let stack = empty().await;
    let hash = "00112233445566778899aabbccddeeff";
    let environment = [
        ("TELEGRAM_API_ID", "4242".to_owned()),
        ("TELEGRAM_API_HASH", hash.to_owned()),
    ];
    let mut worker = stack.worker_with(&environment).await;
    let listed = stack.get("/v1/applications").await;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "{listed}");
    let default = &listed["items"][0];
    assert_eq!(
        (&default["api_id"], &default["is_default"], &default["origin"]),
        (&json!(4242), &json!(true), &json!("environment"))
    );

    let body = json!({ "label": "shops", "api_id": 77, "api_hash": hash });
    let made = post(&stack, "/v1/applications", body.clone()).await;
    assert_eq!((made.status, &made.body["is_default"]), (201, &json!(false)));
    post(&stack, "/v1/applications", body)
        .await
        .problem("application_exists", 409);
    let bad = json!({ "label": "bad", "api_id": 77, "api_hash": "short" });
    assert_eq!(
        post(&stack, "/v1/applications", bad)
            .await
            .problem("invalid_value", 422)["field"],
        "api_hash"
    );

    let by_default = log_in(&stack, "by default", ALICE).await;
    let begun = post(
        &stack,
        "/v1/sessions",
        json!({ "label": "of shops", "phone": BOB, "application": "shops" }),
    )
    .await;
    let of_shops = begun.session();
    code(&stack, &of_shops, LOGIN_CODE).await.login("done");
    let belongs = "SELECT count(*) FROM sessions s JOIN applications a ON a.id = s.application_id
        WHERE (s.label, a.api_id) IN (('by default', 4242), ('of shops', 77))";
    assert_eq!(stack.figure(belongs).await, 2);
    for id in [&by_default, &of_shops] {
        eventually(BOUND, async || {
            let session = session(&stack, id).await;
            session["last_call_at"].as_str().map(str::to_owned).ok_or(session)
        })
        .await;
    }
    for (account, api_id) in [("alice", 4242), ("bob", 77)] {
        let keys = stack.sandbox.controls().keys(Some(stack.account(account)));
        let named: Vec<Option<i32>> = keys.iter().map(|key| key.api_id).collect();
        assert_eq!(named, [Some(api_id)], "what {account} connects with");
    }
    let path = format!("/v1/applications/{}", made.body["id"].as_str().expect("an id"));
    delete(&stack, &path).await.problem("application_in_use", 409);
    delete(&stack, &format!("/v1/sessions/{of_shops}")).await;
    assert_eq!(
        delete(&stack, &path).await.body["items"].as_array().map(Vec::len),
        Some(1)
    );

    // Another one in the environment is the default from then on; sessions of the first stay with it.
    worker.terminate();
    assert!(worker.wait_for_end(BOUND).await.success());
    let _worker = stack
        .worker_with(&[
            ("TELEGRAM_API_ID", "5151".to_owned()),
            ("TELEGRAM_API_HASH", hash.to_owned()),
        ])
        .await;
    let listed = stack.get("/v1/applications").await;
    assert_eq!(
        (&listed["items"][0]["api_id"], &listed["items"][1]["sessions"]),
        (&json!(5151), &json!(1)),
        "{listed}"
    );
    let alice = stack.account("alice");
    eventually(BOUND, async || {
        let open = stack.sandbox.controls().connections();
        let connected = open.iter().any(|connection| connection.account == Some(alice));
        if connected { Ok(()) } else { Err(open) }
    })
    .await;
    let keys = stack.sandbox.controls().keys(Some(alice));
    assert_eq!(
        keys[0].api_id,
        Some(4242),
        "a new default changes nothing for her session"
    );
    stack.finish().await;
}
