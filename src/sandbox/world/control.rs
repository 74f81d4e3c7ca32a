//! What a test or an operator does to the world from outside: look at it, and act as somebody in it.

use std::collections::BTreeSet;
use std::time::Duration;

use grammers_tl_types::enums::MessageAction;

use super::World;
use super::founding::{cast, stalls};
use super::hearing::Actor;
use super::joining::Arrival;
use super::messages::{Content, Draft, Message};
use super::peers::PeerKey;
use super::people::Nature;
use super::refusal::bad;
use super::text;
use crate::sandbox::call::{Answer, UserId};

/// An account that somebody can sign in as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRow {
    pub id: UserId,
    /// Digits only.
    pub phone: String,
    pub username: Option<String>,
    pub has_password: bool,
    /// The data centre it lives in, when it was moved from the main one.
    pub home_dc: Option<i32>,
}

/// A message, without what depends on who looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageRow {
    pub id: i32,
    /// A [marked](PeerKey::marked) id: a user, or the channel itself.
    pub sender: i64,
    /// Empty for a service message.
    pub text: String,
    /// What the client sent it under.
    pub random_id: Option<i64>,
    pub date: i32,
    pub edit_date: Option<i32>,
}

/// A chat, for a list of what there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatRow {
    pub chat: PeerKey,
    pub title: String,
    pub username: Option<String>,
    pub members: i32,
    /// How many people wait to be let in.
    pub requests: i32,
}

impl World {
    /// The accounts, by id.
    pub fn accounts(&self) -> Vec<AccountRow> {
        let username = |id| {
            self.people
                .get(&id)
                .and_then(|person| person.username.as_deref())
                .map(str::to_owned)
        };
        let row = |account: &super::accounts::Account| AccountRow {
            id: account.id,
            phone: account.phone.clone(),
            username: username(account.id),
            has_password: account.password.is_some(),
            home_dc: account.home_dc,
        };
        self.accounts.values().map(row).collect()
    }

    /// Makes more accounts, `@sailor13` and so on, whose phones continue those of the first twelve: for tests that
    /// need many sessions. Returns all new ones.
    pub fn add_accounts(&mut self, count: usize) -> Vec<AccountRow> {
        let new: Vec<UserId> = (0..count).map(|_| cast::found_spare_account(self)).collect();
        self.accounts()
            .into_iter()
            .filter(|row| new.contains(&row.id))
            .collect()
    }

    /// Makes small public supergroups, `@stall1` and so on, for tests and benches that need many chats: in each are `@judy`, who
    /// made it, `@alice`, and the next of `accounts`.
    pub fn add_stalls(&mut self, count: usize, accounts: &[UserId]) -> Vec<PeerKey> {
        let staff = [cast::account("judy"), cast::account("alice")];
        (0..count)
            .zip(accounts.iter().cycle())
            .map(|(_, account)| stalls::found_stall(self, &[staff[0], staff[1], *account]))
            .collect()
    }

    /// Makes the public supergroup `@crowd` of so many people who are in no other chat; its list ends with the last of them, and
    /// not where Telegram's do.
    pub fn add_crowded(&mut self, size: u32) -> PeerKey {
        stalls::found_crowded(self, cast::account("judy"), size)
    }

    /// The groups and channels.
    pub fn chats(&self) -> Vec<ChatRow> {
        let groups = self.groups.values().map(|group| ChatRow {
            chat: PeerKey::Group(group.id),
            title: group.title.clone(),
            username: None,
            members: group.members.count(),
            requests: 0,
        });
        let channels = self.channels.values().map(|channel| ChatRow {
            chat: PeerKey::Channel(channel.id),
            title: channel.title.clone(),
            username: channel.username.clone(),
            members: channel.members.count(),
            requests: i32::try_from(channel.requests.len()).unwrap_or(i32::MAX),
        });
        groups.chain(channels).collect()
    }

