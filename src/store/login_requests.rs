//! Asking for a login, its next step, or another errand: what the API and the command line do alike. Everything secret is sealed
//! for the workers here; nothing is opened.

use serde_json::json;
use sqlx::PgConnection;

use super::{
    StoreError, applications, errand_upkeep,
    errands::{self, ErrandRecord, ErrandState, Home, MOST_RESENDS, NewErrand, Step, Task},
    session_logins::{self, Before, Locked, UnusedSession},
    session_proxies::{self, By},
    sessions::SessionState,
};
use crate::{
    ids::{ApplicationId, ErrandId, SessionId},
    letterbox::{Sealed, Slot},
    proxy::Proxy,
};

/// Where a new session belongs when nobody says so.
const DEFAULT_POOL: &str = "default";

/// Who asks, for the audit log.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// `key:<id>` or `cli`.
    pub actor: &'a str,
    pub request_id: Option<&'a str>,
}

/// A login, or an import, of a session by its label.
#[derive(Debug, Clone, Copy)]
pub struct LoginRequest<'a> {
    pub label: &'a str,
    /// One that exists; `None`: the session's own, and of a new session `default`.
    pub pool: Option<&'a str>,
    /// `None`: the session's own, and of a new session the default one.
    pub application: Option<ApplicationId>,
    /// What the session is connected through from now on; `None`: what it has, if anything.
    pub proxy: Option<&'a Proxy>,
    pub task: Task,
    /// The phone number, the bot's token, the authorisation.
    pub input: Option<&'a [u8]>,
}

/// What became of asking for an errand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// It is stored; its first step is number 1.
    Now { session: SessionId, errand: ErrandId },
    /// The session is in a state that does not allow it.
    Wrong { session: SessionId },
    /// Another errand of the session is live.
    Busy { session: SessionId },
    /// Telegram asked to wait when it was tried last, and that is not over: the session's latest errand says until when.
    Rests { session: SessionId },
    /// Nothing can be sealed: no worker has started on this database.
    NoWorker,
}

/// Begins a login or an import: a new session of that label, or one that is not in use.
pub async fn begin_login(
    conn: &mut PgConnection,
    request: &LoginRequest<'_>,
    asker: Asker<'_>,
) -> Result<Begun, StoreError> {
    let Some(slot) = errands::slot(conn).await? else {
        return Ok(Begun::NoWorker);
    };
    let fresh = SessionId::generate();
    let new = UnusedSession {
        id: fresh,
        label: request.label,
        pool: request.pool.unwrap_or(DEFAULT_POOL),
        application: match request.application {
            Some(named) => Some(named),
            None => applications::default(conn).await?,
        },
        state: SessionState::New,
        reason: Some("LOGIN_BEGUN"),
    };
    let inserted = session_logins::insert_unused(conn, &new).await?;
    let Some(session) = session_logins::lock_by_label(conn, request.label).await? else {
        return Err(not_there("begin_login"));
    };
    if !inserted {
        if is_in_use(&session) {
            return Ok(Begun::Wrong { session: session.id });
        }
        if is_busy(conn, session.id).await? {
            return Ok(Begun::Busy { session: session.id });
        }
    }
    // What was ended just now may have left it in another state.
    let Some(session) = session_logins::lock(conn, session.id).await? else {
        return Err(not_there("begin_login"));
    };
    if is_in_use(&session) {
        return Ok(Begun::Wrong { session: session.id });
    }
    if let Some(proxy) = request.proxy {
        session_proxies::put(conn, session.id, proxy, &slot).await?;
        let by = By {
            actor: asker.actor,
            request_id: asker.request_id,
        };
        session_proxies::note(conn, session.id, Some(proxy), by).await?;
    }
    // Where it belongs changes with the login, and not before that has succeeded.
    let is_to_move = !inserted && (request.pool.is_some() || request.application.is_some());
    let home = is_to_move.then_some(Home {
        pool: request.pool.unwrap_or(&session.pool),
        application: request.application.or(session.application),
    });
    let pool = request.pool.unwrap_or(&session.pool);
    let details = json!({ "method": request.task.as_str(), "label": request.label, "pool": pool });
    let action = if request.task == Task::Import {
        "session.import_begun"
    } else {
        "session.login_begun"
    };
    let asked = Asked {
        task: request.task,
        input: request.input,
        reply_to: None,
        home,
    };
    store_errand(conn, &session, asked, &slot, asker, (action, details)).await
}

