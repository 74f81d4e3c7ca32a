//! Schedules: each worker takes due ones, one transaction each, and nobody leads. A tick is due by the database's clock; its
//! row, its job and the schedule's next tick are committed together, so a worker that dies before leaves the tick to the next
//! one, and a clock that is set back finds it taken.
//!
//! The loop sleeps until the next schedule is due. Schedules that are made or changed elsewhere, and ticks that wait for a
//! job to finish, announce themselves to nobody: each of the dispatcher's promotions looks for them, and wakes the loop.

mod due;
mod plan;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Notify;

use self::{
    due::{Due, Ticks},
    plan::Verdict,
};
use super::{outage::Outage, waker::Waker};
use crate::{
    cron::{Expression, Timetable, zone},
    ids::ScheduleId,
    store::{
        self, PgConnection, PgPool, StoreError, failed,
        jobs::NewJob,
        line::{Line, bounded},
        schedule_ticks::{self, Outcome, Reason, Taken, TakenWaiting, TickRecord, Trigger},
        schedules::{self, Load, Overlap, ScheduleRecord, Tick},
    },
};

/// When a schedule that this version cannot read is looked at again: a newer worker may be able to.
const UNREADABLE_AGAIN: TimeDelta = TimeDelta::minutes(1);

/// When one that could not be fired is tried again.
const FAILED_AGAIN: TimeDelta = TimeDelta::seconds(5);

/// What is due and in another worker's hands is no reason to spin.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// After so many polls the loop looks, even when nobody rang.
const POLLS_UNLESS_RUNG: u32 = 10;

/// The loop of one process.
pub struct Ticker {
    pub pool: PgPool,
    pub poll: Duration,
    /// Rung by the dispatcher when a tick is due, or is about to be.
    pub due: Arc<Notify>,
    pub ageing_step: Duration,
    pub waker: Waker,
    pub outage: Outage,
}

/// What one look at the queue of due schedules did.
enum Look {
    /// It took one, and there may be more.
    Took(Vec<NewJob>),
    Nothing,
}

