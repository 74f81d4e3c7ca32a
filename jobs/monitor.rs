//! `monitor`: what is watched in a chat, and which of it is told.

pub mod filter;

pub use filter::{Matcher, MessageFilter};
