//! Limits that an admin sets: how many jobs of a kind or a pool run at a time, and how fast jobs with a limit key start.
//! They hold over all workers; [`limited_claims`](super::limited_claims) honours them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{StoreError, failed};

/// What a concurrency limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitScope {
    Kind,
    Pool,
}

impl LimitScope {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::Pool => "pool",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        [Self::Kind, Self::Pool]
            .into_iter()
            .find(|scope| scope.as_str() == name)
    }
}

/// How many jobs of one kind or pool run at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConcurrencyLimit {
    pub scope: LimitScope,
    /// The kind or the pool.
    pub target: String,
    /// From 0 to 1,000,000; 0 lets none start.
    pub max_running: i32,
    /// Who set it: `key:<id>`.
    pub set_by: String,
    pub set_at: DateTime<Utc>,
}

/// How fast jobs start that share a limit key.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimit {
    /// A whole key, or a class of keys: what stands before a key's first colon. The whole key goes first.
    pub name: String,
    /// Starts per period, from 1 to 1,000,000.
    pub starts: i32,
    /// From 1 ms to 366 days.
    pub period: Duration,
    /// Starts that may come at once after a quiet time, from 1 to 1,000,000.
    pub burst: i32,
    /// Who set it: `key:<id>`.
    pub set_by: String,
    pub set_at: DateTime<Utc>,
}

impl RateLimit {
    /// Tokens a second.
    pub fn per_second(&self) -> f64 {
        f64::from(self.starts) / self.period.as_secs_f64()
    }

    /// Whether it is for `key`: as a whole, or as its class.
    pub fn is_for(&self, key: &str) -> bool {
        self.name == key || key.split(':').next() == Some(self.name.as_str())
    }
}

/// Every limit there is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Limits {
    pub concurrency: Vec<ConcurrencyLimit>,
    pub rates: Vec<RateLimit>,
}

impl Limits {
    pub const fn is_empty(&self) -> bool {
        self.concurrency.is_empty() && self.rates.is_empty()
    }

    /// Whether jobs of `kind` are counted.
    pub fn limits_kind(&self, kind: &str) -> bool {
        let mut limits = self.concurrency.iter();
        limits.any(|limit| limit.scope == LimitScope::Kind && limit.target == kind)
    }

    /// The rate limit of a key; one of the whole key goes before one of its class.
    pub fn rate_of(&self, key: &str) -> Option<&RateLimit> {
        let whole = self.rates.iter().find(|limit| limit.name == key);
        whole.or_else(|| self.rates.iter().find(|limit| limit.is_for(key)))
    }
}

