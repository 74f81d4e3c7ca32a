//! Lists: an outcome for each target, through spent caps, floods and requests.

use super::*;

fn outcomes(result: &Value) -> Vec<&str> {
    let rows = result["targets"].as_array().expect("rows");
    rows.iter()
        .map(|row| row["outcome"].as_str().expect("a word"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_has_an_outcome_for_each_target() {
    let (stack, _worker) = started(vec!["alice"]).await;
    stack.succeed("join", json!({ "chat": "@slow_pier" })).await;
    stack.fault(Fault::once("channels.joinChannel", error("USERS_TOO_MUCH")));
    let chats = [
        "@quiet_quay",
        "@harbour_market",
        "@slow_pier",
        "t.me/+SandboxExpired03",
        "t.me/Harbour_Market/7",
        "@friendly_person",
        "@nobody_is_here",
        "t.me/+SandboxHarbour01",
        "t.me/joinchat/SandboxHarbour01",
        "t.me/+SandboxLantern02",
    ];
    let id = stack.post("join", json!({ "chats": chats })).await;
    stack
        .job_when(&id, "pending", |job| job["wait_reason"]["code"] == "approval_pending")
        .await;
    let (lantern, alice) = (stack.chat("Lantern club"), stack.account("alice"));
    world(&stack, |world| world.approve_join(lantern, alice)).expect("approved");
    let job = stack.finished(&id).await;
    let result = &job["result"];
    assert_eq!(
        outcomes(result),
        [
            "chat_full",
            "joined",
            "already_member",
            "invite_link_expired",
            "duplicate",
            "chat_is_person",
            "chat_not_found",
            "joined",
            "duplicate",
            "approved"
        ],
        "{job}"
    );
    assert_eq!(result["targets"][0]["telegram_error"], "USERS_TOO_MUCH", "{job}");
    assert_eq!(result["targets"][4]["duplicate_of"], 1, "{job}");
    assert_eq!(result["outcomes"]["joined"], 2, "{job}");
    assert_eq!(job["progress"]["done"], 10, "{job}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_waits_for_its_cap_and_goes_on_where_it_was() {
    let stack = Stack::start().await;
    stack.noon().await;
    let _worker = stack.worker().await;
    let cap = async |per: i32| {
        let body = json!({ "per_minute": per, "per_hour": per, "per_day": per });
        let answer = stack.request(Method::PUT, "/v1/caps/join").json(&body);
        assert!(answer.send().await.expect("answered").status().is_success());
    };
    cap(2).await;
    let chats = ["@harbour_market", "@slow_pier", "@quiet_quay", "@harbour_notices"];
    let id = stack.post("join", json!({ "chats": chats })).await;
    let job = stack
        .job_when(&id, "put off", |job| job["wait_reason"]["code"] == "cap_reached")
        .await;
    assert_eq!(job["attempt"], 0, "waiting costs no attempt: {job}");
    assert_eq!(stack.calls("channels.joinChannel"), 2);
    cap(1_000).await;
    let job = stack.finished(&id).await;
    assert_eq!(outcomes(&job["result"]), ["joined"; 4], "{job}");
    assert_eq!(stack.calls("channels.joinChannel"), 4, "each once");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_puts_the_list_off_and_a_full_account_ends_what_needs_room() {
    let (stack, _worker) = started(vec!["alice"]).await;
    stack.fault(Fault::once("channels.joinChannel", Effect::flood_wait(2)));
    world(&stack, |world| world.set_channels_limit(2));
    let chats = ["@harbour_market", "@slow_pier", "@quiet_quay", "@harbour_notices"];
    let result = stack.succeed("join", json!({ "chats": chats })).await;
    assert_eq!(
        outcomes(&result),
        ["joined", "joined", "channel_limit", "channel_limit"],
        "{result}"
    );
    assert_eq!(
        stack.calls("channels.joinChannel"),
        3,
        "the flooded one again, and nothing that needs room"
    );
    let left = stack
        .succeed("join", json!({ "chats": chats, "action": "leave" }))
        .await;
    assert_eq!(outcomes(&left), ["left", "left", "not_member", "not_member"], "{left}");
    let checked = stack
        .succeed(
            "join",
            json!({ "chats": ["@gatehouse", "@slow_pier", "t.me/+SandboxRevoked05"], "action": "check" }),
        )
        .await;
    assert_eq!(
        outcomes(&checked),
        ["would_request", "would_join", "invite_link_expired"],
        "{checked}"
    );
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_cancelled_shows_how_far_it_came() {
    let (stack, _worker) = started(vec!["alice"]).await;
    let chats = ["@harbour_market", "@nobody_is_here", "t.me/+SandboxLantern02"];
    let id = stack.post("join", json!({ "chats": chats })).await;
    stack
        .job_when(&id, "pending", |job| job["wait_reason"]["code"] == "approval_pending")
        .await;
    let path = format!("/v1/jobs/{id}/targets");
    let shown = async || {
        let page = stack.get(&path).await;
        let items = page["items"].as_array().expect("a list").iter();
        let rows = items.map(|row| (row["position"].clone(), row["outcome"].clone()));
        rows.collect::<Vec<_>>()
    };
    let decided = vec![(json!(0), json!("joined")), (json!(1), json!("chat_not_found"))];
    assert_eq!(shown().await, decided, "the third waits for an admin");
    let cancel = stack.request(Method::POST, &format!("/v1/jobs/{id}/cancel"));
    assert!(cancel.send().await.expect("answered").status().is_success());
    let job = stack.finished(&id).await;
    assert_eq!(
        (&job["state"], &job["result"]),
        (&json!("cancelled"), &Value::Null),
        "{job}"
    );
    assert_eq!(shown().await, decided);
    let page = stack.get(&format!("{path}?outcome=chat_not_found")).await;
    assert_eq!(
        page["items"][0]["error"], "Telegram's error: USERNAME_NOT_OCCUPIED.",
        "{page}"
    );
    stack.finish().await;
}
