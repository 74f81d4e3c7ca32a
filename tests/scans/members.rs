//! Lists of members: each filter, how complete it is, and what scans of one chat know together.

use super::*;

fn members(chat: &str, members: Value) -> Value {
    scan("members", chat, with("members", members))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_filter_shows_its_part_and_says_so() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    let (id, admins) = scanned(&stack, members("@harbour_market", json!({ "filter": "admins" }))).await;
    assert_eq!((&admins["seen"], &admins["listed"]), (&json!(3), &json!(3)), "{admins}");
    assert_eq!(admins["counted"], 1250, "measured against the whole: {admins}");
    assert_eq!(
        (&admins["complete"], &admins["reason"]),
        (&json!(false), &json!("filtered_list"))
    );
    let roles = rows(&stack, &format!("/v1/jobs/{id}/members?role=creator")).await;
    assert_eq!(roles.len(), 1);
    assert_eq!(roles[0]["username"], "judy");
    let (id, bots) = scanned(&stack, members("@harbour_market", json!({ "filter": "bots" }))).await;
    assert_eq!(bots["seen"], 2, "{bots}");
    assert_eq!(
        rows(&stack, &format!("/v1/jobs/{id}/members?is_bot=true")).await.len(),
        2
    );
    assert_eq!(
        rows(&stack, &format!("/v1/jobs/{id}/members?is_bot=false")).await.len(),
        0
    );
    let (id, found) = scanned(
        &stack,
        members("@harbour_market", json!({ "filter": "search", "query": "ju" })),
    )
    .await;
    let found_rows = rows(&stack, &format!("/v1/jobs/{id}/members")).await;
    assert_eq!(found["seen"], found_rows.len(), "{found}");
    assert!(found_rows.iter().any(|row| row["username"] == "judy"), "{found_rows:?}");
    assert!(found_rows.len() < 1000, "not everybody");
    let (_, contacts) = scanned(&stack, members("@harbour_market", json!({ "filter": "contacts" }))).await;
    assert!(
        contacts["seen"].as_i64() > Some(0) && contacts["seen"].as_i64() < Some(50),
        "{contacts}"
    );
    // Where members are hidden, those who run the chat are shown.
    let (_, hidden) = scanned(&stack, members("@quiet_quay", json!({ "filter": "admins" }))).await;
    assert_eq!(hidden["seen"], 3, "{hidden}");
    let counts = rows(&stack, &format!("/v1/chats/{}/counts", admins["chat"]["id"])).await;
    let lists: Vec<&str> = counts.iter().filter_map(|count| count["list"].as_str()).collect();
    assert_eq!(lists, ["contacts", "search", "bots", "admins"], "the newest first");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_of_one_chat_know_each_person_once() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    let args = || scan("members", "@slow_pier", json!({}));
    let (first, result) = scanned(&stack, args()).await;
    assert_eq!(
        (&result["seen"], &result["new"]),
        (&json!(150), &json!(150)),
        "{result}"
    );
    let chat = result["chat"]["id"].clone();
    let bob = stack.account("bob");
    let pier = stack.chat("slow_pier");
    stack
        .sandbox
        .controls()
        .with_world(|world| world.put_in(pier, bob))
        .expect("in the chat");
    let (second, result) = scanned(&stack, args()).await;
    assert_eq!((&result["seen"], &result["new"]), (&json!(151), &json!(1)), "{result}");
    let known = rows(&stack, &format!("/v1/chats/{chat}/members")).await;
    assert_eq!(known.len(), 151);
    let time =
        |value: &Value| -> chrono::DateTime<chrono::Utc> { value.as_str().expect("a time").parse().expect("a time") };
    let second_began = time(&stack.job(&second).await["created_at"]);
    for member in &known {
        let is_new = member["user_id"] == bob;
        assert_eq!(member["job"], second.as_str());
        assert_eq!(time(&member["first_seen_at"]) > second_began, is_new, "{member}");
        assert!(time(&member["last_seen_at"]) > second_began, "{member}");
        assert_eq!(member["purpose"], "a count for the harbour's yearly report");
    }
    let counts = rows(&stack, &format!("/v1/chats/{chat}/counts?what=members")).await;
    let figures: Vec<(&Value, &Value)> = counts.iter().map(|count| (&count["job"], &count["counted"])).collect();
    assert_eq!(figures, [(&json!(second), &json!(151)), (&json!(first), &json!(150))]);
    for (format, lines) in [("text/csv", 152), ("application/x-ndjson", 151)] {
        let text = whole(&stack, &format!("/v1/chats/{chat}/members"), format).await;
        assert_eq!(text.lines().count(), lines, "{format}");
    }
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_find_those_beyond_the_cap() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    let (id, result) = scanned(&stack, members("@big_bazaar", json!({ "by_letters": true }))).await;
    let seen = result["seen"].as_i64().expect("a number");
    assert!(
        (11_900..12_000).contains(&seen),
        "only deleted accounts have no name: {result}"
    );
    assert_eq!(
        (&result["complete"], &result["reason"]),
        (&json!(false), &json!("cap_10000"))
    );
    let phones = stack
        .figure("SELECT count(*) FROM people p WHERE p::text LIKE '%9997000%'")
        .await;
    assert_eq!(phones, 0);
    assert_eq!(
        rows(&stack, &format!("/v1/jobs/{id}/members")).await.len(),
        usize::try_from(seen).expect("some")
    );
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_basic_group_is_read_and_filtered() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    let (_, all) = scanned(&stack, scan("members", "-4000001", json!({}))).await;
    assert_eq!((&all["seen"], &all["complete"]), (&json!(12), &json!(true)), "{all}");
    for (list, seen) in [
        (json!({ "filter": "admins" }), 1),
        (json!({ "filter": "bots" }), 1),
        (json!({ "filter": "search", "query": "alice" }), 1),
    ] {
        let (_, part) = scanned(&stack, members("-4000001", list.clone())).await;
        assert_eq!(
            (&part["seen"], &part["reason"]),
            (&json!(seen), &json!("filtered_list")),
            "{list}: {part}"
        );
    }
    stack.finish().await;
}
