//! From what the tables say to reasons: one function per thing that can hold a job.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use wireroom_jobs::JobKind;

use super::{ReasonView, WaitView};
use crate::store::{
    holds::{Controls, JobHolds, MOST_AHEAD},
    job_reads::{JobRecord, JobState, PlaceFacts},
    limits::LimitScope,
    pauses::Pause,
};

/// What is known beside the job and its place.
pub struct Facts {
    pub holds: JobHolds,
    pub controls: Controls,
    /// How long a running job has to stop when it is cancelled.
    pub cancel_wait: Duration,
    /// `key:<id>` of whoever cancelled the job, or asked for it; of a bulk cancel nobody knows.
    pub cancelled_by: Option<String>,
}

/// What keeps a job from running, as lists show it; `None` when nothing does.
pub fn reason(job: &JobRecord, place: Option<&PlaceFacts>, pauses: &[Pause]) -> Option<WaitView> {
    let first = match job.state {
        JobState::Scheduled => Some(scheduled(job)),
        JobState::Queued => paused(job, pauses)
            .into_iter()
            .next()
            .or_else(|| place.and_then(|place| at_place(job, place))),
        _ => None,
    };
    first.map(|reason| WaitView {
        code: reason.code,
        message: reason.message,
        until: reason.until,
    })
}

/// Everything that holds a job now, or what it does, or how it ended; never empty.
pub fn reasons(job: &JobRecord, place: Option<&PlaceFacts>, facts: &Facts) -> Vec<ReasonView> {
    match job.state {
        JobState::Scheduled | JobState::Queued => waiting(job, place, facts),
        JobState::Running => vec![running(job, facts)],
        JobState::Succeeded | JobState::Failed | JobState::Cancelled => vec![finished(job, facts)],
    }
}

fn waiting(job: &JobRecord, place: Option<&PlaceFacts>, facts: &Facts) -> Vec<ReasonView> {
    let mut reasons = Vec::new();
    if job.state == JobState::Scheduled {
        let mut reason = scheduled(job);
        if let Some(key) = facts.holds.limit_key.as_ref().filter(|_| reason.code == "rate_limited") {
            let limit = facts.controls.limits.rate_of(key);
            reason.data = json!({ "limit_key": key, "starts": limit.map(|limit| limit.starts),
                "period_seconds": limit.map(|limit| limit.period.as_secs_f64()) });
        }
        reasons.push(reason);
    }
    reasons.extend(paused(job, &facts.controls.pauses));
    if job.state == JobState::Queued {
        reasons.extend(unknown_kind(job));
        reasons.extend(place.and_then(|place| at_place(job, place)));
        reasons.extend(limited(job, &facts.controls));
        reasons.extend(suspect(&facts.holds));
        reasons.extend(busy(job, &facts.holds));
        reasons.extend(in_line(job, &facts.holds));
    }
    reasons.extend(deadline(job));
    if job.state == JobState::Queued && reasons.iter().all(|reason| reason.code == "deadline") {
        let message = "Nothing is in its way: it runs when a session it may use has a free slot.";
        reasons.insert(0, plain("queued", message.to_owned(), json!({})));
    }
    reasons
}

fn scheduled(job: &JobRecord) -> ReasonView {
    let text = |key: &str| job.wait_reason.as_ref()?.get(key)?.as_str().map(str::to_owned);
    ReasonView {
        code: text("code").unwrap_or_else(|| "scheduled".to_owned()),
        message: text("message").unwrap_or_else(|| "The job is not due yet.".to_owned()),
        until: Some(job.run_at),
        data: json!({ "attempt": job.attempt, "last_error": job.error }),
    }
}

fn paused(job: &JobRecord, pauses: &[Pause]) -> Vec<ReasonView> {
    let session = job.session.map(|session| session.to_string());
    pauses
        .iter()
        .filter(|pause| pause.holds(&job.kind, &job.pool, session.as_deref()))
        .map(|pause| {
            let what = match pause.target.as_str() {
                "" => "Everything".to_owned(),
                target => format!("The {} {target}", pause.scope.as_str()),
            };
            let reason = &pause.reason;
            ReasonView {
                code: "paused".to_owned(),
                message: format!("{what} is paused: {reason}"),
                until: pause.until,
                data: json!({ "scope": pause.scope.as_str(), "target": pause.target, "reason": reason,
                    "paused_by": pause.paused_by, "paused_at": pause.paused_at }),
            }
        })
        .collect()
}

fn unknown_kind(job: &JobRecord) -> Option<ReasonView> {
    JobKind::parse(&job.kind).is_none().then(|| {
        let message = format!(
            "This version does not know the kind {}: it waits for a newer worker.",
            job.kind
        );
        plain("unknown_kind", message, json!({ "kind": job.kind }))
    })
}

