//! What was written in a chat: all of it, parts of it, what changes with a later scan, and that texts are in the rows alone.

use wireroom::sandbox::world::PeerKey;

use super::*;

fn history(chat: &str, history: Value) -> Value {
    scan("history", chat, with("history", history))
}

fn ids(rows: &[Value]) -> Vec<i64> {
    rows.iter().map(|row| row["id"].as_i64().expect("an id")).collect()
}

/// Writes a message that is new to the chat; its number.
fn say(stack: &Stack, who: &str, chat: PeerKey, text: &str) -> i32 {
    let user = stack.account(who);
    let controls = stack.sandbox.controls();
    controls
        .with_world(|world| world.post_as(user, chat, text))
        .expect("posted")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_read_whole_and_in_every_format() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    let (id, result) = scanned(&stack, scan("history", "@morning_news", json!({}))).await;
    assert_eq!(
        (
            &result["counted"],
            &result["seen"],
            &result["complete"],
            &result["reason"]
        ),
        (&json!(300), &json!(300), &json!(true), &Value::Null),
        "{result}"
    );
    let path = format!("/v1/jobs/{id}/messages");
    let messages = rows(&stack, &path).await;
    assert_eq!(ids(&messages), (1..=300).collect::<Vec<i64>>());
    assert_eq!(
        messages[0]["sender_id"], result["chat"]["id"],
        "a channel posts under its own name"
    );
    assert_eq!(messages[0]["views"], 1);
    assert_eq!(whole(&stack, &path, "text/csv").await.lines().count(), 301);
    let ndjson = whole(&stack, &path, "application/x-ndjson").await;
    let lines: Vec<Value> = ndjson
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines, messages);
    let job = stack.job(&id).await;
    assert_eq!(job["progress"]["done"], 300, "{job}");
    assert_eq!(job["progress"]["seconds_left"], 0, "{job}");
    let places = "SELECT count(*) FROM session_update_states WHERE box <> 0";
    assert_eq!(
        stack.figure(places).await,
        0,
        "the account is not in the channel: nobody asks for its updates"
    );
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_cut_by_date_number_count_and_medium() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    let (id, all) = scanned(&stack, scan("history", "@harbour_market", json!({}))).await;
    assert_eq!(all["seen"], 420, "{all}");
    let messages = rows(&stack, &format!("/v1/jobs/{id}/messages")).await;
    let date = |at: usize| messages[at]["date"].clone();
    for (part, expected) in [
        (json!({ "last": 130 }), 291..=420),
        (json!({ "min_id": 200, "max_id": 310 }), 200..=310),
        (json!({ "from": date(99), "to": date(249) }), 100..=250),
        (json!({ "to": date(49) }), 1..=50),
        (json!({ "from": date(399), "last": 5 }), 416..=420),
    ] {
        let (id, result) = scanned(&stack, history("@harbour_market", part.clone())).await;
        let rows = rows(&stack, &format!("/v1/jobs/{id}/messages")).await;
        assert_eq!(ids(&rows), expected.collect::<Vec<i64>>(), "{part}");
        assert_eq!(
            (&result["complete"], &result["new"]),
            (&json!(true), &json!(0)),
            "{part}: {result}"
        );
    }
    let (_, photos) = scanned(&stack, history("@harbour_market", json!({ "media": ["photo"] }))).await;
    assert_eq!(
        (&photos["seen"], &photos["complete"]),
        (&json!(0), &json!(true)),
        "{photos}"
    );
    let mut limited = scan("history", "@harbour_market", json!({}));
    limited["limit"] = json!(150);
    let (_, cut) = scanned(&stack, limited).await;
    assert_eq!((&cut["seen"], &cut["reason"]), (&json!(150), &json!("limit")), "{cut}");
    assert_eq!(
        stack.figure("SELECT count(*) FROM seen_messages").await,
        420,
        "each once"
    );
    let sender = messages[0]["sender_id"].clone();
    let of_sender = rows(&stack, &format!("/v1/jobs/{id}/messages?sender_id={sender}")).await;
    assert!(!of_sender.is_empty() && of_sender.iter().all(|row| row["sender_id"] == sender));
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_scan_updates_what_has_changed() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    let market = stack.chat("harbour_market");
    let first = say(&stack, "alice", market, "Tide at six");
    let args = || history("@harbour_market", json!({ "last": 3 }));
    let (before, _) = scanned(&stack, args()).await;
    let alice = stack.account("alice");
    stack.sandbox.controls().with_world(|world| {
        world.edit_as(alice, market, first, "Tide at seven").expect("edited");
        world
            .set_figures(market, first, (40, 2), &[("👍", 3)])
            .expect("figures");
    });
    let second = say(&stack, "alice", market, "And again at noon");
    let (after, result) = scanned(&stack, args()).await;
    assert_eq!((&result["seen"], &result["new"]), (&json!(3), &json!(1)), "{result}");
    let changed = |rows: &[Value]| {
        let row = rows.iter().find(|row| row["id"] == first).expect("the message").clone();
        assert_eq!(row["text"], "Tide at seven");
        assert_eq!((&row["views"], &row["forwards"]), (&json!(40), &json!(2)));
        assert_eq!(row["reactions"], json!([{ "reaction": "👍", "count": 3 }]));
        assert!(row["edited_at"].is_string(), "{row}");
        assert_ne!(row["first_seen_at"], row["last_seen_at"]);
    };
    // The earlier scan shows the same messages as before, as they are now known.
    let earlier = rows(&stack, &format!("/v1/jobs/{before}/messages")).await;
    changed(&earlier);
    assert!(!ids(&earlier).contains(&second.into()));
    changed(&rows(&stack, &format!("/v1/jobs/{after}/messages")).await);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_in_the_rows_and_nowhere_else() {
    let stack = stack().await;
    let mut worker = stack.worker_with(&[("WIREROOM_LOG", "debug".to_owned())]).await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    let market = stack.chat("harbour_market");
    say(&stack, "alice", market, "Zanzibarium at midnight");
    scanned(&stack, history("@harbour_market", json!({ "last": 50 }))).await;
    assert_eq!(rows_with(&stack, "Zanzibarium", &[]).await.len(), 1);
    assert_eq!(
        rows_with(&stack, "Zanzibarium", &["seen_messages"]).await,
        Vec::<String>::new()
    );
    worker.terminate();
    worker.wait_for_end(std::time::Duration::from_secs(30)).await;
    assert!(!worker.output().contains("Zanzibarium"), "a text in the log");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_gone_when_their_time_is_over() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    let mut short = scan("history", "@slow_pier", json!({}));
    short["retention_days"] = json!(1);
    let (first, _) = scanned(&stack, short).await;
    let (second, _) = scanned(
        &stack,
        scan("history", "@slow_pier", json!({ "history": { "last": 20 } })),
    )
    .await;
    for table in ["scans", "seen_messages"] {
        let statement = format!("UPDATE {table} SET expires_at = expires_at - interval '2 days'");
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .execute(stack.database.pool())
            .await
            .expect("changed");
    }
    // The sweep is the worker's: a fresh one does it at its start.
    let _fresh = stack.worker().await;
    crate::support::wait::eventually(std::time::Duration::from_secs(30), async || {
        let left = stack
            .figure("SELECT (SELECT count(*) FROM seen_messages) * 1000 + (SELECT count(*) FROM scan_messages)")
            .await;
        if left == 20_020 { Ok(()) } else { Err(left) }
    })
    .await;
    assert_eq!(rows(&stack, &format!("/v1/jobs/{second}/messages")).await.len(), 20);
    let gone = stack.request(Method::GET, &format!("/v1/jobs/{first}/messages"));
    assert_eq!(gone.send().await.expect("answered").status(), 404);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_person_is_in_no_row_and_does_not_come_back() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    let (market, frank) = (stack.chat("harbour_market"), stack.account("frank"));
    stack
        .sandbox
        .controls()
        .with_world(|world| world.put_in(market, frank))
        .expect("in the chat");
    say(&stack, "frank", market, "Frank was here");
    say(&stack, "alice", market, "Did you see @frank today?");
    let history_args = || history("@harbour_market", json!({ "last": 10 }));
    scanned(&stack, history_args()).await;
    scanned(&stack, scan("members", "@harbour_market", json!({}))).await;
    let (profile, _) = scanned(&stack, scan("profile", "@frank", json!({}))).await;
    assert_eq!(
        stack.get(&format!("/v1/jobs/{profile}/profile")).await["profile"]["user_id"],
        frank
    );
    let exported = stack.get(&format!("/v1/people/{frank}/export")).await;
    for table in [
        "seen_messages",
        "scan_members",
        "scan_profiles",
        "chat_members",
        "people",
    ] {
        assert!(
            exported["tables"][table].is_array(),
            "{table} is not exported: {exported}"
        );
    }
    let erase = stack.request(Method::DELETE, &format!("/v1/people/{frank}"));
    assert!(erase.send().await.expect("answered").status().is_success());
    // Telegram's reference to a member of a chat is the session's, and says nothing but that there is one.
    for needle in [frank.to_string().as_str(), "frank"] {
        assert_eq!(
            rows_with(&stack, needle, &["session_peers"]).await,
            Vec::<String>::new(),
            "{needle}"
        );
    }
    let (id, _) = scanned(&stack, history_args()).await;
    let left = rows(&stack, &format!("/v1/jobs/{id}/messages")).await;
    assert!(left.iter().all(|row| row["sender_id"] != frank), "{left:?}");
    let (_, members) = scanned(&stack, scan("members", "@harbour_market", json!({}))).await;
    let (counted, seen) = (members["counted"].as_i64(), members["seen"].as_i64());
    assert_eq!(
        counted.zip(seen).map(|(counted, seen)| counted - seen),
        Some(1),
        "{members}"
    );
    assert_eq!(
        (&members["complete"], &members["reason"]),
        (&json!(false), &json!("person_erased")),
        "{members}"
    );
    let (_, refused) = scanned(&stack, scan("profile", "@frank", json!({}))).await;
    assert_eq!(
        (&refused["complete"], &refused["reason"]),
        (&json!(false), &json!("person_erased"))
    );
    assert_eq!(stack.figure("SELECT count(*) FROM scan_profiles").await, 0);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_basic_group_has_numbers_of_the_accounts_own() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    let (id, result) = scanned(&stack, scan("history", "-4000001", json!({}))).await;
    assert_eq!(
        (&result["seen"], &result["complete"]),
        (&json!(6), &json!(true)),
        "{result}"
    );
    assert_eq!(rows(&stack, &format!("/v1/jobs/{id}/messages")).await.len(), 6);
    let owners = stack
        .figure("SELECT count(DISTINCT owner) FROM seen_messages WHERE owner <> 0")
        .await;
    assert_eq!(owners, 1);
    stack.finish().await;
}
