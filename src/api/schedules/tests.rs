//! Schedules over HTTP: what is stored and shown, what is refused and why, and what an edit makes of the next tick.

mod files;

use std::sync::atomic::Ordering;

use chrono::{DateTime, TimeDelta, Utc};
use poem::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    api::tests::bed::{Answer, TestApi, send},
    ids::JobId,
    store::api_keys::Scope,
};

/// The clocks stand still here, both of them.
async fn api_at(now: &str) -> TestApi {
    let api = TestApi::new().await;
    set_clock(&api, now).await;
    api
}

async fn set_clock(api: &TestApi, now: &str) {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION wireroom_now() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
         AS 'SELECT timestamptz ''{now}'''"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(api.pool())
        .await
        .expect("the clock is set");
}

fn digest() -> Value {
    json!({
        "name": "morning digest",
        "cron": "0 9 * * mon-fri",
        "time_zone": "Europe/Berlin",
        "job": { "kind": "join", "args": { "chat": "@reading_club" } },
    })
}

fn with(field: &str, value: Value) -> Value {
    let mut body = digest();
    body[field] = value;
    body
}

fn with_job(field: &str, value: Value) -> Value {
    let mut body = digest();
    body["job"][field] = value;
    body
}

async fn post(api: &TestApi, path: &str, body: &Value) -> Answer {
    send(api.request(Method::POST, path).body_json(body)).await
}

