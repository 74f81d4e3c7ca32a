//! Starting, pausing and resuming campaigns.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{OpenApi, param::Path, payload::Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use wireroom_jobs::{JobKind, invite::InviteArgs};

use super::{campaign_id, locked, not_found, note, view::CampaignView};
use crate::{
    api::{
        State,
        auth::{Allowed, Operator},
        document::Tag,
        jobs::{invalid, refused},
        problem::Problem,
        sent::Sent,
        shell::RequestContext,
        typed::Typed,
    },
    store::{
        campaigns::{self, CampaignRecord},
        failed,
        jobs::{self, NewJob},
    },
};

/// Why a campaign is paused.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PauseCampaign")]
pub struct PauseCampaignBody {
    /// For the people who wonder: 1 to 500 characters.
    #[schemars(length(min = 1, max = 500), example = &"The text has a mistake")]
    reason: String,
}

pub struct CampaignControlApi;

#[OpenApi]
impl CampaignControlApi {
    /// Start or resume a campaign
    ///
    /// Lets it run, whatever kept it from that: it was new or paused, stopped by refusals or by `PEER_FLOOD`, or its job had
    /// ended. Refusals until now do not count any more. A session that Telegram limits has to be resumed besides. A campaign
    /// that runs stays as it is. Scope: operator.
    #[oai(
        path = "/v1/campaigns/:id/resume",
        method = "post",
        operation_id = "resume_campaign",
        tag = "Tag::Outreach"
    )]
    async fn resume(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The campaign's id.
        id: Path<String>,
    ) -> Result<Json<Typed<CampaignView>>, Problem> {
        let id = campaign_id(&id)?;
        let actor = caller.0.actor();
        let mut transaction = state.pool.begin().await.map_err(failed("begin_campaign"))?;
        let before = locked(&mut transaction, id).await?;
        if before.state == "running" && before.job_is_live {
            return Ok(Json(Typed(before.into())));
        }
        let mut new = Vec::new();
        let ageing_step = state.config.queue.ageing_step;
        let job = if let Some(job) = before.job.filter(|_| before.job_is_live) {
            // It has not seen the pause yet.
            campaigns::wake(&mut transaction, job, ageing_step).await?;
            job
        } else {
            let job = job_of(&before, &actor)?;
            let id = job.id;
            new.push(job);
            jobs::enqueue(&mut transaction, &new, ageing_step)
                .await
                .map_err(refused)?;
            id
        };
        campaigns::run(&mut transaction, id, job, &actor).await?;
        let details = json!({ "was": before.state_code, "job": job });
        note(&mut transaction, &caller.0, context.0, "campaign.resumed", id, details).await?;
        let after = campaigns::get(&mut transaction, id).await?.ok_or_else(not_found)?;
        transaction.commit().await.map_err(failed("commit_campaign"))?;
        state.signals.enqueued(&new, None);
        state.signals.changed();
        Ok(Json(Typed(after.into())))
    }

    /// Pause a campaign
    ///
    /// Nobody else of its list is contacted; a call that was on its way is finished. Its job ends. Scope: operator.
    #[oai(
        path = "/v1/campaigns/:id/pause",
        method = "post",
        operation_id = "pause_campaign",
        tag = "Tag::Outreach"
    )]
    async fn pause(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The campaign's id.
        id: Path<String>,
        body: Sent<PauseCampaignBody>,
    ) -> Result<Json<Typed<CampaignView>>, Problem> {
        let id = campaign_id(&id)?;
        let reason = body.read()?.reason;
        if reason.trim().is_empty() || reason.chars().count() > 500 {
            return Err(invalid("reason", "must be 1 to 500 characters."));
        }
        let mut transaction = state.pool.begin().await.map_err(failed("begin_campaign"))?;
        let before = locked(&mut transaction, id).await?;
        campaigns::pause(&mut transaction, id, &reason, &caller.0.actor()).await?;
        if let Some(job) = before.job {
            campaigns::wake(&mut transaction, job, state.config.queue.ageing_step).await?;
        }
        let details = json!({ "reason": reason });
        note(&mut transaction, &caller.0, context.0, "campaign.paused", id, details).await?;
        let after = campaigns::get(&mut transaction, id).await?.ok_or_else(not_found)?;
        transaction.commit().await.map_err(failed("commit_campaign"))?;
        state.signals.changed();
        Ok(Json(Typed(after.into())))
    }
}

/// The job that works through the list.
fn job_of(campaign: &CampaignRecord, actor: &str) -> Result<NewJob, Problem> {
    let args = InviteArgs {
        campaign: campaign.id,
        people: Vec::new(),
        limit: None,
    };
    Ok(NewJob {
        pool: campaign.pool.clone(),
        session: campaign.session,
        tags: vec![format!("campaign:{}", campaign.id)],
        created_by: Some(actor.to_owned()),
        ..NewJob::new(JobKind::Invite, serde_json::to_value(&args).map_err(Problem::internal)?)
    })
}
