//! The list of a campaign and its ledger: who is on it and why they may be contacted, and who was invited before.

use std::{collections::HashSet, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use poem::web::Data;
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
    payload::Json,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use wireroom_jobs::{
    invite::parse_person,
    outreach::{Basis, PersonRef},
};

use super::{campaign_id, manage::no_such_zone, not_found, note};
use crate::{
    api::{
        State,
        auth::{Allowed, Operator, Viewer},
        document::Tag,
        jobs::{body, invalid},
        outreach::person_key,
        page::{self, List, Page},
        problem::Problem,
        rows::Rows,
        shell::RequestContext,
        typed::Typed,
    },
    store::{
        self, PgConnection,
        campaign_people::{self, Names, NewPerson, PersonRecord},
        campaigns, erasure, failed,
        ledger::{self, ImportedRow},
        session_health,
    },
};

/// Somebody to be put on a campaign's list: by user id or by name, and why they may be contacted.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewCampaignPerson")]
pub struct NewPersonBody {
    /// Telegram's user id: of use only where the session has met them.
    #[serde(default)]
    #[schemars(range(min = 1))]
    user_id: Option<i64>,
    /// With or without `@`.
    #[serde(default)]
    #[schemars(length(min = 4, max = 33), example = &"@friendly_person")]
    username: Option<String>,
    /// `contact`: they are among the session's contacts; `dialogue`: they wrote to the session before (both are checked when it
    /// is their turn); `join_request`: they asked to be let into the chat; `import`: they agreed elsewhere, and `proof` says how.
    #[serde(default)]
    #[schemars(extend("enum" = ["contact", "join_request", "dialogue", "import", null]))]
    basis: Option<String>,
    /// How it is known that they agreed: needed with `import`. At most 1,000 characters.
    #[serde(default)]
    #[schemars(length(max = 1000), example = &"Ticked `invite me` in the form of 2030-01-12")]
    proof: Option<String>,
    /// Who vouches for it: needed with `import`. At most 200 characters.
    #[serde(default)]
    #[schemars(length(max = 200), example = &"Maria, membership desk")]
    supplied_by: Option<String>,
    /// Where they are, for quiet hours; left out: the campaign's.
    #[serde(default)]
    #[schemars(length(max = 64), example = &"Europe/Lisbon")]
    time_zone: Option<String>,
}

/// What became of people who were to be put on a list.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "CampaignPeopleAdded")]
pub struct PeopleAddedView {
    pub added: u64,
    /// They were on the list, and stay there as they were.
    pub already_there: u64,
    /// Those who were not put on the list.
    pub refused: Vec<RefusedPersonView>,
}

/// Somebody who was not put on a list.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "RefusedPerson")]
pub struct RefusedPersonView {
    /// The row's place in the request, from 0.
    pub index: usize,
    /// `only_scanned`: all that is known of them is a scan, which is no reason to contact anybody; `basis_missing`;
    /// `proof_missing`; `erased`.
    pub code: &'static str,
}

/// Somebody on a campaign's list.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "CampaignPerson")]
pub struct ListedPersonView {
    /// As they are listed, or as their name turned out to be.
    pub user_id: Option<i64>,
    /// Without `@`.
    pub username: Option<String>,
    #[schemars(extend("enum" = Basis::ALL.map(Basis::as_str)))]
    pub basis: String,
    pub proof: Option<String>,
    pub supplied_by: Option<String>,
    pub time_zone: Option<String>,
    /// `key:<id>`.
    pub added_by: String,
    pub added_at: DateTime<Utc>,
    /// What became of them: see docs/OUTREACH.md; null: they wait.
    pub outcome: Option<String>,
    /// What that counts as: `invited`, `refused`, `skipped` or `outcome_unknown`.
    pub class: Option<String>,
    /// Telegram's own name for it, where there is one.
    pub why: Option<String>,
    pub decided_at: Option<DateTime<Utc>>,
}

/// Somebody who was invited into the chat before, or outside of Wireroom.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LedgerRow")]
pub struct LedgerRowBody {
    /// Telegram's user id.
    #[schemars(range(min = 1))]
    user_id: i64,
    /// When, if that is known (RFC 3339): they are left alone by other campaigns for a time after it.
    #[serde(default)]
    #[schemars(extend("format" = "date-time"))]
    invited_at: Option<String>,
}

/// What became of an import.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "LedgerImport")]
pub struct LedgerImportView {
    pub added: i64,
    /// They were in the ledger, and stay there as they were.
    pub already_there: i64,
}

impl From<PersonRecord> for ListedPersonView {
    fn from(record: PersonRecord) -> Self {
        Self {
            user_id: record.user_id.or(record.resolved_id),
            username: record.username,
            basis: record.basis,
            proof: record.proof,
            supplied_by: record.supplied_by,
            time_zone: record.time_zone,
            added_by: record.added_by,
            added_at: record.added_at,
            outcome: record.outcome,
            class: record.class,
            why: record.why,
            decided_at: record.decided_at,
        }
    }
}

pub struct CampaignPeopleApi;

#[OpenApi]
impl CampaignPeopleApi {
    /// Put people on a campaign's list
    ///
    /// Takes up to 10,000 people as JSON, NDJSON or CSV (the first line names the fields). Everybody needs a basis to be
    /// contacted; those without one are left out, and the answer says why. Scope: operator.
    #[oai(
        path = "/v1/campaigns/:id/people",
        method = "post",
        operation_id = "add_campaign_people",
        tag = "Tag::Outreach"
    )]
    async fn add(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The campaign's id.
        id: Path<String>,
        body: Rows<NewPersonBody>,
    ) -> Result<Json<Typed<PeopleAddedView>>, Problem> {
        let id = campaign_id(&id)?;
        let bodies = body.read()?;
        let named: Vec<PersonRef> = bodies
            .iter()
            .enumerate()
            .map(|(index, body)| body.person(index))
            .collect::<Result<_, _>>()?;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_campaign_people"))?;
        if !campaigns::lock(&mut transaction, id).await? {
            return Err(not_found());
        }
        check_zones(&mut transaction, &bodies).await?;
        let known = Known::of(state.0, &mut transaction, &named, &bodies).await?;
        let (mut people, mut refused) = (Vec::new(), Vec::new());
        for (index, (body, person)) in bodies.into_iter().zip(named).enumerate() {
            match known.basis(&person, &body) {
                Err(code) => refused.push(RefusedPersonView { index, code }),
                Ok(None) => {
                    let message = "takes one of contact, join_request, dialogue, import.";
                    return Err(invalid(format!("items[{index}].basis"), message));
                }
                Ok(Some(basis)) => people.push(body.new_person(index, person, basis)?),
            }
        }
        let added = campaign_people::add(&mut transaction, id, &people, &caller.0.actor()).await?;
        let view = PeopleAddedView {
            added,
            already_there: people.len() as u64 - added,
            refused,
        };
        let details = json!({ "added": view.added, "refused": view.refused.len() });
        note(
            &mut transaction,
            &caller.0,
            context.0,
            "campaign.people_added",
            id,
            details,
        )
        .await?;
        transaction.commit().await.map_err(failed("commit_campaign_people"))?;
        Ok(Json(Typed(view)))
    }

    /// Read a campaign's list
    ///
    /// Shows everybody on it, in the order they came, with what became of them. Scope: viewer.
    #[oai(
        path = "/v1/campaigns/:id/people",
        method = "get",
        operation_id = "list_campaign_people",
        tag = "Tag::Outreach"
    )]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The campaign's id.
        id: Path<String>,
        /// Only those of this outcome; `waiting`: those who have none yet.
        outcome: Query<Option<String>>,
        /// Most people of the page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Typed<Page<ListedPersonView>>>, Problem> {
        let id = campaign_id(&id)?;
        let limit = page::limit(limit.as_deref())?;
        let after: Option<i64> = page::decode(List::CampaignPeople, cursor.as_deref())?;
        let mut conn = store::connection(&state.pool, "campaign_people_page").await?;
        campaigns::get(&mut conn, id).await?.ok_or_else(not_found)?;
        let rows = campaign_people::page(&mut conn, id, outcome.as_deref(), after, i64::from(limit) + 1).await?;
        let (rows, next_cursor) = page::cut(rows, limit, List::CampaignPeople, |row| row.id.to_string());
        let items = rows.into_iter().map(ListedPersonView::from).collect();
        Ok(Json(Typed(Page { items, next_cursor })))
    }

    /// Import people who were invited before
    ///
    /// Takes up to 10,000 people as JSON, NDJSON or CSV: whoever is in the ledger is not invited by the campaign. Scope:
    /// operator.
    #[oai(
        path = "/v1/campaigns/:id/ledger/import",
        method = "post",
        operation_id = "import_campaign_ledger",
        tag = "Tag::Outreach"
    )]
    async fn import(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The campaign's id.
        id: Path<String>,
        body: Rows<LedgerRowBody>,
    ) -> Result<Json<Typed<LedgerImportView>>, Problem> {
        let id = campaign_id(&id)?;
        let rows = body.read()?.into_iter().enumerate();
        let now = state.clock.now();
        let rows = rows.map(|(index, row)| imported(index, &row, now));
        let mut rows: Vec<ImportedRow> = rows.collect::<Result<_, _>>()?;
        let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let mut transaction = state.pool.begin().await.map_err(failed("begin_ledger_import"))?;
        if !campaigns::lock(&mut transaction, id).await? {
            return Err(not_found());
        }
        if let Ok(key) = person_key(state.0) {
            let ids: Vec<i64> = rows.iter().map(|row| row.user_id).collect();
            let erased = erasure::erased_among(&mut transaction, Some(&key), &ids).await?;
            // They are not contacted anyway, and no row may say so.
            rows.retain(|row| !erased.contains(&row.user_id));
        }
        let added = ledger::import(&mut transaction, id, &rows, &caller.0.actor()).await?;
        let view = LedgerImportView {
            added,
            already_there: count - added,
        };
        let details = json!({ "added": view.added, "already_there": view.already_there });
        note(
            &mut transaction,
            &caller.0,
            context.0,
            "campaign.ledger_imported",
            id,
            details,
        )
        .await?;
        transaction.commit().await.map_err(failed("commit_ledger_import"))?;
        Ok(Json(Typed(view)))
    }
}