/// Reads all limits.
pub async fn all(conn: &mut PgConnection) -> Result<Limits, StoreError> {
    let concurrency = sqlx::query!(
        "-- concurrency_limits
        SELECT scope, target, max_running, set_by, set_at FROM concurrency_limits ORDER BY scope, target"
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(failed("concurrency_limits"))?;
    let rates = sqlx::query!(
        "-- rate_limits
        SELECT name, starts, period_seconds, burst, set_by, set_at FROM rate_limits ORDER BY name"
    )
    .fetch_all(conn)
    .await
    .map_err(failed("rate_limits"))?;
    let concurrency = concurrency.into_iter().filter_map(|row| {
        // A scope that only a newer version knows is that version's to honour.
        Some(ConcurrencyLimit {
            scope: LimitScope::parse(&row.scope)?,
            target: row.target,
            max_running: row.max_running,
            set_by: row.set_by,
            set_at: row.set_at,
        })
    });
    let rates = rates.into_iter().map(|row| RateLimit {
        name: row.name,
        starts: row.starts,
        period: Duration::from_secs_f64(row.period_seconds),
        burst: row.burst,
        set_by: row.set_by,
        set_at: row.set_at,
    });
    Ok(Limits {
        concurrency: concurrency.collect(),
        rates: rates.collect(),
    })
}

/// Sets how many jobs of `target` run at a time; those that run already are left to finish.
pub async fn set_concurrency(
    conn: &mut PgConnection,
    scope: LimitScope,
    target: &str,
    max_running: i32,
    actor: &str,
) -> Result<ConcurrencyLimit, StoreError> {
    let set_at = sqlx::query_scalar!(
        "-- set_concurrency_limit
        INSERT INTO concurrency_limits (scope, target, max_running, set_by) VALUES ($1, $2, $3, $4)
        ON CONFLICT (scope, target) DO UPDATE
        SET max_running = excluded.max_running, set_by = excluded.set_by, set_at = wireroom_now()
        RETURNING set_at",
        scope.as_str(),
        target,
        max_running,
        actor,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("set_concurrency_limit"))?;
    Ok(ConcurrencyLimit {
        scope,
        target: target.to_owned(),
        max_running,
        set_by: actor.to_owned(),
        set_at,
    })
}

/// Removes a concurrency limit; tells whether there was one.
pub async fn remove_concurrency(conn: &mut PgConnection, scope: LimitScope, target: &str) -> Result<bool, StoreError> {
    let removed = sqlx::query!(
        "-- remove_concurrency_limit
        DELETE FROM concurrency_limits WHERE scope = $1 AND target = $2",
        scope.as_str(),
        target,
    )
    .execute(conn)
    .await
    .map_err(failed("remove_concurrency_limit"))?;
    Ok(removed.rows_affected() > 0)
}

/// Sets how fast jobs start whose key is `name`, or of the class `name`: `starts` each `period`. Jobs in line keep their
/// turns until [`rates::dissolve_line`](super::rates::dissolve_line).
pub async fn set_rate(
    conn: &mut PgConnection,
    name: &str,
    starts: i32,
    period: Duration,
    burst: i32,
    actor: &str,
) -> Result<RateLimit, StoreError> {
    let set_at = sqlx::query_scalar!(
        "-- set_rate_limit
        INSERT INTO rate_limits (name, starts, period_seconds, burst, set_by) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (name) DO UPDATE SET starts = excluded.starts, period_seconds = excluded.period_seconds,
            burst = excluded.burst, set_by = excluded.set_by, set_at = wireroom_now()
        RETURNING set_at",
        name,
        starts,
        period.as_secs_f64(),
        burst,
        actor,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("set_rate_limit"))?;
    Ok(RateLimit {
        name: name.to_owned(),
        starts,
        period,
        burst,
        set_by: actor.to_owned(),
        set_at,
    })
}

/// Removes a rate limit; tells whether there was one.
pub async fn remove_rate(conn: &mut PgConnection, name: &str) -> Result<bool, StoreError> {
    let removed = sqlx::query!(
        "-- remove_rate_limit
        DELETE FROM rate_limits WHERE name = $1",
        name,
    )
    .execute(conn)
    .await
    .map_err(failed("remove_rate_limit"))?;
    Ok(removed.rows_affected() > 0)
}

/// How many jobs of each kind and pool with a limit run now, in the order of the limits.
pub async fn running(conn: &mut PgConnection, limits: &[ConcurrencyLimit]) -> Result<Vec<i64>, StoreError> {
    let scopes: Vec<&str> = limits.iter().map(|limit| limit.scope.as_str()).collect();
    let targets: Vec<&str> = limits.iter().map(|limit| limit.target.as_str()).collect();
    sqlx::query_scalar!(
        r#"-- running_under_limits
        SELECT (SELECT count(*) FROM jobs j WHERE j.state = 'running'
            AND CASE l.scope WHEN 'kind' THEN j.kind ELSE j.pool END = l.target) AS "running!"
        FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS l (scope, target, nth) ORDER BY l.nth"#,
        &scopes as &[&str],
        &targets as &[&str],
    )
    .fetch_all(conn)
    .await
    .map_err(failed("running_under_limits"))
}
