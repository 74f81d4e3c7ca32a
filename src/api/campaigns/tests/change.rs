//! Changing campaigns, and deleting them.

use super::*;
use crate::store::campaign_changes;

async fn patch(api: &TestApi, path: &str, body: &Value) -> Answer {
    send(api.request(Method::PATCH, path).body_json(body)).await
}

async fn delete(api: &TestApi, path: &str) -> StatusCode {
    send(api.request(Method::DELETE, path)).await.status
}

/// Its job waits, for that reason.
async fn asleep(api: &TestApi, reason: &str) {
    sqlx::query(
        "UPDATE jobs SET state = 'scheduled', run_at = wireroom_now() + interval '5 hours',
            wait_reason = jsonb_build_object('code', $1::text, 'message', 'It waits.')",
    )
    .bind(reason)
    .execute(api.pool())
    .await
    .expect("asleep");
}

#[tokio::test]
async fn what_is_named_is_changed_and_the_rest_stays() {
    let api = api().await;
    let path = made(&api).await;
    let change = json!({
        "name": " Summer readers ", "text": "Come: {link}", "per_day": 50, "quiet_from": "22:00", "quiet_until": "08:00",
        "time_zone": "Europe/Lisbon",
    });
    let changed = patch(&api, &path, &change).await;
    assert!(!changed.text.contains("Come:"), "{}", changed.text);
    let changed = changed.json();
    for (field, value) in [
        ("name", json!("Summer readers")),
        ("per_day", json!(50)),
        ("quiet_from", json!("22:00")),
        ("quiet_until", json!("08:00")),
        ("time_zone", json!("Europe/Lisbon")),
        ("stop_after", json!(10)),
        ("state", json!("paused")),
        ("code", json!("new")),
    ] {
        assert_eq!(changed[field], value, "{field}");
    }
    assert_eq!(
        api.count("campaigns WHERE text = 'Come: https://t.me/reading_club' AND format = 'plain'")
            .await,
        1
    );
    let noted = "audit_log WHERE action = 'campaign.changed' AND details -> 'changed' = \
        '[\"name\", \"text\", \"per_day\", \"quiet_from\", \"quiet_until\", \"time_zone\"]'
        AND details -> 'was' ->> 'per_day' = '20' AND details -> 'is' ->> 'per_day' = '50'
        AND NOT details::text LIKE '%Come%' AND NOT details::text LIKE '%ummer%'";
    assert_eq!(api.count(noted).await, 1);
    assert_eq!(
        api.count("events WHERE type = 'campaign.changed' AND data -> 'changed' ? 'text'")
            .await,
        1
    );
    let loud = patch(&api, &path, &json!({ "quiet_from": null, "quiet_until": null }))
        .await
        .json();
    assert_eq!(
        (&loud["quiet_from"], &loud["quiet_until"], &loud["per_day"]),
        (&Value::Null, &Value::Null, &json!(50))
    );
    // What is so already is no change.
    let same = json!({ "name": "Summer readers", "text": "Come: {link}", "per_day": 50, "format": "plain" });
    assert_eq!(patch(&api, &path, &same).await.status, StatusCode::OK);
    assert_eq!(api.count("audit_log WHERE action = 'campaign.changed'").await, 2);
}

