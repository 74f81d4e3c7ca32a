//! How campaigns are shown: without the text of their messages.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use crate::store::{PgConnection, StoreError, campaign_people, campaigns::CampaignRecord};

/// A campaign. Its message's text is left out.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Campaign")]
pub struct CampaignView {
    pub id: Uuid,
    pub name: String,
    /// As it was named.
    pub chat: String,
    /// The chat's id, once a job has found it.
    pub chat_id: Option<i64>,
    #[schemars(extend("enum" = ["message", "add"]))]
    pub mode: String,
    pub format: String,
    pub pool: Option<String>,
    pub session: Option<Uuid>,
    pub per_day: i32,
    /// By the clock where a person is, or in `time_zone`.
    pub quiet_from: Option<String>,
    pub quiet_until: Option<String>,
    pub time_zone: String,
    pub stop_ratio: f64,
    pub stop_after: i32,
    /// `running`; `paused` by somebody, before its start, or because nobody is left; `stopped` by itself: see `code`; `stalled`:
    /// its job has ended without it. All but `running` go on with `/resume`.
    #[schemars(extend("enum" = ["running", "paused", "stopped", "stalled"]))]
    pub state: &'static str,
    /// Why, for programs: `new`, `running`, `paused`, `done`, `refusals`, `peer_flood`, `job_ended`, or the code of the error
    /// that stopped it.
    pub code: String,
    /// Why, for people.
    pub reason: String,
    /// `key:<id>` or `job:<id>`.
    pub changed_by: String,
    pub changed_at: DateTime<Utc>,
    /// The job that works on it, or did last; its `wait_reason` says what it waits for.
    pub job: Option<Uuid>,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
}

impl From<CampaignRecord> for CampaignView {
    fn from(record: CampaignRecord) -> Self {
        let is_stalled = record.state == "running" && !record.job_is_live;
        let state = match record.state.as_str() {
            "running" if is_stalled => "stalled",
            "running" => "running",
            "stopped" => "stopped",
            _ => "paused",
        };
        let (code, reason) = if is_stalled {
            let reason = "Its job has ended: look at its error, then resume the campaign.";
            ("job_ended".to_owned(), reason.to_owned())
        } else {
            (record.state_code, record.state_reason)
        };
        Self {
            id: record.id,
            name: record.name,
            chat: shown(&record.chat),
            chat_id: record.chat_id,
            mode: record.mode,
            format: record.format,
            pool: record.pool,
            session: record.session.map(|session| session.0),
            per_day: record.per_day,
            quiet_from: record.quiet_from.map(|time| time.format("%H:%M").to_string()),
            quiet_until: record.quiet_until.map(|time| time.format("%H:%M").to_string()),
            time_zone: record.time_zone,
            stop_ratio: record.stop_ratio,
            stop_after: record.stop_after,
            state,
            code,
            reason,
            changed_by: record.state_by,
            changed_at: record.state_since,
            job: record.job.map(|job| job.0),
            created_by: record.created_by,
            created_at: record.created_at,
        }
    }
}

/// An invite link lets its reader in: its code is not shown.
fn shown(chat: &str) -> String {
    wireroom_jobs::target::ChatRef::parse(chat).map_or_else(|_| chat.to_owned(), |chat| format!("{chat:?}"))
}

/// What became of a campaign's people.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "CampaignReport")]
pub struct ReportView {
    pub campaign: Uuid,
    /// Everybody on the list.
    pub people: i64,
    /// Those who were not dealt with yet.
    pub waiting: i64,
    pub invited: i64,
    pub refused: i64,
    /// Nobody asked them.
    pub skipped: i64,
    /// Nobody knows whether an invitation reached them.
    pub outcome_unknown: i64,
    /// How many people there are of each outcome.
    pub outcomes: BTreeMap<String, i64>,
}

impl ReportView {
    pub async fn of(conn: &mut PgConnection, campaign: Uuid) -> Result<Self, StoreError> {
        let mut report = Self {
            campaign,
            people: 0,
            waiting: 0,
            invited: 0,
            refused: 0,
            skipped: 0,
            outcome_unknown: 0,
            outcomes: BTreeMap::new(),
        };
        for (outcome, class, people) in campaign_people::counts(conn, campaign).await? {
            report.people += people;
            *match class.as_deref() {
                Some("invited") => &mut report.invited,
                Some("refused") => &mut report.refused,
                Some("outcome_unknown") => &mut report.outcome_unknown,
                Some(_) => &mut report.skipped,
                None => &mut report.waiting,
            } += people;
            if let Some(outcome) = outcome {
                *report.outcomes.entry(outcome).or_default() += people;
            }
        }
        Ok(report)
    }
}

/// Who could be contacted, as far as that is known without asking Telegram.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "CampaignPreflight")]
pub struct PreflightView {
    pub campaign: Uuid,
    /// Those who wait and of whom nothing is known against it. Telegram may still refuse some.
    pub eligible: i64,
    /// Why the others would be left out: how many people by outcome.
    pub left_out: BTreeMap<String, i64>,
    /// How many were looked at: those who wait, in the order they came.
    pub checked: i64,
    /// More wait than were looked at.
    pub truncated: bool,
}
