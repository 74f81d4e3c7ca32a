//! From a request to a job that can be stored: what needs the database, asked over the connection of the caller's
//! transaction.

use chrono::{DateTime, Utc};
use uuid::Uuid;
use wireroom_jobs::{JobArgs, JobKind};

use super::body::{DEFAULT_POOL, JobRequest, invalid};
use crate::{
    api::{
        auth::Caller,
        problem::{Code, Problem},
    },
    ids::{JobId, SessionId},
    store::{
        PgConnection, files,
        jobs::{EnqueueError, NewJob},
        session_reads,
        unique_keys::KeyedJob,
    },
};

/// States in which a session takes no jobs until a person has seen to it.
const UNUSABLE: [&str; 8] = [
    "new",
    "code_needed",
    "password_needed",
    "logged_out",
    "banned",
    "frozen",
    "quarantined",
    "disabled",
];

/// The id of the session that a request names, if it takes jobs of that kind. A watch's backups only have to exist, and be no
/// bots: they may be put right before they are needed.
pub async fn session_of(conn: &mut PgConnection, request: &JobRequest) -> Result<Option<SessionId>, Problem> {
    if let JobArgs::Monitor(args) = &request.args {
        for (index, backup) in args.backups.iter().enumerate() {
            let field = format!("args.backups[{index}]");
            refuse_bot(&known_session(conn, backup, &field).await?, &field)?;
        }
    }
    match &request.session {
        Some(session) => session_for(conn, request.args.kind().as_str(), session).await.map(Some),
        None => Ok(None),
    }
}

async fn known_session(
    conn: &mut PgConnection,
    id_or_label: &str,
    field: &str,
) -> Result<session_reads::SessionTarget, Problem> {
    session_reads::find_target(conn, id_or_label)
        .await?
        .ok_or_else(|| Problem::new(Code::UnknownSession, "No session has that id or label.").field(field))
}

/// The id of a session that takes jobs of that kind.
pub async fn session_for(conn: &mut PgConnection, kind: &str, id_or_label: &str) -> Result<SessionId, Problem> {
    if kind == JobKind::Monitor.as_str() {
        return Ok(watching_session(conn, id_or_label).await?.id);
    }
    usable_session(conn, id_or_label).await
}

/// A session that can watch chats.
pub async fn watching_session(
    conn: &mut PgConnection,
    id_or_label: &str,
) -> Result<session_reads::SessionTarget, Problem> {
    let session = usable(conn, id_or_label).await?;
    refuse_bot(&session, "session")?;
    Ok(session)
}

fn refuse_bot(session: &session_reads::SessionTarget, field: &str) -> Result<(), Problem> {
    if session.is_bot {
        let detail =
            "A bot cannot read the histories of chats, which a watch needs. Name the session of a person's account.";
        return Err(Problem::new(Code::SessionIsBot, detail).field(field));
    }
    Ok(())
}

pub async fn usable_session(conn: &mut PgConnection, id_or_label: &str) -> Result<SessionId, Problem> {
    Ok(usable(conn, id_or_label).await?.id)
}

async fn usable(conn: &mut PgConnection, id_or_label: &str) -> Result<session_reads::SessionTarget, Problem> {
    let mut session = known_session(conn, id_or_label, "session").await?;
    if UNUSABLE.contains(&session.state.as_str()) {
        let because = session
            .state_reason
            .take()
            .map(|reason| format!(" ({reason})"))
            .unwrap_or_default();
        let detail = format!(
            "The session is {}{because}. It takes jobs again once that is put right.",
            session.state
        );
        return Err(Problem::new(Code::SessionNotReady, detail).field("session"));
    }
    Ok(session)
}

/// Keeps the uploaded files of a request's messages until its job has run, and refuses one that is not there.
pub async fn keep_files(conn: &mut PgConnection, request: &JobRequest, days: i32) -> Result<(), Problem> {
    let files: Vec<(usize, Uuid)> = request.files().collect();
    keep_media(conn, &files, request.run_at, days).await
}

/// The same of files that are named by their places in `args.media`.
pub async fn keep_media(
    conn: &mut PgConnection,
    media: &[(usize, Uuid)],
    until: Option<DateTime<Utc>>,
    days: i32,
) -> Result<(), Problem> {
    let ids: Vec<Uuid> = media.iter().map(|(_, id)| *id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let kept = files::keep_until(conn, &ids, until, days).await?;
    match media.iter().find(|(_, id)| !kept.contains(id)) {
        None => Ok(()),
        Some((index, _)) => Err(invalid(
            format!("args.media[{index}].file"),
            "there is no file of that id any more, or never was; upload it with POST /v1/files",
        )),
    }
}

/// The job that a request asks for, on the session of [`session_of`].
pub fn job(caller: &Caller, request: JobRequest, session: Option<SessionId>) -> Result<KeyedJob, Problem> {
    let job = NewJob {
        id: JobId::generate(),
        kind: request.args.kind(),
        args: serde_json::to_value(&request.args).map_err(Problem::internal)?,
        pool: match session {
            None => request.pool.or_else(|| Some(DEFAULT_POOL.to_owned())),
            Some(_) => request.pool,
        },
        session,
        priority: request.priority,
        run_at: request.run_at,
        max_attempts: request.max_attempts,
        deadline: request.deadline,
        tags: request.tags,
        limit_key: request.limit_key,
        created_by: Some(caller.actor()),
    };
    Ok(KeyedJob {
        job,
        unique: request.unique,
    })
}

/// Why a job was not stored.
pub fn refused(error: EnqueueError) -> Problem {
    match error {
        EnqueueError::Store(error) => error.into(),
        EnqueueError::PoolUnknown { .. } => Problem::new(Code::UnknownPool, "No pool has that name.").field("pool"),
        EnqueueError::SessionUnknown { .. } => {
            Problem::new(Code::UnknownSession, "No session has that id or label.").field("session")
        }
        EnqueueError::SessionElsewhere { is_in, .. } => {
            let detail = format!("The session is in the pool {is_in}: name that, or leave pool out.");
            Problem::new(Code::SessionNotInPool, detail).field("pool")
        }
    }
}

/// The problem of a job whose key another one has.
pub fn key_taken(by: JobId) -> Problem {
    let detail = format!("The job {by} has this unique_key, and is left as it is.");
    Problem::new(Code::UniqueKeyConflict, detail)
        .field("unique_key")
        .job(by)
}
