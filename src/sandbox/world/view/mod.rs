//! What a client sees: the world's data as Telegram's types, as one account may know them.

pub mod chat_full;
pub mod chats;
pub mod dialogs;
pub mod messages;
pub mod participants;
pub mod users;
