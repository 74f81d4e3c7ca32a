//! The list of a campaign: whom it is about, on which basis, and what became of each.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;
use wireroom_jobs::{
    WaitReason,
    invite::Tally,
    outreach::{Basis, Listed, PersonRef, Verdict},
};

use super::{StoreError, attempt_data::AttemptKey, failed};

/// Somebody to be put on a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPerson {
    pub person: PersonRef,
    pub basis: Basis,
    pub proof: Option<String>,
    pub supplied_by: Option<String>,
    pub time_zone: Option<String>,
}

/// Somebody on a list.
#[derive(Debug, Clone)]
pub struct PersonRecord {
    pub id: i64,
    pub user_id: Option<i64>,
    pub username: Option<String>,
    pub resolved_id: Option<i64>,
    pub basis: String,
    pub proof: Option<String>,
    pub supplied_by: Option<String>,
    pub time_zone: Option<String>,
    pub added_by: String,
    pub added_at: DateTime<Utc>,
    pub outcome: Option<String>,
    pub class: Option<String>,
    pub why: Option<String>,
    pub decided_at: Option<DateTime<Utc>>,
}

/// User ids and names, as `= ANY` wants them.
#[derive(Debug, Default)]
pub struct Names {
    pub ids: Vec<i64>,
    pub usernames: Vec<String>,
}

impl Names {
    pub fn of<'a>(people: impl IntoIterator<Item = &'a PersonRef>) -> Self {
        let mut names = Self::default();
        for person in people {
            match person {
                PersonRef::Id(id) => names.ids.push(*id),
                PersonRef::Username(name) => names.usernames.push(name.to_lowercase()),
            }
        }
        names
    }

    fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.usernames.is_empty()
    }
}

/// Puts people on the list; who is on it stays as they are. Returns how many are new.
pub async fn add(
    conn: &mut PgConnection,
    campaign: Uuid,
    people: &[NewPerson],
    actor: &str,
) -> Result<u64, StoreError> {
    let ids: Vec<Option<i64>> = people.iter().map(|new| id_of(&new.person)).collect();
    let names: Vec<Option<String>> = people.iter().map(|new| name_of(&new.person)).collect();
    let bases: Vec<&str> = people.iter().map(|new| new.basis.as_str()).collect();
    let proofs: Vec<Option<&str>> = people.iter().map(|new| new.proof.as_deref()).collect();
    let suppliers: Vec<Option<&str>> = people.iter().map(|new| new.supplied_by.as_deref()).collect();
    let zones: Vec<Option<&str>> = people.iter().map(|new| new.time_zone.as_deref()).collect();
    let added = sqlx::query!(
        "-- add_campaign_people
        INSERT INTO campaign_people (campaign_id, user_id, username, basis, proof, supplied_by, time_zone, added_by)
        SELECT $1, n.user_id, n.username, n.basis, n.proof, n.supplied_by, n.time_zone, $8
        FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
            AS n (user_id, username, basis, proof, supplied_by, time_zone)
        ON CONFLICT DO NOTHING",
        campaign,
        &ids as &[Option<i64>],
        &names as &[Option<String>],
        &bases as &[&str],
        &proofs as &[Option<&str>],
        &suppliers as &[Option<&str>],
        &zones as &[Option<&str>],
        actor,
    )
    .execute(conn)
    .await
    .map_err(failed("add_campaign_people"))?;
    Ok(added.rows_affected())
}

fn id_of(person: &PersonRef) -> Option<i64> {
    match person {
        PersonRef::Id(id) => Some(*id),
        PersonRef::Username(_) => None,
    }
}

fn name_of(person: &PersonRef) -> Option<String> {
    match person {
        PersonRef::Id(_) => None,
        PersonRef::Username(name) => Some(name.to_lowercase()),
    }
}

