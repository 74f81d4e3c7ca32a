//! What a test arranges about chats before somebody joins or leaves them.

use super::World;
use super::channels::{Channel, ChannelKind};
use super::invites::InviteTerms;
use super::members::Role;
use super::messages::Message;
use super::peers::PeerKey;
use super::refusal::bad;
use crate::sandbox::call::{Answer, UserId};

impl World {
    /// Makes a supergroup a forum with these topics.
    ///
    /// # Errors
    /// `CHANNEL_INVALID`.
    pub fn set_topics(&mut self, chat: PeerKey, topics: &[(i32, &str)]) -> Answer<()> {
        let topics = topics.iter().map(|(id, title)| (*id, (*title).to_owned()));
        self.channel_mut(channel_id(chat)?)?.settings.topics = topics.collect();
        Ok(())
    }

    /// Hides what was written in a chat from those who come later, or shows it to them. Only chats without a public name can.
    ///
    /// # Errors
    /// `CHANNEL_INVALID`.
    pub fn hide_history(&mut self, chat: PeerKey, hidden: bool) -> Answer<()> {
        self.channel_mut(channel_id(chat)?)?.settings.hidden_history = hidden;
        Ok(())
    }

    /// Whether a message of a chat that `viewer` may read is shown to them.
    pub fn shows(&self, viewer: UserId, message: &Message) -> bool {
        match message.chat {
            PeerKey::Channel(id) => self
                .channels
                .get(&id)
                .is_none_or(|channel| channel.shows_history_to(viewer, message.date)),
            PeerKey::User(_) | PeerKey::Group(_) => true,
        }
    }

    /// Makes a supergroup the discussion group of a channel.
    ///
    /// # Errors
    /// `CHANNEL_INVALID`.
    pub fn link_discussion(&mut self, channel: PeerKey, group: PeerKey) -> Answer<()> {
        let (channel, group) = (channel_id(channel)?, channel_id(group)?);
        self.channel_mut(channel)?.settings.linked = Some(group);
        self.channel_mut(group)?.settings.linked = Some(channel);
        self.marks.discuss_in(channel, group);
        Ok(())
    }

    /// How many supergroups and channels an account may be in, 500 at first; with Telegram Premium twice as many.
    pub fn set_channels_limit(&mut self, limit: usize) {
        self.channels_limit = limit;
    }

    /// Gives an account Telegram Premium.
    pub fn set_premium(&mut self, account: UserId) {
        self.premium.insert(account);
    }

    /// Whoever joins has to answer in a bot's mini app first.
    ///
    /// # Errors
    /// `CHANNEL_INVALID`.
    pub fn set_join_app(&mut self, chat: PeerKey, bot: UserId) -> Answer<()> {
        self.channel_mut(channel_id(chat)?)?.settings.join_app = Some(bot);
        Ok(())
    }

    /// Makes a link into a chat in the name of its first admin. Returns its hash.
    ///
    /// # Errors
    /// `CHANNEL_INVALID`, `CHAT_ID_INVALID`, `PEER_ID_INVALID`, `CHAT_ADMIN_REQUIRED` when it has no admin.
    pub fn make_invite(&mut self, chat: PeerKey, terms: InviteTerms) -> Answer<String> {
        let members = match chat {
            PeerKey::Channel(id) => &self.channel(id)?.members,
            PeerKey::Group(id) => &self.group(id)?.members,
            PeerKey::User(_) => return Err(bad("PEER_ID_INVALID")),
        };
        let admin = members.admins().next().ok_or_else(|| bad("CHAT_ADMIN_REQUIRED"))?.user;
        Ok(self.create_invite(admin, chat, terms).hash)
    }

    /// Gives a member of a channel or supergroup another role.
    ///
    /// # Errors
    /// `CHANNEL_INVALID`, `USER_NOT_PARTICIPANT`.
    pub fn set_role(&mut self, chat: PeerKey, user: UserId, role: Role) -> Answer<()> {
        let members = &mut self.channel_mut(channel_id(chat)?)?.members;
        let member = members.remove(user).ok_or_else(|| bad("USER_NOT_PARTICIPANT"))?;
        members.add(super::members::Member { role, ..member });
        Ok(())
    }

    /// Who is in a chat; nobody for a person.
    pub fn members_of(&self, chat: PeerKey) -> Vec<UserId> {
        let members = match chat {
            PeerKey::Channel(id) => self.channels.get(&id).map(|channel| &channel.members),
            PeerKey::Group(id) => self.groups.get(&id).map(|group| &group.members),
            PeerKey::User(_) => None,
        };
        members.map_or_else(Vec::new, |members| {
            members.oldest_first().map(|member| member.user).collect()
        })
    }

    /// Makes a basic group into a supergroup with the same people and links; the messages stay behind. Returns the
    /// supergroup's id.
    ///
    /// # Errors
    /// `CHAT_ID_INVALID`; `CHAT_NOT_MODIFIED` when it is one already.
    pub fn migrate_group(&mut self, id: i64) -> Answer<i64> {
        let date = self.now();
        let group = self.group(id)?;
        if group.migrated_to.is_some() {
            return Err(bad("CHAT_NOT_MODIFIED"));
        }
        let channel_id = self.channels.keys().next_back().map_or(1, |last| last + 1);
        let mut channel = Channel::new(channel_id, ChannelKind::Supergroup, group.title.clone(), date);
        for member in group.members.oldest_first() {
            channel.members.add(*member);
            channel.read.insert(member.user, 0);
        }
        self.channels.insert(channel_id, channel);
        let group = self.group_mut(id)?;
        group.migrated_to = Some(channel_id);
        group.version += 1;
        for invite in self
            .invites
            .values_mut()
            .filter(|invite| invite.chat == PeerKey::Group(id))
        {
            invite.chat = PeerKey::Channel(channel_id);
        }
        Ok(channel_id)
    }
}

fn channel_id(chat: PeerKey) -> Answer<i64> {
    match chat {
        PeerKey::Channel(id) => Ok(id),
        PeerKey::User(_) | PeerKey::Group(_) => Err(bad("CHANNEL_INVALID")),
    }
}
