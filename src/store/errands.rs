//! Errands: what somebody asked of the workers for one session outside of its lease (a login with its challenges, an import,
//! an export, a log-out), as the side that asks sees them. [`errand_work`](super::errand_work) is the worker's side.
//!
//! A step is asked for and answered; both are counted, so that whoever waits knows its answer from an older one. What a step
//! needs is sealed for the workers and erased by the answer, or when five minutes have passed.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use zeroize::Zeroizing;

use super::{StoreError, failed, leases::interval};
use crate::{
    ids::{ApplicationId, ErrandId, SessionId},
    letterbox::Slot,
    vault::Sealed,
};

/// How long a challenge waits for its answer.
pub const CHALLENGE: Duration = Duration::from_mins(5);
/// How often another code may be asked for in one login: Telegram would lock the number.
pub const MOST_RESENDS: i32 = 5;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word it is stored as.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }

            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.as_str() == word)
            }
        }
    };
}

words! {
    /// What is to be done.
    Task {
        /// Log in with a phone number.
        Phone = "phone",
        /// Log in with a bot's token.
        Bot = "bot",
        /// Log in by a code that another client of the account scans.
        Qr = "qr",
        /// Store an authorisation made elsewhere, without connecting.
        Import = "import",
        /// Check a disabled session with one call, and make it ready.
        Enable = "enable",
        /// Take a session out of use and hand its authorisation out.
        Export = "export",
        /// End the authorisation at Telegram.
        LogOut = "log_out",
        /// The same, and delete the session.
        Delete = "delete",
    }
}

words! {
    /// Where an errand stands.
    ErrandState {
        Working = "working",
        CodeNeeded = "code_needed",
        PasswordNeeded = "password_needed",
        ScanNeeded = "scan_needed",
        Done = "done",
        Failed = "failed",
    }
}

words! {
    /// What a worker is asked to do next.
    Step {
        Start = "start",
        Resend = "resend",
        Code = "code",
        Password = "password",
    }
}

words! {
    /// Why a step did not do what was asked.
    ErrandProblem {
        PhoneInvalid = "phone_number_invalid",
        PhoneBanned = "phone_number_banned",
        PhoneFlooded = "phone_number_flooded",
        PhoneUnregistered = "phone_number_unregistered",
        CodeWrong = "login_code_wrong",
        CodeExpired = "login_code_expired",
        PasswordWrong = "password_wrong",
        /// Telegram asks to wait: `retry_at` says until when.
        Flooded = "login_flooded",
        TooManyTries = "login_too_many_tries",
        BotTokenInvalid = "bot_token_invalid",
        /// The session is another account's.
        OtherAccount = "other_account",
        /// Telegram does not take the application's id and hash, or there are none.
        ApplicationInvalid = "application_invalid",
        /// Another session has the same authorisation: connecting both would end it.
        KeyShared = "authorisation_shared",
        /// The authorisation is over: logged out, revoked, or used from two places.
        KeyDead = "authorisation_over",
        AccountBanned = "account_banned",
        /// Telegram asks for a way of logging in that this version does not know.
        Unsupported = "login_unsupported",
        /// Telegram refused for another reason.
        Refused = "login_refused",
        /// Telegram did not answer, or not readably.
        NoAnswer = "telegram_unavailable",
        /// The session's proxy gave no connection.
        ProxyFailed = "proxy_failed",
        /// Jobs of the session did not end in time.
        Busy = "session_busy",
        Expired = "login_expired",
        Cancelled = "login_cancelled",
    }
}

impl ErrandProblem {
    /// One sentence for a person. Never any content.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::PhoneInvalid => "Telegram does not take this number: write it with its country code.",
            Self::PhoneBanned => "Telegram banned this number.",
            Self::PhoneFlooded => "Too many logins were tried with this number: leave it alone for a day.",
            Self::PhoneUnregistered => "There is no account of this number.",
            Self::CodeWrong => "The code is not that one.",
            Self::CodeExpired => "The code is too old: ask for another one.",
            Self::PasswordWrong => "The password is not that one.",
            Self::Flooded => "Telegram asks to wait.",
            Self::TooManyTries => "Five tries were wrong: begin anew, and not at once.",
            Self::BotTokenInvalid => "Telegram does not take this bot's token.",
            Self::OtherAccount => "The session belongs to another account.",
            Self::ApplicationInvalid => {
                "Telegram does not take the application's id and hash, or there are none: see TELEGRAM_API_ID."
            }
            Self::KeyShared => "Another session has the same authorisation.",
            Self::KeyDead => "The authorisation is over: log in again.",
            Self::AccountBanned => "Telegram banned or froze the account.",
            Self::Unsupported => "Telegram asks for something this version does not know.",
            Self::Refused => "Telegram refused.",
            Self::NoAnswer => "Telegram did not answer in time.",
            Self::ProxyFailed => "The session's SOCKS5 proxy gave no connection to Telegram.",
            Self::Busy => "Jobs of the session did not end in time.",
            Self::Expired => "It waited too long: begin anew.",
            Self::Cancelled => "Somebody gave it up.",
        }
    }
}