fn is_in_use(session: &Locked) -> bool {
    SessionState::parse(&session.state).is_some_and(SessionState::is_holdable)
}

fn not_there(operation: &'static str) -> StoreError {
    StoreError::Rows {
        operation,
        changed: 0,
        expected: 1,
    }
}

/// Whether something is being done for the session; what nobody took up in time is ended first.
async fn is_busy(conn: &mut PgConnection, session: SessionId) -> Result<bool, StoreError> {
    if errands::live(conn, session).await?.is_none() {
        return Ok(false);
    }
    errand_upkeep::end_abandoned(conn, Some(session), 1).await?;
    Ok(errands::live(conn, session).await?.is_some())
}

/// Whether Telegram asked to wait when the same was tried last.
async fn rests(conn: &mut PgConnection, session: SessionId, task: Task) -> Result<bool, StoreError> {
    let last = errands::latest(conn, session).await?;
    Ok(last.is_some_and(|last| last.task == task && last.retry_left.is_some()))
}

/// Which sessions an errand may be begun for.
fn allows(task: Task, session: &Locked) -> bool {
    match task {
        Task::Enable => session.state == "disabled" && session.has_key,
        Task::Export => session.has_key && (is_in_use(session) || session.state == "disabled"),
        Task::LogOut => session.has_key,
        Task::Delete => true,
        Task::Phone | Task::Bot | Task::Qr | Task::Import => false,
    }
}

/// Begins an errand for a session that is there. `None`: there is no such session.
pub async fn begin_errand(
    conn: &mut PgConnection,
    session: SessionId,
    task: Task,
    input: Option<&[u8]>,
    reply_to: Option<Slot>,
    asker: Asker<'_>,
) -> Result<Option<Begun>, StoreError> {
    let Some(locked) = session_logins::lock(conn, session).await? else {
        return Ok(None);
    };
    let Some(slot) = errands::slot(conn).await? else {
        return Ok(Some(Begun::NoWorker));
    };
    if is_busy(conn, session).await? {
        return Ok(Some(Begun::Busy { session }));
    }
    // What was ended just now may have left it in another state.
    let Some(locked) = session_logins::lock(conn, locked.id).await? else {
        return Ok(None);
    };
    if !allows(task, &locked) {
        return Ok(Some(Begun::Wrong { session }));
    }
    if rests(conn, session, task).await? {
        return Ok(Some(Begun::Rests { session }));
    }
    let (action, reason) = match task {
        Task::Export => ("session.export_asked", Some("the session is exported")),
        Task::LogOut => ("session.log_out_asked", Some("the session is logged out")),
        Task::Delete => ("session.delete_asked", Some("the session is deleted")),
        _ => ("session.enable_asked", None),
    };
    let asked = Asked {
        task,
        input,
        reply_to,
        home: None,
    };
    let begun = store_errand(conn, &locked, asked, &slot, asker, (action, json!({}))).await?;
    if let (Begun::Now { errand, .. }, Some(reason)) = (begun, reason) {
        // So that its jobs run out, and no more are claimed.
        session_logins::hold_back(conn, session, reason, &format!("errand:{errand}")).await?;
    }
    Ok(Some(begun))
}

/// What is to be done, with what.
struct Asked<'a> {
    task: Task,
    input: Option<&'a [u8]>,
    reply_to: Option<Slot>,
    home: Option<Home<'a>>,
}

