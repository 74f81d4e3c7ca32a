//! People: made-up users, the bots, and the public face of the accounts. Kept small, because there are thousands.

use super::names;
use crate::sandbox::call::UserId;

/// What sets a person apart when somebody writes to or invites them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    Ordinary,
    Bot,
    /// The account was deleted; it stays in member lists.
    Deleted,
    /// Their privacy lets nobody add them to chats.
    RefusesInvites,
    /// Only premium users may add them or write to them.
    PremiumOnly,
    /// Only premium users may add them; anybody may write to them.
    AddedByPremium,
    /// They blocked everyone they do not know.
    BlocksStrangers,
    /// They are in as many channels as Telegram allows.
    TooManyChannels,
}

/// A name: from the tables for the many, spelt out for the few.
#[derive(Debug, Clone)]
pub enum Name {
    Drawn { first: u8, last: Option<u8> },
    Own { first: Box<str>, last: Option<Box<str>> },
}

#[derive(Debug, Clone)]
pub struct Person {
    pub id: UserId,
    pub name: Name,
    pub username: Option<Box<str>>,
    /// Digits; shown to those who have the person among their contacts, and to nobody else.
    pub phone: Option<u64>,
    pub nature: Nature,
}

impl Person {
    pub fn first_name(&self) -> &str {
        match &self.name {
            Name::Drawn { first, .. } => names::first(*first),
            Name::Own { first, .. } => first,
        }
    }

    pub fn last_name(&self) -> Option<&str> {
        match &self.name {
            Name::Drawn { last, .. } => last.map(names::last),
            Name::Own { last, .. } => last.as_deref(),
        }
    }

    pub fn is_bot(&self) -> bool {
        self.nature == Nature::Bot
    }

    pub fn is_deleted(&self) -> bool {
        self.nature == Nature::Deleted
    }

    /// Whether a part of the name or the username begins with `query` (in lower case), as Telegram's searches match.
    pub fn matches(&self, query: &str) -> bool {
        if self.is_deleted() {
            return false;
        }
        let parts = [Some(self.first_name()), self.last_name(), self.username.as_deref()];
        let mut full = self.first_name().to_lowercase();
        if let Some(last) = self.last_name() {
            full.push(' ');
            full.push_str(&last.to_lowercase());
        }
        full.starts_with(query)
            || parts
                .into_iter()
                .flatten()
                .any(|part| part.to_lowercase().starts_with(query))
    }
}
