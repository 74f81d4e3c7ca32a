//! Changing campaigns, and deleting them.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{ApiResponse, OpenApi, param::Path, payload::Json};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};
use wireroom_jobs::{
    outreach::{InviteMode, Wording},
    ports::TextFormat,
    target::ChatRef,
};

use super::{
    body, campaign_id, locked,
    manage::{check_pool, check_zone},
    not_found, note,
    view::CampaignView,
};
use crate::{
    api::{
        State,
        auth::{Allowed, Operator},
        document::Tag,
        jobs::{invalid, usable_session},
        problem::{Code, Problem},
        sent::Sent,
        shell::RequestContext,
        typed::Typed,
    },
    store::{
        PgConnection,
        campaign_changes::{self, ChangeError, Settings},
        campaigns::{self, CampaignRecord},
        failed,
    },
};

/// How many people of a deleted list go with the request; workers delete the rest within the hour.
const MOST_EMPTIED: i64 = 10_000;

/// What to change of a campaign; what is left out stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CampaignPatch {
    /// For people, 1 to 100 characters; no two campaigns have the same.
    #[serde(default)]
    #[schemars(length(min = 1, max = 100))]
    name: Option<String>,
    /// What is sent, in the mode `message`: `{link}` stands where the link goes.
    #[serde(default)]
    #[schemars(length(min = 1, max = 32768))]
    text: Option<String>,
    /// How `text` is written; left out: as before.
    #[serde(default)]
    format: Option<TextFormat>,
    /// The link in `text`; left out: that of the campaign's chat, when it is a name or an invite link.
    #[serde(default)]
    #[schemars(length(min = 1, max = 256))]
    link: Option<String>,
    /// Any session of this pool may run the campaign; null: the pool of `session`, or `default`. Not while its job is unfinished.
    #[serde(default)]
    #[schemars(with = "Option<String>", length(min = 1, max = 63))]
    pool: Named,
    /// The id or the label of the one session that runs it; null: any session of the pool. Not while its job is unfinished.
    #[serde(default)]
    #[schemars(with = "Option<String>", length(min = 1, max = 100))]
    session: Named,
    /// How many people it contacts in a day of `time_zone`, those of today included.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000), example = 50)]
    per_day: Option<i64>,
    /// Nobody is contacted from then on, by the clock where they are: `22:00`; null, as `quiet_until`: no quiet hours.
    #[serde(default)]
    #[schemars(with = "Option<String>", regex(pattern = r"^\d\d:\d\d$"))]
    quiet_from: Named,
    /// Until then: `08:00`.
    #[serde(default)]
    #[schemars(with = "Option<String>", regex(pattern = r"^\d\d:\d\d$"))]
    quiet_until: Named,
    /// The zone of its days, and of people whose own is not known. The day that goes on ends when it has ended in both zones.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64))]
    time_zone: Option<String>,
    /// It stops by itself when more than this part of those who were asked refused: judged with the next refusal.
    #[serde(default)]
    #[schemars(range(min = 0.01, max = 1.0))]
    stop_ratio: Option<f64>,
    /// Not before so many were asked.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    stop_after: Option<i64>,
    /// Taken to be refused with the reason.
    #[serde(default, skip_serializing)]
    #[schemars(skip)]
    chat: Option<Value>,
    #[serde(default, skip_serializing)]
    #[schemars(skip)]
    mode: Option<Value>,
}

/// A field that null empties.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Named {
    /// It is not there, and nothing changes.
    #[default]
    Not,
    As(Option<String>),
}

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(Self::As)
    }
}

impl Serialize for Named {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Not => serializer.serialize_none(),
            Self::As(value) => value.serialize(serializer),
        }
    }
}

impl Named {
    /// What it is to be, where it was `before`.
    fn or(self, before: Option<String>) -> Option<String> {
        match self {
            Self::Not => before,
            Self::As(value) => value,
        }
    }
}

#[derive(ApiResponse)]
enum Deleted {
    /// The campaign is gone.
    #[oai(status = 204)]
    Gone,
}

pub struct CampaignChangeApi;

