//! Everything that keeps an invitation from being made: the switch, the list, caps, quiet hours, refusals and `PEER_FLOOD`.

use wireroom::sandbox::{Effect, Fault};

use super::*;

/// What was told of campaigns so far, in order, as a subscriber to `campaign.*` reads it.
async fn campaign_events(stack: &Stack) -> Vec<(String, Value)> {
    until("everything is numbered", async || {
        stack.figure("SELECT count(*) FROM outbox").await == 0
    })
    .await;
    let page = stack.get("/v1/events?after=0&type=campaign.*").await;
    let items = page["items"].as_array().expect("events");
    let each = items.iter().map(|event| {
        let name = event["type"].as_str().expect("a type").to_owned();
        (name, event["data"].clone())
    });
    each.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn suppressed_between_enqueue_and_execution_nobody_is_contacted() {
    let stack = stack_of(vec!["alice"]).await;
    let path = campaign(&stack, json!({})).await;
    list(&stack, &path, &["friendly_person", "dave", "erin"]).await;
    let job = resume(&stack, &path).await;
    suppress(&stack, json!({ "user_id": stack.account("friendly_person") })).await;
    suppress(&stack, json!({ "username": "dave" })).await;
    let _worker = stack.worker().await;
    let result = done(&stack, &job).await;
    assert_eq!(result["outcomes"], json!({ "suppressed": 2, "invited": 1 }), "{result}");
    assert_eq!(invitations_of(&stack, "alice"), 1);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn suppressed_in_the_last_moment_before_the_call() {
    let stack = stack_with(vec!["alice"], vec![patience()]).await;
    let path = campaign(&stack, json!({})).await;
    list(&stack, &path, &["friendly_person"]).await;
    // After the ledger has them, before leave is asked for the call.
    stack.fault(Fault::once("channels.getParticipant", Effect::Hold));
    let _worker = stack.worker().await;
    let job = resume(&stack, &path).await;
    until("the look", async || stack.calls("channels.getParticipant") > 0).await;
    assert_eq!(
        stack
            .figure("SELECT count(*) FROM campaign_ledger WHERE state = 'prepared'")
            .await,
        1
    );
    suppress(&stack, json!({ "user_id": stack.account("friendly_person") })).await;
    stack.sandbox.controls().clear_faults();
    let result = done(&stack, &job).await;
    assert_eq!(result["outcomes"], json!({ "suppressed": 1 }), "{result}");
    assert_eq!(stack.calls("messages.sendMessage"), 0);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_number_suppresses_the_contact_who_has_it() {
    let stack = stack_of(vec!["alice"]).await;
    let path = campaign(&stack, json!({})).await;
    // Mallory is among alice's contacts, so that she sees the number.
    list(&stack, &path, &["mallory", "dave"]).await;
    let phone = stack.sandbox.controls().with_world(|world| {
        let accounts = world.accounts();
        let mallory = accounts.iter().find(|row| row.username.as_deref() == Some("mallory"));
        mallory.map(|row| row.phone.clone()).expect("mallory")
    });
    suppress(&stack, json!({ "phone": format!("+{phone}") })).await;
    let _worker = stack.worker().await;
    done(&stack, &resume(&stack, &path).await).await;
    assert_eq!(outcome(&stack, &path, "mallory").await, "suppressed");
    assert_eq!(outcome(&stack, &path, "dave").await, "invited");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_after_the_stop_has_answered_and_all_goes_on_after_it() {
    let stack = stack_of(vec!["alice"]).await;
    let path = campaign(&stack, json!({})).await;
    stack.sandbox.controls().with_world(|world| world.add_accounts(30));
    let names: Vec<String> = (13..43).map(|number| format!("sailor{number}")).collect();
    list(&stack, &path, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // Long enough for the stop to come while one is on its way.
    stack.fault(Fault::once("messages.sendMessage", Effect::Delay { ms: 500 }).forever());
    let _worker = stack.worker().await;
    let job = resume(&stack, &path).await;
    until("some are sent", async || invitations_of(&stack, "alice") >= 2).await;
    let stop = json!({ "state": "stopped", "reason": "a complaint" });
    let (status, stopped) = send(&stack, Method::PUT, "/v1/outreach", &stop).await;
    assert_eq!(
        (status, &stopped["calls_in_flight"]),
        (StatusCode::OK, &json!(0)),
        "{stopped}"
    );
    let sent = (stack.calls("messages.sendMessage"), invitations_of(&stack, "alice"));
    let waiting = stack
        .job_when(&job, "stopped", |job| job["wait_reason"]["code"] == "outreach_stopped")
        .await;
    assert_eq!(waiting["state"], "scheduled", "{waiting}");
    hurry(&stack).await;
    stack
        .job_when(&job, "stopped again", |job| {
            job["wait_reason"]["code"] == "outreach_stopped"
        })
        .await;
    assert_eq!(
        (stack.calls("messages.sendMessage"), invitations_of(&stack, "alice")),
        sent
    );
    stack.sandbox.controls().clear_faults();
    let go = json!({ "state": "running", "reason": "settled" });
    let (status, _) = send(&stack, Method::PUT, "/v1/outreach", &go).await;
    assert_eq!(status, StatusCode::OK);
    done(&stack, &job).await;
    assert_eq!(invitations_of(&stack, "alice"), 30);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_flood_stops_the_session_and_the_campaign_until_a_person_resumes_both() {
    let stack = stack_of(vec!["alice"]).await;
    let path = campaign(&stack, json!({})).await;
    list(&stack, &path, &["friendly_person", "dave"]).await;
    let name = "PEER_FLOOD".to_owned();
    stack.fault(Fault::once("messages.sendMessage", Effect::Error { code: 400, name }));
    let _worker = stack.worker().await;
    let job = stack.finished(&resume(&stack, &path).await).await;
    assert_eq!(job["error"]["code"], "peer_flood", "{job}");
    let stopped = stack.get(&path).await;
    assert_eq!(
        (&stopped["state"], &stopped["code"]),
        (&json!("stopped"), &json!("peer_flood")),
        "{stopped}"
    );
    let limited = "SELECT count(*) FROM sessions WHERE label = 'alice' AND state = 'limited'";
    assert_eq!(stack.figure(limited).await, 1);
    assert_eq!(outcome(&stack, &path, "friendly_person").await, Value::Null);
    // The campaign alone is not enough.
    let job = resume(&stack, &path).await;
    let session = stack.get("/v1/sessions").await["items"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let why = format!("/v1/jobs/{job}/why");
    until("it says why it waits", async || {
        !stack.get(&why).await["reasons"].as_array().expect("reasons").is_empty()
    })
    .await;
    assert_eq!(stack.calls("messages.sendMessage"), 1);
    post(&stack, &format!("/v1/sessions/{session}/resume"), &json!({})).await;
    done(&stack, &job).await;
    assert_eq!(invitations_of(&stack, "alice"), 2);
    stack.finish().await;
}

/// Noon in UTC, with a clock that goes on from there; more hours when asked again.
async fn set_clock(stack: &Stack, hours: i64) {
    let statement = format!(
        "CREATE TABLE IF NOT EXISTS test_start AS SELECT clock_timestamp() AS at;
        CREATE OR REPLACE FUNCTION wireroom_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS
        'SELECT date_trunc(''day'', at, ''UTC'') + interval ''{hours} hours 5 seconds'' + (clock_timestamp() - at)
            FROM test_start'"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(stack.database.pool())
        .await
        .expect("set");
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_hours_are_those_of_where_people_are() {
    let stack = stack_of(vec!["alice"]).await;
    set_clock(&stack, 36).await;
    let quiet = json!({ "quiet_from": "22:00", "quiet_until": "08:00", "time_zone": "UTC" });
    let path = campaign(&stack, quiet).await;
    let people = json!({ "items": [
        // Ten hours ahead: it is 22 o'clock there.
        { "username": "dave", "basis": "import", "proof": "a form", "supplied_by": "Maria", "time_zone": "Etc/GMT-10" },
        { "username": "erin", "basis": "import", "proof": "a form", "supplied_by": "Maria" },
    ] });
    post(&stack, &format!("{path}/people"), &people).await;
    let _worker = stack.worker().await;
    let job = resume(&stack, &path).await;
    let waiting = stack
        .job_when(&job, "quiet", |job| job["wait_reason"]["code"] == "quiet_hours")
        .await;
    assert_eq!(outcome(&stack, &path, "erin").await, "invited", "it is noon there");
    assert_eq!(outcome(&stack, &path, "dave").await, Value::Null);
    let opens: i64 = stack
        .figure(
            "SELECT extract(epoch FROM run_at - (date_trunc('day', wireroom_now(), 'UTC') + interval '22 hours'))::bigint
                FROM jobs WHERE kind = 'invite'",
        )
        .await;
    assert_eq!(opens, 0, "at eight there: {waiting}");
    set_clock(&stack, 46).await;
    done(&stack, &job).await;
    assert_eq!(outcome(&stack, &path, "dave").await, "invited");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_days_cap_is_one_over_all_sessions() {
    let stack = stack_of(vec!["alice", "bob"]).await;
    set_clock(&stack, 36).await;
    let path = campaign(&stack, json!({ "per_day": 2 })).await;
    list(&stack, &path, &["carol", "dave", "erin", "frank"]).await;
    let _worker = stack.worker().await;
    let job = resume(&stack, &path).await;
    let capped = |job: &Value| job["wait_reason"]["code"] == "campaign_cap";
    stack.job_when(&job, "capped", capped).await;
    let id = path.rsplit('/').next().expect("an id");
    let more = json!({ "kind": "invite", "session": "bob", "args": { "campaign": id } });
    let more = stack.post_job(more).await;
    stack.job_when(&more, "capped too", capped).await;
    assert_eq!(invitations_of(&stack, "alice") + invitations_of(&stack, "bob"), 2);
    set_clock(&stack, 60).await;
    stack.finished(&job).await;
    stack.finished(&more).await;
    assert_eq!(invitations_of(&stack, "alice") + invitations_of(&stack, "bob"), 4);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_chats_cap_is_one_over_all_campaigns() {
    let stack = stack_of(vec!["alice"]).await;
    set_clock(&stack, 36).await;
    let limits = json!({ "per_target_per_day": 2, "person_rest_days": 0 });
    let (status, _) = send(&stack, Method::PUT, "/v1/outreach/limits", &limits).await;
    assert_eq!(status, StatusCode::OK);
    let _worker = stack.worker().await;
    let first = campaign(&stack, json!({})).await;
    list(&stack, &first, &["carol"]).await;
    done(&stack, &resume(&stack, &first).await).await;
    let second = campaign(&stack, json!({ "name": "Summer" })).await;
    list(&stack, &second, &["dave", "erin"]).await;
    let job = resume(&stack, &second).await;
    stack
        .job_when(&job, "capped", |job| job["wait_reason"]["code"] == "target_cap")
        .await;
    assert_eq!(invitations_of(&stack, "alice"), 2);
    let limits = json!({ "per_target_per_day": 3, "person_rest_days": 0 });
    send(&stack, Method::PUT, "/v1/outreach/limits", &limits).await;
    done(&stack, &job).await;
    assert_eq!(invitations_of(&stack, "alice"), 3);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_refusals_stop_the_campaign_by_itself() {
    let stack = stack_of(vec!["alice"]).await;
    let path = campaign(&stack, json!({ "mode": "add", "stop_ratio": 0.5, "stop_after": 3 })).await;
    list(&stack, &path, &["carol", "shy_person", "premium_only", "dave"]).await;
    let _worker = stack.worker().await;
    let result = done(&stack, &resume(&stack, &path).await).await;
    assert_eq!(
        (&result["ended"], &result["code"]),
        (&json!("halted"), &json!("refusals")),
        "{result}"
    );
    let stopped = stack.get(&path).await;
    assert_eq!(
        (&stopped["state"], &stopped["code"]),
        (&json!("stopped"), &json!("refusals"))
    );
    assert_eq!(outcome(&stack, &path, "dave").await, Value::Null);
    // Whoever resumes it has looked: what was refused counts no more.
    done(&stack, &resume(&stack, &path).await).await;
    assert_eq!(outcome(&stack, &path, "dave").await, "added");
    let told = campaign_events(&stack).await;
    let types: Vec<&str> = told.iter().map(|(event, _)| event.as_str()).collect();
    assert_eq!(
        types,
        [
            "campaign.resumed",
            "campaign.stopped",
            "campaign.resumed",
            "campaign.finished"
        ]
    );
    assert_eq!(told[1].1["code"], "refusals");
    let reason = told[1].1["reason"].as_str();
    assert!(
        reason.is_some_and(|reason| reason.starts_with("2 of 3 people refused")),
        "{reason:?}"
    );
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_ends_the_job_and_resuming_makes_another() {
    let stack = stack_of(vec!["alice"]).await;
    let path = campaign(&stack, json!({})).await;
    list(&stack, &path, &["dave", "erin"]).await;
    stack.fault(Fault::once("messages.sendMessage", Effect::flood_wait(5)));
    let _worker = stack.worker().await;
    let job = resume(&stack, &path).await;
    let waiting = stack
        .job_when(&job, "waiting", |job| job["wait_reason"]["code"] == "flood")
        .await;
    assert_eq!(waiting["attempt"], 0, "{waiting}");
    post(&stack, &format!("{path}/pause"), &json!({ "reason": "a mistake" })).await;
    let result = done(&stack, &job).await;
    assert_eq!(
        (&result["ended"], &result["code"]),
        (&json!("halted"), &json!("paused")),
        "{result}"
    );
    assert_eq!(invitations_of(&stack, "alice"), 0);
    let next = resume(&stack, &path).await;
    assert_ne!(next, job);
    done(&stack, &next).await;
    assert_eq!(invitations_of(&stack, "alice"), 2);
    let told = campaign_events(&stack).await;
    let types: Vec<&str> = told.iter().map(|(event, _)| event.as_str()).collect();
    assert_eq!(
        types,
        [
            "campaign.resumed",
            "campaign.paused",
            "campaign.resumed",
            "campaign.finished"
        ]
    );
    assert!(
        told[1].1["by"].as_str().is_some_and(|by| by.starts_with("key:")),
        "{told:?}"
    );
    stack.finish().await;
}
