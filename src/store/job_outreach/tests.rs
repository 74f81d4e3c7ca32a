//! Leave, in the moment before the call: what others have committed since the person was looked up is seen.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use wireroom_jobs::{
    JobKind, WaitReason,
    outreach::{Basis, Wording},
    ports::{Chat, ChatType, TextFormat},
};

use super::*;
use crate::{
    cluster::testing::TestDatabase,
    config::Secret,
    ids::JobId,
    store::{
        campaign_changes::{self, Settings},
        completions::{self, BackAs, Due, GoBack},
        erasure,
        jobs::{self, NewJob},
        outreach_switch,
    },
};

const ADA: i64 = 7_100_000_001;

struct Bed {
    database: TestDatabase,
    key: PersonKey,
}

/// A job of a campaign of its own, that runs.
struct Side {
    outreach: JobOutreach,
    campaign: Uuid,
    listed: Listed,
    attempt: AttemptKey,
}

fn wording(text: &str) -> Wording {
    Wording {
        text: text.to_owned(),
        format: TextFormat::Plain,
    }
}

fn granted(text: &str) -> Leave {
    Leave::Granted(wording(text))
}

fn ada() -> Person {
    Person {
        user_id: ADA,
        chat: Chat {
            id: ADA,
            chat_type: ChatType::Private,
            title: "Ada".into(),
            username: None,
            member_count: None,
            member: true,
        },
        usernames: vec!["ada".into()],
        phone: None,
        is_contact: true,
        is_bot: false,
        is_deleted: false,
    }
}

impl Bed {
    async fn new() -> Self {
        let key = PersonKey::parse(&Secret::new(STANDARD.encode([7; 32]))).expect("a key");
        Self {
            database: TestDatabase::new().await,
            key,
        }
    }

    async fn conn(&self) -> sqlx::pool::PoolConnection<Postgres> {
        self.database.pool().acquire().await.expect("a connection")
    }

    async fn execute(&self, statement: &'static str) {
        sqlx::query(statement)
            .execute(self.database.pool())
            .await
            .expect("done");
    }

    async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query)
            .fetch_one(self.database.pool())
            .await
            .expect("a count")
    }

    async fn side(&self, name: &str) -> Side {
        let campaign: Uuid = sqlx::query_scalar(
            "INSERT INTO campaigns (id, name, chat, mode, per_day, stop_ratio, stop_after, state, state_by, created_by)
            VALUES (gen_random_uuid(), $1, '@' || $1, 'add', 100, 0.5, 100, 'running', 'key:x', 'key:x') RETURNING id",
        )
        .bind(name)
        .fetch_one(self.database.pool())
        .await
        .expect("a campaign");
        let entry: i64 = sqlx::query_scalar(
            "INSERT INTO campaign_people (campaign_id, user_id, basis, added_by) VALUES ($1, $2, 'contact', 'key:x')
            RETURNING id",
        )
        .bind(campaign)
        .bind(ADA)
        .fetch_one(self.database.pool())
        .await
        .expect("somebody on the list");
        let job = NewJob::new(JobKind::Invite, json!({ "campaign": campaign }));
        let mut conn = self.conn().await;
        jobs::enqueue(&mut conn, std::slice::from_ref(&job), Duration::ZERO)
            .await
            .expect("a job");
        sqlx::query("UPDATE jobs SET state = 'running', fence = 1, started_at = wireroom_now() WHERE id = $1")
            .bind(job.id.0)
            .execute(&mut *conn)
            .await
            .expect("running");
        let attempt = AttemptKey { job: job.id, fence: 1 };
        let pool = self.database.pool().clone();
        Side {
            outreach: JobOutreach::new(pool, attempt, SessionId::generate(), Some(self.key.clone())),
            campaign,
            listed: Listed {
                entry,
                person: PersonRef::Id(ADA),
                basis: Basis::Contact,
            },
            attempt,
        }
    }

    /// The job goes to sleep, for that reason.
    async fn sleep(&self, job: JobId, reason: &str) {
        let back = GoBack {
            id: job,
            fence: 1,
            back_as: BackAs::Snooze,
            due: Due::In(Duration::from_hours(1)),
            wait_reason: WaitReason::new(reason, "It waits."),
            error: None,
        };
        let gone = completions::go_back(&mut *self.conn().await, &[back], Duration::ZERO).await;
        assert_eq!(gone.expect("stored").len(), 1);
    }
}

