//! Caps: how often a session may do something in a minute, an hour and a day of its own time zone. A use is counted before
//! the call is made, so that a crash in between counts one too many and never one too few; it is given back when the call has
//! certainly not left.

mod settings;

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;
use wireroom_jobs::Action;

pub use self::settings::{CapRecord, WAKE, defaults, of_session, remove, set, set_time_zone, wake};
use super::{StoreError, failed};
use crate::ids::SessionId;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Capped {
    Join,
    Invite,
    Message,
    /// The first message to a person.
    Dialogue,
}

impl Capped {
    pub const ALL: [Self; 4] = [Self::Join, Self::Invite, Self::Message, Self::Dialogue];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Invite => "invite",
            Self::Message => "message",
            Self::Dialogue => "dialogue",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|capped| capped.as_str() == name)
    }

    /// What every call of an action counts as; `None`: it is not counted.
    pub const fn of(action: Action) -> Option<Self> {
        match action {
            Action::Join => Some(Self::Join),
            Action::Send => Some(Self::Message),
            Action::Invite => Some(Self::Invite),
            Action::Resolve | Action::Read | Action::JoinChannel | Action::Other => None,
        }
    }

    /// The action that is closed while the cap is spent; `None` where only some of its calls count.
    pub const fn closes(self) -> Option<Action> {
        match self {
            Self::Join => Some(Action::Join),
            Self::Invite => Some(Action::Invite),
            Self::Message => Some(Action::Send),
            Self::Dialogue => None,
        }
    }
}

/// The span a cap is counted over, by the session's clock on the wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    Minute,
    Hour,
    Day,
}

impl Window {
    /// The longest first: of two spent caps it is the one that opens last.
    pub const ALL: [Self; 3] = [Self::Day, Self::Hour, Self::Minute];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|window| window.as_str() == name)
    }
}

/// How often something may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap {
    pub per_minute: i32,
    pub per_hour: i32,
    pub per_day: i32,
}

/// A spent cap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spent {
    pub capped: Capped,
    pub window: Window,
    /// How often the window allows it.
    pub cap: i32,
    /// When the window ends, by the database's clock.
    pub until: DateTime<Utc>,
    /// How long that is from now.
    pub left: Duration,
}

/// What became of asking for a use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// It is counted; `spent`: it was the last one for now.
    Granted { spent: Option<Spent> },
    /// Nothing was counted.
    Refused(Spent),
    /// Nothing was counted: there are uses left, but not so many. They are again when that window ends.
    TooMany(Spent),
    /// Nothing was counted, and never is: so many are more than the day allows.
    Never(Spent),
}

/// A use, and what gives it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub used: Use,
    /// `None`: nothing was counted.
    pub receipt: Option<Receipt>,
}

/// What was counted: by it a use is given back that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    counted: Counted,
    /// The person to whom this was the first message, and the dialogue that was counted for it.
    opened: Option<(i64, Counted)>,
}

/// One use, in the windows that it was counted in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counted {
    capped: Capped,
    units: i32,
    minute_at: DateTime<Utc>,
    hour_at: DateTime<Utc>,
    day_at: DateTime<Utc>,
    spent: Option<Spent>,
}

impl Receipt {
    /// The cap that this use spent.
    pub fn spent(&self) -> Option<&Spent> {
        self.counted.spent.as_ref()
    }
}

/// Counts `units` uses of `capped` by a session, those of one call, and, when that is the first message to the person
/// `opens`, one dialogue. Either all are counted or none. A call of more than a minute or an hour allows is made in one that
/// has seen none; one of more than a day allows never is. Runs in the caller's transaction, which holds the session's counters
/// until it ends.
pub async fn take(
    conn: &mut PgConnection,
    session: SessionId,
    capped: Capped,
    units: i32,
    opens: Option<i64>,
) -> Result<Taken, StoreError> {
    let Some(person) = opens else {
        return take_some(conn, session, capped, units).await;
    };
    // Dialogues before messages, always: so two of these never wait for each other.
    let dialogues = roll(conn, session, Capped::Dialogue).await?;
    if !open_dialogue(conn, session, person).await? {
        return take_some(conn, session, capped, units).await;
    }
    let mut taken = match dialogues.spent() {
        Some(spent) => refused(Use::Refused(spent)),
        None => take_some(conn, session, capped, units).await?,
    };
    match &mut taken.receipt {
        Some(receipt) => receipt.opened = Some((person, count(conn, session, &dialogues, 1).await?)),
        None => drop(close_dialogue(conn, session, person).await?),
    }
    Ok(taken)
}