/// Which of these people are known from scans.
pub async fn scanned(conn: &mut PgConnection, people: &Names) -> Result<Vec<PersonRef>, StoreError> {
    if people.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query!(
        r#"-- scanned_people
        SELECT id AS "id!", lower(username) AS "username?" FROM people WHERE id = ANY ($1)
        UNION SELECT id, lower(username) FROM people WHERE username IS NOT NULL AND lower(username) = ANY ($2)"#,
        &people.ids,
        &people.usernames,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("scanned_people"))?;
    Ok(rows
        .into_iter()
        .flat_map(|row| [Some(PersonRef::Id(row.id)), row.username.map(PersonRef::Username)])
        .flatten()
        .collect())
}

/// A page of the list past `after`, in the order it came, of an outcome if one is named.
pub async fn page(
    conn: &mut PgConnection,
    campaign: Uuid,
    outcome: Option<&str>,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<PersonRecord>, StoreError> {
    sqlx::query_as!(
        PersonRecord,
        "-- campaign_people_page
        SELECT id, user_id, username, resolved_id, basis, proof, supplied_by, time_zone, added_by, added_at, outcome, class,
            why, decided_at
        FROM campaign_people WHERE campaign_id = $1 AND id > $2 AND ($3::text IS NULL OR coalesce(outcome, 'waiting') = $3)
        ORDER BY id LIMIT $4",
        campaign,
        after.unwrap_or(0),
        outcome,
        limit,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("campaign_people_page"))
}

/// How many people there are of each outcome and class; those without one wait.
pub async fn counts(
    conn: &mut PgConnection,
    campaign: Uuid,
) -> Result<Vec<(Option<String>, Option<String>, i64)>, StoreError> {
    let rows = sqlx::query!(
        r#"-- campaign_counts
        SELECT outcome, class, count(*) AS "people!" FROM campaign_people WHERE campaign_id = $1
        GROUP BY outcome, class ORDER BY outcome"#,
        campaign,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("campaign_counts"))?;
    Ok(rows
        .into_iter()
        .map(|row| (row.outcome, row.class, row.people))
        .collect())
}

/// Takes the next person for the attempt's job: first whom it was about before, then the first of the list whom no other job
/// has and where it is not quiet.
pub async fn take(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    campaign: Uuid,
    only: &[PersonRef],
) -> Result<Option<Listed>, StoreError> {
    if let Some(mine) = in_hand(conn, attempt, campaign).await? {
        return Ok(Some(mine));
    }
    let only = Names::of(only);
    let row = sqlx::query!(
        r#"-- take_person
        WITH next AS MATERIALIZED (
            SELECT p.id FROM campaign_people p JOIN campaigns c ON c.id = p.campaign_id
            WHERE p.campaign_id = $1 AND p.state = 'waiting'
                AND (p.job_id IS NULL OR NOT EXISTS (SELECT FROM jobs j WHERE j.id = p.job_id))
                AND ($3 OR p.user_id = ANY ($4) OR p.username = ANY ($5))
                AND quiet_ends(c.quiet_from, c.quiet_until, coalesce(p.time_zone, c.time_zone), wireroom_now()) IS NULL
            ORDER BY p.id LIMIT 1 FOR UPDATE OF p SKIP LOCKED
        )
        UPDATE campaign_people p SET job_id = $2 WHERE p.id = (SELECT id FROM next)
        RETURNING p.id, p.user_id, p.username, p.basis"#,
        campaign,
        attempt.job.0,
        only.is_empty(),
        &only.ids,
        &only.usernames,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("take_person"))?;
    row.map(|row| listed(row.id, row.user_id, row.username, &row.basis))
        .transpose()
}

/// Whom the job was about before. By the job, and not through the list: of that it is one.
async fn in_hand(conn: &mut PgConnection, attempt: AttemptKey, campaign: Uuid) -> Result<Option<Listed>, StoreError> {
    let row = sqlx::query!(
        r#"-- person_in_hand
        SELECT p.id AS "id!", p.user_id AS "user_id?", p.username AS "username?", p.basis AS "basis!"
        FROM (SELECT * FROM campaign_people WHERE job_id = $2 AND state = 'waiting' OFFSET 0) p
        WHERE p.campaign_id = $1 ORDER BY p.id LIMIT 1"#,
        campaign,
        attempt.job.0,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("person_in_hand"))?;
    row.map(|row| listed(row.id, row.user_id, row.username, &row.basis))
        .transpose()
}

fn listed(entry: i64, user: Option<i64>, username: Option<String>, basis: &str) -> Result<Listed, StoreError> {
    let unreadable = || StoreError::Decode {
        operation: "listed_person",
        detail: format!("row {entry}"),
    };
    let person = match (user, username) {
        (Some(id), _) => PersonRef::Id(id),
        (None, Some(name)) => PersonRef::Username(name),
        (None, None) => return Err(unreadable()),
    };
    let basis = Basis::parse(basis).ok_or_else(unreadable)?;
    Ok(Listed { entry, person, basis })
}

/// Whom an earlier attempt of the job may have contacted without seeing how that ended.
pub async fn in_doubt(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    campaign: Uuid,
) -> Result<Option<Listed>, StoreError> {
    let row = sqlx::query!(
        r#"-- person_in_doubt
        SELECT p.id AS "id!", p.user_id AS "user_id?", p.username AS "username?", p.basis AS "basis!"
        FROM (SELECT * FROM campaign_people WHERE job_id = $2 AND state = 'waiting' OFFSET 0) p
        JOIN campaign_ledger l ON l.campaign_id = p.campaign_id AND l.user_id = coalesce(p.user_id, p.resolved_id)
        WHERE p.campaign_id = $1 AND l.state = 'attempted' AND l.job_id = $2
        ORDER BY p.id LIMIT 1"#,
        campaign,
        attempt.job.0,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("person_in_doubt"))?;
    row.map(|row| listed(row.id, row.user_id, row.username, &row.basis))
        .transpose()
}

/// When it is no longer quiet for the first of those who wait; `None`: nobody waits whom this job could take.
pub async fn quiet_until(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    campaign: Uuid,
    only: &[PersonRef],
) -> Result<Option<(DateTime<Utc>, WaitReason)>, StoreError> {
    let only = Names::of(only);
    let until = sqlx::query_scalar!(
        "-- quiet_until
        SELECT min(quiet_ends(c.quiet_from, c.quiet_until, coalesce(p.time_zone, c.time_zone), wireroom_now()))
        FROM campaign_people p JOIN campaigns c ON c.id = p.campaign_id
        WHERE p.campaign_id = $1 AND p.state = 'waiting'
            AND (p.job_id IS NULL OR p.job_id = $2 OR NOT EXISTS (SELECT FROM jobs j WHERE j.id = p.job_id))
            AND ($3 OR p.user_id = ANY ($4) OR p.username = ANY ($5))",
        campaign,
        attempt.job.0,
        only.is_empty(),
        &only.ids,
        &only.usernames,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("quiet_until"))?;
    Ok(until.map(|until| {
        let message = "Where the people are who are left it is a quiet hour.";
        (until, WaitReason::new("quiet_hours", message))
    }))
}

/// Whether anybody waits whom this job could take.
pub async fn is_anybody_left(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    campaign: Uuid,
    only: &[PersonRef],
) -> Result<bool, StoreError> {
    let only = Names::of(only);
    sqlx::query_scalar!(
        r#"-- is_anybody_left
        SELECT EXISTS (
            SELECT FROM campaign_people p WHERE p.campaign_id = $1 AND p.state = 'waiting'
                AND (p.job_id IS NULL OR p.job_id = $2 OR NOT EXISTS (SELECT FROM jobs j WHERE j.id = p.job_id))
                AND ($3 OR p.user_id = ANY ($4) OR p.username = ANY ($5))) AS "is!""#,
        campaign,
        attempt.job.0,
        only.is_empty(),
        &only.ids,
        &only.usernames,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("is_anybody_left"))
}

/// Whether it is quiet where the person is.
pub async fn is_quiet(conn: &mut PgConnection, entry: i64) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- is_quiet
        SELECT quiet_ends(c.quiet_from, c.quiet_until, coalesce(p.time_zone, c.time_zone), wireroom_now()) IS NOT NULL
            AS "quiet!"
        FROM campaign_people p JOIN campaigns c ON c.id = p.campaign_id WHERE p.id = $1"#,
        entry,
    )
    .fetch_optional(conn)
    .await
    .map(|quiet| quiet.unwrap_or(false))
    .map_err(failed("is_quiet"))
}

