use super::*;

const ACCOUNT: i64 = 7;
const DATE: i32 = 1_893_499_200;

fn user(user_id: i64) -> tl::enums::Peer {
    tl::types::PeerUser { user_id }.into()
}

fn supergroup() -> tl::enums::Peer {
    tl::types::PeerChannel { channel_id: 1 }.into()
}

fn header() -> tl::types::MessageReplyHeader {
    tl::types::MessageReplyHeader {
        reply_to_scheduled: false,
        forum_topic: false,
        quote: false,
        reply_to_ephemeral: false,
        reply_to_msg_id: None,
        reply_to_peer_id: None,
        reply_from: None,
        reply_media: None,
        reply_to_top_id: None,
        quote_text: None,
        quote_entities: None,
        quote_offset: None,
        todo_item_id: None,
        poll_option: None,
    }
}

fn text(peer_id: tl::enums::Peer) -> tl::types::Message {
    tl::types::Message {
        out: false,
        mentioned: false,
        media_unread: false,
        silent: false,
        post: false,
        from_scheduled: false,
        legacy: false,
        edit_hide: false,
        pinned: false,
        noforwards: false,
        invert_media: false,
        offline: false,
        video_processing_pending: false,
        paid_suggested_post_stars: false,
        paid_suggested_post_ton: false,
        id: 5,
        from_id: None,
        from_boosts_applied: None,
        from_rank: None,
        peer_id,
        saved_peer_id: None,
        fwd_from: None,
        via_bot_id: None,
        via_business_bot_id: None,
        guestchat_via_from: None,
        reply_to: None,
        date: DATE,
        message: "made up".into(),
        media: None,
        reply_markup: None,
        entities: None,
        views: None,
        forwards: None,
        replies: None,
        edit_date: None,
        post_author: None,
        grouped_id: None,
        reactions: None,
        restriction_reason: None,
        ttl_period: None,
        quick_reply_shortcut_id: None,
        effect: None,
        factcheck: None,
        report_delivery_until_date: None,
        paid_message_stars: None,
        suggested_post: None,
        schedule_repeat_period: None,
        summary_from_language: None,
        rich_message: None,
    }
}

fn service(from: i64, action: impl Into<tl::enums::MessageAction>) -> tl::types::MessageService {
    tl::types::MessageService {
        out: false,
        mentioned: false,
        media_unread: false,
        reactions_are_possible: false,
        silent: false,
        post: false,
        legacy: false,
        id: 6,
        from_id: Some(user(from)),
        peer_id: supergroup(),
        saved_peer_id: None,
        reply_to: None,
        date: DATE,
        action: action.into(),
        reactions: None,
        ttl_period: None,
    }
}

fn facts(told: impl Into<tl::enums::Message>) -> Message {
    message(&told.into(), ACCOUNT).expect("it is a message")
}

fn happened(from: i64, action: impl Into<tl::enums::MessageAction>) -> ServiceMessage {
    facts(service(from, action)).service.expect("Telegram wrote it")
}

fn with_media(media: impl Into<tl::enums::MessageMedia>) -> Option<MediaKind> {
    facts(tl::types::Message {
        media: Some(media.into()),
        ..text(supergroup())
    })
    .media
}

fn document(attributes: Vec<tl::enums::DocumentAttribute>) -> tl::types::MessageMediaDocument {
    tl::types::MessageMediaDocument {
        nopremium: false,
        spoiler: false,
        video: false,
        round: false,
        voice: false,
        document: Some(
            tl::types::Document {
                id: 1,
                access_hash: 1,
                file_reference: Vec::new(),
                date: DATE,
                mime_type: "application/octet-stream".into(),
                size: 1,
                thumbs: None,
                video_thumbs: None,
                dc_id: 1,
                attributes,
            }
            .into(),
        ),
        alt_documents: None,
        video_cover: None,
        video_timestamp: None,
        ttl_seconds: None,
    }
}

fn video(round_message: bool) -> tl::enums::DocumentAttribute {
    tl::types::DocumentAttributeVideo {
        round_message,
        supports_streaming: false,
        nosound: false,
        duration: 1.0,
        w: 1,
        h: 1,
        preload_prefix_size: None,
        video_start_ts: None,
        video_codec: None,
    }
    .into()
}

fn audio(voice: bool) -> tl::enums::DocumentAttribute {
    tl::types::DocumentAttributeAudio {
        voice,
        duration: 1,
        title: None,
        performer: None,
        waveform: None,
    }
    .into()
}

