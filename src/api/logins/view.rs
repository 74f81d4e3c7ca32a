//! A login as the API shows it, and the problem behind each refusal.

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::picture;
use crate::{
    api::problem::{Code, Problem},
    store::{
        errand_upkeep::NO_WORKER_WITH_KEY,
        errands::{CHALLENGE, CodeInfo, ErrandProblem, ErrandRecord, ErrandState, Task},
    },
};

/// What is being done for a session outside of its jobs, and what it waits for.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Login")]
pub struct LoginView {
    pub session: Uuid,
    /// `phone`, `bot` and `qr` log in; `import`, `enable`, `export`, `log_out` and `delete` are what their routes say.
    #[schemars(extend("enum" = Task::ALL.iter().map(|task| task.as_str()).collect::<Vec<_>>()))]
    pub method: &'static str,
    /// `working`: a worker is to answer.
    #[schemars(extend("enum" = ErrandState::ALL.iter().map(|state| state.as_str()).collect::<Vec<_>>()))]
    pub state: &'static str,
    /// What to do next, in words.
    pub next: String,
    /// How the code was sent, while it is needed.
    pub code: Option<CodeView>,
    /// The hint the account's owner wrote for the password, while it is needed.
    pub password_hint: Option<String>,
    /// What to scan, while it is needed.
    pub qr: Option<QrView>,
    /// Why the last step did not do what was asked.
    pub problem: Option<Code>,
    pub detail: Option<String>,
    /// Wrong codes and passwords so far; the fifth ends the login.
    pub wrong_tries: i32,
    /// How often another code was asked for; five times at most.
    pub resends: i32,
    /// Telegram asks to wait until then: nothing of the kind is taken before.
    pub retry_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// It is given up then, unless it goes on.
    pub expires_at: DateTime<Utc>,
}

/// How a login code was sent.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "LoginCode")]
pub struct CodeView {
    /// `app`, `sms`, `call`, `flash_call`, `missed_call`, `email`, `fragment_sms`, `word` or `other`.
    #[schemars(example = &"app")]
    pub sent_by: String,
    /// How many digits; null for some ways.
    pub length: Option<i32>,
    /// The way a resend would take; null: as Telegram chooses.
    pub next: Option<String>,
    /// Seconds from the sending until a resend makes sense.
    pub resend_after: Option<i32>,
}

/// A QR login's code: scan it in Settings, Devices of the account's own app.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "LoginQr")]
pub struct QrView {
    #[schemars(example = &"tg://login?token=AQID")]
    pub url: String,
    /// A picture of it: PNG, in base64.
    pub png: String,
    /// It is made anew before that.
    pub expires_at: Option<DateTime<Utc>>,
}

impl From<CodeInfo> for CodeView {
    fn from(code: CodeInfo) -> Self {
        Self {
            sent_by: code.sent_by,
            length: code.length,
            next: code.next,
            resend_after: code.resend_after,
        }
    }
}

impl LoginView {
    pub fn of(record: ErrandRecord) -> Result<Self, Problem> {
        let qr = match (&record.qr_url, record.state) {
            (Some(url), ErrandState::ScanNeeded) => Some(QrView {
                png: STANDARD.encode(picture::png(url).map_err(Problem::internal)?),
                url: url.clone(),
                expires_at: record.qr_expires_at,
            }),
            _ => None,
        };
        let problem = record.problem.map(|problem| problem_of(&record, problem));
        Ok(Self {
            session: record.session.0,
            method: record.task.as_str(),
            state: record.state.as_str(),
            next: next(&record),
            code: record
                .code
                .filter(|_| record.state == ErrandState::CodeNeeded)
                .map(CodeView::from),
            password_hint: record
                .password_hint
                .filter(|_| record.state == ErrandState::PasswordNeeded),
            qr,
            problem: problem.as_ref().map(Problem::code),
            detail: problem.map(|problem| problem.detail().to_owned()),
            wrong_tries: record.tries,
            resends: record.resends,
            retry_at: record.retry_at,
            created_at: record.created_at,
            updated_at: record.updated_at,
            expires_at: record.expires_at,
        })
    }
}

/// Why an imported session is not connected yet, and what to do.
pub const IMPORTED: &str = "The session is stored and not connected: a session that still runs elsewhere dies at once and for \
    good when it is used from two places (AUTH_KEY_DUPLICATED). Stop it there, then POST enable with \
    {\"stopped_elsewhere\": true}. If you cannot be sure, log in by POST /v1/sessions/qr instead: a fresh authorisation \
    disturbs no other.";

fn next(record: &ErrandRecord) -> String {
    let base = format!("/v1/sessions/{}", record.session);
    match (record.state, record.task) {
        (ErrandState::Working, _) => format!("Wait: a worker is to answer. GET {base}/login shows when it has."),
        (ErrandState::CodeNeeded, _) => {
            format!("POST {base}/code with {{\"code\": \"…\"}}, or {base}/resend for another one.")
        }
        (ErrandState::PasswordNeeded, _) => format!("POST {base}/password with {{\"password\": \"…\"}}."),
        (ErrandState::ScanNeeded, _) => {
            format!(
                "Scan the code in the account's own app; GET {base}/login shows the current one, and when it was scanned."
            )
        }
        (ErrandState::Done, Task::Import) => IMPORTED.to_owned(),
        (ErrandState::Done, Task::Export) => {
            format!(
                "The session is disabled. If its text did not reach you, POST {base}/export again. POST {base}/enable with \
                 {{\"stopped_elsewhere\": true}} brings it back."
            )
        }
        (ErrandState::Done, Task::LogOut) => {
            "Nothing: the session is logged out. A login with its label brings it back.".to_owned()
        }
        (ErrandState::Done, _) => "Nothing: the session is ready.".to_owned(),
        (ErrandState::Failed, _) => "It is over; `problem` says why. Begin anew.".to_owned(),
    }
}

