//! Searches for chats, and profiles.

use super::*;

fn search(search: Value) -> Value {
    scan("chats", "", with("search", search))
}

#[tokio::test(flavor = "multi_thread")]
async fn public_chats_are_found_by_keywords() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    let (id, result) = scanned(&stack, search(json!({ "queries": ["harbour", "morning"] }))).await;
    assert_eq!(
        (&result["complete"], &result["reason"], &result["chat"]),
        (&json!(false), &json!("search_is_partial"), &Value::Null)
    );
    let path = format!("/v1/jobs/{id}/chats");
    let found = rows(&stack, &path).await;
    let mut names: Vec<&str> = found.iter().filter_map(|chat| chat["username"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["harbour_market", "harbour_notices", "morning_news"]);
    let market = found
        .iter()
        .find(|chat| chat["username"] == "harbour_market")
        .expect("found");
    assert_eq!(
        (&market["type"], &market["member_count"]),
        (&json!("supergroup"), &json!(1250)),
        "{market}"
    );
    assert_eq!(market["language"], "eng", "{market}");
    assert!(market["last_post_at"].is_string(), "{market}");
    let channels = rows(&stack, &format!("{path}?type=channel")).await;
    assert_eq!(channels.len(), 1);
    let large = rows(&stack, &format!("{path}?min_members=1000&language=eng")).await;
    assert_eq!(large.len(), 2, "{large:?}");
    assert_eq!(whole(&stack, &path, "text/csv").await.lines().count(), 4);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn private_chats_of_the_account_are_nobodys_finds() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    // The account is in a private group whose name fits too.
    let (id, _) = scanned(&stack, search(json!({ "queries": ["quay"] }))).await;
    let found = rows(&stack, &format!("/v1/jobs/{id}/chats")).await;
    assert!(!found.is_empty());
    assert!(found.iter().all(|chat| chat["username"].is_string()), "{found:?}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standing_search_reports_what_is_new() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    let standing = || search(json!({ "queries": ["harbour"], "standing": "harbours" }));
    let (_, first) = scanned(&stack, standing()).await;
    assert_eq!((&first["seen"], &first["new"]), (&json!(2), &json!(2)), "{first}");
    let looks = stack.calls("messages.getHistory");
    let (id, again) = scanned(&stack, standing()).await;
    assert_eq!(again["seen"], 0, "{again}");
    assert_eq!(
        stack.calls("messages.getHistory"),
        looks,
        "what is known is not looked at"
    );
    assert_eq!(rows(&stack, &format!("/v1/jobs/{id}/chats")).await, Vec::<Value>::new());
    // Another keyword of the same search brings only what that one finds.
    let wider = search(json!({ "queries": ["harbour", "morning"], "standing": "harbours" }));
    let (_, wider) = scanned(&stack, wider).await;
    assert_eq!(wider["seen"], 1, "{wider}");
    // Another search knows nothing of it.
    let other = search(json!({ "queries": ["harbour"], "standing": "other" }));
    let (_, other) = scanned(&stack, other).await;
    assert_eq!((&other["seen"], &other["new"]), (&json!(2), &json!(0)), "{other}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_and_a_chat_are_read_in_full() {
    let stack = stack().await;
    let _worker = stack.worker().await;
    let (id, result) = scanned(&stack, scan("profile", "@judy", json!({}))).await;
    assert_eq!(
        (&result["complete"], &result["chat"]),
        (&json!(true), &Value::Null),
        "{result}"
    );
    let read = stack.get(&format!("/v1/jobs/{id}/profile")).await;
    let person = &read["profile"];
    assert_eq!(person["type"], "person", "{read}");
    assert_eq!(person["usernames"], json!(["judy"]));
    assert!(!read.to_string().contains("99966"), "a phone number: {read}");
    let by_id = stack.account("judy").to_string();
    let (_, again) = scanned(&stack, scan("profile", &by_id, json!({}))).await;
    assert_eq!((&again["seen"], &again["new"]), (&json!(1), &json!(0)), "{again}");
    let (id, result) = scanned(&stack, scan("profile", "@slow_pier", json!({}))).await;
    assert_eq!(result["counted"], 150, "{result}");
    let chat = stack.get(&format!("/v1/jobs/{id}/profile")).await["profile"].clone();
    assert_eq!(chat["type"], "chat", "{chat}");
    assert_eq!(
        (&chat["slow_mode_seconds"], &chat["member_count"]),
        (&json!(30), &json!(150)),
        "{chat}"
    );
    assert_eq!(chat["about"], "One message in half a minute.");
    assert_eq!(
        stack.fail("scan", scan("profile", "@nobody_at_all", json!({}))).await,
        "chat_not_found"
    );
    stack.finish().await;
}
