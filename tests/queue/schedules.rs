//! Schedules over running queues: one job per tick, whatever the replicas, the clock, and whoever edits meanwhile. The
//! database's clock stands still and is moved by hand; a round of the loop is known to be over when a later marker fired.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::FromRow;
use uuid::Uuid;
use wireroom::{
    cron::{Expression, Timetable, zone},
    ids::{JobId, ScheduleId},
    queue::Runner,
    store::{
        jobs::{Cancelled, cancel},
        schedule_ticks,
        schedules::{self, Missed, Overlap, Pause, ScheduleRecord, Settings, Template, Tick},
    },
};
use wireroom_jobs::Outcome;

use super::bed::{BOUND, Bed, Running, function};
use crate::support::wait::eventually;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("a time")
}

/// A tick as its row has it.
#[derive(Debug, Clone, PartialEq, FromRow)]
struct Seen {
    tick_at: DateTime<Utc>,
    outcome: String,
    job_id: Option<Uuid>,
    code: Option<String>,
    version: i32,
}

/// A schedule that joins at every tick of `cron`, and has had none before `from`.
fn schedule(name: &str, cron: &str, time_zone: &str, from: DateTime<Utc>) -> ScheduleRecord {
    let table = Timetable::new(
        Expression::parse(cron).expect("an expression"),
        zone(time_zone).expect("a zone"),
    );
    let first = table.next_after(from - TimeDelta::seconds(1)).expect("a tick");
    ScheduleRecord {
        id: ScheduleId::generate(),
        settings: Settings {
            name: name.to_owned(),
            cron: cron.to_owned(),
            time_zone: time_zone.to_owned(),
            template: Template {
                kind: "join".to_owned(),
                args: json!({}),
                pool: None,
                session: None,
                priority: 0,
                max_attempts: None,
                tags: vec!["scheduled".to_owned()],
                deadline_seconds: None,
                limit_key: None,
            },
            missed: Missed::Once,
            missed_max: 3,
            missed_after_seconds: 60,
            overlap: Overlap::Allow,
            jitter_seconds: 0,
            starts_at: None,
            ends_at: None,
        },
        pause: None,
        version: 1,
        next: Some(Tick { at: first, due: first }),
        created_by: "cli".to_owned(),
        created_at: from,
        updated_at: from,
    }
}

/// What the tests do to schedules.
struct Cron {
    bed: Bed,
}

impl Cron {
    /// A bed whose clock stands still.
    async fn new(now: &str) -> Self {
        let cron = Self { bed: Bed::new().await };
        cron.set_clock(at(now)).await;
        cron
    }

    async fn set_clock(&self, now: DateTime<Utc>) {
        let sql = format!(
            "CREATE OR REPLACE FUNCTION wireroom_now() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
             AS 'SELECT timestamptz ''{}'''",
            now.to_rfc3339()
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(self.bed.pool())
            .await
            .expect("the clock is set");
    }

    async fn add(&self, schedule: &ScheduleRecord) {
        let mut conn = self.bed.pool().acquire().await.expect("a connection");
        schedules::create(&mut conn, schedule).await.expect("a schedule");
    }

    async fn ticks(&self, schedule: &ScheduleRecord) -> Vec<Seen> {
        sqlx::query_as(
            "SELECT tick_at, outcome, job_id, reason->>'code' AS code, version FROM schedule_ticks
             WHERE schedule_id = $1 ORDER BY tick_at",
        )
        .bind(schedule.id.0)
        .fetch_all(self.bed.pool())
        .await
        .expect("ticks")
    }

    /// Waits until the schedule has so many ticks.
    async fn until_ticks(&self, schedule: &ScheduleRecord, count: usize) -> Vec<Seen> {
        eventually(BOUND, || async {
            let ticks = self.ticks(schedule).await;
            if ticks.len() == count { Ok(ticks) } else { Err(ticks) }
        })
        .await
    }

    /// Waits until a schedule that is due now has fired: everything that was due before has been looked at.
    async fn until_looked(&self, now: DateTime<Utc>) {
        let marker = schedule(&format!("marker {}", Uuid::now_v7()), "0 0 0 1 1 *", "UTC", now);
        let marker = ScheduleRecord {
            next: Some(Tick { at: now, due: now }),
            ..marker
        };
        self.add(&marker).await;
        self.until_ticks(&marker, 1).await;
    }

    /// Jobs of the schedule, live and finished.
    async fn jobs(&self, schedule: &ScheduleRecord) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM all_jobs WHERE created_by = $1")
            .bind(format!("schedule:{}", schedule.id))
            .fetch_one(self.bed.pool())
            .await
            .expect("a count")
    }

