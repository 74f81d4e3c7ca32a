//! What `wireroom bench sessions` asks of the database: how many statements it was sent, when a private message
//! was committed, and how many jobs run.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, postgres::PgListener};
use uuid::Uuid;

use super::{StoreError, failed};
use crate::{config::DatabaseConfig, ids::SessionId};

/// How statements are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountedBy {
    /// Each statement of this database, `BEGIN` and `COMMIT` included.
    PgStatStatements,
    /// Transactions of this database: fewer than statements. The extension is not there.
    PgStatDatabase,
}

impl CountedBy {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PgStatStatements => "pg_stat_statements",
            Self::PgStatDatabase => "pg_stat_database (transactions)",
        }
    }
}

/// Counts what this database is asked, over a connection of its own that asks nothing in between.
pub struct StatementCounter {
    conn: PgConnection,
    statement: String,
    pub by: CountedBy,
    begun: i64,
}

impl StatementCounter {
    pub async fn start(config: &DatabaseConfig) -> Result<Self, StoreError> {
        const OPERATION: &str = "count_statements";
        let mut conn = PgConnection::connect(config.url.expose())
            .await
            .map_err(failed(OPERATION))?;
        let (statement, by) = match extension(&mut conn).await {
            Some(statement) => (statement, CountedBy::PgStatStatements),
            None => (
                "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
                    .to_owned(),
                CountedBy::PgStatDatabase,
            ),
        };
        let mut counter = Self {
            conn,
            statement,
            by,
            begun: 0,
        };
        counter.begun = counter.read().await?;
        Ok(counter)
    }

    /// How many there were since the start, without this counter's own.
    pub async fn end(mut self) -> Result<i64, StoreError> {
        let count = self.read().await? - self.begun;
        // The first look is counted once it has ended.
        Ok((count - 1).max(0))
    }

    async fn read(&mut self) -> Result<i64, StoreError> {
        sqlx::query_scalar(AssertSqlSafe(self.statement.clone()))
            .fetch_one(&mut self.conn)
            .await
            .map_err(failed("count_statements"))
    }
}

/// The statement that counts by the extension, when it is made in this database and loaded by the server.
async fn extension(conn: &mut PgConnection) -> Option<String> {
    let schema: Option<String> = sqlx::query_scalar(
        "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
         WHERE e.extname = 'pg_stat_statements'",
    )
    .fetch_optional(&mut *conn)
    .await
    .ok()?;
    let statement = format!(
        "SELECT coalesce(sum(s.calls), 0)::bigint FROM {}.pg_stat_statements s
         JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = current_database()",
        schema?
    );
    let works: Result<i64, _> = sqlx::query_scalar(AssertSqlSafe(statement.clone()))
        .fetch_one(conn)
        .await;
    works.ok().map(|_| statement)
}

/// Tells when a message was committed.
pub struct Arrivals(PgListener);

impl Arrivals {
    /// Lets the tables of the bench's schema tell it from now on. A notification goes out when its transaction has been
    /// committed, so what is seen here is later than the commit, never earlier.
    pub async fn listen(pool: &PgPool) -> Result<Self, StoreError> {
        const OPERATION: &str = "listen_for_arrivals";
        let channel = format!("wireroom_bench_{}", Uuid::new_v4().simple());
        let statements = format!(
            "-- {OPERATION}
            CREATE FUNCTION tell_arrival() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM pg_notify('{channel}', NEW.session_id || ' ' || NEW.message_id); RETURN NULL; END $$;
            CREATE TRIGGER tell_arrival AFTER INSERT ON messages FOR EACH ROW EXECUTE FUNCTION tell_arrival()"
        );
        let mut conn = pool.acquire().await.map_err(failed(OPERATION))?;
        sqlx::raw_sql(AssertSqlSafe(statements))
            .execute(&mut *conn)
            .await
            .map_err(failed(OPERATION))?;
        drop(conn);
        let mut listener = PgListener::connect_with(pool).await.map_err(failed(OPERATION))?;
        listener.listen(&channel).await.map_err(failed(OPERATION))?;
        Ok(Self(listener))
    }

    /// The session whose message was stored next; `None` when it was something else.
    pub async fn next(&mut self) -> Result<Option<SessionId>, StoreError> {
        let told = self.0.recv().await.map_err(failed("listen_for_arrivals"))?;
        Ok(told
            .payload()
            .split_once(' ')
            .and_then(|(session, _)| session.parse().ok()))
    }
}

/// Watches the private messages of these sessions, from here on and all of them.
pub async fn watch_private(conn: &mut PgConnection, sessions: &[SessionId]) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = sessions.iter().map(|id| id.0).collect();
    let watched = sqlx::query!(
        "-- watch_private
        INSERT INTO watches (id, session_id, owner, events, filter, retention_days, filling)
        SELECT gen_random_uuid(), id, account_id, '{message.new}', '{}', 1, false FROM sessions
        WHERE id = ANY($1) AND account_id IS NOT NULL",
        &ids,
    )
    .execute(conn)
    .await
    .map_err(failed("watch_private"))?;
    let expected = ids.len() as u64;
    if watched.rows_affected() == expected {
        Ok(())
    } else {
        Err(StoreError::Rows {
            operation: "watch_private",
            changed: watched.rows_affected(),
            expected,
        })
    }
}

/// How many watches record what comes.
pub async fn recording(conn: &mut PgConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"-- bench_recording
        SELECT count(*) AS "recording!" FROM watches WHERE state = 'active' AND NOT filling"#,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("bench_recording"))
}

/// How many of these sessions run a job.
pub async fn busy(conn: &mut PgConnection, sessions: &[SessionId]) -> Result<i64, StoreError> {
    let ids: Vec<Uuid> = sessions.iter().map(|id| id.0).collect();
    sqlx::query_scalar!(
        r#"-- bench_busy
        SELECT count(DISTINCT session_id) AS "busy!" FROM jobs WHERE state = 'running' AND session_id = ANY($1)"#,
        &ids,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("bench_busy"))
}

/// Cleans up behind renewals, as autovacuum does once a minute.
pub async fn vacuum_leases(conn: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::raw_sql("-- vacuum_bench_leases\nVACUUM session_leases")
        .execute(conn)
        .await
        .map_err(failed("vacuum_bench_leases"))?;
    Ok(())
}