fn at_place(job: &JobRecord, place: &PlaceFacts) -> Option<ReasonView> {
    if job.session.is_some() {
        return pinned(job, place);
    }
    let pool = &job.pool;
    let data = json!({ "pool": pool, "sessions": place.sessions, "ready": place.ready });
    if place.sessions == 0 {
        let message = if JobKind::parse(&job.kind) == Some(JobKind::Monitor) {
            format!(
                "The pool {pool} has no session of a person's account; a bot is given no histories, and cannot watch."
            )
        } else {
            format!("The pool {pool} has no sessions.")
        };
        return Some(plain("pool_empty", message, data));
    }
    if place.ready == 0 {
        let message = format!("None of the {} sessions of the pool {pool} is ready.", place.sessions);
        return Some(plain("no_ready_session", message, data));
    }
    if place.held == 0 && place.refused == place.ready {
        return Some(refused(place, "Every ready session of the pool"));
    }
    if place.held == 0 && place.resting == place.ready {
        return Some(resting(place, "Every ready session of the pool"));
    }
    if place.held == 0 {
        let message = format!(
            "No worker holds a session of the pool {pool}; {} would be ready.",
            place.ready
        );
        return Some(plain("no_worker", message, data));
    }
    gated(place, "Every session of the pool that a worker holds")
}

fn pinned(job: &JobRecord, place: &PlaceFacts) -> Option<ReasonView> {
    let data = json!({ "session": job.session, "state": place.session_state });
    let Some(state) = &place.session_state else {
        let message = "The job's session is not there any more.".to_owned();
        return Some(plain("session_gone", message, data));
    };
    if place.ready == 0 {
        let because = place
            .session_state_reason
            .as_ref()
            .map(|reason| format!(": {reason}"))
            .unwrap_or_default();
        let message = format!("The job's session is {state}{because}.");
        return Some(plain("session_not_ready", message, data));
    }
    if place.held == 0 && place.refused > 0 {
        return Some(refused(place, "The job's session"));
    }
    if place.held == 0 && place.resting > 0 {
        return Some(resting(place, "The job's session"));
    }
    if place.held == 0 {
        let message = "No worker holds the job's session.".to_owned();
        return Some(plain("no_worker", message, data));
    }
    gated(place, "The job's session")
}

fn gated(place: &PlaceFacts, who: &str) -> Option<ReasonView> {
    if place.open > 0 {
        return None;
    }
    if let Some(cap) = &place.spent_cap {
        return Some(spent(place, who, cap));
    }
    let reason = place.gate_reason.as_deref().unwrap_or("a gate is closed");
    Some(ReasonView {
        code: "gate_closed".to_owned(),
        message: format!("{who} may not do this for now ({reason})."),
        until: place.opens_at,
        data: json!({ "reason": reason }),
    })
}

fn spent(place: &PlaceFacts, who: &str, cap: &Value) -> ReasonView {
    let what = match cap["action"].as_str() {
        Some("join") => "joins",
        Some("invite") => "invitations",
        _ => "messages",
    };
    let per = match cap["window"].as_str() {
        Some("hour") => "an hour",
        Some("day") => "a day",
        _ => "a minute",
    };
    ReasonView {
        code: "cap_reached".to_owned(),
        message: format!("{who} has used up its cap: {} {what} {per}.", cap["cap"]),
        until: place.opens_at,
        data: cap.clone(),
    }
}

fn refused(place: &PlaceFacts, who: &str) -> ReasonView {
    let because = place.refused_because.as_deref().unwrap_or("it says no more");
    let message = format!(
        "{who} belongs to an application that Telegram does not take ({because}): mend it, then resume the application."
    );
    plain("application_refused", message, json!({ "reason": because }))
}

fn resting(place: &PlaceFacts, who: &str) -> ReasonView {
    ReasonView {
        code: "breaker_open".to_owned(),
        message: format!("{who} kept failing to connect, and is left alone for a while."),
        until: place.rests_until,
        data: json!({ "resting": place.resting }),
    }
}

fn limited(job: &JobRecord, controls: &Controls) -> Vec<ReasonView> {
    let limits = controls.limits.concurrency.iter().zip(&controls.running);
    limits
        .filter(|(limit, running)| {
            let counts = match limit.scope {
                LimitScope::Kind => limit.target == job.kind,
                LimitScope::Pool => limit.target == job.pool,
            };
            counts && **running >= i64::from(limit.max_running)
        })
        .map(|(limit, running)| {
            let (scope, target, most) = (limit.scope.as_str(), &limit.target, limit.max_running);
            let message = format!("At most {most} jobs of the {scope} {target} run at a time, and {running} do.");
            let data = json!({ "scope": scope, "target": target, "max_running": most, "running": running });
            plain("limit_reached", message, data)
        })
        .collect()
}

