//! Statistics: read by rounds, on a plan and when somebody asks, whatever becomes of workers, sessions and messages.

use super::*;
use crate::support::stack::JOB_BOUND;

/// Makes all rounds due.
async fn make_due(stack: &Stack) {
    sqlx::query("UPDATE publications SET next_at = wireroom_now() WHERE next_at IS NOT NULL")
        .execute(stack.database.pool())
        .await
        .expect("changed");
}

async fn statistics(stack: &Stack, id: &str, query: &str) -> Value {
    stack.get(&format!("/v1/jobs/{id}/statistics{query}")).await
}

/// Waits until the first message's counters are as wanted.
async fn counted(stack: &Stack, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(JOB_BOUND, async || {
        let page = statistics(stack, id, "").await;
        let first = page["items"][0].clone();
        if wanted(&first) {
            Ok(first)
        } else {
            Err(page.to_string())
        }
    })
    .await
}

fn set_figures(stack: &Stack, chat: &str, message: &Value, views: (i32, i32), reactions: &[(&str, i32)]) {
    let chat = stack.chat(chat);
    let id = i32::try_from(message.as_i64().expect("an id")).expect("in range");
    let set = stack
        .sandbox
        .controls()
        .with_world(|world| world.set_figures(chat, id, views, reactions));
    set.expect("set");
}

/// A look at what these jobs published.
async fn look(stack: &Stack, jobs: &[&str]) -> Value {
    stack
        .succeed("publish", json!({ "action": "statistics", "of_jobs": jobs }))
        .await
}

