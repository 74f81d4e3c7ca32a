//! The queue over a real Postgres, with made-up sessions and functions: no Telegram, no API.

mod bed;

mod batches;
mod claiming;
mod controlling;
mod doubt;
mod ending;
mod enqueuing;
mod housekeeping;
mod limiting;
mod logs;
mod pausing;
mod plans;
mod rescuing;
mod schedules;
mod stopping;