async fn created(api: &TestApi, body: &Value) -> Value {
    let answer = post(api, "/v1/schedules", body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    answer.json()
}

fn path(schedule: &Value) -> String {
    format!("/v1/schedules/{}", schedule["id"].as_str().expect("an id"))
}

async fn patch(api: &TestApi, schedule: &Value, body: &Value) -> Answer {
    send(api.request(Method::PATCH, &path(schedule)).body_json(body)).await
}

async fn patched(api: &TestApi, schedule: &Value, body: &Value) -> Value {
    let answer = patch(api, schedule, body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    answer.json()
}

async fn run(api: &TestApi, schedule: &Value) -> Answer {
    send(api.request(Method::POST, &format!("{}/run", path(schedule)))).await
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().expect("a time").parse().expect("a time")
}

async fn audited(api: &TestApi, action: &str) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM audit_log WHERE action = $1")
        .bind(action)
        .fetch_one(api.pool())
        .await
        .expect("a count")
}

#[tokio::test]
async fn a_schedule_is_stored_and_shown() {
    let api = api_at("2026-11-20T12:00:00Z").await;
    let answer = post(&api, "/v1/schedules", &digest()).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    let schedule = answer.json();
    assert_eq!(answer.header("location"), path(&schedule));
    for (field, value) in [
        ("state", json!("active")),
        ("missed", json!("once")),
        ("missed_max", json!(100)),
        ("missed_after_seconds", json!(60)),
        ("overlap", json!("allow")),
        ("jitter_seconds", json!(0)),
        ("version", json!(1)),
        ("paused", Value::Null),
        // 20 November is a Friday.
        ("next_tick_at", json!("2026-11-23T08:00:00Z")),
        ("next_due_at", json!("2026-11-23T08:00:00Z")),
    ] {
        assert_eq!(schedule[field], value, "{field}");
    }
    assert_eq!(schedule["job"]["args"], json!({ "chat": "@reading_club" }));
    assert_eq!(api.get(&path(&schedule)).await.json(), schedule);
    assert_eq!(audited(&api, "schedule.created").await, 1);
    // Nothing runs before its time.
    assert_eq!(api.count("jobs").await, 0);
}

#[tokio::test]
async fn lists_leave_the_text_of_messages_out() {
    let api = api_at("2026-11-20T12:00:00Z").await;
    let publish = json!({ "kind": "publish", "args": { "chat": "@reading_club", "text": "a private word" } });
    let mut ids = Vec::new();
    for name in ["one", "two", "three"] {
        let mut body = with("name", json!(name));
        body["job"] = publish.clone();
        ids.push(created(&api, &body).await["id"].clone());
    }
    let first = api.get("/v1/schedules?limit=2").await;
    assert!(!first.text.contains("private"), "{}", first.text);
    let first = first.json();
    let cursor = first["next_cursor"].as_str().expect("there is more");
    let second = api.get(&format!("/v1/schedules?cursor={cursor}")).await.json();
    let listed: Vec<&Value> = [&first, &second]
        .into_iter()
        .flat_map(|page| page["items"].as_array().expect("items"))
        .map(|item| &item["id"])
        .collect();
    assert_eq!(listed, ids.iter().rev().collect::<Vec<_>>());
    let shown = api
        .get(&format!("/v1/schedules/{}", ids[0].as_str().expect("an id")))
        .await;
    assert_eq!(shown.json()["job"]["args"]["text"], "a private word");
}

/// Each body is refused with the code, the field, and a part of the detail; nothing is stored.
async fn all_refused(api: &TestApi, cases: &[(Value, &str, &str, &str)]) {
    for (body, code, field, detail) in cases {
        let answer = post(api, "/v1/schedules", body).await;
        let problem = answer.problem(code);
        assert_eq!(problem["field"], *field, "{problem}");
        let told = problem["detail"].as_str().expect("a detail");
        assert!(told.contains(detail), "{told}");
    }
    assert_eq!(api.count("schedules").await, 0);
}

#[tokio::test]
async fn times_that_never_come_are_refused_with_the_place_and_the_reason() {
    let api = api_at("2026-11-20T12:00:00Z").await;
    let past = with("ends_at", json!("2026-11-22T00:00:00Z"));
    let mut turned = with("ends_at", json!("2027-01-01T00:00:00Z"));
    turned["starts_at"] = json!("2027-02-01T00:00:00Z");
    let mut missing = digest();
    missing.as_object_mut().expect("an object").remove("cron");
    let hour = "position 3 (hour): 25 is not from 0 to 23";
    let atlantis = json!("Europe/Atlantis");
    all_refused(
        &api,
        &[
            (with("cron", json!("0 25 * * *")), "invalid_cron", "cron", hour),
            (with("cron", json!("0 9 * *")), "invalid_cron", "cron", "4 of 5 fields"),
            (
                with("cron", json!("0 0 30 2 *")),
                "schedule_never_fires",
                "cron",
                "no time",
            ),
            (past, "schedule_never_fires", "cron", "between starts_at and ends_at"),
            (turned, "invalid_value", "ends_at", "before starts_at"),
            (
                with("time_zone", atlantis),
                "unknown_time_zone",
                "time_zone",
                "Atlantis",
            ),
            (
                with("starts_at", json!("soon")),
                "invalid_value",
                "starts_at",
                "RFC 3339",
            ),
            (missing, "missing_field", "cron", "missing"),
        ],
    )
    .await;
}

#[tokio::test]
async fn settings_that_mean_nothing_are_refused() {
    let api = api_at("2026-11-20T12:00:00Z").await;
    let no_reason = json!({ "reason": "" });
    let of_overlap = "one of allow, skip, queue";
    all_refused(
        &api,
        &[
            (
                with("missed", json!("twice")),
                "invalid_value",
                "missed",
                "one of skip, once, all",
            ),
            (with("overlap", json!("maybe")), "invalid_value", "overlap", of_overlap),
            (
                with("jitter_seconds", json!(3601)),
                "invalid_value",
                "jitter_seconds",
                "from 0 to 3600",
            ),
            (
                with("missed_max", json!(0)),
                "invalid_value",
                "missed_max",
                "from 1 to 1000",
            ),
            (with("name", json!(" ")), "invalid_value", "name", "1 to 100"),
            (with("paused", no_reason), "invalid_value", "paused.reason", "1 to 500"),
            (with("paused", json!({})), "missing_field", "paused.reason", "missing"),
            (with("surplus", json!(1)), "unknown_field", "surplus", "known are"),
        ],
    )
    .await;
    created(&api, &digest()).await;
    let again = post(&api, "/v1/schedules", &digest()).await;
    assert_eq!(again.status, StatusCode::CONFLICT);
    again.problem("schedule_exists");
}

#[tokio::test]
async fn a_job_that_would_be_refused_is_refused_in_a_schedule_too() {
    let api = api_at("2026-11-20T12:00:00Z").await;
    api.session("other", "logged_out").await;
    let wrong_args = json!({ "chatt": 1 });
    let field = "job.args.chatt is not a field";
    all_refused(
        &api,
        &[
            (
                with_job("run_at", Value::Null),
                "unknown_field",
                "job.run_at",
                "known are",
            ),
            (
                with_job("deadline_seconds", json!(0)),
                "invalid_value",
                "job.deadline_seconds",
                "from 1",
            ),
            (with_job("args", wrong_args), "unknown_field", "job.args.chatt", field),
            (
                with_job("kind", json!("walk")),
                "unknown_kind",
                "job.kind",
                "kinds there are",
            ),
            (
                with_job("priority", json!(101)),
                "invalid_value",
                "job.priority",
                "from -100 to 100",
            ),
            (with_job("pool", json!("nowhere")), "unknown_pool", "job.pool", "pool"),
            (
                with_job("session", json!("nobody")),
                "unknown_session",
                "job.session",
                "session",
            ),
            (
                with_job("session", json!("other")),
                "session_not_ready",
                "job.session",
                "logged_out",
            ),
            (with_job("tags", json!(["UP"])), "invalid_value", "job.tags[0]", "a-z"),
            (
                with_job("limit_key", json!("a b")),
                "invalid_value",
                "job.limit_key",
                "1 to 128",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_edit_changes_what_it_names_and_recomputes_the_next_tick() {
    let api = api_at("2026-11-20T12:00:00Z").await;
    let schedule = created(&api, &digest()).await;
    let unchanged = patched(&api, &schedule, &json!({})).await;
    assert_eq!(unchanged, schedule, "an edit of nothing is none");

    let edited = patched(&api, &schedule, &json!({ "cron": "30 13 * * *", "time_zone": "UTC" })).await;
    assert_eq!(edited["version"], 2);
    assert_eq!(edited["next_tick_at"], "2026-11-20T13:30:00Z");
    assert_eq!(edited["job"], schedule["job"]);

    let body = json!({ "job": { "args": { "chat": "@chess_club" }, "priority": 7 } });
    let edited = patched(&api, &schedule, &body).await;
    assert_eq!(edited["job"]["args"], json!({ "chat": "@chess_club" }));
    assert_eq!(edited["job"]["kind"], "join");
    assert_eq!(
        (&edited["version"], &edited["next_tick_at"]),
        (&json!(3), &json!("2026-11-20T13:30:00Z"))
    );

    // A tick that is due, and not taken yet, is not lost to an edit.
    set_clock(&api, "2026-11-20T13:30:01Z").await;
    let edited = patched(&api, &schedule, &json!({ "cron": "0 20 * * *" })).await;
    assert_eq!(edited["next_tick_at"], "2026-11-20T13:30:00Z");
    assert_eq!(audited(&api, "schedule.changed").await, 3);

    for (body, code) in [
        (json!({ "cron": "61 * * * *" }), "invalid_cron"),
        (json!({ "ends_at": "2026-11-20T12:00:00Z" }), "schedule_never_fires"),
        (json!({ "job": null }), "wrong_type"),
        (json!({ "next_tick_at": "2026-11-20T12:00:00Z" }), "unknown_field"),
        (json!([]), "wrong_type"),
    ] {
        patch(&api, &schedule, &body).await.problem(code);
    }
    assert_eq!(api.get(&path(&schedule)).await.json(), edited);
}

#[tokio::test]
async fn a_pause_has_a_reason_and_its_ticks_do_not_come_after_it() {
    let api = api_at("2026-11-20T12:00:00Z").await;
    let schedule = created(&api, &with("cron", json!("@hourly"))).await;
    let paused = patched(&api, &schedule, &json!({ "paused": { "reason": "holidays" } })).await;
    assert_eq!(paused["state"], "paused");
    assert_eq!(paused["paused"]["reason"], "holidays");
    assert_eq!(paused["paused"]["since"], "2026-11-20T12:00:00Z");
    assert_eq!(paused["paused"]["by"], schedule["created_by"]);

    set_clock(&api, "2026-11-21T12:30:00Z").await;
    let renamed = patched(&api, &schedule, &json!({ "name": "another" })).await;
    assert_eq!(renamed["paused"], paused["paused"], "the pause goes on");
    let resumed = patched(&api, &schedule, &json!({ "paused": null })).await;
    assert_eq!(resumed["state"], "active");
    assert_eq!(resumed["next_tick_at"], "2026-11-21T13:00:00Z");

    // No worker was there to take them: the history has them all the same, each with its reason.
    let ticks = api.get(&format!("{}/ticks?limit=100", path(&schedule))).await.json();
    let rows = ticks["items"].as_array().expect("a list");
    assert_eq!(rows.len(), 24, "{ticks}");
    assert!(rows.iter().all(|row| row["outcome"] == "skipped"), "{ticks}");
    assert_eq!(rows[0]["tick_at"], "2026-11-21T12:00:00Z");
    assert_eq!(rows[0]["reason"]["code"], "paused");
    let message = rows[0]["reason"]["message"].as_str().expect("words");
    assert!(message.contains("holidays"), "{message}");
}

#[tokio::test]
async fn a_long_pause_without_a_worker_is_one_row() {
    let api = api_at("2026-11-20T12:00:00Z").await;
    let schedule = created(&api, &with("cron", json!("* * * * *"))).await;
    patched(&api, &schedule, &json!({ "paused": { "reason": "holidays" } })).await;
    set_clock(&api, "2026-11-20T18:00:30Z").await;
    // Other times while it is paused leave those ticks behind, too.
    patched(&api, &schedule, &json!({ "cron": "@daily" })).await;
    let ticks = api.get(&format!("{}/ticks", path(&schedule))).await.json();
    let rows = ticks["items"].as_array().expect("a list");
    assert_eq!(rows.len(), 1, "{ticks}");
    assert_eq!(rows[0]["tick_at"], "2026-11-20T12:01:00Z");
    let message = rows[0]["reason"]["message"].as_str().expect("words");
    assert!(message.contains("2026-11-20T18:00:30Z"), "{message}");
    // The row is there once, however often it is paused and resumed.
    patched(&api, &schedule, &json!({ "paused": null })).await;
    let again = api.get(&format!("{}/ticks", path(&schedule))).await.json();
    assert_eq!(again["items"], ticks["items"]);
}

#[tokio::test]
async fn the_next_ten_ticks_are_shown_with_jitter_and_local_time() {
    let api = api_at("2026-10-24T10:00:00Z").await;
    let mut body = with("cron", json!("30 2 * * *"));
    body["jitter_seconds"] = json!(600);
    body["starts_at"] = json!("2026-10-24T12:00:00Z");
    let schedule = created(&api, &body).await;
    let ticks = api.get(&format!("{}/ticks", path(&schedule))).await.json();
    assert_eq!((&ticks["items"], &ticks["next_cursor"]), (&json!([]), &Value::Null));
    let upcoming = ticks["upcoming"].as_array().expect("a list");
    assert_eq!(upcoming.len(), 10);
    assert_eq!(upcoming[0]["tick_at"], "2026-10-25T00:30:00Z");
    assert_eq!(upcoming[0]["local"], "2026-10-25T02:30:00+02:00");
    assert_eq!(upcoming[1]["local"], "2026-10-26T02:30:00+01:00");
    assert_eq!(upcoming[0]["due_at"], schedule["next_due_at"]);
    let late: Vec<TimeDelta> = upcoming
        .iter()
        .map(|tick| time(&tick["due_at"]) - time(&tick["tick_at"]))
        .collect();
    assert!(
        late.iter().all(|late| (0..=600).contains(&late.num_seconds())),
        "{late:?}"
    );
    assert!(late.iter().any(|other| *other != late[0]));

    let ending = patched(&api, &schedule, &json!({ "ends_at": "2026-10-27T00:00:00Z" })).await;
    let ticks = api.get(&format!("{}/ticks", path(&ending))).await.json();
    assert_eq!(ticks["upcoming"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_run_now_is_a_tick_of_its_own_and_keeps_to_the_overlap_policy() {
    let api = api_at("2026-11-20T12:00:00.25Z").await;
    let mut body = with_job("deadline_seconds", json!(90));
    body["paused"] = json!({ "reason": "holidays" });
    body["overlap"] = json!("skip");
    body["job"]["limit_key"] = json!("campaign:spring");
    let schedule = created(&api, &body).await;
    assert_eq!(schedule["job"]["limit_key"], "campaign:spring");
    let answer = run(&api, &schedule).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    let tick = answer.json();
    assert_eq!((&tick["trigger"], &tick["outcome"]), (&json!("manual"), &json!("job")));
    assert_eq!(tick["requested_by"], schedule["created_by"]);
    let job = api
        .get(&format!("/v1/jobs/{}", tick["job"].as_str().expect("a job")))
        .await
        .json();
    assert_eq!(
        job["created_by"],
        format!("schedule:{}", schedule["id"].as_str().expect("an id"))
    );
    assert_eq!(time(&job["deadline"]), time(&tick["tick_at"]) + TimeDelta::seconds(90));
    assert_eq!(job["limit_key"], "campaign:spring");
    assert_eq!(api.signals.enqueued.load(Ordering::SeqCst), 1);

    let again = api.request(Method::POST, &format!("{}/run", path(&schedule)));
    send(again.header("Idempotency-Key", "k"))
        .await
        .problem("invalid_parameter");
    run(&api, &schedule).await.problem("schedule_busy");
    patched(&api, &schedule, &json!({ "overlap": "queue" })).await;
    let waiting = run(&api, &schedule).await.json();
    assert_eq!(
        (&waiting["outcome"], &waiting["job"]),
        (&json!("waiting"), &Value::Null)
    );
    assert_eq!(waiting["reason"]["code"], "overlap");
    patched(&api, &schedule, &json!({ "overlap": "skip" })).await;
    let job: JobId = tick["job"].as_str().expect("a job").parse().expect("an id");
    api.finish(job).await;
    assert_eq!(run(&api, &schedule).await.json()["outcome"], "job");

    // The clock stands still, and the ticks differ all the same; the pages show each once.
    let list = format!("{}/ticks?limit=2", path(&schedule));
    let first = api.get(&list).await.json();
    let cursor = first["next_cursor"].as_str().expect("there is more");
    let second = api.get(&format!("{list}&cursor={cursor}")).await.json();
    let shown: Vec<&Value> = [&first, &second]
        .into_iter()
        .flat_map(|page| page["items"].as_array().expect("items"))
        .map(|tick| &tick["version"])
        .collect();
    assert_eq!(shown, [&json!(3), &json!(2), &json!(1)]);
    // The next tick is where it was.
    assert_eq!(
        api.get(&path(&schedule)).await.json()["next_tick_at"],
        schedule["next_tick_at"]
    );
    assert_eq!(audited(&api, "schedule.run").await, 3);
    let unlimited = patched(&api, &schedule, &json!({ "job": { "limit_key": null } })).await;
    assert_eq!(unlimited["job"]["limit_key"], Value::Null);
}

#[tokio::test]
async fn a_schedule_is_removed_and_unknown_ones_are_not_found() {
    let api = api_at("2026-11-20T12:00:00Z").await;
    let schedule = created(&api, &digest()).await;
    run(&api, &schedule).await;
    let answer = send(api.request(Method::DELETE, &path(&schedule))).await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::NO_CONTENT, ""));
    assert_eq!(
        (api.count("schedules").await, api.count("schedule_ticks").await),
        (0, 0)
    );
    assert_eq!(api.count("jobs").await, 1, "its jobs go on");
    assert_eq!(audited(&api, "schedule.deleted").await, 1);

    let gone = path(&schedule);
    for (method, path) in [
        (Method::GET, gone.clone()),
        (Method::DELETE, gone.clone()),
        (Method::GET, format!("{gone}/ticks")),
        (Method::POST, format!("{gone}/run")),
    ] {
        send(api.request(method, &path)).await.problem("schedule_not_found");
    }
    patch(&api, &schedule, &json!({})).await.problem("schedule_not_found");
    api.get("/v1/schedules/nine").await.problem("invalid_parameter");
}

#[tokio::test]
async fn a_viewer_looks_and_changes_nothing() {
    let api = api_at("2026-11-20T12:00:00Z").await;
    let schedule = created(&api, &digest()).await;
    let viewer = format!("Bearer {}", api.key(Scope::Viewer).await);
    let path = path(&schedule);
    let request = |method, path: &str| api.bare(method, path).header("Authorization", &viewer);
    for (method, path) in [
        (Method::POST, "/v1/schedules".to_owned()),
        (Method::PATCH, path.clone()),
        (Method::DELETE, path.clone()),
        (Method::POST, format!("{path}/run")),
    ] {
        send(request(method, &path).body_json(&digest()))
            .await
            .problem("forbidden");
    }
    for path in ["/v1/schedules".to_owned(), path.clone(), format!("{path}/ticks")] {
        assert_eq!(send(request(Method::GET, &path)).await.status, StatusCode::OK);
    }
}
