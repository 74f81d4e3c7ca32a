//! Scans that see less than there is, or nothing: each reason and each end of docs/SCAN.md that Telegram has a hand in.

use std::collections::HashSet;

use wireroom::sandbox::{
    Effect, Fault,
    world::{PeerKey, World, invites::InviteTerms},
};

use super::*;
use crate::support::{stack::JOB_BOUND, wait::eventually};

fn refuse(stack: &Stack, method: &str, code: i32, name: &str) {
    let name = name.to_owned();
    stack.fault(Fault::once(method, Effect::Error { code, name }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_the_session_may_not_read_is_an_honest_success() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    refuse(&stack, "channels.getParticipants", 400, "CHAT_ADMIN_REQUIRED");
    let (_, result) = scanned(&stack, scan("members", "@harbour_market", json!({}))).await;
    assert_eq!(
        (&result["complete"], &result["reason"], &result["seen"]),
        (&json!(false), &json!("not_permitted"), &json!(0)),
        "{result}"
    );
    assert_eq!(result["counted"], 1250, "{result}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_is_hidden_from_those_who_come_later_is_told() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    let board = stack.chat("Harbour board");
    let judy = stack.account("judy");
    let hash = stack.sandbox.controls().with_world(|world| {
        world.hide_history(board, true).expect("hidden");
        world.make_invite(board, InviteTerms::default()).expect("a link")
    });
    let link = format!("https://t.me/+{hash}");
    stack.succeed("join", json!({ "chat": link })).await;
    stack.sandbox.controls().with_world(|world| {
        for number in 0..5 {
            let text = format!("After the newcomer, {number}");
            world.post_as(judy, board, &text).expect("posted");
        }
    });
    let (id, result) = scanned(&stack, scan("history", &link, json!({}))).await;
    assert_eq!(
        (&result["complete"], &result["reason"]),
        (&json!(false), &json!("history_hidden")),
        "{result}"
    );
    let texts = rows(&stack, &format!("/v1/jobs/{id}/messages")).await;
    let said = texts.iter().filter_map(|row| row["text"].as_str());
    assert_eq!(said.filter(|text| text.starts_with("After the newcomer")).count(), 5);
    assert!(texts.len() < 10, "what was before is not shown: {}", texts.len());
    stack.finish().await;
}

/// Scans the members of the market, and does something to it while the fourth page is on its way. The scan's result, and whether
/// everybody who is in the market is among its rows.
async fn scanned_while(stack: &Stack, act: impl FnOnce(&mut World)) -> (Value, bool) {
    let method = "channels.getParticipants";
    stack.fault(Fault::once(method, Effect::Delay { ms: 0 }).times(3));
    stack.fault(Fault::once(method, Effect::Hold));
    let before = stack.calls(method);
    let id = stack.post("scan", scan("members", "@harbour_market", json!({}))).await;
    eventually(JOB_BOUND, async || match stack.calls(method) - before {
        asked if asked > 3 => Ok(()),
        asked => Err(format!("{asked} pages asked for")),
    })
    .await;
    stack.sandbox.controls().with_world(act);
    stack.sandbox.controls().clear_faults();
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let rows = rows(stack, &format!("/v1/jobs/{id}/members")).await;
    let seen: HashSet<i64> = rows.iter().filter_map(|row| row["user_id"].as_i64()).collect();
    let market = stack.chat("harbour_market");
    let members = stack.sandbox.controls().with_world(|world| world.members_of(market));
    (
        job["result"].clone(),
        members.iter().all(|member| seen.contains(member)),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_and_goes_while_a_list_is_read_hides_nobody() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    let market = stack.chat("harbour_market");
    // Those who came last stand first, and were read: those behind them move forward, past the place of the next page.
    let leave = |world: &mut World, count: usize| {
        let members = world.members_of(market);
        for member in members.iter().rev().take(count) {
            world.leave_as(*member, market).expect("was in it");
        }
    };
    let (result, is_everybody) = scanned_while(&stack, |world| leave(world, 5)).await;
    assert!(is_everybody, "somebody was moved out of sight: {result}");
    assert_eq!(
        (&result["seen"], &result["counted"], &result["complete"]),
        (&json!(1250), &json!(1245), &json!(true)),
        "{result}"
    );
    // As many who come as go, so that no count tells of it.
    let (result, is_everybody) = scanned_while(&stack, |world| {
        leave(world, 5);
        for newcomer in world.add_accounts(5) {
            world.put_in(market, newcomer.id).expect("in the chat");
        }
    })
    .await;
    assert!(is_everybody, "somebody who came was not seen: {result}");
    assert_eq!(
        (&result["seen"], &result["counted"], &result["complete"]),
        (&json!(1250), &json!(1245), &json!(true)),
        "{result}"
    );
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_that_the_session_may_not_read_fails_the_scan_and_says_why() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    let (pier, alice) = (stack.chat("slow_pier"), stack.account("alice"));
    let PeerKey::Channel(board) = stack.chat("Harbour board") else {
        panic!("a supergroup")
    };
    let hash = stack.sandbox.controls().with_world(|world| {
        world.put_in(pier, alice).expect("in the chat");
        world.ban(pier, alice).expect("put out");
        let link = world.make_invite(PeerKey::Channel(board), InviteTerms::default());
        link.expect("a link")
    });
    for (what, chat, code) in [
        ("members", "@slow_pier".to_owned(), "chat_inaccessible"),
        ("history", "@slow_pier".to_owned(), "chat_inaccessible"),
        ("members", format!("https://t.me/+{hash}"), "not_a_member"),
        ("members", "@friendly_person".to_owned(), "chat_is_person"),
        ("history", "@nobody_is_here".to_owned(), "chat_not_found"),
    ] {
        assert_eq!(
            stack.fail("scan", scan(what, &chat, json!({}))).await,
            code,
            "{what} {chat}"
        );
    }
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_scan_keeps_the_pages_it_has_read() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    stack.fault(Fault::once("channels.getParticipants", Effect::Delay { ms: 300 }).forever());
    let id = stack.post("scan", scan("members", "@big_bazaar", json!({}))).await;
    stack
        .job_when(&id, "some pages further", |job| {
            job["progress"]["done"].as_i64() > Some(0)
        })
        .await;
    let cancel = stack.request(Method::POST, &format!("/v1/jobs/{id}/cancel"));
    cancel.send().await.expect("answered");
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "cancelled", "{job}");
    let kept = rows(&stack, &format!("/v1/jobs/{id}/members")).await.len();
    assert!((200..12_000).contains(&kept), "{kept}");
    stack.finish().await;
}
