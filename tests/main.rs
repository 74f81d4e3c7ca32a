//! The integration tests: one binary, one module per theme, so that the support code is compiled once and all tests share
//! one private Postgres cluster.

mod support;

mod sessions;
mod smoke;
