//! The Telegram side of the runtime, on grammers.

mod auth_key;
mod channel_count;
pub mod connection;
mod dial;
pub mod errors;
pub mod gates;
pub mod handshake;
pub mod login;
pub mod message_facts;
pub mod pace;
mod peer_cache;
pub mod port;
pub mod relay;
pub mod session_storage;
pub mod trouble;
pub mod trust;
pub mod updates;

pub use self::dial::ProxyFault;