    async fn start(&self, runner: Arc<dyn Runner>) -> Running {
        self.bed.start(50, runner).await
    }

    /// A worker that fires schedules and has no slot for their jobs: they stay queued until the test ends them.
    async fn start_without_slots(&self) -> Running {
        self.bed.start(0, succeeds()).await
    }

    /// Ends the job of the schedule's tick number `index`.
    async fn end_job(&self, schedule: &ScheduleRecord, index: usize) {
        let job = self.ticks(schedule).await[index].job_id.expect("a job");
        let mut conn = self.bed.pool().acquire().await.expect("a connection");
        let ended = cancel(&mut conn, JobId(job)).await.expect("an answer");
        assert_eq!(ended, Cancelled::AtOnce);
    }

    /// Waits until the schedule's ticks came to this.
    async fn until_outcomes(&self, schedule: &ScheduleRecord, expected: &[(&str, &str)]) {
        eventually(BOUND, || async {
            let ticks = self.ticks(schedule).await;
            if outcomes(&ticks) == expected {
                Ok(())
            } else {
                Err(ticks)
            }
        })
        .await;
    }
}

fn succeeds() -> Arc<dyn Runner> {
    function(|_| async { Outcome::Done(json!({})) })
}

fn outcomes(ticks: &[Seen]) -> Vec<(&str, &str)> {
    ticks
        .iter()
        .map(|tick| (tick.outcome.as_str(), tick.code.as_deref().unwrap_or_default()))
        .collect()
}

#[tokio::test]
async fn three_replicas_make_one_job_per_tick() {
    let start = at("2026-11-20T12:00:00Z");
    let cron = Cron::new("2026-11-20T11:59:59Z").await;
    let mut all = Vec::new();
    for n in 0..8 {
        let schedule = schedule(&format!("every second {n}"), "* * * * * *", "UTC", start);
        cron.add(&schedule).await;
        all.push(schedule);
    }
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(cron.start(succeeds()).await);
    }
    for step in 0..6 {
        cron.set_clock(start + TimeDelta::milliseconds(step * 2500)).await;
        for schedule in &all {
            let expected = usize::try_from(step * 5 / 2 + 1).expect("small");
            cron.until_ticks(schedule, expected).await;
        }
    }
    for schedule in &all {
        let ticks = cron.ticks(schedule).await;
        let expected: Vec<_> = (0..13).map(|n| start + TimeDelta::seconds(n)).collect();
        assert_eq!(ticks.iter().map(|tick| tick.tick_at).collect::<Vec<_>>(), expected);
        assert!(ticks.iter().all(|tick| tick.outcome == "job"));
        assert_eq!(cron.jobs(schedule).await, 13);
    }
    for tick in cron.ticks(&all[0]).await {
        let job = JobId(tick.job_id.expect("a job"));
        cron.bed.until_state(job, "succeeded").await;
    }
    for replica in replicas {
        replica.handle.shutdown().await;
    }
}