#[OpenApi]
impl CampaignChangeApi {
    /// Change a campaign
    ///
    /// Changes what is named, also while it runs: from the answer on nobody is let through by what was before, and a call that was let
    /// through already is finished. A job that waits for the campaign's cap or for the end of quiet hours looks again at once. The
    /// pool and the session are those of the next job, so they are refused while there is one (409, `campaign_busy`); the chat and the
    /// mode stay (422, `campaign_fixed`). Scope: operator.
    #[oai(
        path = "/v1/campaigns/:id",
        method = "patch",
        operation_id = "change_campaign",
        tag = "Tag::Outreach"
    )]
    async fn change(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The campaign's id.
        id: Path<String>,
        body: Sent<CampaignPatch>,
    ) -> Result<Json<Typed<CampaignView>>, Problem> {
        let id = campaign_id(&id)?;
        let patch = body.read()?;
        patch.refuse_fixed()?;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_campaign"))?;
        let before = locked(&mut transaction, id).await?;
        let settings = patch.settings(&state, &mut transaction, &before).await?;
        let changes = changes(&before, &settings);
        if changes.is_empty() {
            return Ok(Json(Typed(before.into())));
        }
        if before.job_is_live && changes.iter().any(|(field, _)| ["pool", "session"].contains(field)) {
            let detail = "The campaign's job is not finished, and stays where it is. Pause the campaign, and change this when the job \
                has ended: cancel it if it does not by itself.";
            return Err(busy(&before, detail));
        }
        let fields: Vec<&str> = changes.iter().map(|(field, _)| *field).collect();
        let actor = caller.0.actor();
        campaign_changes::change(&mut transaction, id, &settings, &fields, &actor)
            .await
            .map_err(not_changed)?;
        if let Some(job) = before.job {
            campaign_changes::wake(&mut transaction, job, state.config.queue.ageing_step).await?;
        }
        note(
            &mut transaction,
            &caller.0,
            context.0,
            "campaign.changed",
            id,
            details(&changes),
        )
        .await?;
        let after = campaigns::get(&mut transaction, id).await?.ok_or_else(not_found)?;
        transaction.commit().await.map_err(failed("commit_campaign"))?;
        state.signals.changed();
        Ok(Json(Typed(after.into())))
    }

    /// Delete a campaign
    ///
    /// Stops it if it runs, and deletes it with its list and its text. A call that was let through already is finished; nobody else is
    /// contacted. Whom it has contacted, when and into which chat is kept: they are left alone by other campaigns for as long as before,
    /// count towards the chat's cap, and are heard when they answer stop. A list of more than 10,000 people is gone within the hour.
    /// Its name is free. Scope: operator.
    #[oai(
        path = "/v1/campaigns/:id",
        method = "delete",
        operation_id = "delete_campaign",
        tag = "Tag::Outreach"
    )]
    async fn delete(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The campaign's id.
        id: Path<String>,
    ) -> Result<Deleted, Problem> {
        let id = campaign_id(&id)?;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_campaign"))?;
        let before = locked(&mut transaction, id).await?;
        campaign_changes::delete(&mut transaction, id, &caller.0.actor()).await?;
        if let Some(job) = before.job {
            campaigns::wake(&mut transaction, job, state.config.queue.ageing_step).await?;
        }
        let details = json!({ "was": before.state_code, "job": before.job });
        note(&mut transaction, &caller.0, context.0, "campaign.deleted", id, details).await?;
        // The second time, when nobody is left, it closes the row.
        if campaign_changes::empty(&mut transaction, Some(id), MOST_EMPTIED).await? > 0 {
            campaign_changes::empty(&mut transaction, Some(id), MOST_EMPTIED).await?;
        }
        transaction.commit().await.map_err(failed("commit_campaign"))?;
        state.signals.changed();
        Ok(Deleted::Gone)
    }
}

fn busy(campaign: &CampaignRecord, detail: &str) -> Problem {
    let problem = Problem::new(Code::CampaignBusy, detail);
    match campaign.job {
        Some(job) => problem.job(job),
        None => problem,
    }
}

fn not_changed(error: ChangeError) -> Problem {
    match error {
        ChangeError::NameTaken => Problem::new(Code::CampaignExists, "Another campaign has that name.").field("name"),
        ChangeError::Store(error) => error.into(),
    }
}

impl CampaignPatch {
    fn refuse_fixed(&self) -> Result<(), Problem> {
        let why = [
            (
                "chat",
                self.chat.is_some(),
                "chat stays as it is: the ledger holds who was invited into that one. Make another campaign for another chat.",
            ),
            (
                "mode",
                self.mode.is_some(),
                "mode stays as it is: what is looked for after a call that nobody saw end depends on it. Make another campaign.",
            ),
        ];
        match why.into_iter().find(|(_, is_there, _)| *is_there) {
            Some((field, _, why)) => Err(Problem::new(Code::CampaignFixed, why).field(field)),
            None => Ok(()),
        }
    }

