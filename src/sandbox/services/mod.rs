//! The methods of the API, by namespace.

pub mod auth;
pub mod help;