impl Side {
    async fn prepare(&self) -> Prepared {
        let prepared = self.outreach.prepare(self.campaign, &self.listed, &ada()).await;
        prepared.expect("prepared")
    }

    async fn begin(&self) -> Leave {
        let leave = self.outreach.begin(self.campaign, &self.listed, &ada()).await;
        leave.expect("answered")
    }
}

#[tokio::test]
async fn of_two_campaigns_that_have_prepared_the_same_person_one_calls() {
    let bed = Bed::new().await;
    let (first, second) = (bed.side("spring").await, bed.side("summer").await);
    for side in [&first, &second] {
        assert!(matches!(side.prepare().await, Prepared::Fresh { .. }));
    }
    let (one, other) = tokio::join!(first.begin(), second.begin());
    let mut leaves = [one, other];
    leaves.sort_by_key(|leave| *leave != granted(""));
    assert_eq!(leaves, [granted(""), Leave::Decided("invited_lately")]);
    assert_eq!(bed.count("SELECT count(*) FROM campaign_ledger").await, 1);
    // Whose call was begun before goes on with it: nothing was sent by the other one.
    let caller = if first.begin().await == granted("") {
        &first
    } else {
        &second
    };
    assert_eq!(caller.begin().await, granted(""));
}

#[tokio::test]
async fn whoever_is_erased_after_they_were_prepared_is_not_called() {
    let bed = Bed::new().await;
    let side = bed.side("spring").await;
    assert!(matches!(side.prepare().await, Prepared::Fresh { .. }));
    let mut conn = bed.conn().await;
    assert!(outreach_switch::settle_key(&mut conn, &bed.key).await.expect("settled"));
    erasure::begin(&mut conn, &bed.key, ADA, "key:x").await.expect("begun");
    assert_eq!(side.begin().await, Leave::Decided("erased"));
    assert_eq!(bed.count("SELECT count(*) FROM campaign_ledger").await, 0);
    let named = "SELECT count(*) FROM campaign_people WHERE user_id IS NOT NULL OR resolved_id IS NOT NULL";
    assert_eq!(bed.count(named).await, 0, "and the list does not say who they are");
}

#[tokio::test]
async fn a_job_that_falls_asleep_while_outreach_is_resumed_wakes_at_once() {
    for (opens, reason, state) in [
        ("resume", "outreach_stopped", "queued"),
        ("limits", "target_cap", "queued"),
        ("stop", "outreach_stopped", "scheduled"),
        ("limits", "quiet_hours", "scheduled"),
    ] {
        let bed = Bed::new().await;
        bed.execute("UPDATE outreach_switch SET state = 'stopped'").await;
        let side = bed.side("spring").await;
        let mut conn = bed.conn().await;
        match opens {
            "limits" => outreach_switch::set_limits(&mut conn, 1, 1).await.expect("set"),
            opens => outreach_switch::turn(&mut conn, opens == "stop", Some("x"), "key:x")
                .await
                .expect("turned"),
        }
        assert_eq!(
            outreach_switch::wake(&mut conn, Duration::ZERO).await.expect("looked"),
            0
        );
        bed.sleep(side.attempt.job, reason).await;
        let stored: String = sqlx::query_scalar("SELECT state FROM jobs")
            .fetch_one(bed.database.pool())
            .await
            .expect("the job");
        assert_eq!(stored, state, "{opens}, {reason}");
    }
}

#[tokio::test]
async fn a_known_key_is_compared_without_waiting_for_the_switch() {
    let bed = Bed::new().await;
    let mut conn = bed.conn().await;
    assert!(outreach_switch::settle_key(&mut conn, &bed.key).await.expect("settled"));
    let mut held = bed.database.pool().begin().await.expect("begun");
    sqlx::query("SELECT FROM outreach_switch FOR UPDATE")
        .execute(&mut *held)
        .await
        .expect("held");
    sqlx::query("SET lock_timeout = '2s'")
        .execute(&mut *conn)
        .await
        .expect("set");
    assert!(outreach_switch::settle_key(&mut conn, &bed.key).await.expect("no wait"));
    let another = PersonKey::parse(&Secret::new(STANDARD.encode([8; 32]))).expect("a key");
    assert!(!outreach_switch::settle_key(&mut conn, &another).await.expect("no wait"));
}

