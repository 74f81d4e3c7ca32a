//! Reactions: told to those who listen, and kept nowhere. Telegram counts them in no sequence, so who is not connected
//! misses them.

use grammers_tl_types as tl;

use super::World;
use super::hearing::{Actor, Named};
use super::peers::PeerKey;
use super::refusal::bad;
use crate::sandbox::call::{Answer, UserId};

impl World {
    /// Tells everyone in a channel how often each emoji was given to a message.
    ///
    /// # Errors
    /// `CHANNEL_INVALID` when the chat is no channel, `MESSAGE_ID_INVALID` when it has no such message.
    pub fn react(&mut self, by: UserId, chat: PeerKey, id: i32, counts: &[(&str, i32)]) -> Answer<()> {
        let PeerKey::Channel(channel_id) = chat else {
            return Err(bad("CHANNEL_INVALID"));
        };
        let channel = self.channel(channel_id)?;
        channel.posts.get(id).ok_or_else(|| bad("MESSAGE_ID_INVALID"))?;
        for account in self.listeners(channel) {
            let update = tl::types::UpdateMessageReactions {
                peer: chat.to_tl(),
                msg_id: id,
                top_msg_id: None,
                saved_peer_id: None,
                reactions: tl_reactions(counts),
            };
            let mut named = Named::default();
            named.peer(chat);
            self.push(account, vec![update.into()], &named, Actor::offstage(by));
        }
        Ok(())
    }
}

fn tl_reactions(counts: &[(&str, i32)]) -> tl::enums::MessageReactions {
    let results = counts.iter().map(|(emoticon, count)| {
        tl::types::ReactionCount {
            chosen_order: None,
            reaction: tl::types::ReactionEmoji {
                emoticon: (*emoticon).to_owned(),
            }
            .into(),
            count: *count,
        }
        .into()
    });
    tl::types::MessageReactions {
        min: true,
        can_see_list: false,
        reactions_as_tags: false,
        results: results.collect(),
        recent_reactions: None,
        top_reactors: None,
    }
    .into()
}