async fn take_some(
    conn: &mut PgConnection,
    session: SessionId,
    capped: Capped,
    units: i32,
) -> Result<Taken, StoreError> {
    let counters = roll(conn, session, capped).await?;
    if let Some(spent) = counters.spent() {
        close(conn, session, &spent).await?;
        return Ok(refused(Use::Refused(spent)));
    }
    if let Some(too_many) = counters.too_many(units) {
        return Ok(refused(too_many));
    }
    let counted = count(conn, session, &counters, units).await?;
    let used = Use::Granted {
        spent: counted.spent.clone(),
    };
    let receipt = Some(Receipt { counted, opened: None });
    Ok(Taken { used, receipt })
}

const fn refused(used: Use) -> Taken {
    Taken { used, receipt: None }
}

/// Gives a use back whose call has certainly not left this machine: to the windows it was counted in, as far as they last. The
/// dialogue that it was counted as is given back too, unless the person was written to again meanwhile: then there is one.
/// Runs in the caller's transaction.
pub async fn give_back(conn: &mut PgConnection, session: SessionId, receipt: &Receipt) -> Result<(), StoreError> {
    if let Some((person, dialogue)) = &receipt.opened {
        lock(conn, session, Capped::Dialogue).await?;
        if close_dialogue(conn, session, *person).await? {
            give_one_back(conn, session, dialogue).await?;
        }
    }
    give_one_back(conn, session, &receipt.counted).await
}

/// Locks a counter. Dialogues before messages, and before who was written to, as [`take`] does.
async fn lock(conn: &mut PgConnection, session: SessionId, capped: Capped) -> Result<(), StoreError> {
    sqlx::query!(
        "-- lock_cap_usage
        SELECT FROM session_cap_usage WHERE session_id = $1 AND action = $2 FOR NO KEY UPDATE",
        session.0,
        capped.as_str(),
    )
    .execute(conn)
    .await
    .map_err(failed("lock_cap_usage"))?;
    Ok(())
}

async fn give_one_back(conn: &mut PgConnection, session: SessionId, receipt: &Counted) -> Result<(), StoreError> {
    sqlx::query!(
        "-- give_cap_back
        UPDATE session_cap_usage SET
            minute_used = CASE WHEN minute_at = $3 THEN greatest(minute_used - $7, 0) ELSE minute_used END,
            hour_used = CASE WHEN hour_at = $4 THEN greatest(hour_used - $7, 0) ELSE hour_used END,
            day_used = CASE WHEN day_at = $5 THEN greatest(day_used - $7, 0) ELSE day_used END,
            closed_until = CASE WHEN closed_until = $6 THEN NULL ELSE closed_until END,
            closed_by = CASE WHEN closed_until = $6 THEN NULL ELSE closed_by END,
            closed_cap = CASE WHEN closed_until = $6 THEN NULL ELSE closed_cap END
        WHERE session_id = $1 AND action = $2",
        session.0,
        receipt.capped.as_str(),
        receipt.minute_at,
        receipt.hour_at,
        receipt.day_at,
        receipt.spent.as_ref().map(|spent| spent.until),
        receipt.units,
    )
    .execute(conn)
    .await
    .map_err(failed("give_cap_back"))?;
    Ok(())
}

/// The counters of this moment's windows, locked.
struct Counters {
    capped: Capped,
    /// When the minute, the hour and the day began.
    begin: (DateTime<Utc>, DateTime<Utc>, DateTime<Utc>),
    windows: [Counter; 3],
}

#[derive(Clone, Copy)]
struct Counter {
    window: Window,
    used: i32,
    cap: i32,
    ends: DateTime<Utc>,
    left: Duration,
}

impl Counters {
    /// The spent cap that opens last.
    fn spent(&self) -> Option<Spent> {
        self.spent_after(0)
    }

    fn spent_after(&self, more: i32) -> Option<Spent> {
        let spent = self
            .windows
            .iter()
            .find(|counter| counter.used.saturating_add(more) >= counter.cap)?;
        Some(self.of(spent))
    }

