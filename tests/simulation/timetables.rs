//! Operations on schedules, and what every tick must have become by our own arithmetic.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::FromRow;
use uuid::Uuid;
use wireroom::cron::{Expression, Timetable, zone};

use super::{
    act::{args, id_of},
    bed::Bed,
    model::{Scheduled, Version},
    plan::Plan,
};

/// Ticks of a schedule that are kept, whatever their age.
const HISTORY: usize = 1000;

#[derive(Debug, FromRow)]
struct TickRow {
    tick_at: DateTime<Utc>,
    trigger: String,
    due_at: DateTime<Utc>,
    decided_at: DateTime<Utc>,
    version: i32,
    outcome: String,
    job_id: Option<Uuid>,
    reason: Option<Value>,
}

impl TickRow {
    fn reason(&self) -> &str {
        self.reason
            .as_ref()
            .and_then(|reason| reason["code"].as_str())
            .unwrap_or_default()
    }

    /// The end of the ticks that this one stands for, when they were too many.
    fn stands_until(&self) -> Option<DateTime<Utc>> {
        let message = self.reason.as_ref()?["message"].as_str()?;
        let (_, rest) = message.split_once("all others until ")?;
        rest.split_whitespace().next()?.parse().ok()
    }
}

impl Bed {
    pub async fn schedule(&mut self, plan: &Plan) {
        let number = self.model.schedules.len();
        let text = format!("Simulation {}, schedule {number}.", self.seed);
        let body = json!({
            "name": format!("schedule {number}"),
            "cron": plan.cron,
            "time_zone": plan.zone,
            "job": { "kind": plan.work.kind(), "args": args(&plan.work, &text), "max_attempts": 3 },
            "missed": plan.missed,
            "missed_max": plan.missed_max,
            "missed_after_seconds": plan.missed_after,
            "overlap": plan.overlap,
            "jitter_seconds": plan.jitter,
        });
        let view = self.expect(Method::POST, "/v1/schedules", Some(&body), &[201]).await;
        let scheduled = Scheduled {
            id: id_of(&view),
            created_at: time(&view["created_at"]).expect("a time"),
            missed: plan.missed,
            missed_max: usize::try_from(plan.missed_max).unwrap_or(0),
            missed_after: plan.missed_after,
            overlap: plan.overlap,
            jitter: plan.jitter,
            versions: BTreeMap::from([(1, version(&view))]),
            was_run: false,
            deleted: false,
        };
        self.model.schedules.push(Some(scheduled));
    }

    pub async fn edit(&mut self, number: usize, change: Value) {
        let Some(id) = self.live_schedule(number) else { return };
        let path = format!("/v1/schedules/{id}");
        let view = self.expect(Method::PATCH, &path, Some(&change), &[200]).await;
        let known = view["version"].as_i64().and_then(|version| i32::try_from(version).ok());
        let scheduled = self.model.schedules[number].as_mut().expect("it is there");
        scheduled
            .versions
            .entry(known.expect("a version"))
            .or_insert_with(|| version(&view));
    }

    pub async fn run_schedule(&mut self, number: usize) {
        let Some(id) = self.live_schedule(number) else { return };
        self.expect(Method::POST, &format!("/v1/schedules/{id}/run"), None, &[202, 409])
            .await;
        self.model.schedules[number].as_mut().expect("it is there").was_run = true;
    }

    pub async fn delete_schedule(&mut self, number: usize) {
        let Some(id) = self.live_schedule(number) else { return };
        self.expect(Method::DELETE, &format!("/v1/schedules/{id}"), None, &[204])
            .await;
        self.model.schedules[number].as_mut().expect("it is there").deleted = true;
    }

    fn live_schedule(&self, number: usize) -> Option<Uuid> {
        let scheduled = self.model.schedules.get(number)?.as_ref()?;
        (!scheduled.deleted).then_some(scheduled.id)
    }

