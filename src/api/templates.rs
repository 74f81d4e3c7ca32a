//! Templates of publish jobs: texts with variables, and how jobs are filled in from them when they come in.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Path, Query},
    payload::Json,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wireroom_jobs::{
    ports::TextFormat,
    publish::{
        MAX_RAW_BYTES,
        template::{self, TemplateError},
    },
};

use super::{
    State,
    auth::{Allowed, Operator, Viewer},
    document::Tag,
    jobs::invalid,
    page::{self, List, Page},
    problem::{Code, Problem},
    sent::Sent,
    shell::RequestContext,
    typed::Typed,
};
use crate::store::{
    PgPool, audit, failed,
    templates::{self, TemplateRecord},
};

/// A template to be made.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewTemplate")]
pub struct NewTemplateBody {
    /// What jobs name it by: a letter from a to z, then at most 63 of `a-z 0-9 _`.
    #[schemars(length(min = 1, max = 64), example = &"weekly_digest")]
    name: String,
    /// A text with variables such as `{{first_name}}`.
    #[schemars(length(min = 1, max = 32768), example = &"Dear {{first_name}}, see you on **{{day}}**")]
    text: String,
    /// How it is written. Values are text in it, and never markup.
    #[serde(default)]
    format: TextFormat,
}

/// A template's new text.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TemplateText")]
pub struct TemplateTextBody {
    /// A text with variables such as `{{first_name}}`.
    #[schemars(length(min = 1, max = 32768))]
    text: String,
    /// How it is written; left out: as before.
    #[serde(default)]
    format: Option<TextFormat>,
}

/// A text that jobs are filled in from.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Template")]
pub struct TemplateView {
    pub name: String,
    pub format: String,
    pub text: String,
    /// What a job has to give values for.
    pub variables: Vec<String>,
    /// The key that made it: `key:<id>`.
    pub created_by: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl From<TemplateRecord> for TemplateView {
    fn from(template: TemplateRecord) -> Self {
        let variables = template::variables(&template.text, format_of(&template.format));
        Self {
            variables: variables.map(|names| names.into_iter().collect()).unwrap_or_default(),
            name: template.name,
            format: template.format,
            text: template.text,
            created_by: template.created_by,
            created_at: template.created_at,
            updated_at: template.updated_at,
        }
    }
}

#[derive(ApiResponse)]
enum Created {
    /// The template is stored.
    #[oai(status = 201)]
    Created(Json<Typed<TemplateView>>),
}

#[derive(ApiResponse)]
enum Deleted {
    /// The template is gone.
    #[oai(status = 204)]
    Gone,
}

pub struct TemplatesApi;

#[OpenApi]
impl TemplatesApi {
    /// Create a template
    ///
    /// Stores a text with variables. A `publish` job names it in `args.template`, with a value for each of its variables in
    /// `args.variables`: a missing or an unknown one is refused (422). Scope: operator.
    #[oai(
        path = "/v1/templates",
        method = "post",
        operation_id = "create_template",
        tag = "Tag::Templates"
    )]
    async fn create(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        body: Sent<NewTemplateBody>,
    ) -> Result<Created, Problem> {
        let body = body.read()?;
        if !template::is_name(&body.name) {
            return Err(invalid(
                "name",
                "must be a letter from a to z, then at most 63 of a-z 0-9 _",
            ));
        }
        check(&body.text, body.format)?;
        let actor = caller.0.actor();
        let mut transaction = state.pool.begin().await.map_err(failed("create_template"))?;
        let format = word(body.format);
        let stored = templates::create(&mut transaction, &body.name, format, &body.text, &actor).await?;
        let stored = stored.ok_or_else(|| {
            let detail = "A template of that name exists: PUT replaces its text.";
            Problem::new(Code::TemplateExists, detail).field("name")
        })?;
        let entry = audit::Entry {
            actor: &actor,
            action: "template.created",
            subject: &format!("template:{}", stored.name),
            request_id: Some(context.id()),
            details: json!({}),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("create_template"))?;
        Ok(Created::Created(Json(Typed(stored.into()))))
    }

    /// List templates
    ///
    /// Lists the templates by name. Scope: viewer.
    #[oai(
        path = "/v1/templates",
        method = "get",
        operation_id = "list_templates",
        tag = "Tag::Templates"
    )]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// Most templates of the page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Typed<Page<TemplateView>>>, Problem> {
        let limit = page::limit(limit.as_deref())?;
        let after: Option<String> = page::decode(List::Templates, cursor.as_deref())?;
        let found = templates::page(&state.pool, after.as_deref(), i64::from(limit) + 1).await?;
        let (found, next_cursor) = page::cut(found, limit, List::Templates, |template| template.name.clone());
        let items = found.into_iter().map(TemplateView::from).collect();
        Ok(Json(Typed(Page { items, next_cursor })))
    }

    /// Get a template
    ///
    /// Shows a template and its variables. Scope: viewer.
    #[oai(
        path = "/v1/templates/:name",
        method = "get",
        operation_id = "get_template",
        tag = "Tag::Templates"
    )]
    async fn get(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The template's name.
        name: Path<String>,
    ) -> Result<Json<Typed<TemplateView>>, Problem> {
        let found = templates::get(&state.pool, &name).await?;
        Ok(Json(Typed(found.ok_or_else(not_found)?.into())))
    }

    /// Replace a template's text
    ///
    /// Jobs and schedules that were taken before keep the text they were filled in with. Scope: operator.
    #[oai(
        path = "/v1/templates/:name",
        method = "put",
        operation_id = "replace_template",
        tag = "Tag::Templates"
    )]
    async fn replace(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The template's name.
        name: Path<String>,
        body: Sent<TemplateTextBody>,
    ) -> Result<Json<Typed<TemplateView>>, Problem> {
        let body = body.read()?;
        let mut transaction = state.pool.begin().await.map_err(failed("replace_template"))?;
        let format = body.format.map(word);
        let stored = templates::replace(&mut transaction, &name, format, &body.text).await?;
        let stored = stored.ok_or_else(not_found)?;
        // What is wrong in the format that it has now is not committed.
        check(&stored.text, format_of(&stored.format))?;
        let entry = audit::Entry {
            actor: &caller.0.actor(),
            action: "template.replaced",
            subject: &format!("template:{}", stored.name),
            request_id: Some(context.id()),
            details: json!({}),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("replace_template"))?;
        Ok(Json(Typed(stored.into())))
    }

    /// Delete a template
    ///
    /// Jobs and schedules that were taken before keep the text they were filled in with. Scope: operator.
    #[oai(
        path = "/v1/templates/:name",
        method = "delete",
        operation_id = "delete_template",
        tag = "Tag::Templates"
    )]
    async fn delete(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The template's name.
        name: Path<String>,
    ) -> Result<Deleted, Problem> {
        let mut transaction = state.pool.begin().await.map_err(failed("delete_template"))?;
        if !templates::delete(&mut transaction, &name).await? {
            return Err(not_found());
        }
        let entry = audit::Entry {
            actor: &caller.0.actor(),
            action: "template.deleted",
            subject: &format!("template:{}", name.0),
            request_id: Some(context.id()),
            details: json!({}),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("delete_template"))?;
        Ok(Deleted::Gone)
    }
}

