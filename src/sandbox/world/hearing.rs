//! Who hears of what: updates are built for the few accounts that listen, never for a chat's thousands of members.

use std::collections::BTreeSet;

use grammers_tl_types as tl;
use tl::enums::{MessageAction, MessageEntity, Update};

use super::World;
use super::boxes::Event;
use super::channels::Channel;
use super::messages::{Content, Message};
use super::peers::PeerKey;
use crate::sandbox::call::{Answer, Caller, Push, UserId};

/// Who does something: a user, and the key whose answer will carry the updates, if it is done by a call.
#[derive(Debug, Clone, Copy)]
pub struct Actor {
    pub account: UserId,
    pub key: Option<[u8; 8]>,
}

impl Actor {
    /// The signed-in caller.
    pub fn of(caller: &Caller) -> Answer<Self> {
        Ok(Self {
            account: caller.signed_in()?,
            key: Some(caller.key_id),
        })
    }

    /// Somebody who acts without a call: every connection of theirs hears of it.
    pub fn offstage(account: UserId) -> Self {
        Self { account, key: None }
    }
}

/// The people and chats that updates mention: they go along with them.
#[derive(Debug, Clone, Default)]
pub struct Named {
    pub users: BTreeSet<UserId>,
    pub chats: BTreeSet<PeerKey>,
}

impl Named {
    pub fn peer(&mut self, peer: PeerKey) {
        match peer {
            PeerKey::User(id) => self.users.insert(id),
            chat => self.chats.insert(chat),
        };
    }

    pub fn message(&mut self, message: &Message) {
        self.peer(message.chat);
        self.peer(message.sender);
        match &message.content {
            Content::Text { entities, .. } => self.users.extend(entities.iter().filter_map(|entity| match entity {
                MessageEntity::MentionName(mention) => Some(mention.user_id),
                _ => None,
            })),
            Content::Service(action) => self.action(action),
        }
    }

    fn action(&mut self, action: &MessageAction) {
        match action {
            MessageAction::ChatCreate(action) => self.users.extend(&action.users),
            MessageAction::ChatAddUser(action) => self.users.extend(&action.users),
            MessageAction::ChatDeleteUser(action) => self.users.extend([action.user_id]),
            MessageAction::ChatJoinedByLink(action) => self.users.extend([action.inviter_id]),
            _ => {}
        }
    }
}

impl World {
    /// The users among what was named, as `viewer` sees them.
    pub fn named_users(&self, viewer: UserId, named: &Named) -> Vec<tl::enums::User> {
        self.tl_users(viewer, named.users.iter().copied())
    }

    /// The chats among what was named, as `viewer` sees them.
    pub fn named_chats(&self, viewer: UserId, named: &Named) -> Vec<tl::enums::Chat> {
        named
            .chats
            .iter()
            .filter_map(|chat| self.tl_chat(viewer, *chat))
            .collect()
    }

    /// Updates with everyone they name, ready for a client. They carry no `seq`: each has its own counter.
    pub fn container(&self, viewer: UserId, updates: Vec<Update>, named: &Named) -> tl::enums::Updates {
        tl::types::Updates {
            updates,
            users: self.named_users(viewer, named),
            chats: self.named_chats(viewer, named),
            date: self.now(),
            seq: 0,
        }
        .into()
    }

    /// Sends updates to an account's connections; without effect for those who cannot sign in.
    pub fn push(&mut self, account: UserId, updates: Vec<Update>, named: &Named, by: Actor) {
        if updates.is_empty() || !self.accounts.contains_key(&account) {
            return;
        }
        let updates = self.container(account, updates, named);
        let except = if by.account == account { by.key } else { None };
        self.pushes.push(Push {
            account,
            updates,
            except,
        });
    }

    /// The accounts among a channel's members.
    pub fn listeners(&self, channel: &Channel) -> Vec<UserId> {
        self.accounts
            .keys()
            .copied()
            .filter(|account| channel.members.contains(*account))
            .collect()
    }

    /// Tells the accounts in a channel of an event.
    pub fn announce_in_channel(&mut self, by: Actor, channel_id: i64, event: &Event) {
        let Some(channel) = self.channels.get(&channel_id) else {
            return;
        };
        for account in self.listeners(channel) {
            let mut named = Named::default();
            let update = self.tl_channel_event(account, channel_id, event, &mut named);
            self.push(account, update.into_iter().collect(), &named, by);
        }
    }

    /// Tells an account of an event in its own box.
    pub fn announce_in_inbox(&mut self, by: Actor, account: UserId, event: &Event) {
        let mut named = Named::default();
        let update = self.tl_inbox_event(account, event, &mut named);
        self.push(account, update.into_iter().collect(), &named, by);
    }

    /// What the actor's own answer says about an event of `chat`.
    pub fn own_updates(&self, by: Actor, chat: PeerKey, event: &Event, named: &mut Named) -> Vec<Update> {
        let update = match chat {
            PeerKey::Channel(id) => self.tl_channel_event(by.account, id, event, named),
            PeerKey::User(_) | PeerKey::Group(_) => self.tl_inbox_event(by.account, event, named),
        };
        update.into_iter().collect()
    }
}