impl Ticker {
    /// Fires what is due, until it is dropped.
    pub async fn run(self) {
        let mut failures = 0;
        loop {
            match self.round().await {
                Ok(pause) => {
                    failures = 0;
                    self.outage.worked();
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.due.notified() => {}
                    }
                }
                Err(error) => {
                    self.outage.failed(&error, failures).await;
                    failures += 1;
                }
            }
        }
    }

    /// Takes all that is due; returns how long there is nothing to do, as far as is known.
    async fn round(&self) -> Result<Duration, StoreError> {
        let mut line = Line::new(self.pool.clone());
        self.round_over(&mut line).await.inspect_err(|_| line.hang_up())
    }

    async fn round_over(&self, line: &mut Line) -> Result<Duration, StoreError> {
        let conn = line.open("schedule_outlook").await?;
        let mut outlook = bounded("schedule_outlook", schedule_ticks::outlook(conn)).await?;
        let due = outlook.until_due == Some(Duration::ZERO);
        if due {
            while let Look::Took(jobs) = bounded("fire_schedule", self.fire_one(conn)).await? {
                self.announce(&jobs);
            }
        }
        if outlook.waiting {
            while let Look::Took(jobs) = bounded("release_tick", self.release_one(conn)).await? {
                self.announce(&jobs);
            }
        }
        if due {
            outlook = bounded("schedule_outlook", schedule_ticks::outlook(conn)).await?;
        }
        let most = self.poll * POLLS_UNLESS_RUNG;
        Ok(outlook.until_due.unwrap_or(most).max(SHORTEST_PAUSE).min(most))
    }

    fn announce(&self, jobs: &[NewJob]) {
        if !jobs.is_empty() {
            self.waker.enqueued(jobs, None);
        }
    }

    /// One due schedule, with all of its ticks that are due.
    async fn fire_one(&self, conn: &mut PgConnection) -> Result<Look, StoreError> {
        let mut transaction = store::begin(conn, "fire_schedule").await?;
        let Some(Taken { id, now }) = schedule_ticks::take_due(&mut transaction).await? else {
            return Ok(Look::Nothing);
        };
        match self.fire(&mut transaction, id, now).await {
            Ok(jobs) => {
                transaction.commit().await.map_err(failed("commit_ticks"))?;
                Ok(Look::Took(jobs))
            }
            Err(error) if error.is_unavailable() => Err(error),
            // What is wrong with one schedule must not hold up those behind it.
            Err(error) => {
                transaction.rollback().await.map_err(failed("rollback_ticks"))?;
                tracing::error!(
                    schedule.id = %id,
                    error = &error as &dyn std::error::Error,
                    "a schedule could not be fired; trying again soon"
                );
                schedule_ticks::put_off(conn, id, now + FAILED_AGAIN).await?;
                Ok(Look::Took(Vec::new()))
            }
        }
    }

    async fn fire(
        &self,
        conn: &mut PgConnection,
        id: ScheduleId,
        now: DateTime<Utc>,
    ) -> Result<Vec<NewJob>, StoreError> {
        let Some(schedule) = schedules::get(&mut *conn, id).await? else {
            return Ok(Vec::new());
        };
        let Some(first) = schedule.next else {
            return Ok(Vec::new());
        };
        let Some(timetable) = timetable(&schedule) else {
            schedule_ticks::put_off(conn, id, now + UNREADABLE_AGAIN).await?;
            return Ok(Vec::new());
        };
        let ticks = Ticks {
            schedule: id,
            settings: &schedule.settings,
            timetable: &timetable,
        };
        let due = ticks.due(first.at, now);
        let (rows, jobs) = self.decide(conn, &schedule, &due, now).await?;
        schedule_ticks::record(conn, id, &rows).await?;
        schedules::advance(conn, id, due.next).await?;
        report(&schedule, &rows);
        Ok(jobs)
    }

    /// The rows of the due ticks, and their jobs, which are stored.
    async fn decide(
        &self,
        conn: &mut PgConnection,
        schedule: &ScheduleRecord,
        due: &Due,
        now: DateTime<Utc>,
    ) -> Result<(Vec<TickRecord>, Vec<NewJob>), StoreError> {
        let mut at: Vec<DateTime<Utc>> = due.ticks.iter().map(|tick| tick.at).collect();
        at.extend(due.dropped.map(|(first, _)| first));
        // A schedule that was edited after the clock had been set back comes by ticks that it has had.
        let before = schedule_ticks::taken_before(conn, schedule.id, &at).await?;
        let fresh = due.ticks.iter().filter(|tick| !before.contains(&tick.at));
        let fresh: Vec<Tick> = fresh.copied().collect();
        let load = match schedule.settings.overlap {
            Overlap::Allow => Load::default(),
            Overlap::Skip | Overlap::Queue => schedule_ticks::load(conn, schedule.id).await?,
        };
        let verdicts = plan::verdicts(schedule, &fresh, now, load);

        let mut rows = Vec::with_capacity(fresh.len() + 1);
        if let Some((first, until)) = due.dropped.filter(|(first, _)| !before.contains(first)) {
            let outcome = Outcome::Skipped(plan::missed_until(until));
            rows.push(row(schedule, Tick { at: first, due: first }, now, outcome));
        }
        let mut jobs = Vec::new();
        for (tick, verdict) in fresh.into_iter().zip(verdicts) {
            let outcome = match verdict {
                Verdict::Skip(reason) => Outcome::Skipped(reason),
                Verdict::Wait(reason) => Outcome::Waiting(reason),
                Verdict::Job => match schedule.job(tick.at) {
                    Some(job) => {
                        let id = job.id;
                        jobs.push(job);
                        Outcome::Job(id)
                    }
                    None => Outcome::Failed(unknown_kind()),
                },
            };
            rows.push(row(schedule, tick, now, outcome));
        }
        if let Err(refused) = schedule_ticks::try_enqueue(conn, &jobs, self.ageing_step).await? {
            // They are made of one template: all are refused for the same reason.
            for row in rows.iter_mut().filter(|row| row.outcome.job().is_some()) {
                row.outcome = Outcome::Failed(refused.clone());
            }
            jobs.clear();
        }
        Ok((rows, jobs))
    }

    /// One tick that waited for the jobs before it.
    async fn release_one(&self, conn: &mut PgConnection) -> Result<Look, StoreError> {
        let mut transaction = store::begin(conn, "release_tick").await?;
        let Some(TakenWaiting {
            schedule,
            mut tick,
            now,
        }) = schedule_ticks::take_waiting(&mut transaction).await?
        else {
            return Ok(Look::Nothing);
        };
        let due = Tick {
            at: tick.at,
            due: tick.due_at,
        };
        let mut jobs = Vec::new();
        tick.outcome = match (plan::past_deadline(&schedule, &due, now), schedule.job(tick.at)) {
            (Some(Verdict::Skip(reason) | Verdict::Wait(reason)), _) => Outcome::Skipped(reason),
            (_, None) => Outcome::Failed(unknown_kind()),
            (_, Some(job)) => {
                let id = job.id;
                jobs.push(job);
                match schedule_ticks::try_enqueue(&mut transaction, &jobs, self.ageing_step).await? {
                    Ok(()) => Outcome::Job(id),
                    Err(refused) => {
                        jobs.clear();
                        Outcome::Failed(refused)
                    }
                }
            }
        };
        tick.decided_at = now;
        tick.version = schedule.version;
        schedule_ticks::settle(&mut transaction, schedule.id, &tick).await?;
        transaction.commit().await.map_err(failed("commit_tick"))?;
        report(&schedule, std::slice::from_ref(&tick));
        Ok(Look::Took(jobs))
    }
}

fn row(schedule: &ScheduleRecord, tick: Tick, now: DateTime<Utc>, outcome: Outcome) -> TickRecord {
    TickRecord {
        at: tick.at,
        trigger: Trigger::Cron,
        due_at: tick.due,
        decided_at: now,
        version: schedule.version,
        outcome,
        requested_by: None,
    }
}

/// `take_due` gives known kinds alone: this is what a template of an older version may lead to.
fn unknown_kind() -> Reason {
    Reason::new("unknown_kind", "This version does not know the job's kind.")
}

/// What was refused at the API cannot be here, unless another version or another time-zone database let it in.
fn timetable(schedule: &ScheduleRecord) -> Option<Timetable> {
    let expression = Expression::parse(&schedule.settings.cron);
    let zone = zone(&schedule.settings.time_zone);
    if let (Ok(expression), Ok(zone)) = (expression, zone) {
        return Some(Timetable::new(expression, zone));
    }
    tracing::error!(
        schedule.id = %schedule.id,
        "this version cannot read the schedule's expression or zone; looking again in a minute"
    );
    None
}

fn report(schedule: &ScheduleRecord, rows: &[TickRecord]) {
    for row in rows {
        match &row.outcome {
            Outcome::Job(job) => tracing::debug!(
                schedule.id = %schedule.id,
                tick = %row.at,
                job.id = %job,
                "a tick has its job"
            ),
            Outcome::Waiting(reason) | Outcome::Skipped(reason) => tracing::debug!(
                schedule.id = %schedule.id,
                tick = %row.at,
                reason = reason.code,
                "a tick has no job"
            ),
            Outcome::Failed(reason) => tracing::warn!(
                schedule.id = %schedule.id,
                tick = %row.at,
                reason = reason.code,
                "a tick's job was refused"
            ),
        }
    }
}
