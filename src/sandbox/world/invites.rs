//! Invite links.

use rand::Rng;

use super::World;
use super::peers::PeerKey;
use super::refusal::bad;
use crate::sandbox::call::{Answer, UserId};

#[derive(Debug, Clone)]
pub struct Invite {
    /// What stands after `t.me/+`.
    pub hash: String,
    pub chat: PeerKey,
    pub creator: UserId,
    pub date: i32,
    /// Unix seconds; `None`: never.
    pub expires: Option<i32>,
    pub usage_limit: Option<i32>,
    pub usage: i32,
    /// Following it asks an admin first.
    pub request_needed: bool,
    pub revoked: bool,
    /// What a month of membership costs, in stars.
    pub subscription: Option<i64>,
    pub title: Option<String>,
}

/// What an admin chose for a new link.
#[derive(Debug, Clone, Default)]
pub struct InviteTerms {
    pub expires: Option<i32>,
    pub usage_limit: Option<i32>,
    pub request_needed: bool,
    /// What a month of membership costs, in stars.
    pub subscription: Option<i64>,
    pub title: Option<String>,
}

const HASH_LENGTH: usize = 16;
const HASH_ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

impl World {
    /// A link that can be followed now.
    ///
    /// # Errors
    /// `INVITE_HASH_EMPTY`, `INVITE_HASH_INVALID`, `INVITE_HASH_EXPIRED`.
    pub fn live_invite(&self, hash: &str) -> Answer<&Invite> {
        if hash.is_empty() {
            return Err(bad("INVITE_HASH_EMPTY"));
        }
        let invite = self.invites.get(hash).ok_or_else(|| bad("INVITE_HASH_INVALID"))?;
        let over = invite.expires.is_some_and(|at| at <= self.now());
        let used_up = invite.usage_limit.is_some_and(|limit| invite.usage >= limit);
        if invite.revoked || over || used_up {
            Err(bad("INVITE_HASH_EXPIRED"))
        } else {
            Ok(invite)
        }
    }

    /// Makes a link into `chat`. Rights are the caller's business.
    pub fn create_invite(&mut self, creator: UserId, chat: PeerKey, terms: InviteTerms) -> Invite {
        let hash: String = (0..HASH_LENGTH)
            .map(|_| char::from(HASH_ALPHABET[self.rng.random_range(0..HASH_ALPHABET.len())]))
            .collect();
        let invite = Invite {
            hash: hash.clone(),
            chat,
            creator,
            date: self.now(),
            expires: terms.expires,
            usage_limit: terms.usage_limit,
            usage: 0,
            request_needed: terms.request_needed,
            revoked: false,
            subscription: terms.subscription,
            title: terms.title,
        };
        self.invites.insert(hash, invite.clone());
        invite
    }
}