#[tokio::test]
async fn a_clock_that_is_set_back_does_not_fire_again() {
    let start = at("2026-11-20T12:00:00Z");
    let cron = Cron::new("2026-11-20T12:00:05Z").await;
    let every_second = schedule("every second", "* * * * * *", "UTC", start);
    cron.add(&every_second).await;
    let running = cron.start(succeeds()).await;
    cron.until_ticks(&every_second, 6).await;

    let back = start + TimeDelta::seconds(2);
    cron.set_clock(back).await;
    cron.until_looked(back).await;
    assert_eq!(cron.jobs(&every_second).await, 6);

    // An edit counts from the clock's now, and so comes by ticks that were taken.
    let mut conn = cron.bed.pool().acquire().await.unwrap();
    let mut edited = schedules::get(&mut *conn, every_second.id).await.unwrap().unwrap();
    edited.next = Some(Tick { at: back, due: back });
    edited.version += 1;
    schedules::update(&mut conn, &edited).await.unwrap();
    cron.set_clock(start + TimeDelta::seconds(6)).await;
    let ticks = cron.until_ticks(&every_second, 7).await;
    assert_eq!(cron.jobs(&every_second).await, 7);
    assert_eq!(ticks[6].tick_at, start + TimeDelta::seconds(6));
    assert_eq!(
        ticks.iter().map(|tick| tick.version).collect::<Vec<_>>(),
        [1, 1, 1, 1, 1, 1, 2]
    );
    running.handle.shutdown().await;
}

#[tokio::test]
async fn missed_ticks_follow_the_policy() {
    let start = at("2026-11-20T12:00:00Z");
    let cron = Cron::new("2026-11-20T12:55:00Z").await;
    let with = |name: &str, missed| {
        let mut schedule = schedule(name, "*/10 * * * *", "UTC", start);
        schedule.settings.missed = missed;
        schedule
    };
    let (skip, once, all) = (
        with("skip", Missed::Skip),
        with("once", Missed::Once),
        with("all", Missed::All),
    );
    let mut paused = with("paused", Missed::All);
    paused.pause = Some(Pause {
        at: start,
        reason: "holidays".to_owned(),
        by: "cli".to_owned(),
    });
    for schedule in [&skip, &once, &all, &paused] {
        cron.add(schedule).await;
    }
    let running = cron.start(succeeds()).await;
    let (none, job) = (("skipped", "missed"), ("job", ""));
    for (schedule, expected) in [
        (&skip, [none; 6]),
        (&once, [none, none, none, none, none, job]),
        (&all, [none, none, none, job, job, job]),
        (&paused, [("skipped", "paused"); 6]),
    ] {
        let ticks = cron.until_ticks(schedule, 6).await;
        assert_eq!(outcomes(&ticks), expected, "{}", schedule.settings.name);
    }
    // The next one is in time.
    cron.set_clock(at("2026-11-20T13:00:01Z")).await;
    for schedule in [&skip, &once, &all] {
        assert_eq!(cron.until_ticks(schedule, 7).await[6].outcome, "job");
    }
    running.handle.shutdown().await;
}