    /// No tick is lost or doubled, each has what its policy says, and no schedule has a job without a tick.
    pub async fn check_ticks(&self) {
        for scheduled in self.model.schedules.iter().flatten() {
            // In one snapshot: a tick, its job and the schedule's next tick are committed together.
            let mut transaction = self.pool.begin().await.expect("a transaction");
            sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                .execute(&mut *transaction)
                .await
                .expect("a snapshot");
            let jobs: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM all_jobs WHERE created_by = $1")
                .bind(format!("schedule:{}", scheduled.id))
                .fetch_all(&mut *transaction)
                .await
                .expect("jobs");
            let live: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE created_by = $1")
                .bind(format!("schedule:{}", scheduled.id))
                .fetch_one(&mut *transaction)
                .await
                .expect("jobs");
            let next: Option<DateTime<Utc>> = sqlx::query_scalar("SELECT next_tick_at FROM schedules WHERE id = $1")
                .bind(scheduled.id)
                .fetch_optional(&mut *transaction)
                .await
                .expect("a schedule")
                .flatten();
            let rows: Vec<TickRow> = sqlx::query_as(
                "SELECT tick_at, trigger, due_at, decided_at, version, outcome, job_id, reason FROM schedule_ticks
                 WHERE schedule_id = $1 ORDER BY tick_at",
            )
            .bind(scheduled.id)
            .fetch_all(&mut *transaction)
            .await
            .expect("ticks");
            transaction.rollback().await.expect("the snapshot ends");
            if scheduled.deleted {
                continue;
            }
            one_job_per_tick(scheduled, &rows, &jobs);
            if scheduled.overlap != "allow" && !scheduled.was_run {
                assert!(live <= 1, "{live} jobs of schedule {} overlap", scheduled.id);
            }
            let ticks: Vec<&TickRow> = rows.iter().filter(|row| row.trigger == "cron").collect();
            let next = next.expect("a schedule of these expressions always has a next tick");
            none_lost(scheduled, &ticks, next);
            by_policy(scheduled, &ticks);
        }
    }
}

fn one_job_per_tick(scheduled: &Scheduled, rows: &[TickRow], jobs: &[Uuid]) {
    let of_ticks: BTreeSet<Uuid> = rows.iter().filter_map(|row| row.job_id).collect();
    let with_job = rows.iter().filter(|row| row.outcome == "job").count();
    assert_eq!(of_ticks.len(), with_job, "two ticks of {} share a job", scheduled.id);
    let jobs: BTreeSet<Uuid> = jobs.iter().copied().collect();
    let alone: Vec<_> = jobs.difference(&of_ticks).collect();
    assert!(
        of_ticks.is_subset(&jobs),
        "jobs of ticks of {} are not there",
        scheduled.id
    );
    assert!(
        alone.is_empty() || rows.len() >= HISTORY,
        "jobs of {} without a tick: {alone:?}",
        scheduled.id
    );
}

/// Between two changes of its times, every tick of the timetable has a row or is yet to come, and there are no others.
fn none_lost(scheduled: &Scheduled, ticks: &[&TickRow], next: DateTime<Utc>) {
    let taken: BTreeSet<DateTime<Utc>> = ticks.iter().map(|row| row.tick_at).collect();
    let mut expected = expected(scheduled, next);
    let given_up = given_up(scheduled);
    let stood_for: Vec<_> = ticks
        .iter()
        .filter_map(|row| Some((row.tick_at, row.stands_until()?)))
        .collect();
    let oldest = if ticks.len() < HISTORY { None } else { taken.first() };
    expected.retain(|tick| {
        let within = |spans: &[Span]| spans.iter().any(|(from, to)| from < tick && tick <= to);
        let may_be_gone = within(&given_up) || within(&stood_for) || oldest.is_some_and(|oldest| tick < oldest);
        taken.contains(tick) || !may_be_gone
    });
    let lost: Vec<_> = expected.difference(&taken).collect();
    let extra: Vec<_> = taken.difference(&expected).collect();
    assert!(
        lost.is_empty() && extra.is_empty(),
        "schedule {}: lost {lost:?}, and there should not be {extra:?}; next {next}",
        scheduled.id
    );
}

/// After one moment, up to another.
type Span = (DateTime<Utc>, DateTime<Utc>);

