//! Writing, editing and deleting, and reading marks: into one box per channel, or a copy into each account's own.

use super::World;
use super::boxes::{Event, EventKind};
use super::hearing::Actor;
use super::members::Role;
use super::messages::{Content, Draft, Message};
use super::peers::PeerKey;
use super::refusal::{bad, forbidden};
use crate::sandbox::call::{Answer, UserId};

/// Ordinary messages can be edited for two days, as at Telegram.
const EDITABLE_SECONDS: i32 = 48 * 3600;

/// A message that was put in, and the event in the box of the one who wrote it.
#[derive(Debug)]
pub struct Posted {
    pub id: i32,
    pub event: Event,
}

impl World {
    /// Puts a message into a chat and tells everyone who listens. Rights and text are the caller's business.
    ///
    /// # Errors
    /// `REPLY_MESSAGE_ID_INVALID`, and the errors for a chat that does not exist.
    pub fn post(&mut self, by: Actor, chat: PeerKey, draft: Draft) -> Answer<Posted> {
        let known = match (chat, draft.reply_to) {
            (_, None) => true,
            (PeerKey::Channel(id), Some(reply)) => self.channel(id)?.posts.get(reply).is_some(),
            (_, Some(reply)) => self
                .accounts
                .get(&by.account)
                .and_then(|account| account.inbox.get(reply))
                .is_some_and(|message| message.chat == chat),
        };
        if !known {
            return Err(bad("REPLY_MESSAGE_ID_INVALID"));
        }
        match chat {
            PeerKey::Channel(id) => self.post_in_channel(by, id, draft),
            PeerKey::Group(id) => {
                let readers: Vec<UserId> = self
                    .group(id)?
                    .members
                    .oldest_first()
                    .map(|member| member.user)
                    .collect();
                self.post_copies(by, &readers, |_| chat, &draft)
            }
            PeerKey::User(id) => {
                let sender = by.account;
                let other = move |owner| PeerKey::User(if owner == sender { id } else { sender });
                let readers = if id == sender { vec![sender] } else { vec![sender, id] };
                self.post_copies(by, &readers, other, &draft)
            }
        }
    }

    fn post_in_channel(&mut self, by: Actor, id: i64, draft: Draft) -> Answer<Posted> {
        let date = self.now();
        let origin = self.next_origin();
        let text = matches!(draft.content, Content::Text { .. });
        let channel = self.channel_mut(id)?;
        let chat = PeerKey::Channel(id);
        let sender = if channel.is_broadcast() {
            chat
        } else {
            PeerKey::User(by.account)
        };
        let reply_to = draft.reply_to;
        let event = channel.posts.add(written(draft, origin, chat, sender, date, reply_to));
        if text {
            channel.wrote.insert(by.account, date);
        }
        self.announce_in_channel(by, id, &event);
        posted(event)
    }

    /// Puts a copy into the box of each account among `readers`; `chat_of` names the chat as each calls it.
    pub(super) fn post_copies(
        &mut self,
        by: Actor,
        readers: &[UserId],
        chat_of: impl Fn(UserId) -> PeerKey,
        draft: &Draft,
    ) -> Answer<Posted> {
        let date = self.now();
        let origin = self.next_origin();
        let replied = draft
            .reply_to
            .and_then(|id| Some(self.accounts.get(&by.account)?.inbox.get(id)?.origin));
        let mut events = Vec::new();
        for reader in readers {
            let Some(account) = self.accounts.get_mut(reader) else {
                continue;
            };
            let reply_to = replied.and_then(|origin| account.inbox.id_of(origin));
            let sender = PeerKey::User(by.account);
            let copy = written(draft.clone(), origin, chat_of(*reader), sender, date, reply_to);
            events.push((*reader, account.inbox.add(copy)));
        }
        for (reader, event) in &events {
            self.announce_in_inbox(by, *reader, event);
        }
        let own = events.iter().position(|(reader, _)| *reader == by.account).unwrap_or(0);
        match events.into_iter().nth(own) {
            Some((_, event)) => posted(event),
            None => Err(bad("PEER_ID_INVALID")),
        }
    }