#[tokio::test]
async fn whoever_is_suppressed_after_leave_was_granted_is_not_called_and_the_one_who_adds_them_waits_for_the_call() {
    let bed = Bed::new().await;
    let side = bed.side("spring").await;
    let contact = Contact::default();
    let outreach = side.outreach.clone().telling(contact.clone());
    assert!(matches!(side.prepare().await, Prepared::Fresh { .. }));
    let leave = outreach.begin(side.campaign, &side.listed, &ada()).await;
    assert_eq!(leave.expect("answered"), granted(""));
    // A call is being let through.
    let mut letting = bed.database.pool().begin().await.expect("begun");
    assert_eq!(contact.left_alone(&mut letting).await.expect("asked"), None);
    let mut adding = bed.database.pool().begin().await.expect("begun");
    sqlx::query("SET LOCAL lock_timeout = '300ms'")
        .execute(&mut *adding)
        .await
        .expect("set");
    let named = suppressions::NewSuppression {
        who: suppressions::Suppressed::Username("ada".into()),
        reason: "x".into(),
    };
    let rows = std::slice::from_ref(&named);
    let waits = suppressions::add(&mut adding, rows, "api", "key:x").await;
    assert!(waits.is_err(), "it would be answered before the call is made");
    drop(adding);
    letting.commit().await.expect("committed");
    let mut conn = bed.conn().await;
    suppressions::add(&mut conn, rows, "api", "key:x").await.expect("added");
    assert_eq!(contact.left_alone(&mut conn).await.expect("asked"), Some("suppressed"));
    bed.execute("DELETE FROM suppressions").await;
    assert_eq!(contact.left_alone(&mut conn).await.expect("asked"), None);
    outreach_switch::settle_key(&mut conn, &bed.key).await.expect("settled");
    erasure::begin(&mut conn, &bed.key, ADA, "key:x").await.expect("begun");
    assert_eq!(contact.left_alone(&mut conn).await.expect("asked"), Some("erased"));
}

impl Side {
    /// Changes what the campaign says, and where its days are.
    async fn change(&self, bed: &Bed, wording: Option<Wording>, time_zone: &str) {
        let settings = Settings {
            name: "changed".into(),
            wording,
            pool: None,
            session: None,
            per_day: 1,
            quiet: None,
            time_zone: time_zone.into(),
            stop_ratio: 0.5,
            stop_after: 100,
        };
        let mut transaction = bed.database.pool().begin().await.expect("begun");
        assert!(campaigns::lock(&mut transaction, self.campaign).await.expect("locked"));
        campaign_changes::change(&mut transaction, self.campaign, &settings, &["text"], "key:x")
            .await
            .expect("changed");
        transaction.commit().await.expect("committed");
    }

    async fn gate(&self, bed: &Bed) -> Gate {
        ledger::gate(&mut *bed.conn().await, self.campaign, None)
            .await
            .expect("asked")
    }
}

#[tokio::test]
async fn whoever_may_have_been_sent_a_text_is_looked_up_by_it_and_gets_no_other() {
    let bed = Bed::new().await;
    let side = bed.side("spring").await;
    bed.execute("UPDATE campaigns SET mode = 'message', text = 'first'")
        .await;
    assert!(matches!(side.prepare().await, Prepared::Fresh { .. }));
    assert_eq!(side.begin().await, granted("first"));
    side.change(&bed, Some(wording("second")), "UTC").await;
    side.change(&bed, Some(wording("third")), "UTC").await;
    let Prepared::InDoubt { wording: said, .. } = side.prepare().await else {
        panic!("it may have been sent");
    };
    assert_eq!(said, wording("first"));
    assert_eq!(side.begin().await, granted("first"), "repeated as it was");
    // It was refused by name: nothing was sent.
    side.outreach.release(side.campaign, ADA).await.expect("released");
    assert!(matches!(side.prepare().await, Prepared::Fresh { .. }));
    assert_eq!(side.begin().await, granted("third"));
}

