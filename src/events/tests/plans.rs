//! What the statements of delivering read beside what waits and what is over: each is held to what can be sent now, whatever
//! the planner knows of the tables. Postgres' own counters of the backend tell what a statement touched.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::bed::Bed;
use crate::{
    ids::SubscriptionId,
    store::{
        self,
        deliveries::{self, DeliveryState, Fortune, Settled},
        delivery_log,
        event_log::EventFilter,
        subscriptions,
        waiting_deliveries::{self, Due},
    },
};

/// Enough that reading all of it is noticed.
const ROWS: i64 = 30_000;
const DUE: i64 = 10;

/// Blocks of tables and indexes, and rows that were found by an index or read from a table's start.
#[derive(Debug, Clone, Copy)]
struct Read {
    blocks: i64,
    rows: i64,
}

async fn counters(conn: &mut PgConnection) -> Read {
    let (blocks, rows) = sqlx::query_as(
        "SELECT sum(pg_stat_get_xact_blocks_fetched(c.oid))::bigint,
            (SELECT sum(idx_tup_fetch + seq_tup_read)::bigint FROM pg_stat_xact_user_tables)
         FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'i')",
    )
    .fetch_one(conn)
    .await
    .expect("counters");
    Read { blocks, rows }
}

/// What `$statement` reads, in a transaction that is rolled back; the last of several times, since a connection plans a
/// statement for its values at first.
macro_rules! read_by {
    ($bed:expr, |$conn:ident| $statement:expr) => {{
        let mut connection = $bed.pool().acquire().await.expect("a connection");
        let mut read = None;
        for _ in 0..7 {
            let mut transaction = store::begin(&mut connection, "test").await.expect("a transaction");
            let before = counters(&mut transaction).await;
            let $conn: &mut PgConnection = &mut transaction;
            let _ = $statement.await.expect("the statement");
            let after = counters(&mut transaction).await;
            transaction.rollback().await.expect("a rollback");
            read = Some(Read {
                blocks: after.blocks - before.blocks,
                rows: after.rows - before.rows,
            });
        }
        read.expect("it ran")
    }};
}

/// Two subscriptions full of deliveries: what waits is of one subject in the one, and of as many as there are rows in the other.
/// Each has as many that are over.
struct Full {
    bed: Bed,
    owner: Uuid,
    of_one: SubscriptionId,
    of_many: SubscriptionId,
}

impl Full {
    async fn new() -> Self {
        let bed = Bed::new().await;
        bed.execute("ALTER TABLE deliveries SET (autovacuum_enabled = off)")
            .await;
        let of_one = bed.subscribe("https://example.com/one", &[]).await;
        let of_many = bed.subscribe("https://example.com/many", &[]).await;
        let owner = Uuid::new_v4();
        sqlx::query(
            "UPDATE subscription_progress SET position = 1000000, owner = $1, owned_until = now() + interval '1 day'",
        )
        .bind(owner)
        .execute(bed.pool())
        .await
        .expect("leased");
        for (id, subjects) in [(of_one, 1), (of_many, ROWS)] {
            sqlx::query(
                "INSERT INTO deliveries (subscription_id, position, type, subject, state, next_at, attempts)
                 SELECT $1, n, 'message.new', 'chat:' || n % $3, CASE WHEN n <= $2 THEN 'pending' ELSE 'delivered' END,
                     CASE WHEN n <= least($2, $3) THEN now() - interval '1 second' END, 0
                 FROM generate_series(1, 2 * $2) n",
            )
            .bind(id.0)
            .bind(ROWS)
            .bind(subjects)
            .execute(bed.pool())
            .await
            .expect("deliveries");
        }
        Self {
            bed,
            owner,
            of_one,
            of_many,
        }
    }

    fn head(&self, id: SubscriptionId, n: i64) -> Due {
        let subject = if id == self.of_one { 0 } else { n };
        Due {
            position: n,
            subject: format!("chat:{subject}"),
            is_first: true,
        }
    }