/// The body of a job with its template filled in: `text` and `format` in the place of `template` and `variables`. With
/// `targets` the template's text as it is, and the variables stay: the job has a text for each of them. Any other body as it is.
pub async fn filled<'b>(pool: &PgPool, body: &'b Value) -> Result<Cow<'b, Value>, Problem> {
    let args = &body["args"];
    if body["kind"] != "publish" || args.get("template").is_none_or(Value::is_null) {
        return Ok(Cow::Borrowed(body));
    }
    let name = args["template"].as_str().unwrap_or_default();
    for field in ["text", "format"] {
        if args.get(field).is_some_and(|given| !given.is_null()) {
            let field = format!("args.{field}");
            return Err(invalid(field, "comes from the template; leave it out"));
        }
    }
    let found = if template::is_name(name) {
        templates::get(pool, name).await?
    } else {
        None
    };
    let found = found.ok_or_else(|| invalid("args.template", "there is no such template; see GET /v1/templates"))?;
    let format = format_of(&found.format);
    if args["targets"].as_array().is_some_and(|targets| !targets.is_empty()) {
        return Ok(Cow::Owned(with_text(body, found.text, format, false)));
    }
    let values = values(args.get("variables"))?;
    let text = template::fill(&found.text, format, &values).map_err(|error| match error {
        TemplateError::Missing(_)
        | TemplateError::Unknown(_)
        | TemplateError::TooLong(_)
        | TemplateError::Backtick(_) => invalid("args.variables", error.to_string()),
        error => invalid("args.template", format!("filled in it cannot be sent: {error}")),
    })?;
    Ok(Cow::Owned(with_text(body, text, format, true)))
}

/// The same of a schedule's body, whose job is filled in when the schedule is stored: what a tick sends was checked then.
pub async fn filled_schedule<'b>(pool: &PgPool, body: &'b Value) -> Result<Cow<'b, Value>, Problem> {
    let Some(job) = body.get("job").filter(|job| job.is_object()) else {
        return Ok(Cow::Borrowed(body));
    };
    let job = match filled(pool, job).await {
        Ok(Cow::Borrowed(_)) => return Ok(Cow::Borrowed(body)),
        Ok(Cow::Owned(job)) => job,
        Err(problem) => return Err(problem.within("job")),
    };
    let mut body = body.clone();
    body["job"] = job;
    Ok(Cow::Owned(body))
}

fn with_text(body: &Value, text: String, format: TextFormat, is_filled: bool) -> Value {
    let mut body = body.clone();
    if let Some(args) = body["args"].as_object_mut() {
        args.remove("template");
        if is_filled {
            args.remove("variables");
        }
        args.insert("text".to_owned(), text.into());
        args.insert("format".to_owned(), word(format).into());
    }
    body
}

fn values(given: Option<&Value>) -> Result<BTreeMap<String, String>, Problem> {
    let wrong = || invalid("args.variables", "must be an object whose values are texts");
    match given {
        None | Some(Value::Null) => Ok(BTreeMap::new()),
        Some(Value::Object(pairs)) => pairs
            .iter()
            .map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect::<Option<_>>()
            .ok_or_else(wrong),
        Some(_) => Err(wrong()),
    }
}

fn check(text: &str, format: TextFormat) -> Result<(), Problem> {
    if text.trim().is_empty() || text.len() > MAX_RAW_BYTES {
        return Err(invalid("text", format!("must have 1 to {MAX_RAW_BYTES} bytes")));
    }
    template::variables(text, format)
        .map(|_| ())
        .map_err(|error| invalid("text", error.to_string()))
}

const fn word(format: TextFormat) -> &'static str {
    match format {
        TextFormat::Plain => "plain",
        TextFormat::Markdown => "markdown",
        TextFormat::Html => "html",
    }
}

fn format_of(word: &str) -> TextFormat {
    match word {
        "markdown" => TextFormat::Markdown,
        "html" => TextFormat::Html,
        _ => TextFormat::Plain,
    }
}

fn not_found() -> Problem {
    Problem::new(Code::TemplateNotFound, "There is no template of that name.")
}

#[cfg(test)]
mod tests;
