//! Who and what a client can name, and the access hashes that prove it was told about them.

use grammers_tl_types as tl;
use sha2::{Digest, Sha256};
use tl::enums::{InputChannel, InputPeer, InputUser, Peer};

use super::World;
use super::refusal::bad;
use crate::sandbox::call::{Answer, UserId};

/// A peer by its kind and bare id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerKey {
    User(UserId),
    /// A basic group.
    Group(i64),
    /// A supergroup or a broadcast channel.
    Channel(i64),
}

/// Channels are written as `-100…`, as the Bot API does.
const CHANNEL_MARK: i64 = -1_000_000_000_000;

impl PeerKey {
    /// One number for all kinds: users positive, basic groups negative, channels from -1,000,000,000,000 down.
    pub fn marked(self) -> i64 {
        match self {
            Self::User(id) => id,
            Self::Group(id) => -id,
            Self::Channel(id) => CHANNEL_MARK - id,
        }
    }

    /// The reverse of [`PeerKey::marked`].
    pub fn from_marked(id: i64) -> Self {
        if id >= 0 {
            Self::User(id)
        } else if id > CHANNEL_MARK {
            Self::Group(-id)
        } else {
            Self::Channel(CHANNEL_MARK - id)
        }
    }

    pub fn to_tl(self) -> Peer {
        match self {
            Self::User(user_id) => tl::types::PeerUser { user_id }.into(),
            Self::Group(chat_id) => tl::types::PeerChat { chat_id }.into(),
            Self::Channel(channel_id) => tl::types::PeerChannel { channel_id }.into(),
        }
    }
}

impl World {
    /// The hash under which `viewer` knows `peer`. It differs per account, so a hash taken from another account's
    /// session is refused here, as at Telegram.
    pub fn access_hash(&self, viewer: UserId, peer: PeerKey) -> i64 {
        let mut digest = Sha256::new();
        digest.update(self.seed.to_le_bytes());
        digest.update(viewer.to_le_bytes());
        digest.update(peer.marked().to_le_bytes());
        let mut hash = [0; 8];
        hash.copy_from_slice(&digest.finalize()[..8]);
        i64::from_le_bytes(hash)
    }

    /// What `me` means by an `InputPeer`. Hashes are checked; whether `me` may look inside is not.
    ///
    /// # Errors
    /// `PEER_ID_INVALID` for people and basic groups, `CHANNEL_INVALID` for channels.
    pub fn input_peer(&self, me: UserId, peer: &InputPeer) -> Answer<PeerKey> {
        match peer {
            InputPeer::Empty => Err(bad("PEER_ID_INVALID")),
            InputPeer::PeerSelf => Ok(PeerKey::User(me)),
            InputPeer::User(user) => self
                .known_user(me, user.user_id, user.access_hash)
                .ok_or_else(|| bad("PEER_ID_INVALID")),
            InputPeer::UserFromMessage(user) => self
                .seen_in_message(me, &user.peer, user.msg_id, user.user_id)
                .map(PeerKey::User)
                .map_err(|_| bad("PEER_ID_INVALID")),
            InputPeer::Chat(chat) => match self.groups.get(&chat.chat_id) {
                Some(group) if group.was_member(me) => Ok(PeerKey::Group(group.id)),
                _ => Err(bad("PEER_ID_INVALID")),
            },
            InputPeer::Channel(channel) => self.known_channel(me, channel.channel_id, channel.access_hash),
            InputPeer::ChannelFromMessage(_) => Err(bad("CHANNEL_INVALID")),
        }
    }

    /// Whom `me` means by an `InputUser`.
    ///
    /// # Errors
    /// `USER_ID_INVALID`.
    pub fn input_user(&self, me: UserId, user: &InputUser) -> Answer<UserId> {
        match user {
            InputUser::Empty => Err(bad("USER_ID_INVALID")),
            InputUser::UserSelf => Ok(me),
            InputUser::User(user) => self
                .known_user(me, user.user_id, user.access_hash)
                .map(|_| user.user_id)
                .ok_or_else(|| bad("USER_ID_INVALID")),
            InputUser::FromMessage(user) => self.seen_in_message(me, &user.peer, user.msg_id, user.user_id),
        }
    }

    /// The channel that `me` means by an `InputChannel`.
    ///
    /// # Errors
    /// `CHANNEL_INVALID`.
    pub fn input_channel(&self, me: UserId, channel: &InputChannel) -> Answer<i64> {
        match channel {
            InputChannel::Channel(channel) => self
                .known_channel(me, channel.channel_id, channel.access_hash)
                .map(|_| channel.channel_id),
            InputChannel::Empty | InputChannel::FromMessage(_) => Err(bad("CHANNEL_INVALID")),
        }
    }

    fn known_user(&self, me: UserId, id: UserId, hash: i64) -> Option<PeerKey> {
        let key = PeerKey::User(id);
        (self.people.contains_key(&id) && self.access_hash(me, key) == hash).then_some(key)
    }

    fn known_channel(&self, me: UserId, id: i64, hash: i64) -> Answer<PeerKey> {
        let key = PeerKey::Channel(id);
        if self.channels.contains_key(&id) && self.access_hash(me, key) == hash {
            Ok(key)
        } else {
            Err(bad("CHANNEL_INVALID"))
        }
    }

    /// A user named by a message that `me` can read and that the user sent.
    fn seen_in_message(&self, me: UserId, peer: &InputPeer, message: i32, user: UserId) -> Answer<UserId> {
        let chat = self.input_peer(me, peer)?;
        let sent = self
            .readable_box(me, chat)?
            .get(message)
            .is_some_and(|m| m.sender == PeerKey::User(user));
        if sent { Ok(user) } else { Err(bad("USER_ID_INVALID")) }
    }
}
