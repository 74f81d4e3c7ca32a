use poem::http::Method;
use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::{
    api::tests::bed::{Answer, TestApi, send},
    store::{
        api_keys::Scope,
        audit_reads::{self, AuditFilter},
    },
};

struct Bed {
    api: TestApi,
    admin: String,
}

impl Bed {
    async fn new() -> Self {
        let api = TestApi::new().await;
        let admin = api.key(Scope::Admin).await;
        Self { api, admin }
    }

    async fn get(&self, path: &str) -> Answer {
        let request = self.api.bare(Method::GET, path);
        send(request.header("Authorization", format!("Bearer {}", self.admin))).await
    }

    /// What was done, the latest first.
    async fn actions(&self, query: &str) -> Vec<String> {
        let page = self.get(&format!("/v1/audit?{query}")).await.json();
        let items = page["items"].as_array().expect("entries").iter();
        items
            .map(|entry| entry["action"].as_str().expect("an action").to_owned())
            .collect()
    }
}

async fn post(api: &TestApi, path: &str, body: &Value) -> Value {
    send(api.request(Method::POST, path).body_json(body)).await.json()
}

#[tokio::test]
async fn who_did_what_is_listed_filtered_and_paged() {
    let bed = Bed::new().await;
    let api = &bed.api;
    let campaign = json!({ "name": "Spring", "chat": "@reading_club", "text": "A secret of ours: {link}" });
    let campaign = post(api, "/v1/campaigns", &campaign).await;
    let id = campaign["id"].as_str().expect("an id");
    let reason = json!({ "reason": "a mistake" });
    let paused = api.request(Method::POST, &format!("/v1/campaigns/{id}/pause"));
    let paused = send(paused.header("X-Request-Id", "mistake-1").body_json(&reason)).await;
    assert_eq!(paused.status, 200, "{}", paused.text);
    post(
        api,
        "/v1/suppressions",
        &json!({ "user_id": 7, "reason": "asked for it" }),
    )
    .await;
    api.execute(
        "INSERT INTO audit_log (at, actor, action, subject)
        SELECT wireroom_now() + n * interval '1 day', 'worker:7', 'key.created', 'key:' || n FROM generate_series(1, 3) n",
    )
    .await;

    let all = bed.get("/v1/audit").await;
    assert!(!all.text.contains("A secret of ours"), "{}", all.text);
    let entry = bed.get("/v1/audit?action=campaign.paused").await.json()["items"][0].clone();
    assert_eq!(entry["subject"], format!("campaign:{id}"));
    assert_eq!(entry["request_id"], "mistake-1");
    assert_eq!(entry["details"], reason);
    let actor = entry["actor"].as_str().expect("a key");
    assert!(actor.starts_with("key:"), "{actor}");

    let of_campaign = ["campaign.paused", "campaign.created"];
    assert_eq!(bed.actions(&format!("subject=campaign:{id}")).await, of_campaign);
    assert_eq!(
        bed.actions(&format!("actor={actor}")).await,
        ["suppression.added", "campaign.paused", "campaign.created"]
    );
    assert_eq!(bed.actions(&format!("actor={actor}&action=key.created")).await, [""; 0]);
    assert_eq!(bed.actions("actor=worker:7").await.len(), 3);

    let at = entry["at"].as_str().expect("a time");
    assert_eq!(
        bed.actions(&format!("since={at}&actor={actor}")).await,
        ["suppression.added", "campaign.paused"]
    );
    assert_eq!(
        bed.actions(&format!("until={at}&actor={actor}")).await,
        ["campaign.created"]
    );
    let tomorrow = bed.get("/v1/audit?actor=worker:7").await.json()["items"][1]["at"].clone();
    let tomorrow = tomorrow.as_str().expect("a time");
    assert_eq!(bed.actions(&format!("since={tomorrow}")).await.len(), 2);

    let mut read = Vec::new();
    let mut query = "limit=4".to_owned();
    loop {
        let page = bed.get(&format!("/v1/audit?{query}")).await.json();
        let items = page["items"].as_array().expect("entries").iter();
        read.extend(items.map(|entry| entry["id"].as_i64().expect("an id")));
        // What is written meanwhile does not shift a page.
        api.execute("INSERT INTO audit_log (actor, action, subject) VALUES ('cli', 'key.revoked', 'key:9')")
            .await;
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("limit=4&cursor={cursor}"),
            None => break,
        }
    }
    let mut sorted = read.clone();
    sorted.sort_unstable_by(|one, other| other.cmp(one));
    sorted.dedup();
    assert_eq!(read, sorted, "each once, the latest first");
    // Those of two keys, too.
    assert_eq!(read.len(), 8);
}

