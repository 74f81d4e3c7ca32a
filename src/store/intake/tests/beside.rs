//! What comes in while another transaction has the watch.

use super::*;

/// Enough watches, and known to the planner, that it looks the asked ones up one by one.
const CROWD: &str = "
    INSERT INTO watches (id, chat_id, session_id, owner, events, filter, retention_days, filling)
    SELECT gen_random_uuid(), -1001000000000 - n, session_id, 0, events, filter, 30, false
    FROM watches, generate_series(1, 1000) n;
    ANALYZE watches";

#[tokio::test]
async fn what_comes_in_while_watches_are_checked_is_stored_when_they_were() {
    let mut bed = Bed::new().await;
    bed.watch(Some(CHAT), json!({})).await;
    sqlx::raw_sql(CROWD).execute(bed.pool()).await.unwrap();
    let mut check = bed.pool().begin().await.unwrap();
    sqlx::raw_sql("UPDATE watches SET checked = checked + 1")
        .execute(&mut *check)
        .await
        .unwrap();
    let pool = bed.pool().clone();
    let let_go = tokio::spawn(async move {
        wait_for_a_lock(&pool).await;
        check.commit().await.unwrap();
    });
    let come_in = (1..=8).map(|number| {
        let chat_id = -1_001_000_000_000 - i64::from(number);
        Incoming::New(Message {
            chat_id,
            ..said(number, "hello")
        })
    });
    bed.take(come_in.collect()).await;
    let_go.await.unwrap();
    assert_eq!(bed.told_ids().await, events("message.new", 1..=8));
}

/// Returns when somebody waits for another's lock.
async fn wait_for_a_lock(pool: &PgPool) {
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '-- lock_watches%'";
    for _ in 0..500 {
        let count: i64 = sqlx::query_scalar(waiting).fetch_one(pool).await.unwrap();
        if count > 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("nobody waits");
}
