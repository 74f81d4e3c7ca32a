//! Each outcome of docs/OUTREACH.md, from the list to the report.

use wireroom::sandbox::{
    Effect, Fault,
    world::{PeerKey, people::Nature},
};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_message_reaches_whom_it_may_and_everybody_else_has_a_reason() {
    let stack = stack_of(vec!["alice"]).await;
    let path = campaign(&stack, json!({})).await;
    join(&stack, "carol");
    let people = [
        ("friendly_person", "invited"),
        ("blocks_strangers", "blocked_us"),
        ("premium_only", "premium_needed"),
        ("harbour_bot", "not_eligible"),
        ("nobody_at_all", "not_found"),
        ("harbour_notices", "not_found"),
        ("carol", "already_member"),
        ("dave", "suppressed"),
    ];
    list(&stack, &path, &people.map(|(name, _)| name)).await;
    suppress(&stack, json!({ "username": "@Dave" })).await;
    let contacts = json!({ "items": [
        { "username": "mallory", "basis": "contact" },
        { "username": "heidi", "basis": "contact" },
        { "username": "erin", "basis": "dialogue" },
        { "username": "frank", "basis": "dialogue" },
    ] });
    post(&stack, &format!("{path}/people"), &contacts).await;
    let (frank, alice) = (stack.account("frank"), stack.chat("alice"));
    stack
        .sandbox
        .controls()
        .with_world(|world| world.post_as(frank, alice, "May I join?"))
        .expect("written");
    let _worker = stack.worker().await;
    let result = done(&stack, &resume(&stack, &path).await).await;
    assert_eq!(result["ended"], "exhausted", "{result}");
    for (name, expected) in people {
        assert_eq!(outcome(&stack, &path, name).await, expected, "{name}");
    }
    assert_eq!(outcome(&stack, &path, "mallory").await, "invited", "a contact");
    assert_eq!(outcome(&stack, &path, "heidi").await, "basis_unconfirmed", "no contact");
    assert_eq!(outcome(&stack, &path, "erin").await, "basis_unconfirmed", "never wrote");
    assert_eq!(outcome(&stack, &path, "frank").await, "invited", "wrote before");
    assert_eq!(invitations_of(&stack, "alice"), 3);
    let blocked = "SELECT count(*) FROM suppressions WHERE source = 'blocked_us' AND user_id IS NOT NULL";
    assert_eq!(stack.figure(blocked).await, 1);
    let after = stack.get(&path).await;
    assert_eq!(
        (&after["state"], &after["code"]),
        (&json!("paused"), &json!("done")),
        "{after}"
    );
    let report = stack.get(&format!("{path}/report")).await;
    assert_eq!(
        (
            &report["invited"],
            &report["refused"],
            &report["skipped"],
            &report["waiting"]
        ),
        (&json!(3), &json!(2), &json!(7), &json!(0)),
        "{report}"
    );
    assert_eq!(stack.figure("SELECT count(*) FROM outreach_calls").await, 0);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_added_and_those_left_out_are_told_apart() {
    let stack = stack_of(vec!["alice"]).await;
    let path = campaign(&stack, json!({ "mode": "add" })).await;
    let people = [
        ("friendly_person", "added"),
        ("shy_person", "privacy"),
        ("premium_only", "premium_needed"),
        ("busy_person", "not_eligible"),
        ("grace", "already_invited"),
    ];
    list(&stack, &path, &people.map(|(name, _)| name)).await;
    let ledger = json!({ "items": [{ "user_id": stack.account("grace") }] });
    post(&stack, &format!("{path}/ledger/import"), &ledger).await;
    let _worker = stack.worker().await;
    done(&stack, &resume(&stack, &path).await).await;
    for (name, expected) in people {
        assert_eq!(outcome(&stack, &path, name).await, expected, "{name}");
    }
    assert_eq!(stack.calls("channels.inviteToChannel"), 4);
    let listed = stack.get(&format!("{path}/people?outcome=privacy")).await;
    assert_eq!(listed["items"][0]["why"], "MISSING_INVITEE", "{listed}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_telegram_refuses_by_name_is_an_outcome_or_stops_the_campaign() {
    let stack = stack_of(vec!["alice"]).await;
    let path = campaign(&stack, json!({ "mode": "add" })).await;
    let refused = [
        ("friendly_person", 403, "USER_PRIVACY_RESTRICTED", "privacy"),
        ("niaj", 403, "USER_NOT_MUTUAL_CONTACT", "privacy"),
        ("erin", 400, "USER_KICKED", "not_eligible"),
        ("frank", 400, "YOU_BLOCKED_USER", "we_blocked"),
        ("grace", 400, "USER_IS_BLOCKED", "blocked_us"),
    ];
    for (_, code, name, _) in refused {
        let name = name.to_owned();
        stack.fault(Fault::once("channels.inviteToChannel", Effect::Error { code, name }));
    }
    list(&stack, &path, &refused.map(|(name, ..)| name)).await;
    let _worker = stack.worker().await;
    done(&stack, &resume(&stack, &path).await).await;
    for (name, _, error, expected) in refused {
        assert_eq!(outcome(&stack, &path, name).await, expected, "{error}");
    }
    list(&stack, &path, &["heidi"]).await;
    let name = "USERS_TOO_MUCH".to_owned();
    stack.fault(Fault::once(
        "channels.inviteToChannel",
        Effect::Error { code: 400, name },
    ));
    let job = stack.finished(&resume(&stack, &path).await).await;
    assert_eq!(job["error"]["code"], "chat_full", "{job}");
    let stopped = stack.get(&path).await;
    assert_eq!(
        (&stopped["state"], &stopped["code"]),
        (&json!("stopped"), &json!("chat_full"))
    );
    assert_eq!(outcome(&stack, &path, "heidi").await, Value::Null, "nobody's fault");
    done(&stack, &resume(&stack, &path).await).await;
    assert_eq!(outcome(&stack, &path, "heidi").await, "added");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_another_campaign_has_contacted_is_left_alone() {
    let stack = stack_of(vec!["alice"]).await;
    let _worker = stack.worker().await;
    for (name, expected) in [("Spring", "invited"), ("Summer", "invited_lately")] {
        let path = campaign(&stack, json!({ "name": name })).await;
        list(&stack, &path, &["friendly_person"]).await;
        done(&stack, &resume(&stack, &path).await).await;
        assert_eq!(outcome(&stack, &path, "friendly_person").await, expected, "{name}");
    }
    assert_eq!(invitations_of(&stack, "alice"), 1);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_may_be_bound_to_some_of_the_list() {
    let stack = stack_of(vec!["alice"]).await;
    let path = campaign(&stack, json!({})).await;
    list(&stack, &path, &["carol", "dave", "erin"]).await;
    let job = resume(&stack, &path).await;
    let (_, cancelled) = send(&stack, Method::POST, &format!("/v1/jobs/{job}/cancel"), &json!({})).await;
    assert_eq!(cancelled["state"], "cancelled", "{cancelled}");
    assert_eq!(stack.get(&path).await["state"], "stalled");
    let id = path.rsplit('/').next().expect("an id");
    let args = json!({ "campaign": id, "people": ["@dave", "@erin"], "limit": 1 });
    let _worker = stack.worker().await;
    let result = stack.succeed("invite", args).await;
    assert_eq!(
        (&result["ended"], &result["outcomes"]),
        (&json!("limit"), &json!({ "invited": 1 }))
    );
    assert_eq!(outcome(&stack, &path, "dave").await, "invited");
    assert_eq!(outcome(&stack, &path, "carol").await, Value::Null);
    let unknown = json!({ "campaign": uuid::Uuid::nil() });
    assert_eq!(stack.fail("invite", unknown).await, "campaign_not_found");
    stack.finish().await;
}

/// Puts people on the list who are said to have asked to be let in.
async fn list_requests(stack: &Stack, campaign: &str, names: &[&str]) {
    let items: Vec<Value> = names
        .iter()
        .map(|name| json!({ "username": name, "basis": "join_request" }))
        .collect();
    let added = post(stack, &format!("{campaign}/people"), &json!({ "items": items })).await;
    assert_eq!(added["added"], names.len(), "{added}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asked_to_be_let_in_is_looked_for_among_those_who_wait() {
    let stack = stack_of(vec!["judy", "alice"]).await;
    let gate = stack.chat("gatehouse");
    let PeerKey::Channel(id) = gate else {
        panic!("a supergroup")
    };
    let users = ["dave", "erin", "grace", "heidi", "alice"].map(|name| stack.account(name));
    let [dave, erin, grace, heidi, alice] = users;
    stack.sandbox.controls().with_world(|world| {
        let ask = |world: &mut wireroom::sandbox::world::World, user| {
            let asked = world.request_join::<()>(user, id, None);
            assert!(asked.is_err(), "which is how Telegram says that it was asked");
        };
        for user in [dave, erin, grace, heidi] {
            ask(world, user);
        }
        world.decline_join(gate, erin).expect("declined");
        world.approve_join(gate, grace).expect("let in");
        // Dave is on the second page of those who wait.
        for later in world.add_accounts(120) {
            ask(world, later.id);
        }
        world.put_in(gate, alice).expect("in the chat");
    });
    let by_admin = campaign(
        &stack,
        json!({ "mode": "add", "chat": "@gatehouse", "session": "judy" }),
    )
    .await;
    let people = [
        ("dave", "added"),
        ("erin", "basis_unconfirmed"),
        ("frank", "basis_unconfirmed"),
        ("grace", "already_member"),
    ];
    list_requests(&stack, &by_admin, &people.map(|(name, _)| name)).await;
    let _worker = stack.worker().await;
    done(&stack, &resume(&stack, &by_admin).await).await;
    for (name, expected) in people {
        assert_eq!(outcome(&stack, &by_admin, name).await, expected, "{name}");
    }
    assert!(stack.calls("messages.getChatInviteImporters") > 3, "more than a page");
    // To a member who is no admin Telegram shows nobody who waits.
    let change = json!({ "name": "Summer", "mode": "add", "chat": "@gatehouse", "session": "alice" });
    let by_member = campaign(&stack, change).await;
    list_requests(&stack, &by_member, &["heidi"]).await;
    done(&stack, &resume(&stack, &by_member).await).await;
    let listed = stack.get(&format!("{by_member}/people")).await;
    assert_eq!(
        (&listed["items"][0]["outcome"], &listed["items"][0]["why"]),
        (&json!("basis_unconfirmed"), &json!("CHAT_ADMIN_REQUIRED")),
        "{listed}"
    );
    assert_eq!(stack.calls("channels.inviteToChannel"), 1);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_other_answer_is_an_outcome_of_its_own() {
    // An admin, who is shown who was put out.
    let stack = stack_of(vec!["judy"]).await;
    let by_premium = stack.account("niaj");
    let (chat, carol) = (stack.chat("harbour_market"), stack.account("carol"));
    stack.sandbox.controls().with_world(|world| {
        world.set_nature(by_premium, Nature::AddedByPremium);
        world.put_in(chat, carol).expect("in the chat");
        world.ban(chat, carol).expect("put out");
    });
    let refused = |method: &str, code, name: &str| {
        let name = name.to_owned();
        stack.fault(Fault::once(method, Effect::Error { code, name }));
    };
    let _worker = stack.worker().await;
    let adding = campaign(&stack, json!({ "mode": "add", "session": "judy" })).await;
    refused("channels.inviteToChannel", 400, "INVITE_REQUEST_SENT");
    let added = [
        ("dave", "approval_pending"),
        ("niaj", "message_only"),
        ("carol", "left_before"),
    ];
    list(&stack, &adding, &added.map(|(name, _)| name)).await;
    done(&stack, &resume(&stack, &adding).await).await;
    for (name, expected) in added {
        assert_eq!(outcome(&stack, &adding, name).await, expected, "{name}");
    }
    let report = stack.get(&format!("{adding}/report")).await;
    assert_eq!(
        (&report["invited"], &report["refused"]),
        (&json!(1), &json!(1)),
        "{report}"
    );
    let writing = campaign(&stack, json!({ "name": "Summer", "session": "judy" })).await;
    refused("messages.sendMessage", 403, "ALLOW_PAYMENT_REQUIRED_50");
    refused("messages.sendMessage", 400, "PEER_ID_INVALID");
    let written = [
        ("erin", "payment_required"),
        ("frank", "unreachable"),
        ("niaj", "invited_lately"),
        ("grace", "invited"),
    ];
    list(&stack, &writing, &written.map(|(name, _)| name)).await;
    done(&stack, &resume(&stack, &writing).await).await;
    for (name, expected) in written {
        assert_eq!(outcome(&stack, &writing, name).await, expected, "{name}");
    }
    let listed = stack.get(&format!("{writing}/people?outcome=unreachable")).await;
    assert_eq!(listed["items"][0]["why"], "PEER_ID_INVALID", "{listed}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_added_to_a_basic_group_too() {
    let stack = stack_of(vec!["alice"]).await;
    let group = stack.chat("Quay friends");
    let _worker = stack.worker().await;
    let path = campaign(&stack, json!({ "mode": "add", "chat": group.marked().to_string() })).await;
    // The first call is done, and nobody hears of it.
    stack.fault(Fault::once("messages.addChatUser", Effect::DropAfter));
    let people = [
        ("erin", "added"),
        ("frank", "added"),
        ("carol", "already_member"),
        ("shy_person", "privacy"),
        ("premium_only", "premium_needed"),
        ("busy_person", "not_eligible"),
    ];
    list(&stack, &path, &people.map(|(name, _)| name)).await;
    done(&stack, &resume(&stack, &path).await).await;
    for (name, expected) in people {
        assert_eq!(outcome(&stack, &path, name).await, expected, "{name}");
    }
    assert_eq!(
        stack.calls("messages.addChatUser"),
        5,
        "erin was looked for, and not added again"
    );
    let refused = "USERS_TOO_MUCH".to_owned();
    stack.fault(Fault::once(
        "messages.addChatUser",
        Effect::Error {
            code: 400,
            name: refused,
        },
    ));
    list(&stack, &path, &["grace"]).await;
    let job = stack.finished(&resume(&stack, &path).await).await;
    assert_eq!(job["error"]["code"], "chat_full", "{job}");
    assert_eq!(stack.get(&path).await["code"], "chat_full");
    stack.finish().await;
}
