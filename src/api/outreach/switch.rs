//! `GET/PUT /v1/outreach`: one switch for every invitation and every first message, from every session.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{OpenApi, payload::Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    api::{
        State,
        auth::{Admin, Allowed, Operator, Viewer},
        document::Tag,
        jobs::{invalid, within},
        problem::{Code, Problem},
        sent::Sent,
        shell::RequestContext,
        typed::Typed,
    },
    store::{
        self, PgPool,
        api_keys::Scope,
        audit, failed,
        outreach_switch::{self, Switch},
    },
};

const MAX_REASON: usize = 500;
/// How long the answer waits for calls that were let through before: less than a request may take.
const IN_FLIGHT_BOUND: Duration = Duration::from_secs(7);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(50);

/// Which way to turn the switch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "OutreachRequest")]
pub struct OutreachBody {
    state: SwitchState,
    /// For the people who wonder: 1 to 500 characters.
    #[schemars(length(min = 1, max = 500), example = &"A person complained; looking into it")]
    reason: String,
}

/// Whether outreach may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "OutreachState")]
pub enum SwitchState {
    Running,
    Stopped,
}

/// Limits over all campaigns and sessions: adding either raises none of them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "OutreachLimits")]
pub struct LimitsBody {
    /// How many people may be invited into one chat in a day (UTC).
    #[schemars(range(min = 0, max = 1_000_000), example = 50)]
    per_target_per_day: i64,
    /// For how many days a person whom one campaign has contacted is contacted by no other one.
    #[schemars(range(min = 0, max = 3650), example = 30)]
    person_rest_days: i64,
}

/// The switch, and the limits.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Outreach")]
pub struct OutreachView {
    pub state: SwitchState,
    pub reason: Option<String>,
    /// The key that turned it: `key:<id>`; null: as it came.
    pub changed_by: Option<String>,
    pub changed_at: DateTime<Utc>,
    /// Calls that were let through before, and not seen to be answered. After a stop that answered 0 here, nothing is sent.
    pub calls_in_flight: i64,
    pub per_target_per_day: i32,
    pub person_rest_days: i32,
}

impl From<Switch> for OutreachView {
    fn from(switch: Switch) -> Self {
        Self {
            state: if switch.stopped {
                SwitchState::Stopped
            } else {
                SwitchState::Running
            },
            reason: switch.reason,
            changed_by: switch.changed_by,
            changed_at: switch.changed_at,
            calls_in_flight: switch.calls_in_flight,
            per_target_per_day: switch.per_target_per_day,
            person_rest_days: switch.person_rest_days,
        }
    }
}

pub struct OutreachApi;

#[OpenApi]
impl OutreachApi {
    /// Look at the outreach switch
    ///
    /// Shows whether people may be contacted, who decided that and why, and the limits of all campaigns. Scope: viewer.
    #[oai(
        path = "/v1/outreach",
        method = "get",
        operation_id = "get_outreach",
        tag = "Tag::Outreach"
    )]
    async fn get(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
    ) -> Result<Json<Typed<OutreachView>>, Problem> {
        view(&state.pool).await
    }

    /// Stop or resume all outreach
    ///
    /// Stopped, no invitation and no first message to anybody begins, from any session; jobs that wanted to wait, and say
    /// so. The answer waits up to 7 s for calls that were on their way to Telegram: when it says `calls_in_flight: 0`,
    /// nothing is sent any more. Stopping takes the scope operator, resuming the scope admin.
    #[oai(
        path = "/v1/outreach",
        method = "put",
        operation_id = "turn_outreach",
        tag = "Tag::Outreach"
    )]
    async fn turn(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        body: Sent<OutreachBody>,
    ) -> Result<Json<Typed<OutreachView>>, Problem> {
        let body = body.read()?;
        if body.reason.trim().is_empty() || body.reason.chars().count() > MAX_REASON {
            return Err(invalid("reason", format!("must be 1 to {MAX_REASON} characters.")));
        }
        let stops = body.state == SwitchState::Stopped;
        if !stops && caller.0.scope < Scope::Admin {
            let detail = "Resuming outreach needs a key with the scope admin.";
            return Err(Problem::new(Code::Forbidden, detail));
        }
        let actor = caller.0.actor();
        let mut transaction = state.pool.begin().await.map_err(failed("begin_outreach"))?;
        outreach_switch::turn(&mut transaction, stops, Some(&body.reason), &actor).await?;
        let entry = audit::Entry {
            actor: &actor,
            action: if stops { "outreach.stopped" } else { "outreach.resumed" },
            subject: "outreach",
            request_id: Some(context.id()),
            details: json!({ "reason": body.reason }),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("commit_outreach"))?;
        if stops {
            await_calls(&state.pool).await?;
        } else {
            wake(&state).await?;
        }
        view(&state.pool).await
    }

    /// Set the limits of all campaigns
    ///
    /// They count over all campaigns and sessions together, and hold from the next person on. Scope: admin.
    #[oai(
        path = "/v1/outreach/limits",
        method = "put",
        operation_id = "set_outreach_limits",
        tag = "Tag::Outreach"
    )]
    async fn set_limits(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        body: Sent<LimitsBody>,
    ) -> Result<Json<Typed<OutreachView>>, Problem> {
        let body = body.read()?;
        let per_target = within("per_target_per_day", Some(body.per_target_per_day), 0, 1_000_000)?.unwrap_or(0);
        let rest = within("person_rest_days", Some(body.person_rest_days), 0, 3650)?.unwrap_or(0);
        let mut transaction = state.pool.begin().await.map_err(failed("begin_outreach"))?;
        outreach_switch::set_limits(&mut transaction, per_target, rest).await?;
        let entry = audit::Entry {
            actor: &caller.0.actor(),
            action: "outreach.limits_set",
            subject: "outreach",
            request_id: Some(context.id()),
            details: json!({ "per_target_per_day": per_target, "person_rest_days": rest }),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("commit_outreach"))?;
        wake(&state).await?;
        view(&state.pool).await
    }
}

async fn view(pool: &PgPool) -> Result<Json<Typed<OutreachView>>, Problem> {
    let mut conn = store::connection(pool, "outreach_switch").await?;
    Ok(Json(Typed(outreach_switch::get(&mut conn).await?.into())))
}

/// Returns when no call is on its way any more, or the answer cannot wait longer.
async fn await_calls(pool: &PgPool) -> Result<(), Problem> {
    let end = Instant::now() + IN_FLIGHT_BOUND;
    loop {
        let mut conn = store::connection(pool, "outreach_calls_in_flight").await?;
        if outreach_switch::calls_in_flight(&mut conn).await? == 0 || Instant::now() >= end {
            return Ok(());
        }
        drop(conn);
        sleep(LOOK).await;
    }
}

/// Jobs that waited for the switch or a limit look again.
async fn wake(state: &State) -> Result<(), Problem> {
    let mut conn = store::connection(&state.pool, "wake_outreach").await?;
    while outreach_switch::wake(&mut conn, state.config.queue.ageing_step).await? == outreach_switch::WAKE {}
    state.signals.changed();
    Ok(())
}