#[tokio::test]
async fn only_an_admin_reads_it_and_wrong_filters_are_refused() {
    let bed = Bed::new().await;
    bed.api.get("/v1/audit").await.problem("forbidden");
    for (query, code, field) in [
        ("since=yesterday", "invalid_parameter", "since"),
        ("until=2030-01-01", "invalid_parameter", "until"),
        ("limit=1001", "invalid_parameter", "limit"),
        ("cursor=zzz", "invalid_cursor", "cursor"),
        ("who=me", "unknown_parameter", "who"),
    ] {
        let problem = bed.get(&format!("/v1/audit?{query}")).await.problem(code);
        assert_eq!(problem["field"], field, "{query}");
    }
    assert_eq!(bed.actions("since=2999-01-01T00:00:00Z").await, [""; 0]);
    assert_eq!(bed.actions("until=1999-01-01T00:00:00Z").await, [""; 0]);
}

const ROWS: i64 = 30_000;
const PAGE: i64 = 50;

/// How many rows of the log were read so far. Asked on the connection that reads.
async fn rows_read(pool: &PgPool) -> i64 {
    sqlx::query("SELECT pg_stat_force_next_flush()")
        .execute(pool)
        .await
        .expect("flushed");
    sqlx::query_scalar(
        "SELECT (idx_tup_fetch + seq_tup_read)::bigint FROM pg_stat_user_tables WHERE relname = 'audit_log'",
    )
    .fetch_one(pool)
    .await
    .expect("counters")
}

/// Three weeks of jobs, one a minute; before them the few entries that are looked for.
async fn fill(pool: &PgPool) {
    sqlx::query(
        "INSERT INTO audit_log (at, actor, action, subject)
        SELECT wireroom_now() - interval '40 days', 'key:rare', 'key.revoked', 'key:7' FROM generate_series(1, 5) n",
    )
    .execute(pool)
    .await
    .expect("filled");
    sqlx::query(
        "INSERT INTO audit_log (at, actor, action, subject)
        SELECT wireroom_now() + (n - $1) * interval '1 minute', 'key:' || n % 3, 'job.created', 'job:' || n
        FROM generate_series(1, $1) n",
    )
    .bind(ROWS)
    .execute(pool)
    .await
    .expect("filled");
    sqlx::raw_sql("ANALYZE audit_log")
        .execute(pool)
        .await
        .expect("analysed");
}

#[tokio::test]
async fn a_page_of_a_long_log_reads_no_more_than_itself_whatever_the_filter() {
    let bed = Bed::new().await;
    let options = (*bed.api.pool().connect_options()).clone();
    let pool = PgPoolOptions::new().max_connections(1).connect_with(options);
    let pool = pool.await.expect("connected");
    fill(&pool).await;
    let now = chrono::DateTime::from_timestamp(
        sqlx::query_scalar("SELECT extract(epoch FROM wireroom_now())::bigint")
            .fetch_one(&pool)
            .await
            .expect("the time"),
        0,
    );
    let ago = |hours| now.map(|now| now - chrono::TimeDelta::hours(hours));
    let all = AuditFilter::default();
    let filters = [
        ("all", all.clone(), PAGE),
        (
            "actor",
            AuditFilter {
                actor: Some("key:rare"),
                ..all.clone()
            },
            5,
        ),
        (
            "nobody",
            AuditFilter {
                actor: Some("key:none"),
                ..all.clone()
            },
            0,
        ),
        (
            "action",
            AuditFilter {
                action: Some("key.revoked"),
                ..all.clone()
            },
            5,
        ),
        (
            "often",
            AuditFilter {
                action: Some("job.created"),
                ..all.clone()
            },
            PAGE,
        ),
        (
            "subject",
            AuditFilter {
                subject: Some("key:7"),
                ..all.clone()
            },
            5,
        ),
        (
            "both",
            AuditFilter {
                actor: Some("key:1"),
                action: Some("key.revoked"),
                ..all.clone()
            },
            0,
        ),
        (
            "an hour",
            AuditFilter {
                since: ago(300),
                until: ago(299),
                ..all.clone()
            },
            PAGE,
        ),
        (
            "before",
            AuditFilter {
                until: ago(24 * 30),
                ..all
            },
            5,
        ),
    ];
    for (name, filter, expected) in filters {
        let before = rows_read(&pool).await;
        let page = audit_reads::list(&pool, &filter, None, PAGE).await.expect("a page");
        assert_eq!(i64::try_from(page.len()).expect("a page"), expected, "{name}");
        let read = rows_read(&pool).await - before;
        // Besides the page: the looks for where a time begins.
        assert!(read <= PAGE + 60, "{name}: {read} rows for {expected}");
    }
}
