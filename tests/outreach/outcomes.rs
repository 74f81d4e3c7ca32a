//! Each outcome of docs/OUTREACH.md, from the list to the report.

use wireroom::sandbox::{Effect, Fault};

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