#[tokio::test]
async fn overlap_follows_the_policy() {
    let start = at("2026-11-20T12:00:00Z");
    let cron = Cron::new("2026-11-20T12:00:00Z").await;
    let with = |name: &str, overlap| {
        let mut schedule = schedule(name, "* * * * *", "UTC", start);
        schedule.settings.overlap = overlap;
        schedule
    };
    let allow = with("allow", Overlap::Allow);
    let skip = with("skip", Overlap::Skip);
    let queue = with("queue", Overlap::Queue);
    let all = [&allow, &skip, &queue];
    for schedule in all {
        cron.add(schedule).await;
    }
    let running = cron.start_without_slots().await;
    for minute in 0..3 {
        cron.set_clock(start + TimeDelta::minutes(minute)).await;
        for schedule in all {
            cron.until_ticks(schedule, usize::try_from(minute + 1).unwrap()).await;
        }
    }
    let (job, waits, none) = (("job", ""), ("waiting", "overlap"), ("skipped", "overlap"));
    assert_eq!(outcomes(&cron.ticks(&allow).await), [job, job, job]);
    assert_eq!(outcomes(&cron.ticks(&skip).await), [job, none, none]);
    assert_eq!(outcomes(&cron.ticks(&queue).await), [job, waits, waits]);

    // Those that waited come one after the other, each when the one before has ended.
    cron.end_job(&queue, 0).await;
    cron.until_outcomes(&queue, &[job, job, waits]).await;
    let now = start + TimeDelta::minutes(2);
    cron.until_looked(now).await;
    cron.until_outcomes(&queue, &[job, job, waits]).await;
    cron.end_job(&queue, 1).await;
    cron.until_outcomes(&queue, &[job, job, job]).await;

    // With nothing under way, the next tick has its job at once.
    cron.end_job(&queue, 2).await;
    cron.end_job(&skip, 0).await;
    cron.set_clock(start + TimeDelta::minutes(3)).await;
    for schedule in all {
        assert_eq!(cron.until_ticks(schedule, 4).await[3].outcome, "job");
    }
    running.handle.shutdown().await;
}

#[tokio::test]
async fn schedules_are_added_changed_and_removed_while_workers_run() {
    let start = at("2026-11-20T12:00:00Z");
    let cron = Cron::new("2026-11-20T12:00:00Z").await;
    let running = cron.start_without_slots().await;
    cron.until_looked(start).await;

    let added = schedule("added", "* * * * *", "UTC", start);
    cron.add(&added).await;
    cron.until_ticks(&added, 1).await;

    let mut conn = cron.bed.pool().acquire().await.unwrap();
    let mut transaction = sqlx::Connection::begin(&mut *conn).await.unwrap();
    let mut changed = schedules::lock(&mut transaction, added.id).await.unwrap().unwrap();
    changed.settings.cron = "30 * * * *".to_owned();
    changed.version = 2;
    let next = at("2026-11-20T12:30:00Z");
    changed.next = Some(Tick { at: next, due: next });
    schedules::update(&mut transaction, &changed).await.unwrap();
    transaction.commit().await.unwrap();
    let later = start + TimeDelta::minutes(5);
    cron.set_clock(later).await;
    cron.until_looked(later).await;
    assert_eq!(cron.ticks(&added).await.len(), 1, "the minutes do not count any more");
    cron.set_clock(next).await;
    let ticks = cron.until_ticks(&added, 2).await;
    assert_eq!((ticks[1].tick_at, ticks[1].version), (next, 2));

    assert!(schedules::delete(&mut conn, added.id).await.unwrap());
    let later = at("2026-11-20T13:45:00Z");
    cron.set_clock(later).await;
    cron.until_looked(later).await;
    assert_eq!(cron.jobs(&added).await, 2, "it is gone, and its jobs are not");
    running.handle.shutdown().await;
}

/// A schedule at `cron` over the night before, that of the change, and the one after: its ticks.
async fn over_a_change(zone: &str, cron_text: &str, from: &str, nights: [&str; 3]) {
    let cron = Cron::new(from).await;
    let nightly = schedule("nightly", cron_text, zone, at(from));
    cron.add(&nightly).await;
    let running = cron.start(succeeds()).await;
    for (index, tick) in nights.iter().enumerate() {
        // Just before it there is nothing new, and at it there is one.
        let before = at(tick) - TimeDelta::seconds(1);
        cron.set_clock(before).await;
        cron.until_looked(before).await;
        assert_eq!(cron.ticks(&nightly).await.len(), index, "{zone} {tick}");
        cron.set_clock(at(tick)).await;
        let ticks = cron.until_ticks(&nightly, index + 1).await;
        assert_eq!(ticks[index].tick_at, at(tick), "{zone}");
        // An hour later, when a second pass would be, there is still one.
        let hour_later = at(tick) + TimeDelta::minutes(61);
        cron.set_clock(hour_later).await;
        cron.until_looked(hour_later).await;
        assert_eq!(cron.ticks(&nightly).await.len(), index + 1, "{zone} {tick}");
    }
    assert_eq!(cron.jobs(&nightly).await, 3);
    running.handle.shutdown().await;
}