    /// What the campaign is to be, which the transaction has locked.
    async fn settings(
        self,
        state: &State,
        conn: &mut PgConnection,
        before: &CampaignRecord,
    ) -> Result<Settings, Problem> {
        check_zone(conn, self.time_zone.as_deref()).await?;
        let wording = self.wording(conn, before).await?;
        let session = match &self.session {
            Named::As(Some(session)) => Some(usable_session(conn, session).await?),
            Named::As(None) => None,
            Named::Not => before.session,
        };
        if let Named::As(pool) = &self.pool {
            check_pool(state, pool.as_deref()).await?;
        }
        let shown = |time: chrono::NaiveTime| time.format("%H:%M").to_string();
        let quiet_from = self.quiet_from.or(before.quiet_from.map(shown));
        let quiet_until = self.quiet_until.or(before.quiet_until.map(shown));
        Ok(Settings {
            name: self.name.as_deref().map_or(Ok(before.name.clone()), body::name)?,
            wording,
            pool: self.pool.or(before.pool.clone()),
            session,
            per_day: self
                .per_day
                .map_or(Ok(before.per_day), |given| body::people("per_day", given))?,
            quiet: body::quiet(quiet_from.as_deref(), quiet_until.as_deref())?,
            time_zone: self.time_zone.unwrap_or_else(|| before.time_zone.clone()),
            stop_ratio: self.stop_ratio.map_or(Ok(before.stop_ratio), body::stop_ratio)?,
            stop_after: self
                .stop_after
                .map_or(Ok(before.stop_after), |given| body::people("stop_after", given))?,
        })
    }

    /// Another text than the campaign has.
    async fn wording(&self, conn: &mut PgConnection, before: &CampaignRecord) -> Result<Option<Wording>, Problem> {
        if before.mode == InviteMode::Add.as_str() {
            body::refuse_words(self.text.is_some(), self.link.is_some())?;
        }
        let Some(text) = &self.text else {
            return match (&self.link, self.format) {
                (Some(_), _) => Err(invalid("link", "is part of the text: send text with it.")),
                (None, Some(_)) => Err(invalid("format", "is how the text is written: send text with it.")),
                (None, None) => Ok(None),
            };
        };
        let (was, format) = campaign_changes::wording(conn, before.id).await?;
        let chat = ChatRef::parse(&before.chat).map_err(Problem::internal)?;
        let wording = Wording {
            text: body::message(text, self.link.as_deref(), &chat, self.format.unwrap_or(format))?,
            format: self.format.unwrap_or(format),
        };
        let is_another = was.as_deref() != Some(&wording.text) || format != wording.format;
        Ok(is_another.then_some(wording))
    }
}

/// Which fields are to be others, with what they were and are; of a name or a text not.
fn changes(before: &CampaignRecord, after: &Settings) -> Vec<(&'static str, Option<[Value; 2]>)> {
    let shown = |time: Option<chrono::NaiveTime>| time.map(|time| time.format("%H:%M").to_string());
    let (from, until) = after.quiet.unzip();
    let pairs = [
        ("pool", json!(before.pool), json!(after.pool)),
        ("session", json!(before.session), json!(after.session)),
        ("per_day", json!(before.per_day), json!(after.per_day)),
        ("quiet_from", json!(shown(before.quiet_from)), json!(shown(from))),
        ("quiet_until", json!(shown(before.quiet_until)), json!(shown(until))),
        ("time_zone", json!(before.time_zone), json!(after.time_zone)),
        ("stop_ratio", json!(before.stop_ratio), json!(after.stop_ratio)),
        ("stop_after", json!(before.stop_after), json!(after.stop_after)),
    ];
    let words = [("name", before.name != after.name), ("text", after.wording.is_some())];
    let words = words.into_iter().filter(|(_, is_another)| *is_another);
    let others = pairs.into_iter().filter(|(_, was, is)| was != is);
    words
        .map(|(field, _)| (field, None))
        .chain(others.map(|(field, was, is)| (field, Some([was, is]))))
        .collect()
}

/// For the audit log: which fields, and what the plain ones were and are.
fn details(changes: &[(&'static str, Option<[Value; 2]>)]) -> Value {
    let (mut was, mut is) = (Map::new(), Map::new());
    for (field, values) in changes {
        if let Some([before, after]) = values {
            was.insert((*field).to_owned(), before.clone());
            is.insert((*field).to_owned(), after.clone());
        }
    }
    let fields: Vec<&str> = changes.iter().map(|(field, _)| *field).collect();
    json!({ "changed": fields, "was": was, "is": is })
}
