//! The queue over a real Postgres, with made-up sessions and functions: no Telegram, no API.

mod bed;

mod claiming;
mod controlling;
mod doubt;
mod ending;
mod enqueuing;
mod housekeeping;
mod limiting;
mod pausing;
mod rescuing;
mod schedules;
mod stopping;
