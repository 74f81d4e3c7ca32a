use poem::http::{Method, StatusCode};
use serde_json::json;
use uuid::Uuid;

use crate::{
    api::tests::bed::{TestApi, send},
    ids::WorkerId,
    store::{api_keys::Scope, session_checks},
};

const HELD: &str = "INSERT INTO session_leases (session_id, owner, fence, acquired_at, expires_at)
    SELECT id, gen_random_uuid(), 7, wireroom_now(), wireroom_now() + interval '1 minute' FROM sessions";

#[tokio::test]
async fn a_session_is_shown_whole() {
    let api = TestApi::new().await;
    let id = api.session("one", "ready").await;
    let path = format!("/v1/sessions/{id}");
    let fresh = api.get(&path).await.json();
    assert_eq!(
        (&fresh["healthy"], &fresh["breaker"]["state"]),
        (&json!(false), &json!("closed"))
    );
    assert_eq!(fresh["lease"]["held"], false, "{fresh}");
    api.execute(HELD).await;
    api.execute("UPDATE sessions SET last_call_at = wireroom_now() - interval '9 minutes'")
        .await;
    api.execute("INSERT INTO chats (id, type, title) VALUES (-1, 'group', 't')")
        .await;
    api.execute("INSERT INTO session_chats (session_id, chat_id, member) SELECT id, -1, true FROM sessions")
        .await;
    api.execute(
        "INSERT INTO session_breakers (session_id, trips, open_until, error)
        SELECT id, 2, wireroom_now() - interval '1 second', 'the connection was lost' FROM sessions",
    )
    .await;
    let job = api.stored_job().await;
    sqlx::query("UPDATE jobs SET state = 'running', session_id = $1 WHERE id = $2")
        .bind(id.0)
        .bind(job.0)
        .execute(api.pool())
        .await
        .expect("it runs");
    let whole = api.get(&path).await.json();
    assert_eq!(whole["healthy"], true, "{whole}");
    assert_eq!(
        (&whole["lease"]["held"], &whole["lease"]["fence"]),
        (&json!(true), &json!(7))
    );
    assert_eq!(
        (&whole["breaker"]["state"], &whole["breaker"]["trips"]),
        (&json!("half_open"), &json!(2))
    );
    assert_eq!((&whole["chats_joined"], &whole["running_jobs"]), (&json!(1), &json!(1)));
    assert_eq!(whole["label"], "one");
    api.execute("UPDATE session_breakers SET open_until = wireroom_now() + interval '1 hour'")
        .await;
    assert_eq!(api.get(&path).await.json()["breaker"]["state"], "open");
    api.execute("UPDATE sessions SET last_call_at = wireroom_now() - interval '11 minutes'")
        .await;
    assert_eq!(
        api.get(&path).await.json()["healthy"],
        false,
        "connected is not healthy"
    );
}

#[tokio::test]
async fn a_check_is_answered_by_the_holder_or_refused_in_time() {
    let api = TestApi::new().await;
    let id = api.session("one", "ready").await;
    let path = format!("/v1/sessions/{id}/check");
    send(api.request(Method::POST, &path)).await.problem("session_not_held");
    api.execute(HELD).await;
    let pool = api.pool().clone();
    let worker = WorkerId::generate();
    // As the holder does when it is told.
    tokio::spawn(async move {
        loop {
            let mut conn = pool.acquire().await.expect("a connection");
            if let Some((_, check)) = session_checks::open(&mut conn, &[id]).await.expect("read").pop() {
                let answer = json!({ "ok": false, "code": "call_deadline", "message": "No answer." });
                session_checks::answer(&mut conn, check, worker, &answer)
                    .await
                    .expect("stored");
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    let answer = send(api.request(Method::POST, &path)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let answer = answer.json();
    assert_eq!(
        (&answer["ok"], &answer["code"]),
        (&json!(false), &json!("call_deadline"))
    );
    assert_eq!(
        answer["worker"].as_str().and_then(|id| id.parse::<Uuid>().ok()),
        Some(worker.0)
    );
    assert_eq!(api.count("audit_log WHERE action = 'session.checked'").await, 1);
}

#[tokio::test]
async fn a_limited_session_is_resumed_by_a_person_and_no_other_is() {
    let api = TestApi::new().await;
    let id = api.session("one", "limited").await;
    let path = format!("/v1/sessions/{id}/resume");
    let resumed = send(api.request(Method::POST, &path)).await.json();
    assert_eq!(
        (&resumed["state"], &resumed["state_reason"]),
        (&json!("ready"), &json!("RESUMED"))
    );
    assert_eq!(api.count("events WHERE type = 'session.state_changed'").await, 1);
    assert_eq!(api.count("audit_log WHERE action = 'session.resumed'").await, 1);
    send(api.request(Method::POST, &path))
        .await
        .problem("session_not_limited");
}

#[tokio::test]
async fn a_sessions_application_is_shown_and_resumed_by_an_admin() {
    let api = TestApi::new().await;
    let (own, other) = (api.session("own", "ready").await, api.session("other", "ready").await);
    let path = |id| format!("/v1/sessions/{id}");
    assert_eq!(api.get(&path(own)).await.json()["application"], json!(null));
    api.execute(
        "INSERT INTO applications (id, label, api_id, api_hash_sealed, sealed_with, is_default, origin) VALUES
            ('00000000-0000-0000-0000-000000000001', 'environment 7', 7, '', '', true, 'environment'),
            ('00000000-0000-0000-0000-000000000002', 'shops', 8, '', '', false, 'api')",
    )
    .await;
    api.execute("UPDATE sessions SET application_id = '00000000-0000-0000-0000-000000000002' WHERE label = 'own'")
        .await;
    let shown = api.get(&path(own)).await.json()["application"].clone();
    assert_eq!(
        (
            &shown["label"],
            &shown["api_id"],
            &shown["is_default"],
            &shown["refused"]
        ),
        (&json!("shops"), &json!(8), &json!(false), &json!(null))
    );
    assert_eq!(
        api.get(&path(other)).await.json()["application"]["label"],
        "environment 7"
    );
    let resume = "/v1/applications/00000000-0000-0000-0000-000000000002/resume";
    send(api.request(Method::POST, resume)).await.problem("forbidden");
    let admin = format!("Bearer {}", api.key(Scope::Admin).await);
    let post = |path| send(api.bare(Method::POST, path).header("Authorization", admin.clone()));
    post(resume).await.problem("application_not_refused");
    api.execute("INSERT INTO refused_api_ids (api_id, reason) VALUES (8, 'API_ID_INVALID')")
        .await;
    let shown = api.get(&path(own)).await.json()["application"].clone();
    assert_eq!(shown["refused"]["reason"], "API_ID_INVALID");
    assert_eq!(
        api.get(&path(other)).await.json()["application"]["refused"],
        json!(null)
    );
    let answer = post(resume).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.json()["items"][1]["refused"], json!(null));
    assert_eq!(api.count("refused_api_ids").await, 0);
    assert_eq!(api.count("audit_log WHERE action = 'application.resumed'").await, 1);
    assert_eq!(api.count("events WHERE type = 'application.resumed'").await, 1);
    let unknown = "/v1/applications/00000000-0000-0000-0000-000000000003/resume";
    post(unknown).await.problem("application_not_found");
}