#[tokio::test]
async fn in_spring_a_time_that_is_left_out_fires_once_at_the_end_of_the_gap() {
    over_a_change(
        "Europe/Berlin",
        "30 2 * * *",
        "2027-03-27T00:00:00Z",
        ["2027-03-27T01:30:00Z", "2027-03-28T01:00:00Z", "2027-03-29T00:30:00Z"],
    )
    .await;
    over_a_change(
        "America/New_York",
        "30 2 * * *",
        "2027-03-13T05:00:00Z",
        ["2027-03-13T07:30:00Z", "2027-03-14T07:00:00Z", "2027-03-15T06:30:00Z"],
    )
    .await;
}

#[tokio::test]
async fn in_autumn_a_time_that_comes_twice_fires_once() {
    over_a_change(
        "Europe/Berlin",
        "30 2 * * *",
        "2027-10-30T00:00:00Z",
        ["2027-10-30T00:30:00Z", "2027-10-31T00:30:00Z", "2027-11-01T01:30:00Z"],
    )
    .await;
    over_a_change(
        "America/New_York",
        "30 1 * * *",
        "2027-11-06T04:00:00Z",
        ["2027-11-06T05:30:00Z", "2027-11-07T05:30:00Z", "2027-11-08T06:30:00Z"],
    )
    .await;
}

#[tokio::test]
async fn a_tick_and_its_job_are_one_transaction() {
    let start = at("2026-11-20T12:00:00Z");
    let cron = Cron::new("2026-11-20T12:00:00Z").await;
    let hourly = schedule("hourly", "@hourly", "UTC", start);
    cron.add(&hourly).await;
    cron.bed
        .run(
            "CREATE SEQUENCE refusals;
             CREATE FUNCTION refuse_advance() RETURNS trigger LANGUAGE plpgsql
                AS 'BEGIN PERFORM nextval(''refusals''); RAISE EXCEPTION ''not now''; END';
             CREATE TRIGGER refuse BEFORE UPDATE ON schedules FOR EACH ROW EXECUTE FUNCTION refuse_advance()",
        )
        .await;
    let running = cron.start(succeeds()).await;
    // The last statement of the transaction fails, twice.
    eventually(BOUND, || async {
        let refusals = cron.bed.count("SELECT last_value FROM refusals").await;
        if refusals >= 2 { Ok(()) } else { Err(refusals) }
    })
    .await;
    assert_eq!((cron.ticks(&hourly).await.len(), cron.jobs(&hourly).await), (0, 0));
    cron.bed.run("DROP TRIGGER refuse ON schedules").await;
    cron.until_ticks(&hourly, 1).await;
    assert_eq!(cron.jobs(&hourly).await, 1);
    running.handle.shutdown().await;
}

