//! Wireroom: a serverless-style runner for Telegram work, on Postgres.

#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod telegram;