/// Lets whoever is next be next: nothing was sent to this person.
pub async fn put_back(conn: &mut PgConnection, entry: i64) -> Result<(), StoreError> {
    sqlx::query!(
        "-- put_person_back
        UPDATE campaign_people SET job_id = NULL WHERE id = $1 AND state = 'waiting'",
        entry,
    )
    .execute(conn)
    .await
    .map_err(failed("put_person_back"))?;
    Ok(())
}

/// Remembers whom a name is.
pub async fn resolve(conn: &mut PgConnection, entry: i64, user: i64) -> Result<(), StoreError> {
    sqlx::query!(
        "-- resolve_person
        UPDATE campaign_people SET resolved_id = $2 WHERE id = $1 AND user_id IS NULL AND resolved_id IS DISTINCT FROM $2",
        entry,
        user,
    )
    .execute(conn)
    .await
    .map_err(failed("resolve_person"))?;
    Ok(())
}

/// Takes the name of somebody off a list who was erased, and what was written of them.
pub async fn scrub(conn: &mut PgConnection, entry: i64) -> Result<(), StoreError> {
    sqlx::query!(
        "-- scrub_person
        UPDATE campaign_people SET user_id = NULL, resolved_id = NULL, username = 'erased_' || id,
            proof = CASE WHEN proof IS NOT NULL THEN 'erased' END
        WHERE id = $1",
        entry,
    )
    .execute(conn)
    .await
    .map_err(failed("scrub_person"))?;
    Ok(())
}

