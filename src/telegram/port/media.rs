//! Media of messages: put into Telegram in parts, then sent by reference.
//!
//! An upload sends nothing to anybody and may be repeated. `messages.uploadMedia` turns it into a photo or a document of
//! the account, which any number of messages can have, and by whose id a message is recognised again.

use grammers_session::types::PeerRef;
use grammers_tl_types::{self as tl, Deserializable, Serializable};
use wireroom_jobs::{
    Action,
    ports::{Chat, Decision, Draft, TelegramError},
    publish::post::{Attachment, Uploaded},
};

use super::{JobTelegram, own_error, text, text::Parsed};

/// The references as Telegram takes them.
pub(super) fn inputs(uploaded: &[Uploaded]) -> Result<Vec<tl::enums::InputMedia>, TelegramError> {
    let inputs = uploaded.iter().map(|item| {
        tl::enums::InputMedia::from_bytes(&item.reference).map_err(|_| {
            own_error(
                "media_reference_unreadable",
                "What was uploaded was kept by another version of Wireroom.",
                Decision::Content,
            )
        })
    });
    inputs.collect()
}

/// Whether a message's media are what was uploaded; without any, that it has none that count.
pub(super) fn is(media: Option<&tl::enums::MessageMedia>, wanted: Option<&tl::enums::InputMedia>) -> bool {
    let there = match media {
        Some(tl::enums::MessageMedia::Photo(photo)) => match &photo.photo {
            Some(tl::enums::Photo::Photo(photo)) => Some(photo.id),
            _ => None,
        },
        Some(tl::enums::MessageMedia::Document(document)) => match &document.document {
            Some(tl::enums::Document::Document(document)) => Some(document.id),
            _ => None,
        },
        // A preview of a link, a place, a poll: no upload.
        _ => None,
    };
    let wanted = match wanted {
        Some(tl::enums::InputMedia::Photo(photo)) => match &photo.id {
            tl::enums::InputPhoto::Photo(photo) => Some(photo.id),
            tl::enums::InputPhoto::Empty => None,
        },
        Some(tl::enums::InputMedia::Document(document)) => match &document.id {
            tl::enums::InputDocument::Document(document) => Some(document.id),
            tl::enums::InputDocument::Empty => None,
        },
        _ => None,
    };
    there == wanted
}

impl JobTelegram {
    pub(super) async fn send_media(
        &self,
        chat: &Chat,
        random_id: i64,
        draft: &Draft,
        parsed: &Parsed,
        media: &tl::enums::InputMedia,
    ) -> Result<tl::enums::Updates, TelegramError> {
        let extras = &draft.extras;
        let request = |peer: PeerRef| tl::functions::messages::SendMedia {
            silent: draft.silent,
            background: false,
            clear_draft: false,
            noforwards: extras.protect,
            update_stickersets_order: false,
            invert_media: false,
            allow_paid_floodskip: false,
            peer: peer.into(),
            reply_to: text::reply(extras.reply_to, extras.topic),
            media: media.clone(),
            message: parsed.text.clone(),
            random_id,
            reply_markup: text::markup_of(&extras.buttons),
            entities: parsed.entities(),
            schedule_date: extras.schedule_at.map(text::seconds),
            schedule_repeat_period: None,
            send_as: None,
            quick_reply_shortcut: None,
            effect: None,
            allow_paid_stars: None,
            suggested_post: None,
        };
        Box::pin(self.call_about(Action::Send, chat, request)).await
    }

    /// Several media as one: the caption stands under the first.
    pub(super) async fn send_album(
        &self,
        chat: &Chat,
        random_id: i64,
        draft: &Draft,
        parsed: &Parsed,
        media: &[tl::enums::InputMedia],
    ) -> Result<tl::enums::Updates, TelegramError> {
        let extras = &draft.extras;
        let items: Vec<tl::enums::InputSingleMedia> = (0..)
            .zip(media)
            .map(|(step, item)| {
                let is_first = step == 0;
                tl::types::InputSingleMedia {
                    media: item.clone(),
                    random_id: random_id.wrapping_add(step),
                    message: if is_first { parsed.text.clone() } else { String::new() },
                    entities: parsed.entities().filter(|_| is_first),
                }
                .into()
            })
            .collect();
        let request = |peer: PeerRef| tl::functions::messages::SendMultiMedia {
            silent: draft.silent,
            background: false,
            clear_draft: false,
            noforwards: extras.protect,
            update_stickersets_order: false,
            invert_media: false,
            allow_paid_floodskip: false,
            peer: peer.into(),
            reply_to: text::reply(extras.reply_to, extras.topic),
            multi_media: items.clone(),
            schedule_date: extras.schedule_at.map(text::seconds),
            send_as: None,
            quick_reply_shortcut: None,
            effect: None,
            allow_paid_stars: None,
        };
        Box::pin(self.call_about(Action::Send, chat, request)).await
    }

    pub(super) async fn put_in(&self, _chat: &Chat, _item: &Attachment) -> Result<Uploaded, TelegramError> {
        Err(own_error("media_unsupported", "This version sends no media.", Decision::Content))
    }

    /// What an upload is called from now on.
    pub(super) fn uploaded(input: &tl::enums::InputMedia, spoiler: bool) -> Uploaded {
        Uploaded {
            reference: input.to_bytes(),
            spoiler,
        }
    }
}
