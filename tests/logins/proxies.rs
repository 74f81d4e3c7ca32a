//! Every way of coming to a session goes through its proxy, from the first byte on.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::support::socks::{PASSWORD as PROXY_PASSWORD, Socks, USER};

/// Connections through the proxy come from this address.
const THIS_WAY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Waits until what is open is one connection, from there.
async fn connected_from(stack: &Stack, from: Ipv4Addr) {
    eventually(BOUND, async || {
        let connections = stack.sandbox.controls().connections();
        let peers: Vec<IpAddr> = connections.iter().map(|open| open.peer.expect("known").ip()).collect();
        if peers == [IpAddr::V4(from)] {
            Ok(())
        } else {
            Err(peers)
        }
    })
    .await;
}

async fn put_proxy(stack: &Stack, id: &str, body: Value) -> Answer {
    let request = stack.request(Method::PUT, &format!("/v1/sessions/{id}/proxy"));
    Answer::of(request.json(&body).send().await.expect("answered")).await
}

/// Each connection that was ever made came through the proxy.
fn assert_all_through(stack: &Stack, socks: &Socks) {
    let made = stack.sandbox.controls().connections_made();
    assert!(made > 0);
    assert_eq!(socks.connections() as u64, made, "one was made without the proxy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_goes_through_the_proxy_and_the_session_stays_with_it() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let socks = Socks::with_credentials(THIS_WAY).await;
    let body = json!({ "label": "through", "phone": ALICE, "proxy": socks.url() });
    let begun = post(&stack, "/v1/sessions", body).await;
    begun.login("code_needed");
    connected_from(&stack, THIS_WAY).await;
    let id = begun.session();
    code(&stack, &id, LOGIN_CODE).await.login("done");
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    connected_from(&stack, THIS_WAY).await;
    assert_all_through(&stack, &socks);
    let shown = session(&stack, &id).await;
    assert_eq!(
        shown["proxy"],
        json!({ "host": "127.0.0.1", "port": socks.address().port(), "has_credentials": true })
    );
    let audit = "SELECT count(*) FROM audit_log WHERE action = 'session.proxy_changed'";
    assert_eq!(stack.figure(audit).await, 1);

    let removed = put_proxy(&stack, &id, json!({ "proxy": null })).await;
    assert_eq!(
        (removed.status, &removed.body["proxy"]),
        (200, &json!(null)),
        "{}",
        removed.body
    );
    connected_from(&stack, Ipv4Addr::LOCALHOST).await;
    let set = put_proxy(&stack, &id, json!({ "proxy": socks.url() })).await;
    assert_eq!(set.body["proxy"]["has_credentials"], true);
    assert!(!set.body.to_string().contains(USER) && !set.body.to_string().contains(PROXY_PASSWORD));
    connected_from(&stack, THIS_WAY).await;
    put_proxy(&stack, &id, json!({})).await.problem("missing_field", 422);
    let wrong = put_proxy(&stack, &id, json!({ "proxy": format!("{PROXY_PASSWORD}@host:1") })).await;
    let problem = wrong.problem("invalid_value", 422);
    assert_eq!(problem["field"], "proxy");
    assert!(!problem.to_string().contains(PROXY_PASSWORD), "{problem}");
    let nobody = uuid::Uuid::new_v4().to_string();
    put_proxy(&stack, &nobody, json!({ "proxy": null }))
        .await
        .problem("session_not_found", 404);

    // Logged out at Telegram the same way.
    let (before, through) = (stack.sandbox.controls().connections_made(), socks.connections());
    let gone = delete(&stack, &format!("/v1/sessions/{id}")).await;
    assert_eq!(gone.body["logged_out"], true, "{}", gone.body);
    let after = stack.sandbox.controls().connections_made();
    assert!(after > before);
    assert_eq!(after - before, (socks.connections() - through) as u64);
    assert_eq!(stack.figure("SELECT count(*) FROM session_proxies").await, 0);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_fails_with_its_proxy_and_is_not_made_without() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let socks = Socks::with_credentials(THIS_WAY).await;
    let with = |label: &str, url: String| json!({ "label": label, "phone": ALICE, "proxy": url });
    let refused = post(&stack, "/v1/sessions", with("a", socks.url_with_wrong_password())).await;
    let problem = refused.problem("proxy_failed", 502);
    let detail = problem["detail"].as_str().expect("text");
    assert!(detail.contains("refuses its user name and password"), "{detail}");
    let (id, url) = (refused.session(), socks.url());
    let row = session(&stack, &id).await;
    assert_eq!(
        (&row["state"], &row["proxy"]["has_credentials"]),
        (&json!("new"), &json!(true))
    );
    socks.kill().await;
    let refused = post(&stack, "/v1/sessions", with("b", url.clone())).await;
    refused.problem("proxy_failed", 502);
    let bot = stack.account("harbour_bot");
    let bot = json!({ "label": "c", "bot_token": format!("{bot}:harbour_bot-sandbox"), "proxy": url });
    post(&stack, "/v1/sessions", bot).await.problem("proxy_failed", 502);
    let qr = json!({ "label": "d", "proxy": url });
    post(&stack, "/v1/sessions/qr", qr).await.problem("proxy_failed", 502);
    assert_eq!(stack.sandbox.controls().connections_made(), 0, "Telegram heard of it");
    // A session that has a proxy keeps it, unless it is taken away.
    begin(&stack, "a", ALICE).await.problem("proxy_failed", 502);
    put_proxy(&stack, &id, json!({ "proxy": null })).await;
    begin(&stack, "a", ALICE).await.login("code_needed");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qr_login_and_an_import_go_through_the_proxy() {
    let stack = empty().await;
    let _worker = stack.worker().await;
    let socks = Socks::with_credentials(THIS_WAY).await;
    let qr = json!({ "label": "scanned", "proxy": socks.url() });
    let begun = post(&stack, "/v1/sessions/qr", qr).await;
    let url = begun.login("scan_needed")["qr"]["url"]
        .as_str()
        .expect("a URL")
        .to_owned();
    let id = begun.session();
    // A login whose connection breaks goes on the same way.
    stack.sandbox.controls().drop_connections(None);
    connected_from(&stack, THIS_WAY).await;
    let shown = login(&stack, &id).await["qr"]["url"]
        .as_str()
        .unwrap_or(&url)
        .to_owned();
    stack
        .sandbox
        .controls()
        .accept_login(&shown, stack.account("bob"))
        .expect("scanned");
    login_when(&stack, &id, "done", |login| login["state"] == "done").await;
    let path = format!("/v1/sessions/{id}");
    let exported = post(&stack, &format!("{path}/export"), json!({ "format": "telethon" })).await;
    let text = exported.body["session"].as_str().expect("a string session").to_owned();
    delete(&stack, &format!("{path}?log_out=false")).await;
    let import = json!({ "label": "copy", "session": text, "proxy": socks.url() });
    let imported = post(&stack, "/v1/sessions/import", import).await;
    imported.login("done");
    let enable = format!("/v1/sessions/{}/enable", imported.session());
    post(&stack, &enable, json!({ "stopped_elsewhere": true }))
        .await
        .login("done");
    connected_from(&stack, THIS_WAY).await;
    assert_all_through(&stack, &socks);
    stack.finish().await;
}
