//! The queue over a real Postgres, with made-up sessions and functions: no Telegram, no API.

mod bed;

mod claiming;
mod doubt;
mod ending;
mod enqueuing;
mod housekeeping;
mod rescuing;
mod stopping;
