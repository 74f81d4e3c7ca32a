//! An erasure reaches what it is not told of: somebody is planted in every column of every table that could hold them, by the
//! catalogue, and is in none afterwards. A column that comes later is planted too, or is on the list below with its reason.

use std::collections::BTreeSet;

use sqlx::PgPool;
use wireroom::{cluster::testing::TestDatabase, config::Secret, person_key::PersonKey};

use super::KEY;

/// No user id, name or text of a user gets there.
const NO_PLACE: &[(&str, &str)] = &[
    // The name of a thing of ours, which is a key that other rows and requests refer to.
    ("api_keys", "id"),
    ("applications", "label"),
    ("event_consumers", "name"),
    ("pools", "name"),
    ("rate_limits", "name"),
    ("sessions", "label"),
    ("templates", "name"),
    ("vault_keys", "id"),
    // Words of ours, pools, kinds and sessions.
    ("concurrency_limits", "scope"),
    ("concurrency_limits", "target"),
    ("flood_totals", "method"),
    ("flood_totals", "error"),
    ("gates", "action"),
    ("idempotency_keys", "owner"),
    ("partial_files", "medium"),
    ("pauses", "scope"),
    ("pauses", "target"),
    ("schedule_ticks", "trigger"),
    ("session_cap_defaults", "action"),
    ("session_cap_usage", "action"),
    ("session_caps", "action"),
    ("telegram_files", "medium"),
    ("unique_keys", "kind"),
    ("unique_keys", "scope"),
    // Whom an erasure is about, until it is done; what is left of it is counts by table.
    ("erasures", "names"),
    ("erasures", "place"),
    ("erasures", "tables"),
    ("file_erasures", "names"),
    // These names are found by the person's names, and not as text.
    ("campaign_people", "username"),
    ("suppressions", "username"),
];

/// Numbers of ours, and sessions' own accounts, who cannot be erased.
const NO_PERSON: &[&str] = &[
    "access_hash",
    "account_id",
    "album",
    "box",
    "checked",
    "counted",
    "digest",
    "fence",
    "first_position",
    "floods",
    "fresh",
    "from_history",
    "id",
    "left_out",
    "line",
    "media_id",
    "member_count",
    "migration",
    "missed",
    "oldest_release",
    "owner",
    "person",
    "position",
    "proxies_known_at",
    "random_id",
    "rank",
    "reactions",
    "rows_read",
    "seconds",
    "seen",
    "session_fence",
    "settings_version",
    "size_bytes",
    "version",
];

#[derive(sqlx::FromRow)]
struct Column {
    tab: String,
    col: String,
    /// As `format_type` has it.
    kind: String,
}

/// The columns of every table that rows are written to.
async fn columns(pool: &PgPool) -> Vec<Column> {
    sqlx::query_as(
        "SELECT c.relname::text AS tab, a.attname::text AS col, format_type(a.atttypid, NULL) AS kind
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
            AND a.attgenerated = '' AND a.attidentity = ''
            AND c.relname NOT IN ('_sqlx_migrations', 'schema_compatibility', 'audit_log')
        ORDER BY c.relname, a.attnum",
    )
    .fetch_all(pool)
    .await
    .expect("the catalogue")
}

/// The person, in the form of a column; `None`: a value of that type names nobody.
fn planted(column: &Column, person: i64) -> Option<String> {
    let place = (column.tab.as_str(), column.col.as_str());
    if NO_PLACE.contains(&place) {
        return None;
    }
    match column.kind.as_str() {
        "text" | "character varying" => Some(format!("'of {person}, @Frank, t.me/frank and on'")),
        "text[]" => Some(format!("ARRAY['other', 'frank', '@frank', '{person}']")),
        "character varying[]" => panic!("{place:?}: a list that erasures do not read"),
        "jsonb" => Some(format!(
            "'{{\"user_id\": {person}, \"text\": \"Frank wrote\", \"all\": [{person}, \"frank\", {{\"deep\": \"@frank\"}}],
                \"note\": {{\"of\": \"t.me/frank\", \"by\": \"{person}\"}}}}'::jsonb"
        )),
        "bigint" if matches!(place, ("people" | "chats", "id")) || !NO_PERSON.contains(&column.col.as_str()) => {
            Some(person.to_string())
        }
        _ => None,
    }
}