#[test]
fn a_text_keeps_what_it_says_and_where() {
    let told = facts(tl::types::Message {
        from_id: Some(user(11)),
        grouped_id: Some(3),
        views: Some(4),
        forwards: Some(2),
        edit_date: Some(DATE + 60),
        ..text(supergroup())
    });
    assert_eq!((told.id, told.chat_id), (5, -1_000_000_000_001));
    assert_eq!(told.date.timestamp(), i64::from(DATE));
    assert_eq!(told.edited_at.map(|at| at.timestamp()), Some(i64::from(DATE) + 60));
    assert_eq!(told.sender_id, Some(11));
    assert_eq!(told.text, "made up");
    assert_eq!((told.album, told.views, told.forwards), (Some(3), Some(4), Some(2)));
    assert!(!told.outgoing && told.media.is_none() && told.service.is_none());
}

#[test]
fn an_edit_that_is_hidden_is_none_of_the_writers() {
    let told = facts(tl::types::Message {
        edit_hide: true,
        edit_date: Some(DATE + 60),
        ..text(supergroup())
    });
    assert_eq!(told.edited_at, None);
}

#[test]
fn a_sender_that_is_left_out_is_who_the_chat_says() {
    let group: tl::enums::Peer = tl::types::PeerChat { chat_id: 9 }.into();
    assert_eq!(facts(text(user(11))).sender_id, Some(11));
    let own = tl::types::Message {
        out: true,
        ..text(user(11))
    };
    assert_eq!(facts(own).sender_id, Some(ACCOUNT));
    assert_eq!(facts(text(supergroup())).sender_id, Some(-1_000_000_000_001));
    assert_eq!(facts(text(group.clone())).sender_id, Some(-9));
    assert_eq!(facts(text(group)).chat_id, -9);
}

#[test]
fn an_empty_message_is_none() {
    let empty = tl::types::MessageEmpty { id: 5, peer_id: None };
    assert!(message(&empty.into(), ACCOUNT).is_none());
}

#[test]
fn replies_and_topics_are_told_apart() {
    let thread = |header: tl::types::MessageReplyHeader| {
        let told = facts(tl::types::Message {
            reply_to: Some(header.into()),
            ..text(supergroup())
        });
        (told.reply_to, told.topic)
    };
    let to = |id| tl::types::MessageReplyHeader {
        reply_to_msg_id: Some(id),
        ..header()
    };
    assert_eq!(thread(to(4)), (Some(4), None));
    // A thread below a post is none of a forum.
    let below = tl::types::MessageReplyHeader {
        reply_to_top_id: Some(2),
        ..to(4)
    };
    assert_eq!(thread(below), (Some(4), None));
    let in_topic = tl::types::MessageReplyHeader {
        forum_topic: true,
        ..to(2)
    };
    assert_eq!(thread(in_topic.clone()), (None, Some(2)));
    let answer_in_topic = tl::types::MessageReplyHeader {
        reply_to_msg_id: Some(4),
        reply_to_top_id: Some(2),
        ..in_topic
    };
    assert_eq!(thread(answer_in_topic), (Some(4), Some(2)));
    let elsewhere = tl::types::MessageReplyHeader {
        reply_to_peer_id: Some(user(3)),
        ..to(4)
    };
    assert_eq!(thread(elsewhere), (None, None));
}

#[test]
fn a_document_is_what_its_attributes_say() {
    let sticker = tl::types::DocumentAttributeSticker {
        mask: false,
        alt: String::new(),
        stickerset: tl::enums::InputStickerSet::Empty,
        mask_coords: None,
    };
    let animated = tl::enums::DocumentAttribute::Animated;
    assert_eq!(with_media(document(Vec::new())), Some(MediaKind::Document));
    assert_eq!(
        with_media(document(vec![video(false), sticker.into()])),
        Some(MediaKind::Sticker)
    );
    assert_eq!(with_media(document(vec![video(false)])), Some(MediaKind::Video));
    assert_eq!(with_media(document(vec![video(true)])), Some(MediaKind::VideoNote));
    assert_eq!(
        with_media(document(vec![video(false), animated])),
        Some(MediaKind::Animation)
    );
    assert_eq!(with_media(document(vec![audio(true)])), Some(MediaKind::Voice));
    assert_eq!(with_media(document(vec![audio(false)])), Some(MediaKind::Audio));
    let expired = tl::types::MessageMediaDocument {
        voice: true,
        document: None,
        ..document(Vec::new())
    };
    assert_eq!(with_media(expired), Some(MediaKind::Voice));
}

