//! `/v1/applications`: Telegram's API ids and hashes. The workers' environment names the default one; more are made here.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{ApiResponse, OpenApi, param::Path, payload::Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    State,
    auth::{Admin, Allowed, Viewer},
    document::Tag,
    jobs::invalid,
    problem::{Code, Problem},
    sent::Sent,
    shell::RequestContext,
    typed::Typed,
};
use crate::{
    ids::ApplicationId,
    letterbox::Sealed,
    store::{
        self,
        applications::{self, ApplicationRecord, Deleted, Resumed},
        audit, errands, failed,
    },
};

/// Labels that begin with this are the workers' own.
const RESERVED: &str = "environment";

/// An application from my.telegram.org.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ApplicationRequest")]
pub struct ApplicationBody {
    /// Its name for people, 1 to 100 characters.
    #[schemars(length(min = 1, max = 100), example = &"shops")]
    label: String,
    #[schemars(range(min = 1), example = 12345)]
    api_id: i32,
    /// 32 hexadecimal digits; sealed for the workers, and never shown.
    #[schemars(length(min = 32, max = 32))]
    api_hash: String,
}

/// An application, without its hash.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Application")]
pub struct ApplicationView {
    pub id: Uuid,
    pub label: String,
    pub api_id: i32,
    /// Sessions that name none get this one.
    pub is_default: bool,
    /// `environment`: the workers' variables name it; `api`: an admin made it.
    #[schemars(extend("enum" = ["environment", "api"]))]
    pub origin: String,
    /// How many sessions belong to it.
    pub sessions: i64,
    pub created_at: DateTime<Utc>,
    /// Telegram does not take its API id: no session of it is connected until somebody resumes it. Null: it does.
    pub refused: Option<RefusalView>,
}

/// That Telegram does not take an application.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "ApplicationRefusal")]
pub struct RefusalView {
    /// Telegram's name of the error.
    #[schemars(example = &"API_ID_INVALID")]
    pub reason: String,
    pub since: DateTime<Utc>,
}

/// The applications there are.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Applications")]
pub struct ApplicationsView {
    pub items: Vec<ApplicationView>,
}

impl From<ApplicationRecord> for ApplicationView {
    fn from(record: ApplicationRecord) -> Self {
        Self {
            id: record.id.0,
            label: record.label,
            api_id: record.api_id,
            is_default: record.is_default,
            origin: record.origin,
            sessions: record.sessions,
            created_at: record.created_at,
            refused: record
                .refused
                .zip(record.refused_at)
                .map(|(reason, since)| RefusalView { reason, since }),
        }
    }
}

#[derive(ApiResponse)]
enum ApplicationCreated {
    /// It is stored.
    #[oai(status = 201)]
    Created(Json<Typed<ApplicationView>>),
}

pub struct ApplicationsApi;