#[tokio::test]
async fn another_zone_lets_nobody_more_be_contacted() {
    let bed = Bed::new().await;
    let side = bed.side("spring").await;
    let set_clock = async |time: &str| {
        let statement = format!(
            "CREATE OR REPLACE FUNCTION wireroom_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS
            'SELECT ''{time}''::timestamptz'"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(bed.database.pool())
            .await
            .expect("set");
    };
    let ends = |gate: Gate| match gate {
        Gate::Wait { until, reason } if reason.code == "campaign_cap" => until.to_rfc3339(),
        other => panic!("the day's cap is spent: {other:?}"),
    };
    bed.execute("UPDATE campaigns SET per_day = 1").await;
    set_clock("2030-01-01 20:00Z").await;
    side.prepare().await;
    side.begin().await;
    assert_eq!(ends(side.gate(&bed).await), "2030-01-02T00:00:00+00:00");
    // Half an hour of the day is left, and an hour further east the next one has begun.
    set_clock("2030-01-01 23:30Z").await;
    side.change(&bed, None, "Etc/GMT-1").await;
    assert_eq!(ends(side.gate(&bed).await), "2030-01-02T23:00:00+00:00");
    // Back, and the day ends no sooner.
    side.change(&bed, None, "UTC").await;
    assert_eq!(ends(side.gate(&bed).await), "2030-01-02T23:00:00+00:00");
    set_clock("2030-01-02 23:00Z").await;
    assert_eq!(side.gate(&bed).await, Gate::Open);
}

#[tokio::test]
async fn a_job_that_falls_asleep_while_its_campaign_is_changed_wakes_at_once() {
    for (reason, state) in [
        ("campaign_cap", "queued"),
        ("quiet_hours", "queued"),
        ("target_cap", "scheduled"),
    ] {
        let bed = Bed::new().await;
        let side = bed.side("spring").await;
        side.change(&bed, None, "UTC").await;
        bed.sleep(side.attempt.job, reason).await;
        let stored: String = sqlx::query_scalar("SELECT state FROM jobs")
            .fetch_one(bed.database.pool())
            .await
            .expect("the job");
        assert_eq!(stored, state, "{reason}");
    }
}

#[tokio::test]
async fn somebody_who_is_being_changed_is_waited_for() {
    let bed = Bed::new().await;
    let side = bed.side("spring").await;
    let turn = async || side.outreach.turn(side.campaign, &[]).await.expect("answered");
    let mut held = bed.database.pool().begin().await.expect("begun");
    sqlx::query("SELECT FROM campaign_people FOR UPDATE")
        .execute(&mut *held)
        .await
        .expect("held");
    let Turn::Wait { reason, .. } = turn().await else {
        panic!("one is left");
    };
    assert_eq!(reason.code, "list_busy");
    held.rollback().await.expect("let go");
    assert!(matches!(turn().await, Turn::Person(_)));
    bed.execute("UPDATE campaign_people SET state = 'done', outcome = 'invited', class = 'invited'")
        .await;
    assert_eq!(turn().await, Turn::Over(Over::Exhausted));
}

#[tokio::test]
async fn whoever_is_imported_as_invited_after_they_were_prepared_is_not_called() {
    let bed = Bed::new().await;
    for is_known_when_begun in [true, false] {
        let side = bed.side(if is_known_when_begun { "spring" } else { "summer" }).await;
        assert!(matches!(side.prepare().await, Prepared::Fresh { .. }));
        let row = ledger::ImportedRow {
            user_id: ADA,
            invited_at: None,
        };
        let added = ledger::import(&mut *bed.conn().await, side.campaign, &[row], "key:x").await;
        assert_eq!(added.expect("imported"), 1);
        if is_known_when_begun {
            assert_eq!(side.begin().await, Leave::Decided("already_invited"));
        } else {
            assert_eq!(side.prepare().await, Prepared::Decided("already_invited"));
        }
    }
    let called = "SELECT count(*) FROM campaign_ledger WHERE state <> 'imported' OR attempted_at IS NOT NULL";
    assert_eq!(bed.count(called).await, 0);
}
