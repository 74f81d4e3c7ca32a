//! Jobs: made, looked at, listed, cancelled, explained; and the members a scan saw.

mod attempts;
mod body;
mod cancel;
mod create;
mod events;
mod field_error;
mod get;
mod list;
mod members;
#[cfg(test)]
mod tests;
mod view;
mod why;

#[cfg(test)]
pub use self::body::JobRequest;
pub use self::{
    attempts::{AttemptView, AttemptsApi},
    body::NewJobBody,
    cancel::CancelApi,
    create::CreateApi,
    events::{EventView, EventsApi, PACE, Pace},
    get::GetApi,
    list::ListApi,
    members::{MemberView, MembersApi},
    view::{JobSummary, JobView},
    why::{WhyApi, WhyView},
};
use super::problem::{Code, Problem};
use crate::ids::JobId;

/// The id in the path.
fn job_id(text: &str) -> Result<JobId, Problem> {
    text.parse()
        .map_err(|_| Problem::new(Code::InvalidParameter, "A job's id is a UUID.").field("id"))
}

fn not_found() -> Problem {
    Problem::new(
        Code::JobNotFound,
        "There is no job of that id. Finished jobs are kept for a limited time.",
    )
}