#[test]
fn other_media_have_their_names() {
    let photo = tl::types::MessageMediaPhoto {
        spoiler: false,
        live_photo: false,
        photo: None,
        ttl_seconds: None,
        video: None,
    };
    let dice = tl::types::MessageMediaDice {
        value: 6,
        emoticon: "🎲".into(),
        game_outcome: None,
    };
    let place = tl::types::MessageMediaGeo {
        geo: tl::enums::GeoPoint::Empty,
    };
    assert_eq!(with_media(photo), Some(MediaKind::Photo));
    assert_eq!(with_media(dice), Some(MediaKind::Dice));
    assert_eq!(with_media(place), Some(MediaKind::Location));
    assert_eq!(with_media(tl::enums::MessageMedia::Unsupported), Some(MediaKind::Other));
    assert_eq!(with_media(tl::enums::MessageMedia::Empty), None);
}

#[test]
fn who_came_and_who_went_is_told_with_who_did_it() {
    let added = |users: Vec<i64>| tl::types::MessageActionChatAddUser { users };
    let joined = |user_ids: Vec<i64>, by| ServiceMessage::Joined { user_ids, by };
    assert_eq!(happened(3, added(vec![4, 5])), joined(vec![4, 5], Some(3)));
    assert_eq!(happened(3, added(vec![3])), joined(vec![3], None));
    let by_link = tl::types::MessageActionChatJoinedByLink { inviter_id: 9 };
    assert_eq!(happened(3, by_link), joined(vec![3], None));
    assert_eq!(
        happened(3, tl::enums::MessageAction::ChatJoinedByRequest),
        joined(vec![3], None)
    );
    let gone = tl::types::MessageActionChatDeleteUser { user_id: 4 };
    let left = |by| ServiceMessage::Left { user_id: 4, by };
    assert_eq!(happened(4, gone.clone()), left(None));
    assert_eq!(happened(3, gone), left(Some(3)));
}

#[test]
fn what_changed_in_a_chat_is_told() {
    let title = tl::types::MessageActionChatEditTitle { title: "New".into() };
    assert_eq!(happened(3, title), ServiceMessage::TitleChanged { title: "New".into() });
    let pinned = facts(tl::types::MessageService {
        reply_to: Some(
            tl::types::MessageReplyHeader {
                reply_to_msg_id: Some(2),
                ..header()
            }
            .into(),
        ),
        ..service(3, tl::enums::MessageAction::PinMessage)
    });
    assert_eq!(pinned.service, Some(ServiceMessage::Pinned { message_id: Some(2) }));
    assert_eq!(pinned.reply_to, None);
    let migrated = tl::types::MessageActionChatMigrateTo { channel_id: 8 };
    assert_eq!(
        happened(3, migrated),
        ServiceMessage::Migrated {
            chat_id: -1_000_000_000_008
        }
    );
    let from = tl::types::MessageActionChannelMigrateFrom {
        title: "Old".into(),
        chat_id: 8,
    };
    assert_eq!(happened(3, from), ServiceMessage::Migrated { chat_id: -8 });
    assert_eq!(
        happened(3, tl::enums::MessageAction::ScreenshotTaken),
        ServiceMessage::Other {
            name: "messageActionScreenshotTaken".into()
        }
    );
}

#[test]
fn reactions_are_counted_by_name() {
    let count = |reaction: tl::enums::Reaction, count| {
        tl::enums::ReactionCount::from(tl::types::ReactionCount {
            chosen_order: None,
            reaction,
            count,
        })
    };
    let emoji = |emoticon: &str| {
        tl::enums::Reaction::from(tl::types::ReactionEmoji {
            emoticon: emoticon.into(),
        })
    };
    let told = reactions(
        &tl::types::MessageReactions {
            min: false,
            can_see_list: false,
            reactions_as_tags: false,
            results: vec![
                count(emoji("b"), 1),
                count(tl::enums::Reaction::Paid, 2),
                count(tl::types::ReactionCustomEmoji { document_id: 6 }.into(), 3),
                count(emoji("a"), 1),
                count(tl::enums::Reaction::Empty, 9),
            ],
            recent_reactions: None,
            top_reactors: None,
        }
        .into(),
    );
    let names: Vec<_> = told
        .iter()
        .map(|reaction| (reaction.reaction.as_str(), reaction.count))
        .collect();
    assert_eq!(names, [("custom:6", 3), ("paid", 2), ("a", 1), ("b", 1)]);
}