    async fn hold_every_statement_to_what_it_may_read(&self, when: &str) {
        let (bed, owner) = (&self.bed, self.owner);
        for id in [self.of_one, self.of_many] {
            let heads: Vec<Due> = (1..=DUE).map(|n| self.head(id, n)).collect();
            let subjects: Vec<&str> = heads.iter().map(|head| head.subject.as_str()).collect();
            let positions: Vec<i64> = heads.iter().map(|head| head.position).collect();
            let busy = ["chat:busy".to_owned()];
            let settled = [settled(1), settled(ROWS * 3)];
            let fortune = Fortune {
                failures: 0,
                succeeded: true,
                open_for: None,
            };
            let reads = [
                ("standing", read_by!(bed, |conn| waiting_deliveries::standing(conn, id))),
                (
                    "due",
                    read_by!(bed, |conn| waiting_deliveries::due(conn, id, &busy, i64::MAX, DUE)),
                ),
                (
                    "of_subjects",
                    read_by!(bed, |conn| waiting_deliveries::of_subjects(
                        conn,
                        id,
                        &subjects,
                        i64::MAX,
                        5
                    )),
                ),
                (
                    "held_among",
                    read_by!(bed, |conn| waiting_deliveries::held_among(conn, id, &subjects)),
                ),
                (
                    "promote",
                    read_by!(bed, |conn| waiting_deliveries::promote(conn, id, &subjects)),
                ),
                (
                    "step_back",
                    read_by!(bed, |conn| waiting_deliveries::step_back(conn, owner, id, &positions)),
                ),
                ("walk", read_by!(bed, |conn| waiting_deliveries::walk(conn, id, "", 10))),
                (
                    "settle",
                    read_by!(bed, |conn| deliveries::settle(
                        conn, owner, id, &settled, 1_000_000, fortune
                    )),
                ),
                (
                    "settled_after",
                    read_by!(bed, |conn| deliveries::settled_after(conn, id, ROWS * 2 - DUE)),
                ),
                (
                    "hold",
                    read_by!(bed, |conn| deliveries::hold(conn, owner, Duration::from_mins(1), 4)),
                ),
                ("reopen", read_by!(bed, |conn| reopen(conn, id))),
            ];
            for (what, read) in reads {
                // Some levels of an index and its table for each of the rows, written anew or not.
                assert!(
                    read.rows <= 12 * DUE && read.blocks <= 40 * DUE,
                    "{what}, {when}: {read:?}"
                );
            }
        }
    }
}

fn settled(position: i64) -> Settled {
    Settled {
        position,
        event_type: "message.new".to_owned(),
        subject: "chat:0".to_owned(),
        state: DeliveryState::Delivered,
        attempts: 1,
        status: Some(204),
        error: None,
        took: Some(Duration::from_millis(1)),
    }
}

async fn reopen(conn: &mut PgConnection, id: SubscriptionId) -> Result<Option<()>, store::StoreError> {
    let mut settings = super::bed::settings("https://example.com/", &[]);
    settings.enabled = false;
    subscriptions::update(conn, id, &settings).await?;
    settings.enabled = true;
    subscriptions::update(conn, id, &settings).await
}

#[tokio::test]
async fn a_look_reads_what_can_be_sent_and_not_what_waits() {
    let full = Full::new().await;
    full.hold_every_statement_to_what_it_may_read("before statistics").await;
    full.bed.execute("ANALYZE").await;
    full.hold_every_statement_to_what_it_may_read("with statistics").await;
    // Nothing waits any more, and the statistics say that half of it does.
    full.bed
        .execute("UPDATE deliveries SET state = 'delivered', next_at = NULL WHERE position > 100")
        .await;
    full.bed.execute("VACUUM deliveries").await;
    full.hold_every_statement_to_what_it_may_read("with old statistics")
        .await;
}

#[tokio::test]
async fn pages_of_rare_states_and_steps_of_a_range_read_no_others() {
    let full = Full::new().await;
    let (bed, id) = (&full.bed, full.of_many);
    bed.execute("UPDATE deliveries SET state = 'failed', next_at = NULL WHERE position = 5")
        .await;
    bed.execute("UPDATE deliveries SET state = 'delivered', next_at = NULL WHERE position > 10")
        .await;
    bed.execute(
        "INSERT INTO event_log (position, logged_at, at, type, version, subject, data)
         SELECT n, wireroom_now(), wireroom_now(), 'message.new', 1, 'chat:' || n, '{}' FROM generate_series(1, 30000) n",
    )
    .await;
    bed.execute("VACUUM ANALYZE deliveries, event_log").await;
    bed.execute(
        "UPDATE deliveries SET updated_at = updated_at - interval '8 days' WHERE position BETWEEN 40001 AND 40050",
    )
    .await;
    let filter = EventFilter::new(&["session.*".to_owned()], &[]);
    for (what, read, most) in [
        (
            "failed",
            read_by!(bed, |conn| delivery_log::page(conn, id, Some("failed"), None, 10)),
            20,
        ),
        (
            "pending",
            read_by!(bed, |conn| delivery_log::page(conn, id, Some("pending"), None, 10)),
            40,
        ),
        (
            "any",
            read_by!(bed, |conn| delivery_log::page(conn, id, None, None, 10)),
            20,
        ),
        ("expire", read_by!(bed, |conn| delivery_log::expire(conn, 7, 10)), 60),
        (
            "range",
            read_by!(bed, |conn| delivery_log::redeliver(
                conn,
                id,
                &filter,
                (1, i64::MAX),
                10,
                1
            )),
            21_000,
        ),
    ] {
        assert!(read.rows <= most, "{what}: {read:?}");
    }
}