    /// Why so many at once cannot be had now. Minutes and hours are a pace: where they are smaller than one call, it is made
    /// in one without any other. A day is a bound.
    fn too_many(&self, units: i32) -> Option<Use> {
        if let Some(day) = self
            .windows
            .iter()
            .find(|counter| counter.window == Window::Day && units > counter.cap)
        {
            return Some(Use::Never(self.of(day)));
        }
        let lacks = |counter: &&Counter| {
            let is_first = counter.window != Window::Day && counter.used == 0;
            counter.used.saturating_add(units) > counter.cap && !is_first
        };
        self.windows
            .iter()
            .find(lacks)
            .map(|counter| Use::TooMany(self.of(counter)))
    }

    fn of(&self, counter: &Counter) -> Spent {
        Spent {
            capped: self.capped,
            window: counter.window,
            cap: counter.cap,
            until: counter.ends,
            left: counter.left,
        }
    }
}

/// Moves a session's counters on to the windows of this moment, and locks them. A clock or a time zone that is set back
/// gives nothing new: the later window is kept.
async fn roll(conn: &mut PgConnection, session: SessionId, capped: Capped) -> Result<Counters, StoreError> {
    let row = sqlx::query!(
        r#"-- roll_caps
        WITH clock AS MATERIALIZED (SELECT wireroom_now() AS t),
        cap AS (
            SELECT s.id, s.time_zone, coalesce(c.per_minute, d.per_minute) AS per_minute,
                coalesce(c.per_hour, d.per_hour) AS per_hour, coalesce(c.per_day, d.per_day) AS per_day
            FROM sessions s CROSS JOIN session_cap_defaults d
            LEFT JOIN session_caps c ON c.session_id = s.id AND c.action = d.action
            WHERE s.id = $1 AND d.action = $2
            -- The session before its counters, as whoever deletes it.
            FOR KEY SHARE OF s
        ), rolled AS (
            INSERT INTO session_cap_usage AS u
                (session_id, action, minute_at, minute_used, hour_at, hour_used, day_at, day_used)
            SELECT id, $2, date_trunc('minute', t, time_zone), 0, date_trunc('hour', t, time_zone), 0,
                date_trunc('day', t, time_zone), 0
            FROM cap, clock
            ON CONFLICT (session_id, action) DO UPDATE SET
                minute_used = CASE WHEN u.minute_at >= excluded.minute_at THEN u.minute_used ELSE 0 END,
                hour_used = CASE WHEN u.hour_at >= excluded.hour_at THEN u.hour_used ELSE 0 END,
                day_used = CASE WHEN u.day_at >= excluded.day_at THEN u.day_used ELSE 0 END,
                minute_at = greatest(u.minute_at, excluded.minute_at),
                hour_at = greatest(u.hour_at, excluded.hour_at),
                day_at = greatest(u.day_at, excluded.day_at)
            RETURNING u.minute_at, u.minute_used, u.hour_at, u.hour_used, u.day_at, u.day_used
        ), ends AS (
            -- 36 hours after a midnight it is noon or so of the next day, whatever the clocks do that night.
            SELECT r.minute_at + interval '1 minute' AS minute_ends, r.hour_at + interval '1 hour' AS hour_ends,
                date_trunc('day', r.day_at + interval '36 hours', cap.time_zone) AS day_ends
            FROM rolled r, cap
        )
        SELECT r.minute_at AS "minute_at!", r.hour_at AS "hour_at!", r.day_at AS "day_at!",
            r.minute_used AS "minute_used!", r.hour_used AS "hour_used!", r.day_used AS "day_used!",
            c.per_minute AS "per_minute!", c.per_hour AS "per_hour!", c.per_day AS "per_day!",
            e.minute_ends AS "minute_ends!", e.hour_ends AS "hour_ends!", e.day_ends AS "day_ends!", t AS "now!"
        FROM rolled r, cap c, ends e, clock"#,
        session.0,
        capped.as_str(),
    )
    .fetch_one(conn)
    .await
    .map_err(failed("roll_caps"))?;
    let counter = |window, used, cap, ends: DateTime<Utc>| Counter {
        window,
        used,
        cap,
        ends,
        left: (ends - row.now).to_std().unwrap_or(Duration::ZERO),
    };
    Ok(Counters {
        capped,
        begin: (row.minute_at, row.hour_at, row.day_at),
        windows: [
            counter(Window::Day, row.day_used, row.per_day, row.day_ends),
            counter(Window::Hour, row.hour_used, row.per_hour, row.hour_ends),
            counter(Window::Minute, row.minute_used, row.per_minute, row.minute_ends),
        ],
    })
}