#[tokio::test]
async fn what_cannot_be_changed_is_refused_with_its_reason() {
    let api = api().await;
    let path = made(&api).await;
    let mut other = new();
    other["name"] = json!("Other");
    post(&api, "/v1/campaigns", &other).await.json();
    for (change, code, field) in [
        (json!({ "chat": "@other_club" }), "campaign_fixed", "chat"),
        (json!({ "mode": "add" }), "campaign_fixed", "mode"),
        (json!({ "name": "Other" }), "campaign_exists", "name"),
        (json!({ "name": " " }), "invalid_value", "name"),
        (json!({ "text": "no link" }), "invalid_value", "text"),
        (json!({ "link": "@other_club" }), "invalid_value", "link"),
        (json!({ "format": "html" }), "invalid_value", "format"),
        (json!({ "per_day": 0 }), "invalid_value", "per_day"),
        (json!({ "stop_ratio": 2 }), "invalid_value", "stop_ratio"),
        (json!({ "stop_after": 0 }), "invalid_value", "stop_after"),
        (json!({ "quiet_from": "22:00" }), "invalid_value", "quiet_until"),
        (json!({ "time_zone": "Mars/Olympus" }), "invalid_value", "time_zone"),
        (json!({ "pool": "nowhere" }), "unknown_pool", "pool"),
        (json!({ "session": "nobody" }), "unknown_session", "session"),
        (json!({ "state": "running" }), "unknown_field", "state"),
    ] {
        let problem = patch(&api, &path, &change).await.problem(code);
        assert_eq!(problem["field"], field, "{change}: {problem}");
    }
    assert_eq!(api.count("audit_log WHERE action = 'campaign.changed'").await, 0);
    let unknown = format!("/v1/campaigns/{}", uuid::Uuid::nil());
    patch(&api, &unknown, &json!({ "per_day": 1 }))
        .await
        .problem("campaign_not_found");
}

#[tokio::test]
async fn the_session_is_changed_between_two_jobs() {
    let api = api().await;
    let path = made(&api).await;
    let session = api.session("one", "ready").await;
    let running = post(&api, &format!("{path}/resume"), &json!({})).await.json();
    let change = json!({ "session": "one" });
    let busy = patch(&api, &path, &change).await.problem("campaign_busy");
    assert_eq!(busy["job"], running["job"], "{busy}");
    assert_eq!(
        patch(&api, &path, &json!({ "per_day": 30 })).await.json()["state"],
        "running"
    );
    api.execute("DELETE FROM jobs").await;
    let changed = patch(&api, &path, &change).await.json();
    assert_eq!(changed["session"], json!(session), "{changed}");
    let free = patch(&api, &path, &json!({ "session": null })).await.json();
    assert_eq!(free["session"], Value::Null);
}

#[tokio::test]
async fn a_job_that_waits_for_what_was_changed_looks_again() {
    let api = api().await;
    let path = made(&api).await;
    post(&api, &format!("{path}/resume"), &json!({})).await.json();
    for (per_day, reason, state) in [
        (30, "campaign_cap", "queued"),
        (31, "quiet_hours", "queued"),
        (32, "flood", "scheduled"),
    ] {
        asleep(&api, reason).await;
        patch(&api, &path, &json!({ "per_day": per_day })).await.json();
        let stored = format!("jobs WHERE state = '{state}'");
        assert_eq!(api.count(&stored).await, 1, "{reason}");
    }
}

