//! The integration tests: one binary, one module per theme, so that the support code is compiled once and all tests share
//! one private Postgres cluster.

mod architecture;
mod support;

mod bad_input;
mod commands;
mod crashes;
mod kinds;
mod queue;
mod roles;
mod secrets;
mod sessions;
mod smoke;
mod telethon;
