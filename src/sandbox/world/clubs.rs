//! Many small chats at once, for what is sent to many.

use super::World;
use super::channels::{Channel, ChannelKind};
use super::members::{Member, Role};
use super::peers::PeerKey;
use crate::sandbox::call::UserId;

/// Above every chat of the founding.
const FIRST_CLUB: i64 = 7_000_000;

impl World {
    /// Makes `count` public groups, `@club_0` and so on, with these members; the first of them runs all.
    pub fn add_clubs(&mut self, count: usize, members: &[UserId]) {
        let date = self.now();
        for (number, id) in (0..count).zip(FIRST_CLUB..) {
            let name = format!("club_{number}");
            let mut club = Channel::new(id, ChannelKind::Supergroup, format!("Club {number}"), date);
            club.username = Some(name.clone());
            for (place, user) in members.iter().enumerate() {
                club.members.add(Member {
                    user: *user,
                    inviter: *user,
                    date,
                    role: if place == 0 { Role::Creator } else { Role::Member },
                    via_request: false,
                });
            }
            self.usernames.insert(name.into(), PeerKey::Channel(id));
            self.channels.insert(id, club);
        }
    }

    /// The media of a message of a channel: how many bytes it has, and whether it is hidden. `None` when it has none.
    pub fn media_of(&self, chat: PeerKey, id: i32) -> Option<(Vec<u8>, bool)> {
        use grammers_tl_types::enums::{Document, MessageMedia, Photo};
        let PeerKey::Channel(channel) = chat else { return None };
        let message = self.channels.get(&channel)?.posts.get(id)?;
        let (file, spoiler) = match message.extras.as_ref()?.media.as_ref()? {
            MessageMedia::Photo(media) => match media.photo.as_ref()? {
                Photo::Photo(photo) => (photo.id, media.spoiler),
                Photo::Empty(_) => return None,
            },
            MessageMedia::Document(media) => match media.document.as_ref()? {
                Document::Document(document) => (document.id, media.spoiler),
                Document::Empty(_) => return None,
            },
            _ => return None,
        };
        Some((self.uploads.find(file)?.bytes.clone(), spoiler))
    }
}
