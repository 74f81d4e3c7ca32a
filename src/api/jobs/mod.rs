//! Jobs: made, looked at, listed, cancelled, retried, changed, explained, many at once; and what a scan read.

mod admission;
mod attempts;
mod batch;
pub(super) mod body;
mod bulk;
mod cancel;
mod create;
mod events;
mod field_error;
mod finds;
mod gather;
mod get;
mod list;
mod members;
mod messages;
mod patch;
mod progress;
mod retry;
mod statistics;
mod targets;
#[cfg(test)]
mod tests;
mod unique;
mod view;
mod why;

/// What the frame around all operations knows of the operation for batches.
pub mod batches {
    pub use super::batch::{AT_A_TIME, PATH, TIME_LIMIT};
}

pub use self::{
    admission::{keep_media, refused, session_for, usable_session, watching_session},
    attempts::{AttemptView, AttemptsApi},
    batch::{BatchApi, BatchCreated, ItemView, NewBatchBody},
    body::{JobBody, JobRequest, NewJobBody, invalid, not_json, nul, read, time, within},
    bulk::{BulkApi, BulkCancelBody, BulkCancelView, BulkRetryBody, BulkRetryView},
    cancel::{CancelApi, stop_job},
    create::CreateApi,
    events::{EventView, EventsApi, PACE, Pace},
    finds::{FindsApi, FoundChatView, ProfileView},
    gather::Gather,
    get::GetApi,
    list::ListApi,
    members::{MemberView, MembersApi, filter as member_filter},
    messages::{ScannedMessageView, ScannedMessagesApi},
    patch::{ChangeBody, PatchApi},
    retry::RetryApi,
    statistics::{StatisticsApi, StatisticsView},
    targets::{TargetView, TargetsApi},
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