fn to_two(text: &str) -> Value {
    json!({
        "chats": ["@stall1", "@stall2"], "text": text, "statistics": { "every_minutes": 15, "for_days": 2 },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_is_counted_over_time_on_its_plan() {
    let stack = judy().await;
    let _worker = stack.worker().await;
    add_stalls(&stack, 2, "judy");
    let id = stack.post("publish", to_two("How many?")).await;
    let sent = stack.finished(&id).await["result"]["targets"].clone();
    assert_eq!(sent[1]["outcome"], "sent", "{sent}");
    let none = statistics(&stack, &id, "").await;
    assert_eq!(none["items"], json!([]), "nobody has looked yet");
    set_figures(
        &stack,
        "stall1",
        &sent[0]["message_id"],
        (40, 2),
        &[("👍", 3), ("🔥", 1)],
    );
    make_due(&stack).await;
    let first = counted(&stack, &id, |row| row["views"] == 40).await;
    assert_eq!(
        (&first["forwards"], &first["reactions"], &first["by_reaction"]),
        (&json!(2), &json!(4), &json!({ "👍": 3, "🔥": 1 })),
        "{first}"
    );
    // A round without news adds nothing to the series, and one with news a row.
    set_figures(
        &stack,
        "stall1",
        &sent[0]["message_id"],
        (55, 2),
        &[("👍", 3), ("🔥", 1)],
    );
    make_due(&stack).await;
    counted(&stack, &id, |row| row["views"] == 55).await;
    let series = statistics(&stack, &id, "?series=true").await;
    let series = series["items"].as_array().expect("a list");
    let views: Vec<&Value> = series
        .iter()
        .filter(|row| row["message_id"] == sent[0]["message_id"] && row["chat_id"] == sent[0]["chat_id"])
        .map(|row| &row["views"])
        .collect();
    assert_eq!(views, [&json!(40), &json!(55)], "{series:?}");
    let others = series.iter().filter(|row| row["chat_id"] == sent[1]["chat_id"]);
    assert_eq!(others.count(), 1, "its counters never changed: {series:?}");
    let csv = stack
        .request(Method::GET, &format!("/v1/jobs/{id}/statistics?format=csv"))
        .send()
        .await;
    let csv = csv.expect("answered").text().await.expect("text");
    assert_eq!(csv.lines().count(), 3, "{csv}");
    assert!(
        csv.starts_with("chat_id,message_id,") && csv.contains("👍 3 🔥 1"),
        "{csv}"
    );
    let waiting = "SELECT count(*) FROM publications WHERE next_at > wireroom_now() + interval '14 minutes'";
    assert_eq!(stack.figure(waiting).await, 1, "and so on");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_message_is_marked_and_looked_at_no_more() {
    let stack = judy().await;
    let _worker = stack.worker().await;
    let plan = json!({ "text": "Soon gone", "statistics": {} });
    let id = stack.post("publish", in_market(plan)).await;
    let message = stack.finished(&id).await["result"]["message_id"].clone();
    let result = look(&stack, &[&id]).await;
    assert_eq!(result["status"], "counted", "{result}");
    assert_eq!(result["counts"], json!({ "looked_at": 1 }), "{result}");
    let delete = in_market(json!({ "action": "delete", "message_ids": [message] }));
    stack.succeed("publish", delete).await;
    assert_eq!(look(&stack, &[&id]).await["counts"], json!({ "deleted": 1 }));
    let row = statistics(&stack, &id, "").await["items"][0].clone();
    assert!(row["deleted_at"].is_string(), "{row}");
    assert!(row["taken_at"].is_string(), "what was counted before stays: {row}");
    let calls = stack.calls("channels.getMessages");
    assert_eq!(look(&stack, &[&id]).await["counts"], Value::Null);
    assert_eq!(stack.calls("channels.getMessages"), calls);
    make_due(&stack).await;
    eventually(JOB_BOUND, async || {
        match stack
            .figure("SELECT count(*) FROM publications WHERE next_at IS NULL")
            .await
        {
            1 => Ok(()),
            _ => Err("the plan is not over yet"),
        }
    })
    .await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_plan_nobody_looks_until_somebody_asks() {
    let stack = judy().await;
    let _worker = stack.worker().await;
    let id = stack.post("publish", in_market(json!({ "text": "No plan" }))).await;
    stack.finished(&id).await;
    let path = format!("/v1/jobs/{id}/statistics");
    let response = stack.request(Method::GET, &path).send().await.expect("answered");
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let problem: Value = response.json().await.expect("a problem");
    assert_eq!(problem["code"], "rows_not_found", "{problem}");
    look(&stack, &[&id]).await;
    assert_eq!(
        statistics(&stack, &id, "").await["items"].as_array().map(Vec::len),
        Some(1)
    );
    let nobody = uuid::Uuid::nil().to_string();
    assert_eq!(look(&stack, &[&nobody]).await["counts"], Value::Null);
    let response = stack
        .request(Method::GET, &format!("/v1/jobs/{nobody}/statistics"))
        .send()
        .await;
    assert_eq!(response.expect("answered").status(), StatusCode::NOT_FOUND);
    let kept = in_market(json!({
        "text": "Later", "schedule_at": "2030-01-01T00:00:00Z", "statistics": {},
    }));
    assert_eq!(refused(&stack, kept).await["field"], "args.statistics");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_puts_a_round_off() {
    let stack = judy().await;
    let _worker = stack.worker().await;
    add_stalls(&stack, 2, "judy");
    let id = stack.post("publish", to_two("Rounds")).await;
    stack.finished(&id).await;
    stack.fault(Fault::once("channels.getMessages", Effect::flood_wait(600)));
    let round = stack
        .post("publish", json!({ "action": "statistics", "of_jobs": [id] }))
        .await;
    let waiting = stack
        .job_when(&round, "put off", |job| job["state"] == "scheduled")
        .await;
    assert_eq!(waiting["wait_reason"]["code"], "flood", "{waiting}");
    assert_eq!(waiting["attempt"], 0, "it costs no attempt: {waiting}");
    // The plan's own round waits for no other one's end, and meets the same closed gate.
    make_due(&stack).await;
    let put_off = "SELECT count(*) FROM jobs WHERE tags = '{statistics}' AND wait_reason ->> 'code' = 'flood'";
    eventually(JOB_BOUND, async || match stack.figure(put_off).await {
        1 => Ok(()),
        _ => Err("no round of the plan is put off"),
    })
    .await;
    make_due(&stack).await;
    let later = "SELECT count(*) FROM publications WHERE next_at > wireroom_now() + interval '10 minutes'";
    eventually(JOB_BOUND, async || match stack.figure(later).await {
        1 => Ok(()),
        _ => Err("the plan is not put off"),
    })
    .await;
    assert_eq!(stack.figure(put_off).await, 1, "there is one round at a time");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_goes_on_after_its_worker_was_killed() {
    let stack = judy().await;
    let worker = stack.worker().await;
    add_stalls(&stack, 2, "judy");
    let id = stack.post("publish", to_two("Killed")).await;
    stack.finished(&id).await;
    stack.fault(Fault::once("channels.getMessages", Effect::Blackhole));
    let hits = stack.calls("channels.getMessages");
    make_due(&stack).await;
    eventually(JOB_BOUND, async || {
        if stack.calls("channels.getMessages") > hits {
            Ok(())
        } else {
            Err("no round yet")
        }
    })
    .await;
    worker.kill();
    let _other = stack.worker().await;
    counted(&stack, &id, |row| row["views"].is_i64() || row["taken_at"].is_string()).await;
    let rounds = "SELECT count(*) FROM (SELECT id FROM jobs UNION ALL SELECT id FROM finished_jobs) j \
                  JOIN publications p ON p.round_job = j.id";
    assert_eq!(stack.figure(rounds).await, 1, "one round, and no second beside it");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_session_of_the_pool_looks_when_the_first_is_lost() {
    let stack = with_accounts(vec!["judy", "alice"]).await;
    let _worker = stack.worker().await;
    add_stalls(&stack, 2, "judy");
    let body = json!({ "kind": "publish", "session": "judy", "args": to_two("Two of us") });
    let id = stack.post_job(body).await;
    stack.finished(&id).await;
    // Alice is in the first of the chats, as far as is known.
    let join = json!({ "kind": "join", "session": "alice", "args": { "chat": "@stall1" } });
    let join = stack.post_job(join).await;
    stack.finished(&join).await;
    sqlx::query("UPDATE sessions SET state = 'disabled' WHERE label = 'judy'")
        .execute(stack.database.pool())
        .await
        .expect("changed");
    make_due(&stack).await;
    let first = counted(&stack, &id, |row| row["taken_at"].is_string()).await;
    assert_eq!(first["problem"], Value::Null, "{first}");
    let by_alice = "SELECT count(*) FROM publications p
        JOIN (SELECT id, session_id FROM jobs UNION ALL SELECT id, session_id FROM finished_jobs) j ON j.id = p.round_job
        JOIN sessions s ON s.id = j.session_id WHERE s.label = 'alice'";
    assert_eq!(stack.figure(by_alice).await, 1);
    // Nobody is left: the next round waits.
    sqlx::query("UPDATE sessions SET state = 'disabled'")
        .execute(stack.database.pool())
        .await
        .expect("changed");
    make_due(&stack).await;
    let waits = "SELECT count(*) FROM publications WHERE next_at > wireroom_now() + interval '10 minutes'";
    eventually(JOB_BOUND, async || match stack.figure(waits).await {
        1 => Ok(()),
        _ => Err("not put off yet"),
    })
    .await;
    stack.finish().await;
}