    fn next_origin(&mut self) -> u64 {
        self.last_origin += 1;
        self.last_origin
    }

    /// Replaces a message's text for everyone. Returns the event in the actor's box.
    ///
    /// # Errors
    /// `MESSAGE_ID_INVALID`, `MESSAGE_AUTHOR_REQUIRED`, `MESSAGE_EDIT_TIME_EXPIRED`, `MESSAGE_NOT_MODIFIED`.
    pub fn edit_text(&mut self, by: Actor, chat: PeerKey, id: i32, content: Content) -> Answer<Event> {
        let now = self.now();
        let message = self
            .readable_box(by.account, chat)?
            .get(id)
            .filter(|message| message.chat == chat);
        let message = message.ok_or_else(|| bad("MESSAGE_ID_INVALID"))?;
        self.may_edit(by.account, message, now)?;
        if same(&message.content, &content) {
            return Err(bad("MESSAGE_NOT_MODIFIED"));
        }
        if let PeerKey::Channel(channel_id) = chat {
            let event = self.channel_mut(channel_id)?.posts.edit(id, content, now);
            let event = event.ok_or_else(|| bad("MESSAGE_ID_INVALID"))?;
            self.announce_in_channel(by, channel_id, &event);
            return Ok(event);
        }
        let origin = message.origin;
        let mut events = Vec::new();
        for account in self.accounts.values_mut() {
            let copy = account.inbox.id_of(origin);
            let event = copy.and_then(|copy| account.inbox.edit(copy, content.clone(), now));
            events.extend(event.map(|event| (account.id, event)));
        }
        for (account, event) in &events {
            self.announce_in_inbox(by, *account, event);
        }
        let own = events.into_iter().find(|(account, _)| *account == by.account);
        own.map(|(_, event)| event).ok_or_else(|| bad("MESSAGE_ID_INVALID"))
    }

    fn may_edit(&self, me: UserId, message: &Message, now: i32) -> Answer<()> {
        let own = match (message.sender, message.chat) {
            (PeerKey::Channel(id), _) => return self.must_be_admin(me, PeerKey::Channel(id)),
            (sender, _) => sender == PeerKey::User(me),
        };
        if !own {
            return Err(forbidden("MESSAGE_AUTHOR_REQUIRED"));
        }
        if matches!(message.content, Content::Service(_)) {
            return Err(bad("MESSAGE_ID_INVALID"));
        }
        if now.saturating_sub(message.date) > EDITABLE_SECONDS && message.chat != PeerKey::User(me) {
            return Err(bad("MESSAGE_EDIT_TIME_EXPIRED"));
        }
        Ok(())
    }

    /// Deletes messages of a channel. `None` when none of them was there.
    ///
    /// # Errors
    /// `MESSAGE_DELETE_FORBIDDEN` when one of them is somebody else's and the actor is no admin.
    pub fn delete_in_channel(&mut self, by: Actor, id: i64, messages: &[i32]) -> Answer<Option<Event>> {
        let now = self.now();
        let channel = self.open_channel(by.account, id)?;
        let own = |message: &Message| message.sender == PeerKey::User(by.account);
        let foreign = messages
            .iter()
            .filter_map(|id| channel.posts.get(*id))
            .any(|message| !own(message));
        if foreign && !channel.members.is_admin(by.account) {
            return Err(forbidden("MESSAGE_DELETE_FORBIDDEN"));
        }
        let event = self.channel_mut(id)?.posts.delete(messages, now);
        if let Some(event) = &event {
            self.announce_in_channel(by, id, event);
        }
        Ok(event)
    }

