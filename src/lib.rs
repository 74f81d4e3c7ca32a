//! Wireroom: a serverless-style runner for Telegram work, on Postgres.
//!
//! Imports go one way only: `cli → {api, dashboard, sandbox, queue, sessions, events} → telegram → store → vault →
//! jobs`. Siblings do not import each other; what they need of one another is a trait, wired in `cli`.
//! `tests/architecture.rs` checks it.

pub mod addresses;
pub mod api;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod cron;
pub mod events;
pub mod files;
pub mod ids;
pub mod letterbox;
pub mod lifecycle;
pub mod login_input;
pub mod mtproto;
pub mod person_key;
pub mod proxy;
pub mod queue;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod sessions;
pub mod store;
pub mod telegram;
pub mod telemetry;
pub mod tls;
pub mod vault;