#[tokio::test]
async fn a_schedule_that_cannot_be_fired_holds_no_other_up_and_is_not_lost() {
    let start = at("2026-11-20T12:00:00Z");
    let cron = Cron::new("2026-11-20T12:00:00Z").await;
    let broken = schedule("broken", "@hourly", "UTC", start);
    let unreadable = schedule("unreadable", "@hourly", "UTC", start);
    let sound = schedule("sound", "@hourly", "UTC", start + TimeDelta::hours(1));
    for schedule in [&broken, &unreadable, &sound] {
        cron.add(schedule).await;
    }
    cron.bed
        .run(
            "UPDATE schedules SET time_zone = 'Europe/Atlantis' WHERE name = 'unreadable';
             CREATE FUNCTION refuse_ticks() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN
                IF (SELECT name FROM schedules WHERE id = NEW.schedule_id) = ''broken'' THEN
                    RAISE EXCEPTION ''not now'';
                END IF; RETURN NEW; END';
             CREATE TRIGGER refuse BEFORE INSERT ON schedule_ticks FOR EACH ROW EXECUTE FUNCTION refuse_ticks()",
        )
        .await;
    let mut now = start + TimeDelta::hours(1);
    cron.set_clock(now).await;
    let running = cron.start_without_slots().await;
    cron.until_ticks(&sound, 1).await;
    assert_eq!(cron.ticks(&broken).await.len() + cron.ticks(&unreadable).await.len(), 0);

    cron.bed
        .run(
            "DROP TRIGGER refuse ON schedule_ticks;
             UPDATE schedules SET time_zone = 'UTC' WHERE name = 'unreadable'",
        )
        .await;
    now += TimeDelta::minutes(2);
    cron.set_clock(now).await;
    for schedule in [&broken, &unreadable] {
        cron.until_ticks(schedule, 2).await;
        assert_eq!(cron.jobs(schedule).await, 1, "the later of two missed");
    }
    running.handle.shutdown().await;
}

#[tokio::test]
async fn a_job_that_is_refused_is_told_and_holds_nothing_up() {
    let start = at("2026-11-20T12:00:00Z");
    let cron = Cron::new("2026-11-20T12:00:00Z").await;
    let mut nowhere = schedule("nowhere", "* * * * *", "UTC", start);
    nowhere.settings.template.pool = Some("gone".to_owned());
    let mut late = schedule("late", "*/10 * * * *", "UTC", start);
    late.settings.template.deadline_seconds = Some(30);
    for schedule in [&nowhere, &late] {
        cron.add(schedule).await;
    }
    let running = cron.start(succeeds()).await;
    let ticks = cron.until_ticks(&nowhere, 1).await;
    assert_eq!(outcomes(&ticks), [("failed", "job_refused")]);
    assert_eq!(cron.until_ticks(&late, 1).await[0].outcome, "job");
    cron.bed.run("INSERT INTO pools (name) VALUES ('gone')").await;
    cron.set_clock(start + TimeDelta::seconds(640)).await;
    let ticks = cron.until_ticks(&nowhere, 11).await;
    assert_eq!(ticks[10].outcome, "job");
    assert_eq!(outcomes(&cron.until_ticks(&late, 2).await)[1], ("skipped", "deadline"));
    running.handle.shutdown().await;
}

#[tokio::test]
async fn ticks_are_kept_for_a_bounded_time_and_number() {
    let cron = Cron::new("2026-11-20T12:00:00Z").await;
    let often = schedule("often", "* * * * *", "UTC", at("2026-11-20T12:00:00Z"));
    let seldom = schedule("seldom", "@daily", "UTC", at("2026-11-20T12:00:00Z"));
    for (schedule, step, count) in [(&often, "1 minute", 4000), (&seldom, "1 day", 40)] {
        cron.add(schedule).await;
        sqlx::query(
            "INSERT INTO schedule_ticks (schedule_id, tick_at, trigger, due_at, decided_at, version, outcome, job_open)
             SELECT $1, t, 'cron', t, t, 1, 'skipped', false
             FROM (SELECT wireroom_now() - n * $2::text::interval AS t FROM generate_series(1, $3) n) AS ticks",
        )
        .bind(schedule.id.0)
        .bind(step)
        .bind(count)
        .execute(cron.bed.pool())
        .await
        .expect("ticks");
    }
    let mut conn = cron.bed.pool().acquire().await.unwrap();
    while schedule_ticks::expire(&mut conn, 30, 500).await.unwrap() > 0 {}
    // A day of minutes is more than a thousand; thirty days are less.
    assert_eq!(cron.ticks(&often).await.len(), 1440);
    assert_eq!(cron.ticks(&seldom).await.len(), 30);
}
