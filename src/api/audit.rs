//! `GET /v1/audit`: who changed what, and when.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{OpenApi, param::Query, payload::Json};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{
    State,
    auth::{Admin, Allowed},
    document::Tag,
    page::{self, List, Page},
    problem::Problem,
    typed::Typed,
};
use crate::store::audit_reads::{self, AuditFilter, AuditRecord};

/// One change, as it was written down in the transaction that made it. No secret, phone number or message text is in it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "AuditEntry")]
pub struct AuditEntryView {
    /// Grows with time.
    pub id: i64,
    pub at: DateTime<Utc>,
    /// Who: `key:<id>` of the API, `cli`, `worker:<id>` or `job:<id>`.
    #[schemars(example = &"key:k3q9x1")]
    pub actor: String,
    /// What was done: `campaign.paused`, `key.created`, `session.proxy_changed`, …
    #[schemars(example = &"campaign.paused")]
    pub action: String,
    /// To what: `campaign:<id>`, `key:<id>`, `session:<id>`, …
    #[schemars(example = &"campaign:0198c0de-7000-7000-8000-000000000001")]
    pub subject: String,
    /// The request that asked for it, as its answer named it; null: no request did.
    pub request_id: Option<String>,
    /// What else there is to know of it; its fields are those of the action.
    #[schemars(with = "std::collections::BTreeMap<String, Value>")]
    pub details: Value,
}

impl From<AuditRecord> for AuditEntryView {
    fn from(record: AuditRecord) -> Self {
        Self {
            id: record.id,
            at: record.at,
            actor: record.actor,
            action: record.action,
            subject: record.subject,
            request_id: record.request_id,
            details: record.details,
        }
    }
}

pub struct AuditApi;

#[OpenApi]
impl AuditApi {
    /// Read the audit log
    ///
    /// Lists what was changed, by whom and when, the latest first: each row was written in the transaction of its change, and is kept for
    /// a year. Filters hold together. Scope: admin.
    #[oai(path = "/v1/audit", method = "get", operation_id = "list_audit", tag = "Tag::Audit")]
    #[expect(clippy::too_many_arguments, reason = "one per parameter of the query")]
    async fn list(
        &self,
        _caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        /// Only what this one did, such as `key:<id>`.
        actor: Query<Option<String>>,
        /// Only this action, such as `campaign.paused`.
        action: Query<Option<String>>,
        /// Only what was done to this, such as `campaign:<id>`.
        subject: Query<Option<String>>,
        /// Only what was done at this time (RFC 3339) or later.
        since: Query<Option<String>>,
        /// Only what was done before this time (RFC 3339).
        until: Query<Option<String>>,
        /// Most entries of the page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Typed<Page<AuditEntryView>>>, Problem> {
        let filter = AuditFilter {
            actor: actor.as_deref(),
            action: action.as_deref(),
            subject: subject.as_deref(),
            since: page::time("since", since.as_deref())?,
            until: page::time("until", until.as_deref())?,
        };
        let limit = page::limit(limit.as_deref())?;
        let before: Option<i64> = page::decode(List::Audit, cursor.as_deref())?;
        let rows = audit_reads::list(&state.pool, &filter, before, i64::from(limit) + 1).await?;
        let (rows, next_cursor) = page::cut(rows, limit, List::Audit, |row| row.id.to_string());
        let items = rows.into_iter().map(AuditEntryView::from).collect();
        Ok(Json(Typed(Page { items, next_cursor })))
    }
}

#[cfg(test)]
mod tests;
