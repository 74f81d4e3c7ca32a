//! The queue over a real Postgres, with made-up sessions and functions: no Telegram, no API.

mod bed;

mod batches;
mod claiming;
mod doubt;
mod ending;
mod enqueuing;
mod housekeeping;
mod logs;
mod rescuing;
mod schedules;
mod stopping;
