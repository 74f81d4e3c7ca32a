//! `/v1/campaigns`: whom to invite into which chat, how, and how many a day. A job of the kind `invite` does the work.

mod body;
mod change;
mod control;
mod manage;
mod people;
#[cfg(test)]
mod tests;
mod view;

pub use self::{
    body::NewCampaignBody,
    change::{CampaignChangeApi, CampaignPatch},
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
use crate::store::{
    PgConnection, audit,
    campaigns::{self, CampaignRecord},
};
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

/// The campaign, which nobody else changes until the transaction ends.
async fn locked(conn: &mut PgConnection, id: Uuid) -> Result<CampaignRecord, Problem> {
    if !campaigns::lock(conn, id).await? {
        return Err(not_found());
    }
    // Read after the lock was waited for.
    campaigns::get(conn, id).await?.ok_or_else(not_found)
}
