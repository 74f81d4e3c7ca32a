//! The Telegram side of the runtime, on grammers.

pub mod handshake;
