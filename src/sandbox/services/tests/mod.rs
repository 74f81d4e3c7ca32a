//! The services by what clients observe: each test founds a world and calls functions as its accounts would.

mod access;
mod differences;
mod forums;
mod groups;
mod joining;
mod member_lists;
mod writing;

use grammers_tl_types as tl;
use tl::enums::{InputChannel, InputPeer, InputUser, Update};

use super::{channels, messages};
use crate::sandbox::call::{Answer, Call, Caller, Push, UserId};
use crate::sandbox::world::{PeerKey, World};

/// A world with people calling into it. Each account has two connections: its own key, and a second one.
struct Stage {
    world: World,
}

impl Stage {
    fn new() -> Self {
        Self { world: World::new(7) }
    }

    fn id(&self, username: &str) -> UserId {
        match self.world.find_peer(username) {
            Some(PeerKey::User(id)) => id,
            other => panic!("{username} is {other:?}"),
        }
    }

    fn channel(&self, name: &str) -> i64 {
        match self.world.find_peer(name) {
            Some(PeerKey::Channel(id)) => id,
            other => panic!("{name} is {other:?}"),
        }
    }

    /// Calls a service as `who`.
    fn call<Q, R>(&mut self, who: &str, service: fn(&mut Call<'_>, Q) -> Answer<R>, request: Q) -> Answer<R> {
        let caller = Caller {
            key_id: key(who),
            account: Some(self.id(who)),
            dc: 2,
            layer: tl::LAYER,
        };
        service(
            &mut Call {
                world: &mut self.world,
                caller,
            },
            request,
        )
    }

    /// A peer as `who` would name it.
    fn peer(&self, who: &str, peer: PeerKey) -> InputPeer {
        let access_hash = self.world.access_hash(self.id(who), peer);
        match peer {
            PeerKey::User(user_id) => tl::types::InputPeerUser { user_id, access_hash }.into(),
            PeerKey::Group(chat_id) => tl::types::InputPeerChat { chat_id }.into(),
            PeerKey::Channel(channel_id) => tl::types::InputPeerChannel {
                channel_id,
                access_hash,
            }
            .into(),
        }
    }

    fn peer_of(&self, who: &str, name: &str) -> InputPeer {
        let peer = self.world.find_peer(name).unwrap_or_else(|| panic!("no {name}"));
        self.peer(who, peer)
    }

    fn input_channel(&self, who: &str, name: &str) -> InputChannel {
        let channel_id = self.channel(name);
        let access_hash = self.world.access_hash(self.id(who), PeerKey::Channel(channel_id));
        tl::types::InputChannel {
            channel_id,
            access_hash,
        }
        .into()
    }

    fn input_user(&self, who: &str, user_id: UserId) -> InputUser {
        let access_hash = self.world.access_hash(self.id(who), PeerKey::User(user_id));
        tl::types::InputUser { user_id, access_hash }.into()
    }

    fn join(&mut self, who: &str, name: &str) -> Answer<tl::enums::messages::ChatInviteJoinResult> {
        let channel = self.input_channel(who, name);
        self.call(
            who,
            channels::join_channel,
            tl::functions::channels::JoinChannel { channel },
        )
    }

    fn send(&mut self, who: &str, to: InputPeer, text: &str, random_id: i64) -> Answer<tl::enums::Updates> {
        self.call(who, messages::send_message, sending(to, text, random_id))
    }

    fn pushes_to(&mut self, who: &str) -> Vec<Push> {
        let id = self.id(who);
        self.world
            .take_pushes()
            .into_iter()
            .filter(|push| push.account == id)
            .collect()
    }
}

/// The key of an account's first connection.
fn key(who: &str) -> [u8; 8] {
    let mut key = [0; 8];
    key.iter_mut().zip(who.bytes()).for_each(|(to, from)| *to = from);
    key
}

fn sending(peer: InputPeer, message: &str, random_id: i64) -> tl::functions::messages::SendMessage {
    tl::functions::messages::SendMessage {
        no_webpage: false,
        silent: false,
        background: false,
        clear_draft: false,
        noforwards: false,
        update_stickersets_order: false,
        invert_media: false,
        allow_paid_floodskip: false,
        peer,
        reply_to: None,
        message: message.to_owned(),
        random_id,
        reply_markup: None,
        entities: None,
        schedule_date: None,
        schedule_repeat_period: None,
        send_as: None,
        quick_reply_shortcut: None,
        effect: None,
        allow_paid_stars: None,
        suggested_post: None,
        rich_message: None,
    }
}

fn searching(peer: InputPeer, q: &str) -> tl::functions::messages::Search {
    tl::functions::messages::Search {
        peer,
        q: q.to_owned(),
        from_id: None,
        saved_peer_id: None,
        saved_reaction: None,
        top_msg_id: None,
        filter: tl::enums::MessagesFilter::InputMessagesFilterEmpty,
        min_date: 0,
        max_date: 0,
        offset_id: 0,
        add_offset: 0,
        limit: 100,
        max_id: 0,
        min_id: 0,
        hash: 0,
    }
}

fn history(peer: InputPeer, limit: i32) -> tl::functions::messages::GetHistory {
    tl::functions::messages::GetHistory {
        peer,
        offset_id: 0,
        offset_date: 0,
        add_offset: 0,
        limit,
        max_id: 0,
        min_id: 0,
        hash: 0,
    }
}

/// The parts of an `updates` container.
fn parts(updates: &tl::enums::Updates) -> &tl::types::Updates {
    match updates {
        tl::enums::Updates::Updates(updates) => updates,
        other => panic!("not a container: {other:?}"),
    }
}

fn joined_parts(result: &tl::enums::messages::ChatInviteJoinResult) -> &tl::types::Updates {
    match result {
        tl::enums::messages::ChatInviteJoinResult::Ok(result) => parts(&result.updates),
        other @ tl::enums::messages::ChatInviteJoinResult::WebView(_) => panic!("not joined: {other:?}"),
    }
}

/// The text messages in a list of updates.
fn texts(updates: &[Update]) -> Vec<&str> {
    updates.iter().filter_map(new_message).filter_map(text).collect()
}

fn new_message(update: &Update) -> Option<&tl::enums::Message> {
    match update {
        Update::NewMessage(update) => Some(&update.message),
        Update::NewChannelMessage(update) => Some(&update.message),
        _ => None,
    }
}

fn text(message: &tl::enums::Message) -> Option<&str> {
    match message {
        tl::enums::Message::Message(message) => Some(&message.message),
        _ => None,
    }
}

/// The messages of a page, and how many there are in all.
fn page(answer: tl::enums::messages::Messages) -> (Vec<tl::enums::Message>, i32) {
    match answer {
        tl::enums::messages::Messages::Messages(page) => {
            let count = i32::try_from(page.messages.len()).expect("a short page");
            (page.messages, count)
        }
        tl::enums::messages::Messages::Slice(page) => (page.messages, page.count),
        tl::enums::messages::Messages::ChannelMessages(page) => (page.messages, page.count),
        tl::enums::messages::Messages::NotModified(_) => panic!("there is no hash"),
    }
}

fn refused<T: std::fmt::Debug>(answer: Answer<T>, code: i32, name: &str) {
    match answer {
        Err(error) => assert_eq!((error.code, error.name.as_str()), (code, name)),
        Ok(answer) => panic!("not {name} but {answer:?}"),
    }
}
