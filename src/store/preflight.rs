//! Why those of a list who wait could not be contacted, as far as that is known without asking Telegram. In chunks and up to a bound:
//! a list may have a million people, and a request a few seconds.

use std::collections::BTreeMap;

use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, failed};
use crate::person_key::PersonKey;

/// How many people one statement looks at.
const CHUNK: i64 = 5000;

/// What is known of the people of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preflight {
    /// How many people there are of each verdict; `eligible`: nothing is known against it.
    pub verdicts: BTreeMap<String, i64>,
    /// How many of those who wait were looked at, in the order they came.
    pub checked: i64,
    /// There are more who wait.
    pub is_truncated: bool,
}

/// Those of a list who wait, as a chunk.
#[derive(Debug, Default)]
struct Chunk {
    last: i64,
    users: Vec<Option<i64>>,
    /// As the list names them, or as a scan has found them.
    names: Vec<Option<String>>,
    /// Known to be a bot, or deleted.
    unfit: Vec<bool>,
    user_marks: Vec<Option<Vec<u8>>>,
    name_marks: Vec<Option<Vec<u8>>>,
}

/// Looks at the first `most` of those who wait.
pub async fn look(
    conn: &mut PgConnection,
    key: Option<&PersonKey>,
    campaign: Uuid,
    most: i64,
) -> Result<Preflight, StoreError> {
    let mut preflight = Preflight::default();
    let mut after = 0;
    loop {
        let left = most - preflight.checked;
        // One more than there is room for tells that there are more.
        let chunk = chunk(conn, key, campaign, after, CHUNK.min(left + 1)).await?;
        let read = i64::try_from(chunk.users.len()).unwrap_or(i64::MAX);
        if read == 0 {
            return Ok(preflight);
        }
        preflight.is_truncated = read > left;
        let chunk = chunk.first(left);
        preflight.checked += read.min(left);
        after = chunk.last;
        for (verdict, people) in judge(conn, campaign, &chunk).await? {
            *preflight.verdicts.entry(verdict).or_default() += people;
        }
        if preflight.is_truncated {
            return Ok(preflight);
        }
    }
}

impl Chunk {
    fn first(mut self, most: i64) -> Self {
        let most = usize::try_from(most).unwrap_or(0);
        self.users.truncate(most);
        self.names.truncate(most);
        self.unfit.truncate(most);
        self.user_marks.truncate(most);
        self.name_marks.truncate(most);
        self
    }
}

async fn chunk(
    conn: &mut PgConnection,
    key: Option<&PersonKey>,
    campaign: Uuid,
    after: i64,
    limit: i64,
) -> Result<Chunk, StoreError> {
    let rows = sqlx::query!(
        r#"-- preflight_chunk
        SELECT p.id AS "id!", p.user_id AS "user_id?", coalesce(p.username, lower(k.username)) AS "username?",
            coalesce(k.is_deleted OR k.is_bot, false) AS "unfit!"
        FROM (SELECT id, user_id, username FROM campaign_people
            WHERE campaign_id = $1 AND state = 'waiting' AND id > $2 ORDER BY id LIMIT $3) p
        LEFT JOIN people k ON k.id = p.user_id ORDER BY p.id"#,
        campaign,
        after,
        limit,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("preflight_chunk"))?;
    let mut chunk = Chunk::default();
    for row in rows {
        chunk.last = row.id;
        let mark = key.zip(row.user_id).map(|(key, id)| key.user(id).to_vec());
        chunk.user_marks.push(mark);
        let mark = key
            .zip(row.username.as_ref())
            .map(|(key, name)| key.username(name).to_vec());
        chunk.name_marks.push(mark);
        chunk.users.push(row.user_id);
        chunk.names.push(row.username);
        chunk.unfit.push(row.unfit);
    }
    Ok(chunk)
}