#[OpenApi]
impl ApplicationsApi {
    /// List applications
    ///
    /// Lists Telegram applications, the default one first, without their hashes. Scope: viewer.
    #[oai(
        path = "/v1/applications",
        method = "get",
        operation_id = "list_applications",
        tag = "Tag::Sessions"
    )]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
    ) -> Result<Json<Typed<ApplicationsView>>, Problem> {
        Ok(Json(Typed(ApplicationsView {
            items: all(&state).await?,
        })))
    }

    /// Add an application
    ///
    /// Stores an API id and hash from my.telegram.org; sessions name it at their login, and connect with it. Scope: admin.
    #[oai(
        path = "/v1/applications",
        method = "post",
        operation_id = "create_application",
        tag = "Tag::Sessions"
    )]
    async fn create(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        body: Sent<ApplicationBody>,
    ) -> Result<ApplicationCreated, Problem> {
        let mut body = body.read()?;
        let hash = Zeroizing::new(std::mem::take(&mut body.api_hash));
        check(&body, &hash)?;
        let id = ApplicationId::generate();
        let mut transaction = state.pool.begin().await.map_err(failed("begin_application"))?;
        let (key_id, slot) = errands::slot(&mut transaction).await?.ok_or_else(|| {
            let detail = "Start a worker: it publishes the key with which the API seals what only a worker may read.";
            Problem::new(Code::NoWorker, detail)
        })?;
        let sealed = slot
            .seal(&applications::hash_owner(id), hash.as_bytes())
            .map_err(Problem::internal)?;
        let sealed = Sealed { key_id, bytes: sealed };
        if !applications::insert(&mut transaction, id, &body.label, body.api_id, &sealed).await? {
            let detail = "Another application has that label.";
            return Err(Problem::new(Code::ApplicationExists, detail).field("label"));
        }
        let entry = audit::Entry {
            actor: &caller.0.actor(),
            action: "application.created",
            subject: &format!("application:{id}"),
            request_id: Some(context.id()),
            details: json!({ "label": body.label, "api_id": body.api_id }),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("commit_application"))?;
        let made = all(&state).await?.into_iter().find(|made| made.id == id.0);
        made.map(|made| ApplicationCreated::Created(Json(Typed(made))))
            .ok_or_else(|| Problem::internal("an application that is gone"))
    }

    /// Resume an application
    ///
    /// Lets sessions be connected again whose application Telegram had refused (`API_ID_INVALID`, `API_ID_PUBLISHED_FLOOD`).
    /// Only a person can know that it is mended, at my.telegram.org or with Telegram's support. Scope: admin.
    #[oai(
        path = "/v1/applications/:id/resume",
        method = "post",
        operation_id = "resume_application",
        tag = "Tag::Sessions"
    )]
    async fn resume(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The application's id.
        id: Path<String>,
    ) -> Result<Json<Typed<ApplicationsView>>, Problem> {
        let id = parse(&id)?;
        let actor = caller.0.actor();
        let mut transaction = state.pool.begin().await.map_err(failed("begin_application"))?;
        match applications::resume(&mut transaction, id, &actor).await? {
            Resumed::Now => {}
            Resumed::Unknown => return Err(not_found()),
            Resumed::NotRefused => {
                let detail = "Telegram takes the application, as far as is known.";
                return Err(Problem::new(Code::ApplicationNotRefused, detail));
            }
        }
        let entry = audit::Entry {
            actor: &actor,
            action: "application.resumed",
            subject: &format!("application:{id}"),
            request_id: Some(context.id()),
            details: json!({}),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("commit_application"))?;
        state.signals.sessions_changed();
        Ok(Json(Typed(ApplicationsView {
            items: all(&state).await?,
        })))
    }

    /// Delete an application
    ///
    /// Deletes one that no session belongs to. Scope: admin.
    #[oai(
        path = "/v1/applications/:id",
        method = "delete",
        operation_id = "delete_application",
        tag = "Tag::Sessions"
    )]
    async fn delete(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The application's id.
        id: Path<String>,
    ) -> Result<Json<Typed<ApplicationsView>>, Problem> {
        let id = parse(&id)?;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_application"))?;
        match applications::delete(&mut transaction, id).await? {
            Deleted::Now => {}
            Deleted::Unknown => {
                return Err(not_found());
            }
            Deleted::InUse => {
                let detail = "Sessions belong to it, or it is the default one: delete those first.";
                return Err(Problem::new(Code::ApplicationInUse, detail));
            }
        }
        let entry = audit::Entry {
            actor: &caller.0.actor(),
            action: "application.deleted",
            subject: &format!("application:{id}"),
            request_id: Some(context.id()),
            details: json!({}),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("commit_application"))?;
        Ok(Json(Typed(ApplicationsView {
            items: all(&state).await?,
        })))
    }
}

fn parse(id: &str) -> Result<ApplicationId, Problem> {
    id.parse()
        .map_err(|_| Problem::new(Code::InvalidParameter, "An application's id is a UUID.").field("id"))
}

fn not_found() -> Problem {
    Problem::new(Code::ApplicationNotFound, "There is no application of that id.")
}

async fn all(state: &State) -> Result<Vec<ApplicationView>, Problem> {
    let mut conn = store::connection(&state.pool, "applications").await?;
    let records = applications::all(&mut conn).await?;
    Ok(records.into_iter().map(ApplicationView::from).collect())
}

fn check(body: &ApplicationBody, hash: &str) -> Result<(), Problem> {
    if !(1..=100).contains(&body.label.trim().chars().count()) || body.label.chars().count() > 100 {
        return Err(invalid("label", "must be 1 to 100 characters."));
    }
    if body.label.starts_with(RESERVED) {
        return Err(invalid(
            "label",
            format!("must not begin with {RESERVED}: those are the workers' own."),
        ));
    }
    if body.api_id <= 0 {
        return Err(invalid(
            "api_id",
            "must be a positive number, as my.telegram.org shows it.",
        ));
    }
    if hash.len() != 32 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(invalid(
            "api_hash",
            "must be 32 hexadecimal digits, as my.telegram.org shows them.",
        ));
    }
    Ok(())
}
