//! A content plan: posts with times as one batch, which can be looked at, moved and dropped.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_posts_and_times_is_one_batch() {
    let stack = judy().await;
    let _worker = stack.worker().await;
    let post = |text: &str, hours: i64| {
        let at = chrono::DateTime::from_timestamp_millis(now_ms() + hours * 3_600_000).expect("in range");
        json!({ "kind": "publish", "run_at": at, "args": { "chat": "@harbour_market", "text": text } })
    };
    let body =
        json!({ "mode": "all_or_nothing", "jobs": [post("Monday", 0), post("Tuesday", 24), post("Friday", 96)] });
    let request = stack.request(Method::POST, "/v1/jobs/batch").json(&body).send().await;
    let made: Value = request.expect("answered").json().await.expect("JSON");
    let batch = made["batch"]["id"].as_str().expect("a batch").to_owned();
    let path = format!("/v1/jobs?batch={batch}");
    let jobs = stack.get(&path).await;
    let jobs = jobs["items"].as_array().expect("a list").clone();
    assert_eq!(jobs.len(), 3, "{made}");
    let posted = async |text: &'static str| {
        eventually(crate::support::stack::JOB_BOUND, async || {
            match stack.count_messages("harbour_market", text) {
                1 => Ok(()),
                count => Err(format!("{text}: {count} times")),
            }
        })
        .await;
    };
    posted("Monday").await;
    // Tuesday's post is moved to now.
    let mut waiting: Vec<&Value> = jobs.iter().filter(|job| job["state"] == "scheduled").collect();
    waiting.sort_by_key(|job| job["run_at"].as_str().expect("a time"));
    let tuesday = waiting[waiting.len() - 2]["id"].as_str().expect("an id");
    let now = chrono::DateTime::from_timestamp_millis(now_ms()).expect("in range");
    let request = stack.request(Method::PATCH, &format!("/v1/jobs/{tuesday}"));
    let moved = request.json(&json!({ "run_at": now })).send().await.expect("answered");
    assert_eq!(moved.status(), StatusCode::OK);
    posted("Tuesday").await;
    let cancel = json!({ "filter": { "batch": batch } });
    let request = stack
        .request(Method::POST, "/v1/jobs/bulk/cancel")
        .json(&cancel)
        .send()
        .await;
    let cancelled: Value = request.expect("answered").json().await.expect("JSON");
    assert_eq!(cancelled["cancelled"], 1, "{cancelled}");
    assert_eq!(stack.count_messages("harbour_market", "Friday"), 0);
    stack.finish().await;
}
