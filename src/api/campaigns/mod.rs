//! `/v1/campaigns`: whom to invite into which chat, how, and how many a day. A job of the kind `invite` does the work.

mod body;
mod control;
mod manage;
mod people;
#[cfg(test)]
mod tests;
mod view;

pub use self::{
    body::NewCampaignBody,
    control::{CampaignControlApi, PauseCampaignBody},
    manage::CampaignsApi,
    people::{CampaignPeopleApi, LedgerImportView, LedgerRowBody, ListedPersonView, NewPersonBody, PeopleAddedView},
    view::{CampaignView, PreflightView, ReportView},
};
use super::{
    auth::Caller,
    problem::{Code, Problem},
    shell::RequestContext,
};
use crate::store::{PgConnection, audit};
use serde_json::Value;
use uuid::Uuid;

/// The id in the path.
fn campaign_id(text: &str) -> Result<Uuid, Problem> {
    text.parse()
        .map_err(|_| Problem::new(Code::InvalidParameter, "A campaign's id is a UUID.").field("id"))
}

fn not_found() -> Problem {
    Problem::new(Code::CampaignNotFound, "There is no campaign of that id.")
}

/// The audit row of a change, in its transaction.
async fn note(
    conn: &mut PgConnection,
    caller: &Caller,
    context: &RequestContext,
    action: &str,
    id: Uuid,
    details: Value,
) -> Result<(), Problem> {
    let entry = audit::Entry {
        actor: &caller.actor(),
        action,
        subject: &format!("campaign:{id}"),
        request_id: Some(context.id()),
        details,
    };
    Ok(audit::record(conn, entry).await?)
}