/// Some value, another one each time where there are more than two.
fn other(column: &Column) -> &'static str {
    match column.kind.as_str() {
        "uuid" => "gen_random_uuid()",
        "bigint" => "(random() * 1e9)::bigint",
        "integer" => "(random() * 1e9)::int",
        "smallint" => "(random() * 1e4)::smallint",
        "real" | "double precision" => "1",
        "boolean" => "true",
        "timestamp with time zone" => "wireroom_now()",
        "date" => "current_date",
        "time without time zone" => "'09:00'",
        "bytea" => "sha256(gen_random_uuid()::text::bytea)",
        "text" | "character varying" => "md5(random()::text)",
        "text[]" | "character varying[]" | "integer[]" | "jsonb" => "'{}'",
        unknown => panic!("{}.{}: what is a {unknown}?", column.tab, column.col),
    }
}

async fn run(pool: &PgPool, sql: String) -> u64 {
    let done = sqlx::query(sqlx::AssertSqlSafe(sql.clone())).execute(pool).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}")).rows_affected()
}

/// Rows may refer to nothing, and say what they like.
async fn free(pool: &PgPool) {
    sqlx::raw_sql(
        "DO $$ DECLARE c record; BEGIN
            FOR c IN SELECT conrelid::regclass AS tab, conname FROM pg_constraint o JOIN pg_class t ON t.oid = o.conrelid
                JOIN pg_namespace n ON n.oid = t.relnamespace
                WHERE n.nspname = 'public' AND contype IN ('c', 'f') AND conparentid = 0 AND coninhcount = 0 LOOP
                EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.tab, c.conname);
            END LOOP;
            FOR c IN SELECT tgrelid::regclass AS tab FROM pg_trigger g JOIN pg_class t ON t.oid = tgrelid
                WHERE NOT tgisinternal AND tgparentid = 0 AND t.relkind IN ('r', 'p') LOOP
                EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', c.tab);
            END LOOP;
        END $$",
    )
    .execute(pool)
    .await
    .expect("free");
}

/// Plants the person in one column of a row of its own; where there is one row at most, in that one.
async fn plant(pool: &PgPool, all: &[Column], column: &Column, value: &str) {
    let of_table: Vec<&Column> = all.iter().filter(|other| other.tab == column.tab).collect();
    let names: Vec<&str> = of_table.iter().map(|column| column.col.as_str()).collect();
    let values: Vec<&str> = of_table
        .iter()
        .map(|each| if each.col == column.col { value } else { other(each) })
        .collect();
    let (tab, names) = (&column.tab, names.join("\", \""));
    let insert = format!(
        "INSERT INTO {tab} (\"{names}\") OVERRIDING SYSTEM VALUE VALUES ({}) ON CONFLICT DO NOTHING",
        values.join(", ")
    );
    if run(pool, insert).await == 0 {
        let update = format!("UPDATE {tab} SET \"{}\" = {value}", column.col);
        assert!(run(pool, update).await > 0, "{tab}.{} could not be planted", column.col);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_is_planted_in_every_column_is_in_none_after_the_erasure() {
    const PERSON: i64 = 999_662_042;
    // Without a process beside it: one would read tables that lose their constraints here, and rows that make no sense.
    let database = TestDatabase::new().await;
    let pool = database.pool();
    free(pool).await;
    let all = columns(pool).await;
    let tables: BTreeSet<&str> = all.iter().map(|column| column.tab.as_str()).collect();
    assert!(tables.len() > 60, "the whole database");
    let mut places = 0;
    for column in &all {
        if let Some(value) = planted(column, PERSON) {
            plant(pool, &all, column, &value).await;
            places += 1;
        }
    }
    assert!(places > 150, "{places} places");
    for (tab, col) in NO_PLACE {
        let is_there = all.iter().any(|column| column.tab == *tab && column.col == *col);
        assert!(is_there, "{tab}.{col} is no column any more");
    }
    // By this row he is known by his name.
    let named = format!("UPDATE people SET username = 'frank', first_name = 'Frank' WHERE id = {PERSON}");
    assert_eq!(run(pool, named).await, 1);
    let key = PersonKey::parse(&Secret::new(KEY.to_owned())).expect("a key");
    let erasure: uuid::Uuid = sqlx::query_scalar("SELECT begin_erasure(gen_random_uuid(), $1, $2, 'cli')")
        .bind(PERSON)
        .bind(key.user(PERSON).to_vec())
        .fetch_one(pool)
        .await
        .expect("begun");
    let mut is_done = false;
    while !is_done {
        is_done = sqlx::query_scalar("SELECT continue_erasure($1, '10 s')")
            .bind(erasure)
            .fetch_one(pool)
            .await
            .expect("a step");
    }
    let mut left = Vec::new();
    for tab in tables {
        let query = format!("SELECT left(t::text, 300) FROM {tab} t WHERE t::text ~* '(frank|{PERSON})'");
        let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .fetch_all(pool)
            .await
            .expect("rows");
        left.extend(rows.into_iter().map(|row| format!("{tab}: {row}")));
    }
    assert!(left.is_empty(), "{}", left.join("\n"));
}