    /// Finds a peer by `@username`, by [marked](PeerKey::marked) id, or a chat by its exact title.
    pub fn find_peer(&self, name: &str) -> Option<PeerKey> {
        let username = name.strip_prefix('@').unwrap_or(name).to_lowercase();
        if let Some(peer) = self.usernames.get(username.as_str()) {
            return Some(*peer);
        }
        if let Ok(id) = name.parse() {
            let peer = PeerKey::from_marked(id);
            let exists = match peer {
                PeerKey::User(id) => self.people.contains_key(&id),
                PeerKey::Group(id) => self.groups.contains_key(&id),
                PeerKey::Channel(id) => self.channels.contains_key(&id),
            };
            return exists.then_some(peer);
        }
        self.chats()
            .into_iter()
            .find(|row| row.title == name)
            .map(|row| row.chat)
    }

    /// The messages of a chat, oldest first. Of a user: everything in that account's private chats and basic groups.
    pub fn messages_of(&self, chat: PeerKey) -> Vec<MessageRow> {
        match chat {
            PeerKey::Channel(id) => self
                .channels
                .get(&id)
                .map_or_else(Vec::new, |c| c.posts.range(..).map(row).collect()),
            PeerKey::User(id) => self
                .accounts
                .get(&id)
                .map_or_else(Vec::new, |a| a.inbox.range(..).map(row).collect()),
            PeerKey::Group(_) => self.messages_of_group(chat),
        }
    }

    /// Each message of a basic group once, with the id it has in the box of the first account that got it.
    fn messages_of_group(&self, chat: PeerKey) -> Vec<MessageRow> {
        let copies = self.accounts.values().flat_map(|account| account.inbox.range(..));
        let mut by_origin = std::collections::BTreeMap::new();
        for message in copies.filter(|message| message.chat == chat) {
            by_origin.entry(message.origin).or_insert_with(|| row(message));
        }
        by_origin.into_values().collect()
    }

    /// How often the record of a basic group says that somebody was put into it.
    pub fn times_added(&self, user: UserId, group: PeerKey) -> usize {
        let says_it = |message: &&Message| match &message.content {
            Content::Service(action) => {
                matches!(&**action, MessageAction::ChatAddUser(added) if added.users.contains(&user))
            }
            Content::Text { .. } => false,
        };
        let copies = self.accounts.values().flat_map(|account| account.inbox.range(..));
        let copies = copies.filter(|message| message.chat == group).filter(says_it);
        let origins: BTreeSet<u64> = copies.map(|message| message.origin).collect();
        origins.len()
    }

    /// The counter of a channel's events; `None` for any other chat.
    pub fn pts_of(&self, chat: PeerKey) -> Option<i32> {
        match chat {
            PeerKey::Channel(id) => Some(self.channels.get(&id)?.posts.pts()),
            PeerKey::User(_) | PeerKey::Group(_) => None,
        }
    }

    /// Writes to a chat as a user of the world, by the rules that hold for them. Returns the message's id.
    ///
    /// The user need not be able to sign in; the text is plain.
    pub fn post_as(&mut self, user: UserId, chat: PeerKey, text: &str) -> Answer<i32> {
        self.person(user)?;
        let (text, entities) = text::accept(text, Vec::new())?;
        self.may_write(user, chat)?;
        let draft = Draft {
            content: Content::Text { text, entities },
            ..Draft::text("")
        };
        Ok(self.post(Actor::offstage(user), chat, draft)?.id)
    }

    /// Replaces the text of a message of a user's own, by the rules that hold for them.
    ///
    /// # Errors
    /// Those of editing.
    pub fn edit_as(&mut self, user: UserId, chat: PeerKey, id: i32, text: &str) -> Answer<()> {
        let (text, entities) = text::accept(text, Vec::new())?;
        self.edit_text(Actor::offstage(user), chat, id, Content::Text { text, entities })
            .map(drop)
    }

    /// Lets a waiting person in, as the chat's first admin.
    ///
    /// # Errors
    /// `HIDE_REQUESTER_MISSING` when the person does not wait, `CHANNEL_INVALID` when it is no channel.
    pub fn approve_join(&mut self, chat: PeerKey, user: UserId) -> Answer<()> {
        self.settle_as_admin(chat, user, true)
    }

