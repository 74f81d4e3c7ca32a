//! Schedules: made, looked at, changed, removed, run at once; and their ticks. The workers fire them (`queue`); here a
//! schedule is refused that could never be fired, and its first tick is found.

mod body;
mod edit;
mod manage;
mod run;
#[cfg(test)]
mod tests;
mod ticks;
mod view;

pub use self::{
    body::{NewScheduleBody, SchedulePatch},
    manage::ManageApi,
    run::RunApi,
    ticks::{TickPage, TicksApi},
    view::{ScheduleView, TickView},
};
use super::problem::{Code, Problem};
use crate::{
    cron::{self, Expression, Timetable},
    ids::ScheduleId,
};

/// The id in the path.
fn schedule_id(text: &str) -> Result<ScheduleId, Problem> {
    text.parse()
        .map_err(|_| Problem::new(Code::InvalidParameter, "A schedule's id is a UUID.").field("id"))
}

fn not_found() -> Problem {
    Problem::new(Code::ScheduleNotFound, "There is no schedule of that id.")
}

/// The ticks of an expression in a zone, both as a client wrote them.
fn timetable(expression: &str, time_zone: &str) -> Result<Timetable, Problem> {
    let expression = Expression::parse(expression)
        .map_err(|error| Problem::new(Code::InvalidCron, format!("cron: {error}.")).field("cron"))?;
    let zone = cron::zone(time_zone).map_err(|error| {
        Problem::new(Code::UnknownTimeZone, format!("time_zone: {time_zone:?} {error}.")).field("time_zone")
    })?;
    Ok(Timetable::new(expression, zone))
}