/// `OFFSET 0`: each is looked up by index. Hashed, the whole list of those to leave alone would be read for every chunk.
async fn judge(conn: &mut PgConnection, campaign: Uuid, chunk: &Chunk) -> Result<Vec<(String, i64)>, StoreError> {
    let rows = sqlx::query!(
        r#"-- preflight_verdicts
        SELECT verdict AS "verdict!", count(*) AS "people!" FROM (
            SELECT CASE
                WHEN EXISTS (SELECT FROM erased_people e WHERE e.user_hash = n.user_mark OFFSET 0) THEN 'erased'
                WHEN EXISTS (SELECT FROM suppressions x WHERE x.user_id = n.user_id OFFSET 0)
                    OR EXISTS (SELECT FROM suppressions x WHERE x.username = n.username OFFSET 0)
                    OR EXISTS (SELECT FROM suppressions x WHERE x.username_hash = n.name_mark OFFSET 0) THEN 'suppressed'
                WHEN EXISTS (SELECT FROM campaign_ledger l WHERE l.campaign_id = $1 AND l.user_id = n.user_id
                    AND l.state <> 'prepared' OFFSET 0) THEN 'already_invited'
                WHEN EXISTS (SELECT FROM campaign_ledger l WHERE l.user_id = n.user_id AND l.campaign_id <> $1
                    AND l.attempted_at > s.rested_since) THEN 'invited_lately'
                WHEN n.unfit THEN 'not_eligible'
                ELSE 'eligible' END AS verdict
            FROM unnest($2::bigint[], $3::text[], $4::bool[], $5::bytea[], $6::bytea[])
                AS n (user_id, username, unfit, user_mark, name_mark)
            CROSS JOIN (SELECT wireroom_now() - make_interval(days => person_rest_days) AS rested_since
                FROM outreach_switch OFFSET 0) s
        ) v GROUP BY verdict"#,
        campaign,
        &chunk.users as &[Option<i64>],
        &chunk.names as &[Option<String>],
        &chunk.unfit,
        &chunk.user_marks as &[Option<Vec<u8>>],
        &chunk.name_marks as &[Option<Vec<u8>>],
    )
    .fetch_all(conn)
    .await
    .map_err(failed("preflight_verdicts"))?;
    Ok(rows.into_iter().map(|row| (row.verdict, row.people)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::testing::TestDatabase;

    #[tokio::test]
    async fn a_long_list_is_looked_at_up_to_the_bound_and_says_so() {
        let database = TestDatabase::new().await;
        let mut conn = database.pool().acquire().await.expect("a connection");
        let campaign: Uuid = sqlx::query_scalar(
            "INSERT INTO campaigns (id, name, chat, mode, per_day, stop_ratio, stop_after, state_by, created_by)
            VALUES (gen_random_uuid(), 'Spring', '@x', 'add', 1, 0.5, 1, 'key:x', 'key:x') RETURNING id",
        )
        .fetch_one(&mut *conn)
        .await
        .expect("a campaign");
        // More than one chunk; of every third one it is known that they are to be left alone.
        sqlx::query(
            "WITH listed AS (INSERT INTO campaign_people (campaign_id, user_id, basis, added_by)
                SELECT $1, n, 'contact', 'key:x' FROM generate_series(1, 5400) n ORDER BY n)
            INSERT INTO suppressions (id, user_id, reason, source, added_by)
            SELECT gen_random_uuid(), n, 'x', 'api', 'key:x' FROM generate_series(3, 5400, 3) n",
        )
        .bind(campaign)
        .execute(&mut *conn)
        .await
        .expect("listed");
        for (most, suppressed, eligible, is_truncated) in [
            (6000, 1800, 3600, false),
            (5400, 1800, 3600, false),
            (5399, 1799, 3600, true),
            (5000, 1666, 3334, true),
            (2, 0, 2, true),
        ] {
            let found = look(&mut conn, None, campaign, most).await.expect("looked at");
            let of = |verdict| found.verdicts.get(verdict).copied().unwrap_or(0);
            assert_eq!(
                (of("suppressed"), of("eligible"), found.is_truncated),
                (suppressed, eligible, is_truncated),
                "{most}"
            );
            assert_eq!(found.checked, suppressed + eligible, "{most}");
        }
    }
}