fn imported(index: usize, row: &LedgerRowBody, now: DateTime<Utc>) -> Result<ImportedRow, Problem> {
    if row.user_id <= 0 {
        return Err(invalid(format!("items[{index}].user_id"), "must be a positive number."));
    }
    let field = format!("items[{index}].invited_at");
    let invited_at = body::time(&field, row.invited_at.as_deref())?;
    if invited_at.is_some_and(|time| time > now + TimeDelta::minutes(5)) {
        return Err(invalid(
            field,
            "must not be in the future: it is when the person was invited.",
        ));
    }
    Ok(ImportedRow {
        user_id: row.user_id,
        invited_at,
    })
}

/// What the database knows of the people of a request.
struct Known {
    erased: HashSet<i64>,
    scanned: Vec<PersonRef>,
}

impl Known {
    /// `bodies` are those of `people`, one by one.
    async fn of(
        state: &State,
        conn: &mut PgConnection,
        people: &[PersonRef],
        bodies: &[NewPersonBody],
    ) -> Result<Self, Problem> {
        let names = Names::of(people);
        let erased = match person_key(state) {
            Ok(key) => erasure::erased_among(conn, Some(&key), &names.ids).await?,
            Err(_) => HashSet::new(),
        };
        // Of those alone who come without a reason: it says why they are refused.
        let without = people.iter().zip(bodies).filter(|(_, body)| body.basis.is_none());
        let without = Names::of(without.map(|(person, _)| person));
        let scanned = campaign_people::scanned(conn, &without).await?;
        Ok(Self { erased, scanned })
    }