/// The ticks before `next`, by the times of each version. A tick that is due when its times are changed is still taken; what
/// follows it goes by the new times.
fn expected(scheduled: &Scheduled, next: DateTime<Utc>) -> BTreeSet<DateTime<Utc>> {
    let mut expected = BTreeSet::new();
    let mut recasts: Vec<&Version> = Vec::new();
    for version in scheduled.versions.values() {
        let before = recasts.last();
        if before.is_none_or(|before| before.cron != version.cron || before.zone != version.zone) {
            recasts.push(version);
        }
    }
    for (index, version) in recasts.iter().enumerate() {
        let pending = version.next.filter(|pending| index > 0 && *pending <= version.at);
        expected.extend(pending);
        let from = if index == 0 {
            scheduled.created_at
        } else {
            pending.unwrap_or(version.at)
        };
        let is_over = |tick: &DateTime<Utc>| match recasts.get(index + 1) {
            None => false,
            Some(later) => match later.next.filter(|pending| *pending <= later.at) {
                Some(pending) => *tick >= pending,
                None => *tick > later.at,
            },
        };
        let timetable = timetable(version);
        let ticks = timetable
            .ticks_after(from)
            .take_while(|tick| *tick < next && !is_over(tick));
        expected.extend(ticks);
    }
    expected.retain(|tick| *tick < next);
    expected
}

/// Spans of a pause whose ticks nobody had looked at when the pause, or the times, came to an end: they are gone.
fn given_up(scheduled: &Scheduled) -> Vec<Span> {
    let versions: Vec<&Version> = scheduled.versions.values().collect();
    let pairs = versions.windows(2).filter(|pair| pair[0].paused);
    // A tick of before the pause that was to be taken within it, because of its jitter, is one of the pause.
    let jitter = TimeDelta::seconds(scheduled.jitter);
    pairs.map(|pair| (pair[0].at - jitter, pair[1].at)).collect()
}

/// Ticks that were decided together, by the policy of their version.
fn by_policy(scheduled: &Scheduled, ticks: &[&TickRow]) {
    let mut rounds: BTreeMap<(DateTime<Utc>, i32), Vec<&TickRow>> = BTreeMap::new();
    for row in ticks {
        rounds.entry((row.decided_at, row.version)).or_default().push(row);
    }
    for ((_, version), round) in rounds {
        let Some(version) = scheduled.versions.get(&version) else {
            panic!("ticks of {} under a version that nobody was told of", scheduled.id)
        };
        // A tick that waited is decided again, by itself, when it is released.
        if scheduled.overlap == "queue" {
            continue;
        }
        let late = |row: &TickRow| row.decided_at - row.due_at > TimeDelta::seconds(scheduled.missed_after);
        let round: Vec<&TickRow> = round.into_iter().filter(|row| row.stands_until().is_none()).collect();
        if !round.is_sorted_by_key(|row| !late(row)) {
            // A jitter turned them round.
            continue;
        }
        for (index, row) in round.iter().enumerate() {
            let newer_late = round[index + 1..].iter().filter(|row| late(row)).count();
            let is_last = index + 1 == round.len();
            let made_up = match scheduled.missed {
                "skip" => false,
                "once" => is_last,
                _ => newer_late < scheduled.missed_max,
            };
            let right = if version.paused {
                row.reason() == "paused"
            } else if late(row) && !made_up {
                row.reason() == "missed"
            } else {
                row.outcome == "job" || (scheduled.overlap == "skip" && row.reason() == "overlap")
            };
            assert!(
                right,
                "schedule {}: {row:?} is not what {} says",
                scheduled.id, scheduled.missed
            );
        }
    }
}

fn timetable(version: &Version) -> Timetable {
    let expression = Expression::parse(&version.cron).expect("an expression");
    Timetable::new(expression, zone(&version.zone).expect("a zone"))
}

fn version(view: &Value) -> Version {
    Version {
        cron: view["cron"].as_str().expect("a cron").to_owned(),
        zone: view["time_zone"].as_str().expect("a zone").to_owned(),
        paused: !view["paused"].is_null(),
        at: time(&view["updated_at"]).expect("a time"),
        next: time(&view["next_tick_at"]),
    }
}

fn time(value: &Value) -> Option<DateTime<Utc>> {
    value.as_str()?.parse().ok()
}
