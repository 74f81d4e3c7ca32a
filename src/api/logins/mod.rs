//! Logins over the API: begun, answered step by step, given up; sessions imported, enabled, exported, logged out and deleted.
//!
//! A worker does all of it. The API seals what it is given, stores the request, and waits up to a minute for the answer; when
//! none comes in time the caller gets 504 and goes on with the same session.

mod asking;
mod begin;
mod follow;
mod formats;
mod manage;
mod picture;
mod proxy;
mod sqlite;
mod steps;
#[cfg(test)]
mod tests;
mod view;

use std::time::Duration;

use poem::http::{HeaderMap, Method};
use tokio::time::{Instant, sleep};

use self::view::problem_of;
pub use self::{
    begin::{BeginApi, ImportBody, LoginBody, QrBody},
    follow::FollowLoginApi,
    manage::{DeleteView, EnableBody, ExportBody, ExportView, ManageSessionApi},
    proxy::{ProxyApi, ProxyBody},
    steps::{CodeBody, PasswordBody, StepsApi},
    view::LoginView,
};
use super::{
    State, prefer,
    problem::{Code, Problem},
    wait::Seat,
};
use crate::{
    ids::{ErrandId, SessionId},
    store::{
        self,
        errands::{self, ErrandRecord, ErrandState},
    },
};

/// How long a request waits for a worker's answer.
pub const WAIT: Duration = Duration::from_mins(1);

/// How often the answer is looked for, at first and later.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LAST_LOOK: Duration = Duration::from_millis(250);

/// Whether a request waits for a worker's answer, so that it may take [`WAIT`].
pub fn waits(method: &Method, path: &str) -> bool {
    let asks = method == Method::POST || method == Method::DELETE;
    asks && (path == "/v1/sessions" || path.starts_with("/v1/sessions/"))
}

/// What came of waiting.
enum Waited {
    Answered(Box<ErrandRecord>),
    /// The row is gone, with its session.
    Gone,
    Pending,
}

impl Waited {
    /// The answer, or the problem it met; `pending` when there is none yet.
    fn record(self, pending: impl FnOnce() -> Problem) -> Result<Box<ErrandRecord>, Problem> {
        match self {
            Self::Pending => Err(pending()),
            Self::Gone => Err(Problem::new(
                Code::SessionNotFound,
                "The session was deleted meanwhile.",
            )),
            Self::Answered(record) => match record.problem {
                Some(problem) => Err(problem_of(&record, problem)),
                None if record.state == ErrandState::Failed => {
                    Err(Problem::internal("an errand failed without a problem"))
                }
                None => Ok(record),
            },
        }
    }
}

/// The right to wait for an answer, and for how long. Taken before anything is asked: whoever cannot wait has asked for nothing.
struct Patience {
    limit: Duration,
    _seat: Seat,
}

/// How long the caller would wait: `Prefer: wait=N`, else [`WAIT`]. Those who wait are bounded, with those who wait for jobs.
fn patience(state: &State, headers: &HeaderMap) -> Result<Patience, Problem> {
    let seat = state.waiters.seat().map_err(|_| {
        let detail = "Too many requests wait for answers already. Nothing was asked; try again.";
        Problem::new(Code::TooManyWaiters, detail)
    })?;
    Ok(Patience {
        limit: limit(headers)?,
        _seat: seat,
    })
}

fn limit(headers: &HeaderMap) -> Result<Duration, Problem> {
    let wait = prefer::wait(headers)?;
    let asked_for_none = headers.get_all("prefer").iter().any(|value| {
        let value = value.to_str().unwrap_or_default().to_ascii_lowercase();
        value.split(',').any(|word| word.trim().starts_with("wait"))
    });
    Ok(match wait {
        Some(wait) => wait.min(WAIT),
        None if asked_for_none => Duration::ZERO,
        None => WAIT,
    })
}

/// Waits for the answer to step `seq`.
async fn answered(state: &State, errand: ErrandId, seq: i32, patience: &Patience) -> Result<Waited, Problem> {
    let until = Instant::now() + patience.limit;
    let mut pause = FIRST_LOOK;
    loop {
        let mut conn = store::connection(&state.pool, "read_errand").await?;
        let record = errands::get(&mut conn, errand).await?;
        drop(conn);
        match record {
            None => return Ok(Waited::Gone),
            Some(record) if record.answered >= seq || record.state.is_final() => {
                return Ok(Waited::Answered(Box::new(record)));
            }
            Some(_) if Instant::now() >= until || state.waiters.is_over() => return Ok(Waited::Pending),
            Some(_) => sleep(pause.min(until - Instant::now())).await,
        }
        pause = (pause * 2).min(LAST_LOOK);
    }
}

/// The answer to step `seq`, or the problem it met.
async fn answer(
    state: &State,
    session: SessionId,
    errand: ErrandId,
    seq: i32,
    patience: &Patience,
) -> Result<Box<ErrandRecord>, Problem> {
    answered(state, errand, seq, patience)
        .await?
        .record(|| pending(session))
}

fn pending(session: SessionId) -> Problem {
    let detail = format!(
        "No worker has answered yet; nothing is lost. GET /v1/sessions/{session}/login shows how far it is, and goes on from \
         there. Is a worker running?"
    );
    Problem::new(Code::LoginPending, detail)
        .session(session)
        .header("Location", format!("/v1/sessions/{session}/login"))
}

fn no_worker() -> Problem {
    let detail = "Start a worker: it publishes the key with which the API seals what only a worker may read.";
    Problem::new(Code::NoWorker, detail)
}

fn busy(session: SessionId) -> Problem {
    let detail = format!(
        "Something is being done for this session already. GET /v1/sessions/{session}/login shows what; DELETE there gives it up."
    );
    Problem::new(Code::LoginInProgress, detail).session(session)
}

fn session_id(text: &str) -> Result<SessionId, Problem> {
    text.parse()
        .map_err(|_| Problem::new(Code::InvalidParameter, "A session's id is a UUID.").field("id"))
}

fn no_session() -> Problem {
    Problem::new(Code::SessionNotFound, "There is no session of that id.")
}
