//! Telling a forward from every other message: by what it says, by its media, and by whose it was before.

use chrono::{DateTime, Utc};
use grammers_tl_types as tl;
use wireroom_jobs::ports::SentMessage;

use super::media;

/// The messages in the order that they are asked for in; `None` when one of them is not there, or is none that is forwarded.
pub(super) fn in_order(found: Vec<tl::enums::Message>, message_ids: &[i32]) -> Option<Vec<tl::types::Message>> {
    let found: Vec<tl::types::Message> = found
        .into_iter()
        .filter_map(|message| match message {
            tl::enums::Message::Message(message) => Some(message),
            tl::enums::Message::Empty(_) | tl::enums::Message::Service(_) => None,
        })
        .collect();
    let by_id = |id: &i32| found.iter().find(|message| message.id == *id).cloned();
    message_ids.iter().map(by_id).collect()
}

/// Whether a message is `source`, forwarded.
pub(super) fn is_of(message: &tl::types::Message, source: &tl::types::Message, sender_hidden: bool) -> bool {
    // Edited since, it may have said something else when it was forwarded; then its origin has to do.
    let was_edited = source.edit_date.is_some() && !sender_hidden;
    let says_it = message.message == source.message || was_edited;
    let is_equal = says_it && media::are_same(message.media.as_ref(), source.media.as_ref());
    let origin = match &message.fwd_from {
        None => sender_hidden,
        Some(header) => !sender_hidden && comes_from(header, source),
    };
    is_equal && origin
}

/// A forward of a forward names the first one's origin.
fn comes_from(header: &tl::enums::MessageFwdHeader, source: &tl::types::Message) -> bool {
    let tl::enums::MessageFwdHeader::Header(header) = header;
    let agrees = |named: Option<&tl::enums::Peer>, post: Option<i32>, date: i32| {
        header.date == date
            && (header.from_id.is_none() || named.is_none() || header.from_id.as_ref() == named)
            && (header.channel_post.is_none() || post.is_none() || header.channel_post == post)
    };
    let before = source.fwd_from.as_ref().is_some_and(|before| {
        let tl::enums::MessageFwdHeader::Header(before) = before;
        agrees(before.from_id.as_ref(), before.channel_post, before.date)
    });
    let sender = source
        .from_id
        .as_ref()
        .or_else(|| source.post.then_some(&source.peer_id));
    before || agrees(sender, source.post.then_some(source.id), source.date)
}

/// The forwards of all the sources, oldest first: each begins with one of the first source. `found` is oldest first.
pub(super) fn of_all(
    found: &[tl::types::Message],
    sources: &[tl::types::Message],
    sender_hidden: bool,
) -> Vec<SentMessage> {
    let Some((first, rest)) = sources.split_first() else {
        return Vec::new();
    };
    let begins = found.iter().filter(|message| is_of(message, first, sender_hidden));
    let forwards = begins.map(|begin| {
        let mut last = begin.id;
        let others = rest.iter().map(|source| {
            let next = found
                .iter()
                .find(|message| message.id > last && is_of(message, source, sender_hidden));
            // Deleted since: those of one forward follow each other.
            last = next.map_or(last + 1, |message| message.id);
            last
        });
        SentMessage {
            others: others.collect(),
            message_id: begin.id,
            date: DateTime::<Utc>::from_timestamp(begin.date.into(), 0).unwrap_or_default(),
        }
    });
    forwards.collect()
}
