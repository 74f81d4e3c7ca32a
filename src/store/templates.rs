//! Templates of publish jobs.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use super::{StoreError, failed};

/// A template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateRecord {
    pub name: String,
    /// `plain`, `markdown` or `html`.
    pub format: String,
    pub text: String,
    pub created_by: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// Stores a new template; `None`: there is one of that name.
pub async fn create(
    conn: &mut PgConnection,
    name: &str,
    format: &str,
    text: &str,
    created_by: &str,
) -> Result<Option<TemplateRecord>, StoreError> {
    sqlx::query_as!(
        TemplateRecord,
        "-- create_template
        INSERT INTO templates (name, format, text, created_by) VALUES ($1, $2, $3, $4)
        ON CONFLICT (name) DO NOTHING
        RETURNING name, format, text, created_by, created_at, updated_at",
        name,
        format,
        text,
        created_by,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("create_template"))
}

/// Replaces a template's text, and its format if one is given; `None`: there is none of that name.
pub async fn replace(
    conn: &mut PgConnection,
    name: &str,
    format: Option<&str>,
    text: &str,
) -> Result<Option<TemplateRecord>, StoreError> {
    sqlx::query_as!(
        TemplateRecord,
        "-- replace_template
        UPDATE templates SET format = coalesce($2, format), text = $3, updated_at = wireroom_now() WHERE name = $1
        RETURNING name, format, text, created_by, created_at, updated_at",
        name,
        format,
        text,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("replace_template"))
}

pub async fn get(pool: &PgPool, name: &str) -> Result<Option<TemplateRecord>, StoreError> {
    sqlx::query_as!(
        TemplateRecord,
        "-- get_template
        SELECT name, format, text, created_by, created_at, updated_at FROM templates WHERE name = $1",
        name,
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("get_template"))
}

/// Templates after that name, by name.
pub async fn page(pool: &PgPool, after: Option<&str>, limit: i64) -> Result<Vec<TemplateRecord>, StoreError> {
    sqlx::query_as!(
        TemplateRecord,
        "-- template_page
        SELECT name, format, text, created_by, created_at, updated_at FROM templates
        WHERE $1::text IS NULL OR name > $1 ORDER BY name LIMIT $2",
        after,
        limit,
    )
    .fetch_all(pool)
    .await
    .map_err(failed("template_page"))
}

/// Takes a template out. `false`: there is none of that name.
pub async fn delete(conn: &mut PgConnection, name: &str) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "-- delete_template
        DELETE FROM templates WHERE name = $1",
        name,
    )
    .execute(conn)
    .await
    .map_err(failed("delete_template"))?;
    Ok(done.rows_affected() == 1)
}
