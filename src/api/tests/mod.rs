//! What every request passes through: keys, errors, ids, headers. The errors of one resource are tested beside it.

pub mod bed;
mod examples;
mod shapes;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::TimeDelta;
use poem::{
    EndpointExt, Route,
    endpoint::make,
    http::{Method, StatusCode},
    test::TestClient,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use self::bed::{TestApi, send};
use super::{problem::Code, serve, shell::Shell};
use crate::{
    ids::WorkerId,
    store::api_keys::{self, KeyMaterial, Scope},
};

#[tokio::test]
async fn without_a_valid_key_nothing_is_told() {
    let api = TestApi::new().await;
    let unknown = KeyMaterial::generate().expect("randomness");
    let wrong_secret = format!("{}{}", &api.key[..api.key.len() - 4], "0000");
    for path in ["/v1/jobs", "/v1/sessions", "/v1/workers", "/v1/chats/1", "/v1/jobs/x"] {
        let answer = send(api.bare(Method::GET, path)).await;
        answer.problem("unauthorized");
        assert_eq!(answer.header("www-authenticate"), r#"Bearer realm="wireroom""#);
    }
    for key in ["", "nonsense", unknown.text().expose(), &wrong_secret] {
        let request = api
            .bare(Method::GET, "/v1/jobs")
            .header("Authorization", format!("Bearer {key}"));
        let answer = send(request).await;
        answer.problem("unauthorized");
        assert!(answer.header("www-authenticate").contains("invalid_token"), "{key}");
        assert!(key.is_empty() || !answer.text.contains(key));
    }
    let basic = api.bare(Method::GET, "/v1/jobs").header("Authorization", "Basic dTpw");
    send(basic).await.problem("unauthorized");
    let lower = api
        .bare(Method::GET, "/v1/jobs")
        .header("Authorization", format!("bearer {}", api.key));
    assert_eq!(send(lower).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_scope_includes_the_ones_below_it_and_no_other() {
    let api = TestApi::new().await;
    let body = json!({ "kind": "join", "args": { "chat": "@reading_club" } });
    for (scope, may_create) in [(Scope::Viewer, false), (Scope::Operator, true), (Scope::Admin, true)] {
        let key = api.key(scope).await;
        let bearer = format!("Bearer {key}");
        let read = api.bare(Method::GET, "/v1/jobs").header("Authorization", &bearer);
        assert_eq!(send(read).await.status, StatusCode::OK, "{scope:?}");
        let create = api
            .bare(Method::POST, "/v1/jobs")
            .header("Authorization", &bearer)
            .body_json(&body);
        let answer = send(create).await;
        if may_create {
            assert_eq!(answer.status, StatusCode::ACCEPTED, "{scope:?}");
        } else {
            answer.problem("forbidden");
            assert!(answer.header("www-authenticate").contains(r#"scope="operator""#));
        }
    }
    assert_eq!(api.count("jobs").await, 2);
}

#[tokio::test]
async fn a_revoked_key_works_for_at_most_five_seconds() {
    let api = TestApi::new().await;
    assert_eq!(api.get("/v1/jobs").await.status, StatusCode::OK);
    let id = KeyMaterial::parse(&api.key).expect("a key").id().to_owned();
    let mut conn = api.pool().acquire().await.expect("a connection");
    api_keys::revoke(&mut conn, &id, "cli").await.expect("revoked");

    api.clock.advance(TimeDelta::milliseconds(4000));
    assert_eq!(api.get("/v1/jobs").await.status, StatusCode::OK, "the cache holds it");
    api.clock.advance(TimeDelta::milliseconds(1000));
    api.get("/v1/jobs").await.problem("unauthorized");
}

#[tokio::test]
async fn a_clock_set_back_does_not_keep_a_key_alive() {
    let api = TestApi::new().await;
    assert_eq!(api.get("/v1/jobs").await.status, StatusCode::OK);
    let id = KeyMaterial::parse(&api.key).expect("a key").id().to_owned();
    let mut conn = api.pool().acquire().await.expect("a connection");
    api_keys::revoke(&mut conn, &id, "cli").await.expect("revoked");
    api.clock.advance(TimeDelta::hours(-1));
    api.get("/v1/jobs").await.problem("unauthorized");
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let api = TestApi::new().await;
    for path in ["/v1", "/v1/nothing", "/v1/jobs/1/2/3", "/v2/jobs", "/healthz/"] {
        api.get(path).await.problem("route_not_found");
    }
    for (method, path, allow) in [
        (Method::DELETE, "/v1/jobs", "GET, HEAD, POST"),
        (
            Method::PUT,
            "/v1/jobs/0190b8a0-0000-7000-8000-000000000000",
            "GET, HEAD, PATCH",
        ),
        (
            Method::GET,
            "/v1/jobs/0190b8a0-0000-7000-8000-000000000000/cancel",
            "POST",
        ),
        (Method::POST, "/healthz", "GET, HEAD"),
        (Method::POST, "/openapi.json", "GET, HEAD"),
        (Method::POST, "/docs", "GET, HEAD"),
        (Method::POST, "/", "GET, HEAD"),
    ] {
        let answer = send(api.request(method, path)).await;
        answer.problem("method_not_allowed");
        assert_eq!(answer.header("allow"), allow, "{path}");
    }
}

#[tokio::test]
async fn parameters_are_checked_by_name_and_by_value() {
    let api = TestApi::new().await;
    for (path, code, field) in [
        ("/v1/jobs?stat=queued", "unknown_parameter", "stat"),
        ("/v1/workers?pool=x", "unknown_parameter", "pool"),
        ("/v1/jobs?state=queued&state=running", "invalid_parameter", "state"),
        ("/v1/jobs?pool=%00", "invalid_parameter", "pool"),
        ("/v1/jobs?state=asleep", "invalid_parameter", "state"),
        ("/v1/jobs?kind=walk", "invalid_parameter", "kind"),
        ("/v1/jobs?since=yesterday", "invalid_parameter", "since"),
        ("/v1/jobs?until=2026-01-01", "invalid_parameter", "until"),
        ("/v1/jobs?limit=0", "invalid_parameter", "limit"),
        ("/v1/jobs?limit=1001", "invalid_parameter", "limit"),
        ("/v1/jobs?session=main", "invalid_parameter", "session"),
        ("/v1/jobs?cursor=!!", "invalid_cursor", "cursor"),
        ("/v1/sessions?state=asleep", "invalid_parameter", "state"),
        ("/v1/sessions?cursor=zzz", "invalid_cursor", "cursor"),
        ("/v1/sessions?worker=one", "invalid_parameter", "worker"),
        ("/v1/workers?alive=maybe", "invalid_parameter", "alive"),
        ("/v1/jobs/17", "invalid_parameter", "id"),
        ("/v1/jobs/17/why", "invalid_parameter", "id"),
        ("/v1/jobs/17/members", "invalid_parameter", "id"),
        ("/v1/sessions/main", "invalid_parameter", "id"),
        ("/v1/chats/club", "invalid_parameter", "id"),
    ] {
        let problem = api.get(path).await.problem(code);
        assert_eq!(problem["field"], field, "{path}: {problem}");
    }
    for (path, code) in [
        ("/v1/jobs/0190b8a0-0000-7000-8000-000000000000", "job_not_found"),
        ("/v1/jobs/0190b8a0-0000-7000-8000-000000000000/why", "job_not_found"),
        ("/v1/jobs/0190b8a0-0000-7000-8000-000000000000/members", "job_not_found"),
        ("/v1/sessions/0190b8a0-0000-7000-8000-000000000000", "session_not_found"),
        ("/v1/chats/-1001234567890", "chat_not_found"),
    ] {
        api.get(path).await.problem(code);
    }
}

#[tokio::test]
async fn a_request_id_is_taken_over_or_made() {
    let api = TestApi::new().await;
    let given = send(api.bare(Method::GET, "/healthz").header("X-Request-Id", "order-17")).await;
    assert_eq!(given.header("x-request-id"), "order-17");
    let wrong = send(api.bare(Method::GET, "/healthz").header("X-Request-Id", "a b")).await;
    assert!(uuid::Uuid::parse_str(wrong.header("x-request-id")).is_ok());
    let problem = send(api.bare(Method::GET, "/nothing").header("X-Request-Id", "order-18")).await;
    assert_eq!(problem.problem("route_not_found")["request_id"], "order-18");
}

#[tokio::test]
async fn every_response_is_dressed_and_no_other_origin_is_let_in() {
    let api = TestApi::new().await;
    for path in ["/", "/healthz", "/v1/jobs", "/nothing", "/docs", "/openapi.json"] {
        let answer = send(api.request(Method::GET, path).header("Origin", "https://example.com")).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("x-frame-options"), "DENY", "{path}");
        assert!(
            answer.header("content-security-policy").contains("default-src 'none'"),
            "{path}"
        );
        assert_eq!(answer.header("access-control-allow-origin"), "", "{path}");
    }
}

#[tokio::test]
async fn the_first_page_leads_to_what_there_is() {
    let api = TestApi::new().await;
    let page = send(api.bare(Method::GET, "/")).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.header("content-type").starts_with("text/html"));
    let links: Vec<&str> = page
        .text
        .split("href=\"/")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert_eq!(links, ["docs", "openapi.json", "readyz", "healthz"]);
    for link in links {
        let answer = send(api.bare(Method::GET, &format!("/{link}"))).await;
        assert_eq!(answer.status, StatusCode::OK, "{link}");
    }
}

#[tokio::test]
async fn swagger_ui_shows_our_document() {
    let api = TestApi::new().await;
    let page = send(api.bare(Method::GET, "/docs")).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.header("content-type").starts_with("text/html"));
    // Of the merged document, not of poem-openapi's own.
    assert!(page.text.contains("\"discriminator\""));
    assert!(page.text.contains("persistAuthorization: true"));
    let document = send(api.bare(Method::GET, "/openapi.json")).await;
    assert_eq!(document.json(), super::document());
}

#[tokio::test]
async fn a_panic_is_answered_without_its_message() {
    let api = TestApi::new().await;
    let inner = make(|_| async { Err::<poem::Response, _>(panicking()) });
    let shell = Shell::new(
        Route::new().at("/", inner.map_to_response()).map_to_response(),
        api.state(),
    );
    let answer = TestClient::new(shell).get("/").send().await;
    answer.assert_status(StatusCode::INTERNAL_SERVER_ERROR);
    let text = answer.0.into_body().into_string().await.expect("text");
    assert!(text.contains("\"internal\"") && !text.contains("secret"), "{text}");
}

fn panicking() -> poem::Error {
    panic!("secret of the house")
}

#[tokio::test]
async fn a_handler_that_hangs_is_answered_in_time() {
    let hang = make(|_| std::future::pending::<poem::Result<poem::Response>>());
    let routes = Route::new().at("/", hang.map_to_response()).map_to_response();
    let shell = Shell::new(routes, bed::detached()).time_limit(Duration::from_millis(20));
    let answer = TestClient::new(shell).get("/").send().await;
    answer.assert_status(StatusCode::SERVICE_UNAVAILABLE);
    answer.assert_header("Retry-After", "1");
}

#[tokio::test]
async fn without_its_database_the_api_says_so() {
    let api = bed::over_nothing();
    let request = || TestClient::new(&api);
    let answer = request()
        .get("/v1/jobs")
        .header(
            "Authorization",
            format!("Bearer wr_{}_{}", "0".repeat(16), "0".repeat(64)),
        )
        .send()
        .await;
    answer.assert_status(StatusCode::SERVICE_UNAVAILABLE);
    answer.assert_header("Retry-After", "1");
    let text = answer.0.into_body().into_string().await.expect("text");
    assert!(text.contains("\"database_unavailable\""), "{text}");

    request().get("/healthz").send().await.assert_status_is_ok();
    let ready = request().get("/readyz").send().await;
    ready.assert_status(StatusCode::SERVICE_UNAVAILABLE);
    let text = ready.0.into_body().into_string().await.expect("text");
    assert!(
        text.contains("\"not_ready\"") && text.contains("\"database\""),
        "{text}"
    );
}

#[tokio::test]
async fn readiness_knows_the_schema() {
    let api = TestApi::new().await;
    assert_eq!(send(api.bare(Method::GET, "/readyz")).await.status, StatusCode::OK);
    api.execute("INSERT INTO _sqlx_migrations VALUES (29990101000000, 'future', now(), true, '\\x00', 1)")
        .await;
    let ahead = send(api.bare(Method::GET, "/readyz")).await.problem("not_ready");
    assert_eq!(ahead["part"], "migrations");
    api.execute("DELETE FROM _sqlx_migrations WHERE version > 20261120000001")
        .await;
    let behind = send(api.bare(Method::GET, "/readyz")).await.problem("not_ready");
    assert!(
        behind["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("wireroom migrate")),
        "{behind}"
    );
    api.execute("DROP TABLE _sqlx_migrations").await;
    send(api.bare(Method::GET, "/readyz")).await.problem("not_ready");
}

#[test]
fn codes_are_words_and_have_an_error_status() {
    for code in Code::ALL {
        let word = code.as_str();
        assert!(
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
            "{word}"
        );
        assert!(code.status().as_u16() >= 400);
        assert!(!code.title().is_empty());
    }
}

#[tokio::test]
async fn sessions_workers_and_chats_are_shown_without_secrets() {
    let api = TestApi::new().await;
    for label in ["Anna", "Berta", "Clara"] {
        api.session(label, if label == "Clara" { "banned" } else { "ready" })
            .await;
    }
    let worker = WorkerId::generate();
    sqlx::query(
        "INSERT INTO workers (id, host, pid, version) VALUES ($1, 'host', 7, '0.1.0'), ($2, 'old', 8, '0.1.0')",
    )
    .bind(worker.0)
    .bind(uuid::Uuid::nil())
    .execute(api.pool())
    .await
    .expect("workers");
    api.execute("UPDATE workers SET heartbeat_at = wireroom_now() - interval '1 hour' WHERE host = 'old'")
        .await;
    sqlx::query(
        "INSERT INTO session_leases (session_id, owner, fence, expires_at)
         SELECT id, $1, 1, wireroom_now() + CASE WHEN label = 'Anna' THEN interval '1 minute' ELSE interval '-1 minute' END
         FROM sessions",
    )
    .bind(worker.0)
    .execute(api.pool())
    .await
    .expect("leases");
    api.execute(
        "INSERT INTO chats (id, type, title, username, member_count) VALUES (-1001234, 'supergroup', 'Club', 'club', 12)",
    )
    .await;
    api.execute("INSERT INTO session_chats SELECT id, -1001234, label <> 'Berta' FROM sessions")
        .await;

    let first = api.get("/v1/sessions?limit=2").await.json();
    assert_eq!(first["items"][0]["label"], "Anna");
    assert_eq!(first["items"][0]["worker"], json!(worker));
    assert_eq!(first["items"][1]["worker"], json!(null), "its lease has expired");
    let cursor = first["next_cursor"].as_str().expect("more");
    let rest = api.get(&format!("/v1/sessions?limit=2&cursor={cursor}")).await.json();
    assert_eq!(rest["items"][0]["label"], "Clara");
    assert_eq!(rest["next_cursor"], json!(null));
    let banned = api.get("/v1/sessions?state=banned&pool=default").await.json();
    assert_eq!(banned["items"].as_array().map(Vec::len), Some(1));
    for (query, labels) in [
        ("label=Berta".to_owned(), vec!["Berta"]),
        ("label=berta".to_owned(), vec![]),
        ("label=Anna&state=banned".to_owned(), vec![]),
        (format!("worker={worker}"), vec!["Anna"]),
    ] {
        let page = api.get(&format!("/v1/sessions?{query}")).await.json();
        let items = page["items"].as_array().expect("sessions").iter();
        let found: Vec<&str> = items.filter_map(|session| session["label"].as_str()).collect();
        assert_eq!(found, labels, "{query}");
    }

    let workers = api.get("/v1/workers").await.json();
    assert_eq!(workers["items"][0]["id"], json!(worker));
    assert_eq!(workers["items"][0]["alive"], true);
    assert_eq!(workers["items"][0]["sessions"], 1);
    assert_eq!(workers["items"][1]["alive"], false);
    let alive = api.get("/v1/workers?alive=true").await.json();
    assert_eq!(alive["items"].as_array().map(Vec::len), Some(1));

    let chat = api.get("/v1/chats/-1001234").await.json();
    assert_eq!(chat["title"], "Club");
    assert_eq!(chat["member_sessions"].as_array().map(Vec::len), Some(2));
}

/// One request over a socket of its own: the status of the answer, or why there was none.
async fn exchange(address: SocketAddr, key: &str, head: &str, body: &str) -> io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let length = body.len();
    let request = format!(
        "{head} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nPrefer: wait=60\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::Error::other(format!("not an answer: {answer}")))
}

#[tokio::test]
async fn over_a_socket_a_shutdown_ends_waits_and_connections() {
    let api = TestApi::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(serve(api.deps(), listener, shutdown.clone()));

    for (head, status) in [
        ("GET /v1/jobs?limit=1", 200),
        ("HEAD /v1/jobs", 200),
        ("GET /v1/jobs?stat=x", 400),
        ("GET /docs", 200),
        ("PUT /v1/jobs", 405),
        ("GET /nothing", 404),
    ] {
        assert_eq!(
            exchange(address, &api.key, head, "").await.expect("an answer"),
            status,
            "{head}"
        );
    }

    // Somebody waits for a minute; the shutdown ends that, and the job is told as it is.
    let body = json!({ "kind": "join", "args": { "chat": "@reading_club" } }).to_string();
    let key = api.key.clone();
    let waiting = tokio::spawn(async move { exchange(address, &key, "POST /v1/jobs", &body).await });
    let stored = async {
        while api.count("jobs").await == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), stored)
        .await
        .expect("the job is stored");
    shutdown.cancel();
    let status = tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .expect("in time");
    assert_eq!(status.expect("no panic").expect("an answer"), 202);
    let ended = tokio::time::timeout(Duration::from_secs(20), served)
        .await
        .expect("it ends");
    ended.expect("no panic").expect("no error");
    assert!(
        exchange(address, &api.key, "GET /healthz", "").await.is_err(),
        "no connection is taken any more"
    );
}

/// Where a test's log goes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("the log").extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_has_a_line_for_each_request_and_no_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let api = TestApi::new().await;
    let text = "the-parcel-is-under-the-bridge";
    let body = json!({ "kind": "publish", "args": { "chat": "@reading_club", "text": text } });
    let wrong = json!({ "kind": "publish", "args": { "chat": "@reading_club", "text": [text] } });
    for _ in 0..2 {
        // Another test may have come first to a log statement while it had no log: after the first round all have been
        // met, and are asked again whether somebody listens.
        tracing::callsite::rebuild_interest_cache();
        log.0.lock().expect("the log").clear();
        assert_eq!(api.post_job(&body).await.status, StatusCode::ACCEPTED);
        api.post_job(&wrong).await.problem("wrong_type");
        api.get("/v1/jobs?tag=a-tag-to-search-by").await;
        api.execute("ALTER TABLE jobs RENAME TO elsewhere").await;
        api.post_job(&body).await.problem("internal");
        api.execute("ALTER TABLE elsewhere RENAME TO jobs").await;
    }

    let log = String::from_utf8(log.0.lock().expect("the log").clone()).expect("text");
    let lines = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!(lines("api::shell: request "), 4, "{log}");
    assert_eq!(lines("a request failed"), 1, "logged once:\n{log}");
    assert!(log.contains("/v1/jobs") && log.contains("caller=\"key:"), "{log}");
    let key = KeyMaterial::parse(&api.key).expect("a key");
    let secret = key.text().expose().rsplit('_').next().expect("a secret");
    for hidden in [secret, text, "a-tag-to-search-by"] {
        let leaks: Vec<&str> = log.lines().filter(|line| line.contains(hidden)).collect();
        assert!(leaks.is_empty(), "{leaks:?}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up_by_the_kernel() {
    use nix::sys::socket::{getsockopt, sockopt::TcpUserTimeout};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    super::give_up_on_the_silent(&listener, std::time::Duration::from_secs(5)).expect("set");
    let address = listener.local_addr().expect("an address");
    let (client, accepted) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
    client.expect("connected");
    let (accepted, _) = accepted.expect("accepted");
    assert_eq!(getsockopt(&accepted, TcpUserTimeout).expect("read"), 5_000);
}
