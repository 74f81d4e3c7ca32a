//! What is said about messages of channels beside themselves: which group discusses a channel's posts and what was said there,
//! and how often messages were seen and reacted to. Apart from the messages, because most have none of it.

use std::collections::BTreeMap;

use grammers_tl_types as tl;

use super::World;
use super::hearing::Actor;
use super::messages::Draft;
use super::peers::PeerKey;
use super::refusal::bad;
use crate::sandbox::call::{Answer, UserId};

/// What is kept.
#[derive(Default)]
pub struct Marks {
    /// The discussion group of a channel.
    groups: BTreeMap<i64, i64>,
    /// The discussion of a post, by channel and post.
    threads: BTreeMap<(i64, i32), Thread>,
    /// By channel and message.
    figures: BTreeMap<(i64, i32), Figures>,
}

/// One post's discussion, by numbers of the group.
#[derive(Debug, Clone, Default)]
pub struct Thread {
    /// The copy of the post, under which people write.
    pub top: i32,
    /// Oldest first.
    pub comments: Vec<i32>,
}

/// How often a message was seen, passed on and reacted to.
#[derive(Debug, Clone, Default)]
struct Figures {
    views: i32,
    forwards: i32,
    reactions: Vec<(String, i32)>,
}

impl Marks {
    /// The group that discusses a channel's posts.
    pub fn group_of(&self, channel: i64) -> Option<i64> {
        self.groups.get(&channel).copied()
    }

    /// Lets a group discuss a channel's posts.
    pub fn discuss_in(&mut self, channel: i64, group: i64) {
        self.groups.insert(channel, group);
    }

    /// The discussion of a post; `None` when nobody has written anything.
    pub fn thread(&self, channel: i64, post: i32) -> Option<&Thread> {
        self.threads.get(&(channel, post))
    }

    /// Shows on messages of a channel what is said about them.
    pub fn show_on(&self, channel: i64, messages: &mut [tl::enums::Message]) {
        let group = self.group_of(channel);
        for message in messages {
            let tl::enums::Message::Message(message) = message else {
                continue;
            };
            if let Some(group) = group {
                message.replies = Some(self.tl_replies(channel, message.id, group));
            }
            if let Some(figures) = self.figures.get(&(channel, message.id)) {
                message.views = Some(figures.views);
                message.forwards = Some(figures.forwards);
                message.reactions = Some(tl_reactions(&figures.reactions));
            }
        }
    }

    fn tl_replies(&self, channel: i64, post: i32, group: i64) -> tl::enums::MessageReplies {
        let comments = self.thread(channel, post).map_or(0, |thread| thread.comments.len());
        tl::types::MessageReplies {
            comments: true,
            replies: i32::try_from(comments).unwrap_or(i32::MAX),
            replies_pts: 0,
            recent_repliers: None,
            channel_id: Some(group),
            max_id: None,
            read_max_id: None,
        }
        .into()
    }
}

fn tl_reactions(counts: &[(String, i32)]) -> tl::enums::MessageReactions {
    let results = counts.iter().map(|(emoticon, count)| {
        tl::types::ReactionCount {
            chosen_order: None,
            reaction: tl::types::ReactionEmoji {
                emoticon: emoticon.clone(),
            }
            .into(),
            count: *count,
        }
        .into()
    });
    tl::types::MessageReactions {
        min: false,
        can_see_list: false,
        reactions_as_tags: false,
        results: results.collect(),
        recent_reactions: None,
        top_reactors: None,
    }
    .into()
}

impl World {
    /// Writes a comment under a channel's post, in its discussion group. Returns the comment's number there.
    ///
    /// # Errors
    /// `MSG_ID_INVALID` when the channel has no group or no such post, and those of posting.
    pub fn comment_as(&mut self, user: UserId, channel: PeerKey, post: i32, text: &str) -> Answer<i32> {
        let PeerKey::Channel(id) = channel else {
            return Err(bad("CHANNEL_INVALID"));
        };
        let group = self.marks.group_of(id).ok_or_else(|| bad("MSG_ID_INVALID"))?;
        let original = self.channel(id)?.posts.get(post).ok_or_else(|| bad("MSG_ID_INVALID"))?;
        let copy = original.content.clone();
        let known = self.marks.thread(id, post).map(|thread| thread.top);
        let top = if let Some(top) = known {
            top
        } else {
            let draft = Draft {
                content: copy,
                ..Draft::text("")
            };
            self.post(Actor::offstage(user), PeerKey::Channel(group), draft)?.id
        };
        let draft = Draft {
            reply_to: Some(top),
            ..Draft::text(text)
        };
        let comment = self.post(Actor::offstage(user), PeerKey::Channel(group), draft)?.id;
        let thread = self.marks.threads.entry((id, post)).or_default();
        thread.top = top;
        thread.comments.push(comment);
        Ok(comment)
    }

    /// Sets how often a channel's message was seen, passed on and reacted to, without telling anybody.
    ///
    /// # Errors
    /// `CHANNEL_INVALID` when the chat is no channel, `MESSAGE_ID_INVALID` when it has no such message.
    pub fn set_figures(
        &mut self,
        chat: PeerKey,
        id: i32,
        (views, forwards): (i32, i32),
        reactions: &[(&str, i32)],
    ) -> Answer<()> {
        let PeerKey::Channel(channel) = chat else {
            return Err(bad("CHANNEL_INVALID"));
        };
        let posts = &self.channel(channel)?.posts;
        posts.get(id).ok_or_else(|| bad("MESSAGE_ID_INVALID"))?;
        let reactions = reactions
            .iter()
            .map(|(emoticon, count)| ((*emoticon).to_owned(), *count));
        let figures = Figures {
            views,
            forwards,
            reactions: reactions.collect(),
        };
        self.marks.figures.insert((channel, id), figures);
        Ok(())
    }
}