/// Stores what became of a person on the list.
pub async fn finish(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    entry: i64,
    verdict: &Verdict,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "-- finish_person
        UPDATE campaign_people SET state = 'done', outcome = $3, class = $4, why = $5, decided_at = wireroom_now(), job_id = $2
        WHERE id = $1 AND state = 'waiting'",
        entry,
        attempt.job.0,
        verdict.outcome,
        verdict.class.as_str(),
        verdict.why,
    )
    .execute(conn)
    .await
    .map_err(failed("finish_person"))?;
    match done.rows_affected() {
        // Erased, or dealt with by an import of the ledger meanwhile.
        0 | 1 => Ok(()),
        changed => Err(StoreError::Rows {
            operation: "finish_person",
            changed,
            expected: 1,
        }),
    }
}

/// How far the attempt's job is with the list.
pub async fn tally(conn: &mut PgConnection, attempt: AttemptKey, campaign: Uuid) -> Result<Tally, StoreError> {
    let rows = sqlx::query!(
        r#"-- job_tally
        SELECT NULL::text AS outcome, count(*) AS "people!" FROM campaign_people WHERE campaign_id = $1 AND state = 'waiting'
        UNION ALL
        SELECT outcome, count(*) FROM campaign_people WHERE job_id = $2 AND campaign_id = $1 AND state = 'done'
        GROUP BY outcome"#,
        campaign,
        attempt.job.0,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("job_tally"))?;
    let mut tally = Tally::default();
    for row in rows {
        match row.outcome {
            Some(outcome) => {
                tally.begun += row.people;
                tally.outcomes.insert(outcome, row.people);
            }
            None => tally.waiting = row.people,
        }
    }
    Ok(tally)
}
