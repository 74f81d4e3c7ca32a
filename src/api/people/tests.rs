//! What an erasure leaves as it was: everybody else, and every word that merely reads as the person's name does.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use poem::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    api::tests::bed::{Answer, TestApi, send},
    config::Secret,
    store::api_keys::Scope,
};

const PERSON: i64 = 7_100_000_005;

async fn api() -> TestApi {
    TestApi::with(|config| config.outreach.person_key = Some(Secret::new(STANDARD.encode([7; 32])))).await
}

async fn post(api: &TestApi, path: &str, body: &Value) -> Answer {
    send(api.request(Method::POST, path).body_json(body)).await
}

/// Erases the person, whom a scan has found under that name.
async fn erase(api: &TestApi, name: &str) -> Value {
    let person = "INSERT INTO people (id, username, is_bot, is_deleted, is_premium, expires_at)
        VALUES ($1, $2, false, false, false, wireroom_now() + interval '1 day')";
    sqlx::query(person)
        .bind(PERSON)
        .bind(name)
        .execute(api.pool())
        .await
        .expect("a person");
    let key = api.key(Scope::Admin).await;
    let request = api.bare(Method::DELETE, &format!("/v1/people/{PERSON}"));
    let erased = send(request.header("Authorization", format!("Bearer {key}"))).await;
    assert_eq!(erased.status, StatusCode::OK, "{}", erased.text);
    erased.json()
}

async fn document(api: &TestApi, query: &'static str) -> Value {
    sqlx::query_scalar(query)
        .fetch_one(api.pool())
        .await
        .expect("a document")
}

async fn job(api: &TestApi, kind: &'static str, args: Value) {
    let job =
        "INSERT INTO jobs (id, kind, args, state, lane, pool, rank, run_at, max_attempts, created_at, session_bound)
        SELECT gen_random_uuid(), $1, $2, 'scheduled', 'bulk', 'default', 0, t + interval '1 hour', 3, t, false
        FROM wireroom_now() t";
    sqlx::query(job)
        .bind(kind)
        .bind(args)
        .execute(api.pool())
        .await
        .expect("a job");
}

#[tokio::test]
async fn who_was_the_only_one_chosen_leaves_nobody_and_not_everybody() {
    let api = api().await;
    let campaign = json!("0198c0de-7000-7000-8000-000000000001");
    job(
        &api,
        "invite",
        json!({ "campaign": campaign, "people": [PERSON.to_string(), "@harbour_friend"], "limit": null }),
    )
    .await;
    job(
        &api,
        "join",
        json!({ "campaign": campaign, "people": [PERSON.to_string(), "@dave"], "tags": [] }),
    )
    .await;
    let watch = "INSERT INTO watches (id, chat_id, session_id, owner, events, filter, retention_days)
        VALUES (gen_random_uuid(), -1000000000001, gen_random_uuid(), 1, '{message.new}', jsonb_build_object('senders', jsonb_build_array($1::bigint)), 30)";
    sqlx::query(watch)
        .bind(PERSON)
        .execute(api.pool())
        .await
        .expect("a watch");
    erase(&api, "harbour_friend").await;
    let invite = document(&api, "SELECT args FROM jobs WHERE kind = 'invite'").await;
    assert_eq!(
        invite,
        json!({ "campaign": campaign, "people": ["@erased__"], "limit": null })
    );
    let others = document(&api, "SELECT args FROM jobs WHERE kind = 'join'").await;
    assert_eq!(others, json!({ "campaign": campaign, "people": ["@dave"], "tags": [] }));
    let filter = document(&api, "SELECT filter FROM watches").await;
    assert_eq!(filter, json!({ "senders": [0] }), "nobody has that id");
    assert_eq!(
        api.count("watches WHERE version = 2").await,
        1,
        "who has read it reads it again"
    );
}

#[tokio::test]
async fn a_word_that_reads_as_their_name_is_left_where_no_names_stand() {
    let api = api().await;
    let scan =
        json!({ "what": "members", "chat": "@reading_club", "purpose": "survey", "also": ["members", "history"] });
    job(&api, "scan", scan.clone()).await;
    let named = json!({
        "username": "Members", "first_name": "Ada", "text": "for @members and t.me/members", "from": ["members", "dave"],
    });
    job(&api, "join", json!({ "found": named, "kinds": ["members"] })).await;
    erase(&api, "members").await;
    assert_eq!(document(&api, "SELECT args FROM jobs WHERE kind = 'scan'").await, scan);
    assert_eq!(
        document(&api, "SELECT args FROM jobs WHERE kind = 'join'").await,
        json!({
            "found": { "username": null, "first_name": null, "text": null, "from": ["dave"] },
            "kinds": ["members"],
        })
    );
}

#[tokio::test]
async fn a_name_that_is_anothers_by_now_stays_suppressed_and_listed() {
    let api = api().await;
    let suppressed = json!({ "username": "@Harbour_Friend", "reason": "asked for it" });
    post(&api, "/v1/suppressions", &suppressed).await.json();
    let campaign = json!({ "name": "Spring", "chat": "@reading_club", "text": "You asked for it: {link}" });
    let campaign = post(&api, "/v1/campaigns", &campaign).await.json();
    let path = format!("/v1/campaigns/{}", campaign["id"].as_str().expect("an id"));
    let people = json!({ "items": [{ "username": "harbour_friend", "basis": "contact" }] });
    assert_eq!(post(&api, &format!("{path}/people"), &people).await.json()["added"], 1);
    erase(&api, "harbour_friend").await;
    assert_eq!(api.count("campaign_people WHERE state = 'waiting'").await, 1);
    assert_eq!(api.count("suppressions").await, 1);
    assert_eq!(
        api.count("suppressions s WHERE s::text ILIKE '%harbour%'").await,
        0,
        "and says no name"
    );
    let preflight = api.get(&format!("{path}/preflight")).await.json();
    assert_eq!(
        (&preflight["eligible"], &preflight["left_out"]["suppressed"]),
        (&json!(0), &json!(1)),
        "{preflight}"
    );
    // It is exported and imported as it is.
    let exported = api.get("/v1/suppressions?format=csv").await.text;
    api.execute("DELETE FROM suppressions").await;
    let request = api.request(Method::POST, "/v1/suppressions/import");
    let imported = send(request.content_type("text/csv").body(exported)).await;
    assert_eq!(imported.json()["added"], 1, "{}", imported.text);
    let preflight = api.get(&format!("{path}/preflight")).await.json();
    assert_eq!(preflight["left_out"]["suppressed"], 1, "{preflight}");
}