/// Counts uses in every window; answers with those, and the cap that they spent.
async fn count(
    conn: &mut PgConnection,
    session: SessionId,
    counters: &Counters,
    units: i32,
) -> Result<Counted, StoreError> {
    let spent = counters.spent_after(units);
    sqlx::query!(
        "-- count_cap_use
        UPDATE session_cap_usage SET minute_used = minute_used + $6, hour_used = hour_used + $6, day_used = day_used + $6,
            closed_until = $3, closed_by = $4, closed_cap = $5
        WHERE session_id = $1 AND action = $2",
        session.0,
        counters.capped.as_str(),
        spent.as_ref().map(|spent| spent.until),
        spent.as_ref().map(|spent| spent.window.as_str()),
        spent.as_ref().map(|spent| spent.cap),
        units,
    )
    .execute(conn)
    .await
    .map_err(failed("count_cap_use"))?;
    let (minute_at, hour_at, day_at) = counters.begin;
    Ok(Counted {
        capped: counters.capped,
        units,
        minute_at,
        hour_at,
        day_at,
        spent,
    })
}

/// Remembers a cap that was found spent, as after it was lowered.
async fn close(conn: &mut PgConnection, session: SessionId, spent: &Spent) -> Result<(), StoreError> {
    sqlx::query!(
        "-- close_cap
        UPDATE session_cap_usage SET closed_until = $3, closed_by = $4, closed_cap = $5
        WHERE session_id = $1 AND action = $2 AND (closed_until, closed_by, closed_cap) IS DISTINCT FROM ($3, $4, $5)",
        session.0,
        spent.capped.as_str(),
        spent.until,
        spent.window.as_str(),
        spent.cap,
    )
    .execute(conn)
    .await
    .map_err(failed("close_cap"))?;
    Ok(())
}

/// Notes that a session writes to a person; `false`: it did before. That it does so again is noted once.
async fn open_dialogue(conn: &mut PgConnection, session: SessionId, person: i64) -> Result<bool, StoreError> {
    let opened = sqlx::query_scalar!(
        r#"-- open_dialogue
        INSERT INTO session_dialogues AS d (session_id, user_id) VALUES ($1, $2)
        ON CONFLICT (session_id, user_id) DO UPDATE SET written_again = true WHERE NOT d.written_again
        RETURNING NOT written_again AS "opened!""#,
        session.0,
        person,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("open_dialogue"))?;
    Ok(opened.unwrap_or(false))
}

/// Forgets a dialogue that came to nothing; `false`: the person was written to again, and it stays.
async fn close_dialogue(conn: &mut PgConnection, session: SessionId, person: i64) -> Result<bool, StoreError> {
    let closed = sqlx::query!(
        "-- close_dialogue
        DELETE FROM session_dialogues WHERE session_id = $1 AND user_id = $2 AND NOT written_again",
        session.0,
        person,
    )
    .execute(conn)
    .await
    .map_err(failed("close_dialogue"))?;
    Ok(closed.rows_affected() == 1)
}

/// The caps of these sessions that are spent now.
pub async fn spent(conn: &mut PgConnection, sessions: &[SessionId]) -> Result<Vec<(SessionId, Spent)>, StoreError> {
    let ids: Vec<Uuid> = sessions.iter().map(|session| session.0).collect();
    let rows = sqlx::query!(
        r#"-- spent_caps
        SELECT session_id AS "session: SessionId", action, closed_by AS "window!", closed_cap AS "cap!",
            closed_until AS "until!", (extract(epoch FROM closed_until - wireroom_now()) * 1000000)::bigint AS "left!"
        FROM session_cap_usage WHERE session_id = ANY ($1) AND closed_until > wireroom_now()"#,
        &ids,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("spent_caps"))?;
    rows.into_iter()
        .map(|row| {
            let spent = Spent {
                capped: known(&row.action, "spent_caps")?,
                window: Window::parse(&row.window).ok_or_else(|| StoreError::Decode {
                    operation: "spent_caps",
                    detail: format!("window {}", row.window),
                })?,
                cap: row.cap,
                until: row.until,
                left: Duration::from_micros(row.left.try_into().unwrap_or(0)),
            };
            Ok((row.session, spent))
        })
        .collect()
}

fn known(action: &str, operation: &'static str) -> Result<Capped, StoreError> {
    Capped::parse(action).ok_or_else(|| StoreError::Decode {
        operation,
        detail: format!("action {action}"),
    })
}

#[cfg(test)]
mod tests;
