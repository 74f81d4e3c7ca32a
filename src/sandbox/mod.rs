//! An in-process MTProto server with made-up users and chats, for development, tests and the first run.

pub mod call;
pub mod services;
pub mod world;
