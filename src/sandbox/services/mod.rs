//! The API's functions, one module per namespace or topic. Each takes the call and its request, and answers as
//! Telegram does; what it changes and who hears of it is the world's. Those of `auth`, `tokens`, `exports` and `help` take
//! the server too.

#![expect(
    clippy::needless_pass_by_value,
    reason = "the dispatcher hands each function the request it has parsed; whether one keeps parts of it is its own affair"
)]

pub mod auth;
pub mod channels;
pub mod chats;
pub mod comments;
pub mod contacts;
mod dialogs;
pub mod exports;
pub mod forums;
pub mod help;
pub mod invites;
pub mod media;
pub mod messages;
mod participants;
pub mod publishing;
pub mod tokens;
pub mod updates;
pub mod users;

#[cfg(test)]
mod tests;