fn suspect(holds: &JobHolds) -> Option<ReasonView> {
    (holds.suspect && holds.suspect_runs).then(|| {
        let message = "A worker died while it held the job: such jobs begin again one after the other, and another has just begun.";
        plain("suspect", message.to_owned(), json!({}))
    })
}

/// Every slot that the job could have is taken.
fn busy(job: &JobRecord, holds: &JobHolds) -> Option<ReasonView> {
    // Without any slot its sessions are the reason, and told.
    if holds.slots == 0 || holds.free > 0 {
        return None;
    }
    let (code, whose) = match job.session {
        Some(session) => ("session_busy", format!("of the session {session}")),
        None => ("pool_busy", format!("that workers hold of the pool {}", job.pool)),
    };
    let (slots, lane) = (holds.slots, &job.lane);
    let message = match slots {
        1 => format!("The one slot {whose} in the lane {lane} is taken: it runs when that job has ended."),
        _ => {
            format!("All {slots} slots {whose} in the lane {lane} are taken: it runs when one of those jobs has ended.")
        }
    };
    Some(plain(
        code,
        message,
        json!({ "lane": lane, "slots": slots, "jobs": holds.in_slots }),
    ))
}

fn in_line(job: &JobRecord, holds: &JobHolds) -> Option<ReasonView> {
    if holds.ahead == 0 {
        return None;
    }
    let counted_out = holds.ahead > i64::from(MOST_AHEAD);
    let ahead = if counted_out {
        format!("more than {MOST_AHEAD}")
    } else {
        holds.ahead.to_string()
    };
    let jobs = if holds.ahead == 1 { "job" } else { "jobs" };
    let line = job.session.map_or_else(
        || format!("the pool {}", job.pool),
        |session| format!("the session {session}"),
    );
    let message = format!("It waits in the line of {line} behind {ahead} other {jobs}.");
    let data = json!({ "ahead": holds.ahead.min(i64::from(MOST_AHEAD)), "at_least": counted_out, "lane": job.lane });
    Some(plain("in_line", message, data))
}

fn deadline(job: &JobRecord) -> Option<ReasonView> {
    job.deadline.map(|deadline| ReasonView {
        code: "deadline".to_owned(),
        message: "It fails when it has not been started by its deadline.".to_owned(),
        until: Some(deadline),
        data: json!({ "deadline": deadline }),
    })
}

fn running(job: &JobRecord, facts: &Facts) -> ReasonView {
    let data = json!({ "worker": job.worker, "session": job.session, "started_at": job.started_at,
        "attempt": job.attempt, "max_attempts": job.max_attempts, "cancel_requested_at": job.cancel_requested_at,
        "cancelled_by": facts.cancelled_by });
    let Some(asked) = job.cancel_requested_at else {
        return plain("running", "It runs.".to_owned(), data);
    };
    ReasonView {
        code: "cancelling".to_owned(),
        message: "It runs, and was asked to stop; when it does not in time, its attempt is abandoned.".to_owned(),
        until: later(asked, facts.cancel_wait),
        data,
    }
}

fn later(time: DateTime<Utc>, by: Duration) -> Option<DateTime<Utc>> {
    time.checked_add_signed(chrono::TimeDelta::from_std(by).ok()?)
}

fn finished(job: &JobRecord, facts: &Facts) -> ReasonView {
    let text = |key: &str| job.error.as_ref()?.get(key)?.as_str().map(str::to_owned);
    let (code, message) = match job.state {
        JobState::Succeeded => ("succeeded".to_owned(), "It has run, and succeeded.".to_owned()),
        JobState::Cancelled => {
            let said = text("message").map(|message| format!(" {message}")).unwrap_or_default();
            let by = facts
                .cancelled_by
                .as_ref()
                .map(|by| format!(" by {by}"))
                .unwrap_or_default();
            ("cancelled".to_owned(), format!("It was cancelled{by}.{said}"))
        }
        _ => (
            text("code").unwrap_or_else(|| "failed".to_owned()),
            text("message").unwrap_or_else(|| "It failed.".to_owned()),
        ),
    };
    let data = json!({ "finished_at": job.finished_at, "worker": job.worker, "session": job.session,
        "attempt": job.attempt, "error": job.error, "cancelled_by": facts.cancelled_by });
    plain(&code, message, data)
}

fn plain(code: &str, message: String, data: Value) -> ReasonView {
    ReasonView {
        code: code.to_owned(),
        message,
        until: None,
        data,
    }
}