impl ErrandProblem {
    /// Telegram asks to wait: nothing of the kind is tried before the time has come.
    pub const fn is_flood(self) -> bool {
        matches!(self, Self::Flooded | Self::PhoneFlooded)
    }
}

impl Task {
    /// Whether it makes a fresh authorisation.
    pub const fn logs_in(self) -> bool {
        matches!(self, Self::Phone | Self::Bot | Self::Qr)
    }
}

impl ErrandState {
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// How a login code was sent.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CodeInfo {
    /// `app`, `sms`, `call`, `flash_call`, `missed_call`, `email`, `fragment_sms`, `word` or `other`.
    pub sent_by: String,
    /// How many digits; unknown for some ways.
    pub length: Option<i32>,
    /// The way a resend would take; `None`: as Telegram chooses.
    pub next: Option<String>,
    /// Seconds until a resend makes sense.
    pub resend_after: Option<i32>,
}

/// An authorisation in a letter: what an import brings and an export hands out. Wiped when it is dropped.
#[derive(serde::Serialize, serde::Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct Portable {
    pub dc: i32,
    /// The auth key, in base64.
    pub key: String,
    pub account_id: Option<i64>,
    pub is_bot: bool,
    /// Where the data centre is, for formats that say it.
    #[serde(default)]
    pub address: String,
    /// The API id of the application it connects with, likewise.
    #[serde(default)]
    pub api_id: Option<i32>,
}

impl Portable {
    /// Bytes of one in text, and some more: a buffer that grew would leave a copy behind.
    const TEXT: usize = 1_024;

    /// What goes into the letter.
    pub fn to_text(&self) -> Zeroizing<Vec<u8>> {
        let mut text = Zeroizing::new(Vec::with_capacity(Self::TEXT));
        // A struct of strings and numbers always serializes, and a vector takes everything.
        let _ = serde_json::to_writer(&mut *text, self);
        text
    }
}

/// An errand about to be stored.
#[derive(Debug, Clone)]
pub struct NewErrand<'a> {
    pub id: ErrandId,
    pub session: SessionId,
    pub task: Task,
    /// What the first step needs, sealed for the workers as [`input_owner`] says.
    pub input: Option<Sealed>,
    /// Where what comes out is to be sealed for.
    pub reply_to: Option<Slot>,
    /// The session's state before, and why.
    pub was: &'a str,
    pub was_reason: Option<&'a str>,
    /// Where the session belongs once it is logged in; `None`: where it is.
    pub home: Option<Home<'a>>,
    pub created_by: &'a str,
}

/// Where a session belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home<'a> {
    pub pool: &'a str,
    pub application: Option<ApplicationId>,
}

