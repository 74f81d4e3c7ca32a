//! Asking for a login, its next step, or another errand: what the API and the command line do alike. Everything secret is sealed
//! for the workers here; nothing is opened.

use serde_json::json;
use sqlx::PgConnection;

use super::{
    StoreError,
    errands::{self, ErrandRecord, ErrandState, NewErrand, Step, Task},
    session_logins::{self, Locked, UnusedSession},
    session_proxies::{self, By},
    sessions::SessionState,
};
use crate::{
    ids::{ApplicationId, ErrandId, SessionId},
    letterbox::{Sealed, Slot},
    proxy::Proxy,
};

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
    /// One that exists.
    pub pool: &'a str,
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
        pool: request.pool,
        application: request.application,
        state: SessionState::New,
        reason: None,
    };
    let inserted = session_logins::insert_unused(conn, &new).await?;
    let Some(session) = session_logins::lock_by_label(conn, request.label).await? else {
        return Err(StoreError::Rows {
            operation: "begin_login",
            changed: 0,
            expected: 1,
        });
    };
    if !inserted {
        if matches!(session.state.as_str(), "ready" | "limited") {
            return Ok(Begun::Wrong { session: session.id });
        }
        if errands::live(conn, session.id).await?.is_some() {
            return Ok(Begun::Busy { session: session.id });
        }
        session_logins::rehome(conn, session.id, request.pool, request.application).await?;
    }
    if let Some(proxy) = request.proxy {
        session_proxies::put(conn, session.id, proxy, &slot).await?;
        let by = By {
            actor: asker.actor,
            request_id: asker.request_id,
        };
        session_proxies::note(conn, session.id, Some(proxy), by).await?;
    }
    let details = json!({ "method": request.task.as_str(), "label": request.label, "pool": request.pool });
    let action = if request.task == Task::Import {
        "session.import_begun"
    } else {
        "session.login_begun"
    };
    store_errand(
        conn,
        &session,
        request.task,
        request.input,
        None,
        &slot,
        asker,
        (action, details),
    )
    .await
}

/// Which sessions an errand may be begun for.
fn allows(task: Task, session: &Locked) -> bool {
    match task {
        Task::Enable => session.state == "disabled" && session.has_key,
        Task::Export => session.has_key && matches!(session.state.as_str(), "ready" | "limited" | "disabled"),
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
    if errands::live(conn, session).await?.is_some() {
        return Ok(Some(Begun::Busy { session }));
    }
    if !allows(task, &locked) {
        return Ok(Some(Begun::Wrong { session }));
    }
    let (action, reason) = match task {
        Task::Export => ("session.export_asked", Some("the session is exported")),
        Task::LogOut => ("session.log_out_asked", Some("the session is logged out")),
        Task::Delete => ("session.delete_asked", Some("the session is deleted")),
        _ => ("session.enable_asked", None),
    };
    let begun = store_errand(conn, &locked, task, input, reply_to, &slot, asker, (action, json!({}))).await?;
    if let (Begun::Now { errand, .. }, Some(reason)) = (begun, reason) {
        // So that its jobs run out, and no more are claimed.
        session_logins::hold_back(conn, session, reason, &format!("errand:{errand}")).await?;
    }
    Ok(Some(begun))
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one row, and of the audit row beside it"
)]
async fn store_errand(
    conn: &mut PgConnection,
    session: &Locked,
    task: Task,
    input: Option<&[u8]>,
    reply_to: Option<Slot>,
    slot: &(String, Slot),
    asker: Asker<'_>,
    (action, details): (&str, serde_json::Value),
) -> Result<Begun, StoreError> {
    let id = ErrandId::generate();
    let errand = NewErrand {
        id,
        session: session.id,
        task,
        input: input.map(|input| seal(slot, id, Step::Start, input)).transpose()?,
        reply_to,
        was: &session.state,
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
    if let Some(locked) = session_logins::lock(conn, session).await?
        && matches!(locked.state.as_str(), "code_needed" | "password_needed")
    {
        let before = SessionState::before_login(&errand.was);
        session_logins::set_state(conn, session, before, Some("LOGIN_CANCELLED")).await?;
    }
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
