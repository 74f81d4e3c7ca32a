//! Somebody answers an invitation of ours with a client of theirs.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_stop_with_telethon_is_left_alone() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    let head = stack.get("/v1/events?limit=1").await["head"]
        .as_i64()
        .expect("a number");
    for (name, expected) in [("Spring", "invited"), ("Summer", "suppressed")] {
        let campaign = json!({
            "name": name, "chat": "@harbour_market", "text": "You asked about the market. Come in: {link}", "session": "alice",
        });
        let made = post(&stack, "/v1/campaigns", campaign).await;
        let path = format!("/v1/campaigns/{}", made["id"].as_str().expect("an id"));
        let people = json!({ "items": [
            { "username": "dave", "basis": "import", "proof": "a form", "supplied_by": "Maria" },
        ] });
        post(&stack, &format!("{path}/people"), people).await;
        let running = post(&stack, &format!("{path}/resume"), Value::Null).await;
        stack.finished(running["job"].as_str().expect("a job")).await;
        let listed = stack.get(&format!("{path}/people")).await;
        assert_eq!(listed["items"][0]["outcome"], expected, "{name}: {listed}");
        if expected == "invited" {
            let arguments = [&phone(&stack, "dave"), "alice", "Come in", "No, thank you, please stop"];
            TELETHON
                .check("telethon_answers.py", &stack.sandbox, &arguments, "")
                .await;
            let told = stack
                .get(&format!("/v1/events?after={head}&type=suppression.added&wait=60"))
                .await;
            assert_eq!(told["items"].as_array().map(Vec::len), Some(1), "{told}");
        }
    }
    stack.finish().await;
}
