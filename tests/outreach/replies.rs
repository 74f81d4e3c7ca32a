//! A reply that says stop suppresses by itself: whichever session hears it, whether or not anybody watches it.

use wireroom::sandbox::{Effect, Fault};

use super::*;

const BY_REPLY: &str = "SELECT count(*) FROM suppressions WHERE source = 'said_stop'";

fn write(stack: &Stack, from: &str, to: &str, text: &str) {
    let (from, to) = (stack.account(from), stack.chat(to));
    stack
        .sandbox
        .controls()
        .with_world(|world| world.post_as(from, to, text))
        .expect("written");
}

async fn suppressed(stack: &Stack) -> Vec<i64> {
    sqlx::query_scalar("SELECT user_id FROM suppressions WHERE source = 'said_stop' ORDER BY added_at, id")
        .fetch_all(stack.database.pool())
        .await
        .expect("answered")
}

async fn suppressed_when(stack: &Stack, names: &[&str]) {
    let mut wanted: Vec<i64> = names.iter().map(|name| stack.account(name)).collect();
    wanted.sort_unstable();
    eventually(JOB_BOUND, async || {
        let mut found = suppressed(stack).await;
        found.sort_unstable();
        if found.len() >= wanted.len() {
            Ok(())
        } else {
            Err(found)
        }
    })
    .await;
    let mut found = suppressed(stack).await;
    found.sort_unstable();
    assert_eq!(found, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_answers_stop_is_left_alone_by_every_session() {
    let stack = stack_of(vec!["alice", "bob"]).await;
    let worker = stack.worker().await;
    let path = campaign(&stack, json!({})).await;
    list(&stack, &path, &["dave", "erin", "grace", "heidi"]).await;
    done(&stack, &resume(&stack, &path).await).await;
    // Frank was never asked anything. Grace likes it. Erin answers another session than the one that wrote to her.
    write(&stack, "frank", "alice", "stop");
    write(&stack, "grace", "alice", "Thank you, I will have a look");
    write(&stack, "erin", "bob", "Please, STOP writing.");
    write(
        &stack,
        "dave",
        "alice",
        "\u{41d}\u{435} \u{43f}\u{438}\u{448}\u{438}\u{442}\u{435} \u{43c}\u{43d}\u{435}",
    );
    suppressed_when(&stack, &["erin", "dave"]).await;
    // Once more changes nothing.
    write(&stack, "dave", "bob", "stop");
    // While nobody listens; it comes with what was missed.
    worker.kill();
    write(&stack, "heidi", "alice", "unsubscribe");
    let _worker = stack.worker().await;
    suppressed_when(&stack, &["dave", "erin", "heidi"]).await;
    let told = "SELECT count(*) FROM events e JOIN suppressions s ON e.subject = 'suppression:' || s.id
        WHERE e.type = 'suppression.added' AND (e.data ->> 'user_id')::bigint = s.user_id
            AND e.data ->> 'source' = 'said_stop' AND 'session:' || (e.data ->> 'session') = s.added_by";
    assert_eq!(stack.figure(told).await, 3);
    let noted = "SELECT count(*) FROM audit_log a JOIN suppressions s ON a.subject = 'suppression:' || s.id
        WHERE a.action = 'suppression.added' AND a.actor LIKE 'worker:%' AND a.details ->> 'source' = 'said_stop'
            AND position(s.user_id::text in a.details::text) = 0";
    assert_eq!(stack.figure(noted).await, 3);
    let texts = "SELECT count(*) FROM (SELECT a::text AS row FROM audit_log a UNION ALL SELECT e::text FROM events e
        UNION ALL SELECT s::text FROM suppressions s) r WHERE r.row ILIKE '%unsubscribe%' OR r.row LIKE '%STOP writing%'";
    assert_eq!(stack.figure(texts).await, 0, "what they wrote is nowhere");
    let limits = json!({ "per_target_per_day": 1000, "person_rest_days": 0 });
    send(&stack, Method::PUT, "/v1/outreach/limits", &limits).await;
    let next = campaign(&stack, json!({ "name": "Summer", "session": "bob" })).await;
    list(&stack, &next, &["dave", "erin", "frank", "grace", "heidi"]).await;
    done(&stack, &resume(&stack, &next).await).await;
    for (name, expected) in [
        ("dave", "suppressed"),
        ("erin", "suppressed"),
        ("heidi", "suppressed"),
        ("frank", "invited"),
        ("grace", "invited"),
    ] {
        assert_eq!(outcome(&stack, &next, name).await, expected, "{name}");
    }
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_are_the_operators_to_choose() {
    let stack = Stack::with(Options {
        variables: vec![
            ("WIREROOM_PERSON_KEY", KEY.to_owned()),
            ("WIREROOM_STOP_LANGUAGES", "de".to_owned()),
            ("WIREROOM_STOP_WORDS", "wypisz mnie".to_owned()),
        ],
        ..Options::default()
    })
    .await;
    join(&stack, "alice");
    let _worker = stack.worker().await;
    let path = campaign(&stack, json!({})).await;
    list(&stack, &path, &["dave", "erin", "grace"]).await;
    done(&stack, &resume(&stack, &path).await).await;
    write(&stack, "grace", "alice", "stop");
    write(&stack, "dave", "alice", "Stopp!");
    write(&stack, "erin", "alice", "Prosz\u{119}, wypisz mnie");
    suppressed_when(&stack, &["dave", "erin"]).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_is_only_in_the_history_is_found_where_private_messages_are_watched() {
    let stack = stack_of(vec!["alice"]).await;
    let _worker = stack.worker().await;
    let path = campaign(&stack, json!({})).await;
    list(&stack, &path, &["dave"]).await;
    done(&stack, &resume(&stack, &path).await).await;
    let watch = stack
        .post_job(json!({ "kind": "monitor", "session": "alice", "args": { "chat": "private" } }))
        .await;
    until("watched", async || {
        stack
            .figure("SELECT count(*) FROM watches WHERE state = 'active' AND NOT filling")
            .await
            == 1
    })
    .await;
    let controls = stack.sandbox.controls();
    let lost = controls.add_fault(Fault {
        method: "*".to_owned(),
        account: Some(stack.account("alice")),
        count: None,
        effect: Effect::LoseUpdates,
    });
    write(&stack, "dave", "alice", "Leave me alone!");
    write(&stack, "judy", "alice", "hello");
    controls.with_world(|world| world.set_events_kept(1));
    controls.remove_fault(lost);
    write(&stack, "judy", "alice", "after the gap");
    suppressed_when(&stack, &["dave"]).await;
    assert_eq!(stack.figure(BY_REPLY).await, 1);
    post(&stack, &format!("/v1/watches/{watch}/stop"), &json!({})).await;
    stack.finished(&watch).await;
    stack.finish().await;
}
