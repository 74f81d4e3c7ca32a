//! What reading a page of a large scan reads: the page, and not what is left of the list behind it. By Postgres' own counters.

use sqlx::{PgPool, postgres::PgPoolOptions};
use wireroom::{
    cluster::testing::TestDatabase,
    ids::JobId,
    store::{
        member_reads::{self, MemberFilter},
        scan_messages::{self, MessageFilter, MessageKey},
    },
};

const ROWS: i32 = 30_000;
const PAGE: i64 = 100;
/// Often enough that Postgres would settle for one plan.
const TIMES: i64 = 8;

/// One connection, whose counters can be asked for.
async fn pool(database: &TestDatabase) -> PgPool {
    let options = PgPoolOptions::new().max_connections(1);
    options.connect(database.url()).await.expect("connected")
}

async fn large_scan(pool: &PgPool) -> JobId {
    let job = JobId::generate();
    for statement in [
        "INSERT INTO scans (job_id, chat_id, purpose, expires_at, what)
         VALUES ($1, -1001, 'test', wireroom_now() + interval '1 day', 'history')",
        "INSERT INTO seen_messages (chat_id, owner, message_id, sent_at, sender_id, outgoing, text, reactions, job_id,
             purpose, expires_at)
         SELECT -1001, 0, n, wireroom_now(), n % 100, false, '', '[]', $1, 'test', wireroom_now() + interval '1 day'
         FROM generate_series(1, ROWS) n",
        "INSERT INTO scan_messages (job_id, chat_id, owner, message_id) SELECT $1, -1001, 0, n FROM generate_series(1, ROWS) n",
        "INSERT INTO scan_members (job_id, user_id, is_bot, is_deleted, is_premium, role)
         SELECT $1, n, false, false, false, 'member' FROM generate_series(1, ROWS) n",
    ] {
        let statement = statement.replace("ROWS", &ROWS.to_string());
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(job.0)
            .execute(pool)
            .await
            .expect("filled");
    }
    sqlx::raw_sql("ANALYZE scans, seen_messages, scan_messages, scan_members")
        .execute(pool)
        .await
        .expect("analysed");
    job
}

/// How many rows were read so far, of the tables of scans.
async fn rows_read(pool: &PgPool) -> i64 {
    sqlx::query("SELECT pg_stat_force_next_flush()")
        .execute(pool)
        .await
        .expect("flushed");
    sqlx::query_scalar(
        "SELECT coalesce(sum(idx_tup_fetch + seq_tup_read), 0)::bigint FROM pg_stat_user_tables
            WHERE relname IN ('seen_messages', 'scan_messages', 'scan_members')",
    )
    .fetch_one(pool)
    .await
    .expect("counters")
}

#[tokio::test]
async fn a_page_of_a_large_scan_reads_no_more_than_itself() {
    let database = TestDatabase::new().await;
    let pool = pool(&database).await;
    let job = large_scan(&pool).await;
    let after = MessageKey {
        chat_id: -1001,
        owner: 0,
        message_id: 1_000,
    };
    let before = rows_read(&pool).await;
    for _ in 0..TIMES {
        let page = scan_messages::page(&pool, job, &MessageFilter::default(), Some(after), PAGE)
            .await
            .expect("a page");
        assert_eq!(page.len(), 100);
    }
    let messages = rows_read(&pool).await - before;
    // A message and the link to it.
    assert!(
        messages <= 3 * TIMES * PAGE,
        "{messages} rows for {TIMES} pages of {PAGE} messages"
    );
    let before = rows_read(&pool).await;
    for _ in 0..TIMES {
        let page = member_reads::page(&pool, job, &MemberFilter::default(), Some(1_000), PAGE)
            .await
            .expect("a page");
        assert_eq!(page.len(), 100);
    }
    let members = rows_read(&pool).await - before;
    assert!(
        members <= 2 * TIMES * PAGE,
        "{members} rows for {TIMES} pages of {PAGE} members"
    );
}

#[tokio::test]
async fn rows_go_with_their_scan() {
    let database = TestDatabase::new().await;
    let pool = pool(&database).await;
    let job = large_scan(&pool).await;
    sqlx::query("DELETE FROM scans WHERE job_id = $1")
        .bind(job.0)
        .execute(&pool)
        .await
        .expect("deleted");
    let left: i64 =
        sqlx::query_scalar("SELECT (SELECT count(*) FROM scan_members) + (SELECT count(*) FROM scan_messages)")
            .fetch_one(&pool)
            .await
            .expect("counted");
    assert_eq!(left, 0);
}