    /// Why somebody may be contacted, or the code of why not; `None`: there is no such basis.
    fn basis(&self, person: &PersonRef, body: &NewPersonBody) -> Result<Option<Basis>, &'static str> {
        if matches!(person, PersonRef::Id(id) if self.erased.contains(id)) {
            return Err("erased");
        }
        let Some(basis) = &body.basis else {
            let is_scanned = self.scanned.contains(person);
            return Err(if is_scanned { "only_scanned" } else { "basis_missing" });
        };
        let basis = Basis::parse(basis);
        let is_blank = |text: &Option<String>| text.as_deref().is_none_or(|text| text.trim().is_empty());
        if basis == Some(Basis::Import) && (is_blank(&body.proof) || is_blank(&body.supplied_by)) {
            return Err("proof_missing");
        }
        Ok(basis)
    }
}

async fn check_zones(conn: &mut PgConnection, bodies: &[NewPersonBody]) -> Result<(), Problem> {
    let mut known: HashSet<&str> = HashSet::new();
    for (index, body) in bodies.iter().enumerate() {
        let Some(zone) = body.time_zone.as_deref().filter(|zone| !known.contains(zone)) else {
            continue;
        };
        if zone.len() > 64 || !session_health::knows_time_zone(conn, zone).await? {
            return Err(no_such_zone(&format!("items[{index}].time_zone")));
        }
        known.insert(zone);
    }
    Ok(())
}

impl NewPersonBody {
    fn person(&self, index: usize) -> Result<PersonRef, Problem> {
        match (self.user_id, &self.username) {
            (Some(id), None) if id > 0 => Ok(PersonRef::Id(id)),
            (Some(_), None) => Err(invalid(format!("items[{index}].user_id"), "must be a positive number.")),
            (None, Some(name)) => {
                let name = name.trim();
                let name = name.strip_prefix('@').unwrap_or(name);
                let field = format!("items[{index}].username");
                parse_person(&format!("@{name}"))
                    .ok_or_else(|| invalid(field, "must be a name such as @harbour_friend."))
            }
            _ => Err(invalid(
                format!("items[{index}].user_id"),
                "give one of user_id and username.",
            )),
        }
    }

    fn new_person(self, index: usize, person: PersonRef, basis: Basis) -> Result<NewPerson, Problem> {
        for (field, text, most) in [("proof", &self.proof, 1000), ("supplied_by", &self.supplied_by, 200)] {
            if text.as_ref().is_some_and(|text| text.chars().count() > most) {
                let message = format!("must be at most {most} characters.");
                return Err(invalid(format!("items[{index}].{field}"), message));
            }
        }
        Ok(NewPerson {
            person,
            basis,
            proof: self.proof,
            supplied_by: self.supplied_by,
            time_zone: self.time_zone,
        })
    }
}
