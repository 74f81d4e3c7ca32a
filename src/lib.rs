//! Wireroom: a serverless-style runner for Telegram work, on Postgres.

pub mod cluster;
#[cfg(feature = "sandbox")]
pub mod sandbox;