#[tokio::test]
async fn a_deleted_campaign_is_gone_and_whom_it_contacted_is_left_alone_as_before() {
    let api = api().await;
    let path = made(&api).await;
    let people: Vec<Value> = (1..=3).map(|id| json!({ "user_id": id, "basis": "contact" })).collect();
    list(&api, &path, json!(people)).await;
    let running = post(&api, &format!("{path}/resume"), &json!({})).await.json();
    api.execute(
        "INSERT INTO campaign_ledger (campaign_id, user_id, chat_id, state, outcome, attempted_at)
        SELECT id, 1, -1001, 'invited', 'invited', wireroom_now() - interval '1 day' FROM campaigns
        UNION ALL SELECT id, 2, -1001, 'prepared', NULL, NULL FROM campaigns",
    )
    .await;
    asleep(&api, "quiet_hours").await;
    assert_eq!(delete(&api, &path).await, StatusCode::NO_CONTENT);
    // Its job sees it now, and not after the quiet hours.
    assert_eq!(api.count("jobs WHERE state = 'queued'").await, 1, "{running}");
    for (method, under) in [
        (Method::GET, ""),
        (Method::DELETE, ""),
        (Method::GET, "/people"),
        (Method::GET, "/report"),
        (Method::GET, "/preflight"),
        (Method::POST, "/resume"),
    ] {
        let answer = send(api.request(method.clone(), &format!("{path}{under}"))).await;
        answer.problem("campaign_not_found");
    }
    let late = json!({ "items": [{ "user_id": 9, "basis": "contact" }] });
    post(&api, &format!("{path}/people"), &late)
        .await
        .problem("campaign_not_found");
    let ledger = json!({ "items": [{ "user_id": 9 }] });
    post(&api, &format!("{path}/ledger/import"), &ledger)
        .await
        .problem("campaign_not_found");
    assert_eq!(api.get("/v1/campaigns").await.json()["items"], json!([]));
    assert_eq!(api.count("campaign_people").await, 0);
    assert_eq!(
        api.count("campaign_ledger").await,
        1,
        "whoever was not asked is forgotten"
    );
    assert_eq!(
        api.count("campaigns WHERE text = '' AND chat = '' AND emptied_at IS NOT NULL")
            .await,
        1
    );
    // The name is free, and of its people one is left alone.
    let again = made(&api).await;
    list(&api, &again, json!(people)).await;
    let preflight = api.get(&format!("{again}/preflight")).await.json();
    assert_eq!(
        (&preflight["eligible"], &preflight["left_out"]),
        (&json!(2), &json!({ "invited_lately": 1 })),
        "{preflight}"
    );
    assert_eq!(api.count("audit_log WHERE action = 'campaign.deleted'").await, 1);
    assert_eq!(
        api.count("events WHERE type = 'campaign.deleted' AND data ? 'by'")
            .await,
        1
    );
}

#[tokio::test]
async fn nobody_makes_a_deleted_campaign_run_and_a_job_at_it_is_waited_for() {
    let api = api().await;
    let path = made(&api).await;
    list(
        &api,
        &path,
        json!([{ "user_id": 1, "basis": "contact" }, { "user_id": 2, "basis": "contact" }]),
    )
    .await;
    post(&api, &format!("{path}/resume"), &json!({})).await.json();
    api.execute("UPDATE campaign_people SET job_id = (SELECT id FROM jobs) WHERE user_id = 1")
        .await;
    api.execute(
        "INSERT INTO campaign_ledger (campaign_id, user_id, state, job_id, attempted_at, random_id)
        SELECT c.id, 1, 'attempted', j.id, wireroom_now(), 1 FROM campaigns c, jobs j",
    )
    .await;
    assert_eq!(delete(&api, &path).await, StatusCode::NO_CONTENT);
    // As a process of the release before would.
    api.execute(
        "UPDATE campaigns SET state = 'running', state_code = 'running', deleted_at = NULL, job_id = gen_random_uuid()",
    )
    .await;
    assert_eq!(
        api.count(
            "campaigns WHERE state = 'paused' AND state_code = 'deleted' AND deleted_at IS NOT NULL AND job_id IS NULL"
        )
        .await,
        1
    );
    assert_eq!(api.count("campaign_people WHERE user_id = 1").await, 1);
    assert_eq!(api.count("campaign_people").await, 1);
    let empty = async || {
        let mut conn = api.pool().acquire().await.expect("a connection");
        while campaign_changes::empty(&mut conn, None, 1).await.expect("emptied") > 0 {}
    };
    empty().await;
    assert_eq!(api.count("campaign_people").await, 1, "its job may have to look");
    api.execute("DELETE FROM jobs").await;
    empty().await;
    assert_eq!(api.count("campaign_people").await, 0);
    assert_eq!(
        api.count("campaign_ledger WHERE state = 'outcome_unknown' AND attempted_at IS NOT NULL")
            .await,
        1
    );
    assert_eq!(
        api.count("campaigns WHERE chat = '' AND emptied_at IS NOT NULL").await,
        1
    );
}