async fn store_errand(
    conn: &mut PgConnection,
    session: &Locked,
    asked: Asked<'_>,
    slot: &(String, Slot),
    asker: Asker<'_>,
    (action, details): (&str, serde_json::Value),
) -> Result<Begun, StoreError> {
    let id = ErrandId::generate();
    let errand = NewErrand {
        id,
        session: session.id,
        task: asked.task,
        input: asked
            .input
            .map(|input| seal(slot, id, Step::Start, input))
            .transpose()?,
        reply_to: asked.reply_to,
        was: &session.state,
        was_reason: session.reason.as_deref(),
        home: asked.home,
        created_by: asker.actor,
    };
    errands::insert(conn, &errand).await?;
    session_logins::note(conn, asker.actor, action, session.id, asker.request_id, details).await?;
    Ok(Begun::Now {
        session: session.id,
        errand: id,
    })
}

/// What became of asking for a step.
#[derive(Debug, Clone)]
pub enum StepAsked {
    /// It is to be done; its number.
    Now {
        errand: ErrandId,
        seq: i32,
    },
    /// The session has no live login; the one that ended last, if any.
    Over(Option<Box<ErrandRecord>>),
    /// Another step is being done.
    Busy,
    /// The login waits for something else.
    OutOfTurn(Box<ErrandRecord>),
    /// Telegram asked to wait, and that is not over.
    Rests(Box<ErrandRecord>),
    /// Codes were asked for [`MOST_RESENDS`] times.
    TooOften(Box<ErrandRecord>),
    NoWorker,
}

/// Asks for the next step of a session's login: its code, its password, or another code.
pub async fn ask_step(
    conn: &mut PgConnection,
    session: SessionId,
    step: Step,
    input: Option<&[u8]>,
) -> Result<StepAsked, StoreError> {
    let Some(errand) = errands::lock_live(conn, session).await? else {
        let last = errands::latest(conn, session).await?;
        return Ok(StepAsked::Over(last.map(Box::new)));
    };
    if errand.asked > errand.answered {
        return Ok(StepAsked::Busy);
    }
    let fits = match step {
        Step::Start => false,
        Step::Code | Step::Resend => errand.task == Task::Phone && errand.state == ErrandState::CodeNeeded,
        Step::Password => errand.state == ErrandState::PasswordNeeded,
    };
    if !fits {
        return Ok(StepAsked::OutOfTurn(Box::new(errand)));
    }
    if errand.retry_left.is_some() {
        return Ok(StepAsked::Rests(Box::new(errand)));
    }
    if step == Step::Resend && errand.resends >= MOST_RESENDS {
        return Ok(StepAsked::TooOften(Box::new(errand)));
    }
    let Some(slot) = errands::slot(conn).await? else {
        return Ok(StepAsked::NoWorker);
    };
    let input = input.map(|input| seal(&slot, errand.id, step, input)).transpose()?;
    let seq = errands::ask(conn, errand.id, step, input.as_ref()).await?;
    Ok(StepAsked::Now { errand: errand.id, seq })
}

/// Gives a session's live errand up; the session is as it was. `None`: there is none.
pub async fn give_up(
    conn: &mut PgConnection,
    session: SessionId,
    asker: Asker<'_>,
) -> Result<Option<ErrandId>, StoreError> {
    let Some(errand) = errands::lock_live(conn, session).await? else {
        return Ok(None);
    };
    errands::cancel(conn, errand.id).await?;
    session_logins::end_hold(conn, session, &format!("errand:{}", errand.id)).await?;
    let before = Before {
        session,
        task: errand.task,
        state: &errand.was,
        reason: errand.was_reason.as_deref(),
    };
    session_logins::put_back(conn, &before, "LOGIN_CANCELLED").await?;
    let details = json!({ "method": errand.task.as_str() });
    session_logins::note(
        conn,
        asker.actor,
        "session.login_cancelled",
        session,
        asker.request_id,
        details,
    )
    .await?;
    Ok(Some(errand.id))
}

fn seal(slot: &(String, Slot), errand: ErrandId, step: Step, input: &[u8]) -> Result<Sealed, StoreError> {
    let (key_id, slot) = slot;
    let sealed = slot.seal(&errands::input_owner(errand, step), input);
    Ok(Sealed {
        key_id: key_id.clone(),
        bytes: sealed.map_err(|error| StoreError::Decode {
            operation: "seal_errand_input",
            detail: error.to_string(),
        })?,
    })
}