    /// Turns a waiting person away; they may ask again. Errors as [`World::approve_join`].
    pub fn decline_join(&mut self, chat: PeerKey, user: UserId) -> Answer<()> {
        self.settle_as_admin(chat, user, false)
    }

    /// Puts somebody out of a channel for good, as its first admin.
    ///
    /// # Errors
    /// `USER_NOT_PARTICIPANT`, `USER_CREATOR`, `CHANNEL_INVALID`.
    pub fn ban(&mut self, chat: PeerKey, user: UserId) -> Answer<()> {
        let (id, admin) = self.run_by(chat)?;
        self.remove_from_channel(Actor::offstage(admin), id, user, true)
            .map(drop)
    }

    /// Puts somebody into a channel, as its first admin; whoever is in it stays.
    ///
    /// # Errors
    /// `CHANNEL_INVALID`, `CHAT_ADMIN_REQUIRED` when it has no admin.
    pub fn put_in(&mut self, chat: PeerKey, user: UserId) -> Answer<()> {
        let (id, admin) = self.run_by(chat)?;
        if self.channel(id)?.members.contains(user) {
            return Ok(());
        }
        self.admit(Actor::offstage(admin), id, &[user], Arrival::AddedBy(admin))
            .map(drop)
    }

    /// Has somebody leave a group or channel.
    ///
    /// # Errors
    /// `USER_NOT_PARTICIPANT`, `USER_CREATOR`, `CHANNEL_INVALID`.
    pub fn leave_as(&mut self, user: UserId, chat: PeerKey) -> Answer<()> {
        let by = Actor::offstage(user);
        match chat {
            PeerKey::Channel(id) => self.remove_from_channel(by, id, user, false).map(drop),
            PeerKey::Group(id) => self.remove_from_group(by, id, user).map(drop),
            PeerKey::User(_) => Err(bad("CHANNEL_INVALID")),
        }
    }

    fn settle_as_admin(&mut self, chat: PeerKey, user: UserId, approve: bool) -> Answer<()> {
        let (id, admin) = self.run_by(chat)?;
        self.settle_request(Actor::offstage(admin), id, user, approve).map(drop)
    }

    fn run_by(&self, chat: PeerKey) -> Answer<(i64, UserId)> {
        let PeerKey::Channel(id) = chat else {
            return Err(bad("CHANNEL_INVALID"));
        };
        let admin = self.channel(id)?.members.admins().next().map(|admin| admin.user);
        Ok((id, admin.ok_or_else(|| bad("CHAT_ADMIN_REQUIRED"))?))
    }

    /// Forgets every `random_id`, as Telegram does after a while: the next send under an old one goes through.
    pub fn forget_random_ids(&mut self) {
        self.random_ids.forget_all();
    }

    /// Sets how long a `random_id` is remembered; whole seconds, five minutes by default.
    pub fn set_random_id_window(&mut self, window: Duration) {
        self.random_ids.set_window(window);
    }

    /// Gives an account a second factor with this password, or another one in the place of its own.
    pub fn set_password(&mut self, account: UserId, password: &str) {
        if let Some(account) = self.accounts.get_mut(&account) {
            account.password = Some(password.to_owned());
        }
    }

    /// Makes a person another kind of person: what they refuse, and whom.
    pub fn set_nature(&mut self, user: UserId, nature: Nature) {
        if let Some(person) = self.people.get_mut(&user) {
            person.nature = nature;
        }
    }

    /// Sets how many events each box remembers for differences (2,000 by default), and forgets older ones at once:
    /// a client that was away then hears "too long".
    pub fn set_events_kept(&mut self, events: usize) {
        for channel in self.channels.values_mut() {
            channel.posts.keep(events);
        }
        for account in self.accounts.values_mut() {
            account.inbox.keep(events);
        }
    }
}

fn row(message: &Message) -> MessageRow {
    MessageRow {
        id: message.id,
        sender: message.sender.marked(),
        text: message.content.text().to_owned(),
        random_id: message.random_id,
        date: message.date,
        edit_date: message.edit_date,
    }
}
