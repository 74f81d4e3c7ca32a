//! Who may look, write and invite where, with the error Telegram gives to those who may not.

use super::World;
use super::boxes::MessageBox;
use super::channels::Channel;
use super::groups::Group;
use super::peers::PeerKey;
use super::people::{Nature, Person};
use super::refusal::{bad, forbidden, wait};
use crate::sandbox::call::{Answer, UserId};

impl World {
    /// A channel by id.
    ///
    /// # Errors
    /// `CHANNEL_INVALID`.
    pub fn channel(&self, id: i64) -> Answer<&Channel> {
        self.channels.get(&id).ok_or_else(|| bad("CHANNEL_INVALID"))
    }

    /// The same, to change.
    pub fn channel_mut(&mut self, id: i64) -> Answer<&mut Channel> {
        self.channels.get_mut(&id).ok_or_else(|| bad("CHANNEL_INVALID"))
    }

    /// A basic group by id.
    ///
    /// # Errors
    /// `CHAT_ID_INVALID`.
    pub fn group(&self, id: i64) -> Answer<&Group> {
        self.groups.get(&id).ok_or_else(|| bad("CHAT_ID_INVALID"))
    }

    /// The same, to change.
    pub fn group_mut(&mut self, id: i64) -> Answer<&mut Group> {
        self.groups.get_mut(&id).ok_or_else(|| bad("CHAT_ID_INVALID"))
    }

    /// A person by id.
    ///
    /// # Errors
    /// `USER_ID_INVALID`.
    pub fn person(&self, id: UserId) -> Answer<&Person> {
        self.people.get(&id).ok_or_else(|| bad("USER_ID_INVALID"))
    }

    /// A channel that `me` may look into.
    ///
    /// # Errors
    /// `CHANNEL_PRIVATE`.
    pub fn open_channel(&self, me: UserId, id: i64) -> Answer<&Channel> {
        let channel = self.channel(id)?;
        if channel.is_open_to(me) {
            Ok(channel)
        } else {
            Err(bad("CHANNEL_PRIVATE"))
        }
    }

    /// The box that holds the messages of `chat` as `me` may read them.
    ///
    /// # Errors
    /// `CHANNEL_PRIVATE`, `CHAT_ID_INVALID`, `PEER_ID_INVALID`.
    pub fn readable_box(&self, me: UserId, chat: PeerKey) -> Answer<&MessageBox> {
        match chat {
            PeerKey::Channel(id) => self.open_channel(me, id).map(|channel| &channel.posts),
            PeerKey::User(_) | PeerKey::Group(_) => self
                .accounts
                .get(&me)
                .map(|account| &account.inbox)
                .ok_or_else(|| bad("PEER_ID_INVALID")),
        }
    }

    /// Whether `me` may write to `chat` now.
    pub fn may_write(&self, me: UserId, chat: PeerKey) -> Answer<()> {
        match chat {
            PeerKey::User(id) => self.may_write_to_person(me, id),
            PeerKey::Group(id) => {
                if self.group(id)?.members.contains(me) {
                    Ok(())
                } else {
                    Err(forbidden("CHAT_WRITE_FORBIDDEN"))
                }
            }
            PeerKey::Channel(id) => self.may_write_to_channel(me, id),
        }
    }

    fn may_write_to_person(&self, me: UserId, id: UserId) -> Answer<()> {
        let person = self.person(id)?;
        let knows = self
            .accounts
            .get(&me)
            .is_some_and(|account| account.contacts.contains(&id));
        match person.nature {
            Nature::Deleted => Err(bad("INPUT_USER_DEACTIVATED")),
            Nature::BlocksStrangers if !knows => Err(bad("USER_IS_BLOCKED")),
            Nature::PremiumOnly if !knows => Err(forbidden("PRIVACY_PREMIUM_REQUIRED")),
            _ => Ok(()),
        }
    }

    fn may_write_to_channel(&self, me: UserId, id: i64) -> Answer<()> {
        let channel = self.channel(id)?;
        if !channel.is_open_to(me) {
            return Err(bad("CHANNEL_PRIVATE"));
        }
        if channel.members.is_admin(me) {
            return Ok(());
        }
        if !channel.members.contains(me) || channel.is_broadcast() || channel.settings.read_only {
            return Err(forbidden("CHAT_WRITE_FORBIDDEN"));
        }
        let left = self.slow_mode_left(me, channel);
        if left > 0 {
            Err(wait("SLOWMODE_WAIT", left))
        } else {
            Ok(())
        }
    }

    /// How many seconds `me` must wait before the next message; 0 when none.
    pub fn slow_mode_left(&self, me: UserId, channel: &Channel) -> i32 {
        if channel.members.is_admin(me) {
            return 0;
        }
        let (Some(pause), Some(wrote)) = (channel.settings.slow_mode, channel.wrote.get(&me)) else {
            return 0;
        };
        (wrote.saturating_add(pause) - self.now()).max(0)
    }

    /// Whether `me` may add people to a channel.
    pub fn may_invite(&self, me: UserId, id: i64) -> Answer<()> {
        let channel = self.open_channel(me, id)?;
        if !channel.members.contains(me) {
            return Err(forbidden("CHAT_WRITE_FORBIDDEN"));
        }
        if channel.members.is_admin(me) || !(channel.is_broadcast() || channel.settings.read_only) {
            Ok(())
        } else {
            Err(bad("CHAT_ADMIN_REQUIRED"))
        }
    }

    /// Whether `me` runs a chat.
    ///
    /// # Errors
    /// `CHAT_ADMIN_REQUIRED`.
    pub fn must_be_admin(&self, me: UserId, chat: PeerKey) -> Answer<()> {
        let members = match chat {
            PeerKey::Channel(id) => &self.open_channel(me, id)?.members,
            PeerKey::Group(id) => &self.group(id)?.members,
            PeerKey::User(_) => return Err(bad("PEER_ID_INVALID")),
        };
        if members.is_admin(me) {
            Ok(())
        } else {
            Err(bad("CHAT_ADMIN_REQUIRED"))
        }
    }
}