/// The problem a step met, as its caller reads it.
pub fn problem_of(record: &ErrandRecord, problem: ErrandProblem) -> Problem {
    use ErrandProblem as P;
    let reason = record.reason.as_deref().unwrap_or("no reason");
    let base = format!("/v1/sessions/{}", record.session);
    let (code, detail) = match problem {
        P::PhoneInvalid => (
            Code::PhoneNumberInvalid,
            "Telegram does not take this number: write it with its country code, such as +999 66 2 0001.".to_owned(),
        ),
        P::PhoneBanned => (
            Code::PhoneNumberBanned,
            "Telegram banned this number. Only Telegram can undo that: see telegram.org/faq_spam.".to_owned(),
        ),
        P::PhoneFlooded => (
            Code::PhoneNumberFlooded,
            "Too many logins were tried with this number. It is left alone for a day: each try makes it longer.".to_owned(),
        ),
        P::PhoneUnregistered => (
            Code::PhoneNumberUnregistered,
            "There is no account of this number. Wireroom makes none: register it in a Telegram app first.".to_owned(),
        ),
        P::CodeWrong => (
            Code::LoginCodeWrong,
            format!("The code is not that one; {} were wrong, and the fifth ends the login. POST {base}/code again.", record.tries),
        ),
        P::CodeExpired => (
            Code::LoginCodeExpired,
            format!("The code is too old. POST {base}/resend for another one."),
        ),
        P::PasswordWrong => (
            Code::PasswordWrong,
            format!("The password is not that one; {} tries were wrong, and the fifth ends the login. POST {base}/password again.", record.tries),
        ),
        P::Flooded => (Code::LoginFlooded, "Telegram asks to wait before this is tried again.".to_owned()),
        P::TooManyTries => (
            Code::LoginTooManyTries,
            "Five tries were wrong. Telegram would lock the number: begin anew, and not at once.".to_owned(),
        ),
        P::BotTokenInvalid => (
            Code::BotTokenInvalid,
            "Telegram does not take this token: @BotFather shows the current one.".to_owned(),
        ),
        P::OtherAccount => (
            Code::OtherAccount,
            "The session belongs to another account. It was left as it was; use another label for this one.".to_owned(),
        ),
        P::ApplicationInvalid => (
            Code::ApplicationInvalid,
            format!(
                "Telegram does not take the application's id and hash, or there are none ({reason}): set TELEGRAM_API_ID and \
                 TELEGRAM_API_HASH for the workers, or POST /v1/applications."
            ),
        ),
        P::KeyShared => (
            Code::AuthorisationShared,
            "Another session has the same authorisation, and Telegram ends one that two connections use. Delete this one with \
             log_out=false, or log in anew: POST /v1/sessions/qr."
                .to_owned(),
        ),
        P::KeyDead => (
            Code::AuthorisationOver,
            format!("The authorisation is over ({reason}). Log in again: POST /v1/sessions/qr or /v1/sessions."),
        ),
        P::AccountBanned => (
            Code::AccountBanned,
            format!("Telegram banned or froze the account ({reason})."),
        ),
        P::Unsupported => (
            Code::LoginUnsupported,
            format!("Telegram asks for something this version does not know: {reason}. POST /v1/sessions/qr may work."),
        ),
        P::Refused => (Code::LoginRefused, format!("Telegram refused: {reason}.")),
        P::NoAnswer => (
            Code::TelegramUnavailable,
            "Telegram did not answer in time, or not readably. Try again.".to_owned(),
        ),
        P::ProxyFailed => (
            Code::ProxyFailed,
            format!("No connection to Telegram was made, and none without the proxy: {reason}. PUT {base}/proxy with a working one."),
        ),
        P::Busy => (
            Code::SessionBusy,
            "Jobs of the session did not end in time, or wait for it. Cancel them, or try again later; the session is as it was."
                .to_owned(),
        ),
        P::Expired => (Code::LoginExpired, expired(record)),
        P::Cancelled => (Code::LoginCancelled, "Somebody gave it up. Begin anew.".to_owned()),
    };
    let problem = Problem::new(code, detail).session(record.session);
    match record.retry_left {
        Some(seconds) => problem.header("Retry-After", seconds.to_string()),
        None => problem,
    }
}

/// Why nothing came of it for so long, as far as that is known.
fn expired(record: &ErrandRecord) -> String {
    let minutes = CHALLENGE.as_secs() / 60;
    let because = match record.reason.as_deref() {
        None => String::new(),
        Some(reason) => match reason.strip_prefix(NO_WORKER_WITH_KEY) {
            Some(key) => format!(", and no worker ran that has the key `{key}` in WIREROOM_MASTER_KEYS: start one"),
            None => ", and no worker ran: start one".to_owned(),
        },
    };
    format!("It waited for more than {minutes} minutes{because}. Begin anew.")
}