    /// Deletes messages of the actor's own box; with `revoke` also the copies of others, where that is allowed.
    pub fn delete_in_inbox(&mut self, by: Actor, messages: &[i32], revoke: bool) -> Option<Event> {
        let now = self.now();
        let inbox = &self.accounts.get(&by.account)?.inbox;
        let found: Vec<&Message> = messages.iter().filter_map(|id| inbox.get(*id)).collect();
        let everywhere: Vec<u64> = found
            .iter()
            .filter(|message| revoke && self.may_revoke(by.account, message))
            .map(|message| message.origin)
            .collect();
        let mut events = Vec::new();
        for account in self.accounts.values_mut() {
            let ids = if account.id == by.account {
                messages.to_vec()
            } else {
                everywhere
                    .iter()
                    .filter_map(|origin| account.inbox.id_of(*origin))
                    .collect()
            };
            let event = account.inbox.delete(&ids, now);
            events.extend(event.map(|event| (account.id, event)));
        }
        for (account, event) in &events {
            self.announce_in_inbox(by, *account, event);
        }
        events
            .into_iter()
            .find(|(account, _)| *account == by.account)
            .map(|(_, event)| event)
    }

    fn may_revoke(&self, me: UserId, message: &Message) -> bool {
        let PeerKey::Group(id) = message.chat else { return true };
        let runs = self
            .groups
            .get(&id)
            .is_some_and(|group| group.members.get(me).is_some_and(|m| m.role != Role::Member));
        runs || message.sender == PeerKey::User(me)
    }

    /// Marks a chat of the actor's own box as read. `None` when everything was read already.
    pub fn read_inbox(&mut self, by: Actor, chat: PeerKey, up_to: i32) -> Option<Event> {
        let now = self.now();
        let account = self.accounts.get_mut(&by.account)?;
        let read = account.read_inbox.get(&chat).copied().unwrap_or(0);
        let incoming = |message: &&Message| message.chat == chat && message.sender != PeerKey::User(by.account);
        let last = account
            .inbox
            .range(read + 1..=up_to.max(read + 1))
            .rev()
            .find(incoming)?;
        let (id, origin, sender) = (last.id, last.origin, last.sender);
        account.read_inbox.insert(chat, id);
        let event = account.inbox.mark(EventKind::ReadInbox(chat, id), now);
        self.announce_in_inbox(by, by.account, &event);
        if let PeerKey::User(other) = sender {
            let seen_as = if let PeerKey::User(_) = chat {
                PeerKey::User(by.account)
            } else {
                chat
            };
            self.read_outbox(other, seen_as, origin, now);
        }
        Some(event)
    }

    /// Tells the one who wrote a message that it was read.
    fn read_outbox(&mut self, owner: UserId, chat: PeerKey, origin: u64, now: i32) {
        let Some(account) = self.accounts.get_mut(&owner) else {
            return;
        };
        let Some(id) = account.inbox.id_of(origin) else { return };
        if account.read_outbox.get(&chat).is_some_and(|read| *read >= id) {
            return;
        }
        account.read_outbox.insert(chat, id);
        let event = account.inbox.mark(EventKind::ReadOutbox(chat, id), now);
        self.announce_in_inbox(Actor::offstage(owner), owner, &event);
    }
}

fn posted(event: Event) -> Answer<Posted> {
    match event.kind {
        EventKind::New(id) => Ok(Posted { id, event }),
        _ => Err(bad("MESSAGE_ID_INVALID")),
    }
}

fn written(draft: Draft, origin: u64, chat: PeerKey, sender: PeerKey, date: i32, reply_to: Option<i32>) -> Message {
    Message {
        id: 0,
        origin,
        chat,
        sender,
        date,
        edit_date: None,
        reply_to,
        silent: draft.silent,
        random_id: draft.random_id,
        content: draft.content,
        extras: draft.extras,
    }
}

fn same(old: &Content, new: &Content) -> bool {
    match (old, new) {
        (
            Content::Text { text, entities },
            Content::Text {
                text: new_text,
                entities: new_entities,
            },
        ) => text == new_text && entities == new_entities,
        _ => false,
    }
}