/// An errand, without what is sealed in it.
#[derive(Debug, Clone)]
pub struct ErrandRecord {
    pub id: ErrandId,
    pub session: SessionId,
    pub task: Task,
    pub state: ErrandState,
    /// The session's state before, and why.
    pub was: String,
    pub was_reason: Option<String>,
    pub asked: i32,
    pub answered: i32,
    pub problem: Option<ErrandProblem>,
    /// Telegram's own name for it.
    pub reason: Option<String>,
    pub retry_at: Option<DateTime<Utc>>,
    /// Whole seconds that are left of it by the database's clock; `None`: it has come, or there is none.
    pub retry_left: Option<u32>,
    pub code: Option<CodeInfo>,
    pub password_hint: Option<String>,
    pub qr_url: Option<String>,
    pub qr_expires_at: Option<DateTime<Utc>>,
    pub tries: i32,
    /// How often another code was asked for.
    pub resends: i32,
    pub output: Option<Vec<u8>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// What the input of one step belongs to, for the letterbox.
pub fn input_owner(errand: ErrandId, step: Step) -> String {
    format!("errand:{errand}:{}", step.as_str())
}

/// What comes out of an errand belongs to this, for the letterbox.
pub fn output_owner(errand: ErrandId) -> String {
    format!("errand:{errand}:output")
}

/// Where to seal for the workers, and under which key's id; `None`: no worker has started on this database yet.
pub async fn slot(conn: &mut PgConnection) -> Result<Option<(String, Slot)>, StoreError> {
    let row = sqlx::query!(
        r#"-- letterbox_slot
        SELECT id, slot AS "slot!" FROM vault_keys WHERE slot IS NOT NULL ORDER BY sealing_at DESC NULLS LAST, id LIMIT 1"#
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("letterbox_slot"))?;
    row.map(|row| {
        let slot = Slot::from_bytes(&row.slot).map_err(|_| StoreError::Decode {
            operation: "letterbox_slot",
            detail: "a slot of another length".into(),
        })?;
        Ok((row.id, slot))
    })
    .transpose()
}

/// Stores an errand with its first step to be done. The session must be locked by the caller and have no live errand.
pub async fn insert(conn: &mut PgConnection, errand: &NewErrand<'_>) -> Result<(), StoreError> {
    sqlx::query!(
        "-- insert_errand
        INSERT INTO errands (id, session_id, task, step, input_sealed, input_sealed_with, reply_to, was, was_reason,
            new_pool, new_application, created_by, expires_at)
        VALUES ($1, $2, $3, 'start', $4, $5, $6, $7, $8, $9, $10, $11, wireroom_now() + $12::interval)",
        errand.id.0,
        errand.session.0,
        errand.task.as_str(),
        errand.input.as_ref().map(|input| input.bytes.as_slice()),
        errand.input.as_ref().map(|input| input.key_id.as_str()),
        errand.reply_to.as_ref().map(|slot| slot.as_bytes().as_slice()),
        errand.was,
        errand.was_reason,
        errand.home.map(|home| home.pool),
        errand.home.and_then(|home| home.application).map(|id| id.0),
        errand.created_by,
        interval(CHALLENGE),
    )
    .execute(conn)
    .await
    .map_err(failed("insert_errand"))?;
    Ok(())
}

/// One errand.
pub async fn get(conn: &mut PgConnection, id: ErrandId) -> Result<Option<ErrandRecord>, StoreError> {
    Ok(select(conn, Some(id), None, false).await?.pop())
}

/// The session's latest errand, a live one if there is one.
pub async fn latest(conn: &mut PgConnection, session: SessionId) -> Result<Option<ErrandRecord>, StoreError> {
    Ok(select(conn, None, Some(session), false).await?.pop())
}

/// The session's live errand.
pub async fn live(conn: &mut PgConnection, session: SessionId) -> Result<Option<ErrandRecord>, StoreError> {
    Ok(select(conn, None, Some(session), true).await?.pop())
}

async fn select(
    conn: &mut PgConnection,
    id: Option<ErrandId>,
    session: Option<SessionId>,
    only_live: bool,
) -> Result<Vec<ErrandRecord>, StoreError> {
    let rows = sqlx::query!(
        r#"-- read_errand
        SELECT id AS "id: ErrandId", session_id AS "session: SessionId", task, state, was, was_reason, asked, answered,
            problem, reason, retry_at,
            CASE WHEN retry_at > wireroom_now() THEN ceil(extract(epoch FROM retry_at - wireroom_now()))::bigint END AS retry_left,
            code_info, password_hint, qr_url, qr_expires_at, tries, resends, output_sealed, created_at, updated_at,
            expires_at
        FROM errands
        WHERE ($1::uuid IS NULL OR id = $1) AND ($2::uuid IS NULL OR session_id = $2)
            AND (NOT $3 OR state NOT IN ('done', 'failed'))
        ORDER BY state NOT IN ('done', 'failed') DESC, created_at DESC LIMIT 1"#,
        id.map(|id| id.0),
        session.map(|id| id.0),
        only_live,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("read_errand"))?;
    rows.into_iter()
        .map(|row| {
            Ok(ErrandRecord {
                id: row.id,
                session: row.session,
                task: known(Task::parse(&row.task), &row.task)?,
                state: known(ErrandState::parse(&row.state), &row.state)?,
                was: row.was,
                was_reason: row.was_reason,
                asked: row.asked,
                answered: row.answered,
                problem: row
                    .problem
                    .map(|word| known(ErrandProblem::parse(&word), &word))
                    .transpose()?,
                reason: row.reason,
                retry_at: row.retry_at,
                retry_left: row.retry_left.map(|left| u32::try_from(left).unwrap_or(u32::MAX)),
                code: code_info(row.code_info)?,
                password_hint: row.password_hint,
                qr_url: row.qr_url,
                qr_expires_at: row.qr_expires_at,
                tries: row.tries,
                resends: row.resends,
                output: row.output_sealed,
                created_at: row.created_at,
                updated_at: row.updated_at,
                expires_at: row.expires_at,
            })
        })
        .collect()
}

/// Locks the session's live errand until the transaction ends: between this and [`ask`] nobody else asks or answers.
pub async fn lock_live(conn: &mut PgConnection, session: SessionId) -> Result<Option<ErrandRecord>, StoreError> {
    let id = sqlx::query_scalar!(
        r#"-- lock_errand
        SELECT id AS "id: ErrandId" FROM errands WHERE session_id = $1 AND state NOT IN ('done', 'failed') FOR UPDATE"#,
        session.0,
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("lock_errand"))?;
    match id {
        Some(id) => get(conn, id).await,
        None => Ok(None),
    }
}

/// Asks for a step of an errand that the caller has locked; answers with the step's number.
pub async fn ask(
    conn: &mut PgConnection,
    errand: ErrandId,
    step: Step,
    input: Option<&Sealed>,
) -> Result<i32, StoreError> {
    sqlx::query_scalar!(
        "-- ask_errand
        UPDATE errands SET step = $2, asked = asked + 1, input_sealed = $3, input_sealed_with = $4, problem = NULL,
            reason = NULL, retry_at = NULL, resends = resends + ($2 = 'resend')::int, updated_at = wireroom_now(), expires_at = wireroom_now() + $5::interval
        WHERE id = $1 RETURNING asked",
        errand.0,
        step.as_str(),
        input.map(|input| input.bytes.as_slice()),
        input.map(|input| input.key_id.as_str()),
        interval(CHALLENGE),
    )
    .fetch_one(conn)
    .await
    .map_err(failed("ask_errand"))
}

/// Ends a live errand that its asker gave up, and erases what was sealed, but for the progress: whoever has the errand, or the next
/// worker when that one is dead, ends by it what may have been authorised, and erases it then. Its worker's next write is refused;
/// its hold stays until the worker has hung up, or runs out: the session's key may be connected until then.
pub async fn cancel(conn: &mut PgConnection, errand: ErrandId) -> Result<bool, StoreError> {
    let ended = sqlx::query!(
        "-- cancel_errand
        UPDATE errands SET state = 'failed', problem = $2, answered = asked, input_sealed = NULL, input_sealed_with = NULL,
            output_sealed = NULL, qr_url = NULL, password_hint = NULL, retry_at = NULL,
            updated_at = wireroom_now()
        WHERE id = $1 AND state NOT IN ('done', 'failed')",
        errand.0,
        ErrandProblem::Cancelled.as_str(),
    )
    .execute(conn)
    .await
    .map_err(failed("cancel_errand"))?;
    Ok(ended.rows_affected() == 1)
}

/// Erases what came out of an errand, after whoever waited has it.
pub async fn erase_output(conn: &mut PgConnection, errand: ErrandId) -> Result<(), StoreError> {
    sqlx::query!(
        "-- erase_errand_output
        UPDATE errands SET output_sealed = NULL WHERE id = $1",
        errand.0,
    )
    .execute(conn)
    .await
    .map_err(failed("erase_errand_output"))?;
    Ok(())
}

pub(super) fn code_info(value: Option<Value>) -> Result<Option<CodeInfo>, StoreError> {
    value
        .map(serde_json::from_value)
        .transpose()
        .map_err(|error| StoreError::Decode {
            operation: "read_errand",
            detail: error.to_string(),
        })
}

pub(super) fn known<T>(parsed: Option<T>, word: &str) -> Result<T, StoreError> {
    parsed.ok_or_else(|| StoreError::Decode {
        operation: "read_errand",
        detail: word.to_owned(),
    })
}
