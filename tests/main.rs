//! The integration tests: one binary, one module per theme, so that the support code is compiled once and all tests share
//! one private Postgres cluster.

mod acceptance;
mod architecture;
mod support;

mod bad_input;
mod bench;
mod clients;
mod commands;
mod crashes;
mod database_away;
mod dev_again;
mod events;
mod following;
mod joins;
mod kinds;
mod logins;
mod outcomes;
mod outreach;
mod promises;
mod publishing;
mod queue;
mod roles;
mod scans;
mod secrets;
mod sessions;
mod simulation;
mod smoke;
mod upgrade;
mod watches;
