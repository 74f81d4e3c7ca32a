//! Making campaigns, and looking at them.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Path, Query},
    payload::Json,
};
use serde_json::json;
use uuid::Uuid;

use super::{
    body::NewCampaignBody,
    campaign_id, not_found, note,
    view::{CampaignView, PreflightView, ReportView},
};
use crate::{
    api::{
        State,
        auth::{Allowed, Operator, Viewer},
        document::Tag,
        jobs::{invalid, usable_session},
        outreach::person_key,
        page::{self, List, Page},
        problem::{Code, Problem},
        sent::Sent,
        shell::RequestContext,
        typed::Typed,
    },
    store::{self, PgConnection, campaigns, failed, preflight, session_health, session_reads},
};

/// How many people of a list a preflight looks at: it takes a second or two.
const MOST_CHECKED: i64 = 200_000;

#[derive(ApiResponse)]
enum Created {
    /// It is stored, and does not run yet.
    #[oai(status = 201)]
    Now(
        Json<Typed<CampaignView>>,
        /// Where the campaign is.
        #[oai(header = "Location")]
        String,
    ),
}

pub struct CampaignsApi;

#[OpenApi]
impl CampaignsApi {
    /// Make a campaign
    ///
    /// Stores whom to invite into which chat, and how. Then put people on its list, look at the preflight, and resume it.
    /// Scope: operator.
    #[oai(
        path = "/v1/campaigns",
        method = "post",
        operation_id = "create_campaign",
        tag = "Tag::Outreach"
    )]
    async fn create(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        body: Sent<NewCampaignBody>,
    ) -> Result<Created, Problem> {
        let body = body.read()?;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_campaign"))?;
        let session = match &body.session {
            Some(session) => Some(usable_session(&mut transaction, session).await?),
            None => None,
        };
        check_pool(&state, body.pool.as_deref()).await?;
        check_zone(&mut transaction, body.time_zone.as_deref()).await?;
        let new = body.campaign(&caller.0, session)?;
        if !campaigns::insert(&mut transaction, &new).await? {
            return Err(Problem::new(Code::CampaignExists, "Another campaign has that name.").field("name"));
        }
        let details = json!({ "name": new.name, "mode": new.mode, "per_day": new.per_day });
        note(
            &mut transaction,
            &caller.0,
            context.0,
            "campaign.created",
            new.id,
            details,
        )
        .await?;
        let campaign = campaigns::get(&mut transaction, new.id).await?.ok_or_else(not_found)?;
        transaction.commit().await.map_err(failed("commit_campaign"))?;
        let base = state.config.api.public_url.as_deref().unwrap_or_default();
        let location = format!("{}/v1/campaigns/{}", base.trim_end_matches('/'), new.id);
        Ok(Created::Now(Json(Typed(campaign.into())), location))
    }

    /// List campaigns
    ///
    /// Lists campaigns, those made first first. Scope: viewer.
    #[oai(
        path = "/v1/campaigns",
        method = "get",
        operation_id = "list_campaigns",
        tag = "Tag::Outreach"
    )]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// Most campaigns of the page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Typed<Page<CampaignView>>>, Problem> {
        let limit = page::limit(limit.as_deref())?;
        let after: Option<Uuid> = page::decode(List::Campaigns, cursor.as_deref())?;
        let mut conn = store::connection(&state.pool, "campaign_page").await?;
        let rows = campaigns::page(&mut conn, None, after, i64::from(limit) + 1).await?;
        let (rows, next_cursor) = page::cut(rows, limit, List::Campaigns, |row| row.id.to_string());
        let items = rows.into_iter().map(CampaignView::from).collect();
        Ok(Json(Typed(Page { items, next_cursor })))
    }

    /// Look at a campaign
    ///
    /// Shows whether it runs, why not, and the job that works on it. Scope: viewer.
    #[oai(
        path = "/v1/campaigns/:id",
        method = "get",
        operation_id = "get_campaign",
        tag = "Tag::Outreach"
    )]
    async fn get(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The campaign's id.
        id: Path<String>,
    ) -> Result<Json<Typed<CampaignView>>, Problem> {
        let mut conn = store::connection(&state.pool, "campaign_page").await?;
        let campaign = campaigns::get(&mut conn, campaign_id(&id)?).await?;
        Ok(Json(Typed(campaign.ok_or_else(not_found)?.into())))
    }

    /// Read a campaign's report
    ///
    /// Counts its people by what became of them: every outcome is explained in docs/OUTREACH.md. Scope: viewer.
    #[oai(
        path = "/v1/campaigns/:id/report",
        method = "get",
        operation_id = "get_campaign_report",
        tag = "Tag::Outreach"
    )]
    async fn report(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The campaign's id.
        id: Path<String>,
    ) -> Result<Json<Typed<ReportView>>, Problem> {
        let id = campaign_id(&id)?;
        let mut conn = store::connection(&state.pool, "campaign_counts").await?;
        campaigns::get(&mut conn, id).await?.ok_or_else(not_found)?;
        Ok(Json(Typed(ReportView::of(&mut conn, id).await?)))
    }

    /// See who could be contacted
    ///
    /// Counts those of the list who are eligible, and why the rest are not, without sending anything or asking Telegram. What
    /// Telegram alone knows (privacy, premium, whether a name is anybody's) is found out in their turn. Of a longer list the first
    /// 200,000 who wait are looked at. Scope: viewer.
    #[oai(
        path = "/v1/campaigns/:id/preflight",
        method = "get",
        operation_id = "preflight_campaign",
        tag = "Tag::Outreach"
    )]
    async fn preflight(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The campaign's id.
        id: Path<String>,
    ) -> Result<Json<Typed<PreflightView>>, Problem> {
        let id = campaign_id(&id)?;
        let mut conn = store::connection(&state.pool, "campaign_preflight").await?;
        campaigns::get(&mut conn, id).await?.ok_or_else(not_found)?;
        let key = person_key(&state).ok();
        let mut found = preflight::look(&mut conn, key.as_ref(), id, MOST_CHECKED).await?;
        Ok(Json(Typed(PreflightView {
            campaign: id,
            eligible: found.verdicts.remove("eligible").unwrap_or(0),
            left_out: found.verdicts,
            checked: found.checked,
            truncated: found.is_truncated,
        })))
    }
}

/// Refuses a pool that there is not.
pub async fn check_pool(state: &State, pool: Option<&str>) -> Result<(), Problem> {
    match pool {
        Some(pool) if !session_reads::pool_exists(&state.pool, pool).await? => {
            Err(Problem::new(Code::UnknownPool, "No pool has that name.").field("pool"))
        }
        _ => Ok(()),
    }
}

/// Refuses a time zone that there is not.
pub async fn check_zone(conn: &mut PgConnection, zone: Option<&str>) -> Result<(), Problem> {
    match zone {
        Some(zone) if zone.len() > 64 || !session_health::knows_time_zone(conn, zone).await? => {
            Err(no_such_zone("time_zone"))
        }
        _ => Ok(()),
    }
}

pub fn no_such_zone(field: &str) -> Problem {
    invalid(field, "must be a name of the IANA database, such as Europe/Lisbon.")
}
