//! Media of messages: put into Telegram in parts, then sent by reference.
//!
//! An upload sends nothing to anybody and may be repeated. `messages.uploadMedia` turns it into a photo or a document of
//! the account, which any number of messages can have, and by whose id a message is recognised again.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use grammers_session::types::PeerRef;
use grammers_tl_types::{self as tl, Deserializable, Serializable};
use wireroom_jobs::{
    Action,
    ports::{Chat, Decision, Draft, TelegramError},
    publish::post::{Attachment, MediaKind, Uploaded},
};

use super::{
    JobTelegram,
    media_facts::{Facts, Reader},
    own_error, text,
    text::Parsed,
};

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
    file_of(media) == wanted
}

/// Whether two messages have the same media: a forward has its source's files.
pub(super) fn are_same(one: Option<&tl::enums::MessageMedia>, other: Option<&tl::enums::MessageMedia>) -> bool {
    // A preview of a link may be there or not; it is what the text says.
    let kind = |media: Option<&tl::enums::MessageMedia>| {
        media
            .filter(|media| {
                !matches!(
                    media,
                    tl::enums::MessageMedia::WebPage(_) | tl::enums::MessageMedia::Empty
                )
            })
            .map(std::mem::discriminant)
    };
    kind(one) == kind(other) && file_of(one) == file_of(other)
}

/// The number of a photo or document. A preview of a link, a place, a poll: no file.
fn file_of(media: Option<&tl::enums::MessageMedia>) -> Option<i64> {
    match media {
        Some(tl::enums::MessageMedia::Photo(photo)) => match &photo.photo {
            Some(tl::enums::Photo::Photo(photo)) => Some(photo.id),
            _ => None,
        },
        Some(tl::enums::MessageMedia::Document(document)) => match &document.document {
            Some(tl::enums::Document::Document(document)) => Some(document.id),
            _ => None,
        },
        _ => None,
    }
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
        let units = i32::try_from(items.len()).unwrap_or(i32::MAX);
        Box::pin(self.call_of_about(units, Action::Send, chat, request)).await
    }

    /// Puts an attachment into Telegram in parts. What was kept of an upload that broke off is forgotten there.
    /// For no chat in particular: what one chat does not take, another one may.
    pub(super) async fn put_in(&self, item: &Attachment) -> Result<Uploaded, TelegramError> {
        let Some(source) = &self.media else {
            return Err(own_error(
                "file_not_found",
                "This process has no files.",
                Decision::Content,
            ));
        };
        let media = source.open(item).await.map_err(|error| refused(&error))?;
        let label = Label {
            name: media.name.clone(),
            content_type: media.content_type.clone(),
        };
        let mut reader = Reader::default();
        let file = self.put_parts(media, &mut reader).await?;
        let facts = reader.facts();
        let request = tl::functions::messages::UploadMedia {
            business_connection_id: None,
            peer: if self.connection.storage().is_bot() {
                tl::enums::InputPeer::Empty
            } else {
                tl::enums::InputPeer::PeerSelf
            },
            media: described(item, &label, facts, file),
        };
        let media = Box::pin(self.call(Action::Other, None, &request)).await?;
        let input = reference_to(&media, item.spoiler).ok_or_else(|| {
            own_error(
                "media_invalid",
                "Telegram took the file and made no media of it.",
                Decision::Content,
            )
        })?;
        Ok(Uploaded {
            reference: input.to_bytes(),
            spoiler: item.spoiler,
        })
    }

    /// `reader` sees the bytes as they go by.
    async fn put_parts(&self, media: OpenMedia, reader: &mut Reader) -> Result<tl::enums::InputFile, TelegramError> {
        let file_id = random_file_id()?;
        let is_big = media.size > BIG;
        let parts = i32::try_from(media.size.div_ceil(PART as u64)).unwrap_or(i32::MAX);
        let mut bytes = media.bytes;
        let mut rest: Vec<u8> = Vec::with_capacity(PART);
        let mut part = 0;
        loop {
            let chunk = bytes.next().await.transpose().map_err(|error| refused(&error))?;
            let is_end = chunk.is_none();
            reader.take(chunk.as_deref().unwrap_or_default());
            rest.extend_from_slice(chunk.as_deref().unwrap_or_default());
            while rest.len() >= PART || (is_end && !rest.is_empty()) {
                let behind = rest.split_off(rest.len().min(PART));
                let piece = std::mem::replace(&mut rest, behind);
                self.put_part(file_id, part, is_big.then_some(parts), piece).await?;
                part += 1;
            }
            if is_end {
                break;
            }
        }
        if part != parts {
            return Err(own_error(
                "file_changed",
                "The file store gave another number of bytes than the file has.",
                Decision::Retry,
            ));
        }
        let name = media.name.unwrap_or_else(|| "file".to_owned());
        Ok(if is_big {
            tl::types::InputFileBig {
                id: file_id,
                parts,
                name,
            }
            .into()
        } else {
            tl::types::InputFile {
                id: file_id,
                parts,
                name,
                md5_checksum: String::new(),
            }
            .into()
        })
    }

    async fn put_part(
        &self,
        file_id: i64,
        file_part: i32,
        total: Option<i32>,
        bytes: Vec<u8>,
    ) -> Result<(), TelegramError> {
        let kept = if let Some(file_total_parts) = total {
            let request = tl::functions::upload::SaveBigFilePart {
                file_id,
                file_part,
                file_total_parts,
                bytes,
            };
            self.call(Action::Other, None, &request).await?
        } else {
            let request = tl::functions::upload::SaveFilePart {
                file_id,
                file_part,
                bytes,
            };
            self.call(Action::Other, None, &request).await?
        };
        if kept {
            return Ok(());
        }
        Err(own_error(
            "upload_refused",
            "Telegram did not keep a part of the file.",
            Decision::Retry,
        ))
    }
}

/// Bytes of a part: Telegram's largest.
const PART: usize = 512 * 1024;
/// Larger files are put in by other calls.
const BIG: u64 = 10 * 1024 * 1024;

/// Where the media of messages come from.
#[async_trait]
pub trait MediaSource: Send + Sync {
    /// Opens an attachment: one that was uploaded, or one that is fetched first.
    async fn open(&self, item: &Attachment) -> Result<OpenMedia, MediaError>;
}

/// A file whose bytes are read as they are put into Telegram.
pub struct OpenMedia {
    pub size: u64,
    pub name: Option<String>,
    pub content_type: String,
    pub bytes: BoxStream<'static, Result<Bytes, MediaError>>,
}

/// Why there is no file to send.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    #[error("There is no file of the id in args.media, or its time is over.")]
    NotFound,
    /// Another attempt would be refused too.
    #[error("{0}")]
    Refused(String),
    /// Its address did not give it; it may the next time.
    #[error("{0}")]
    Unreachable(String),
    /// It may be there the next time.
    #[error("The file cannot be read now.")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn refused(error: &MediaError) -> TelegramError {
    let message = error.to_string();
    match error {
        MediaError::NotFound => own_error("file_not_found", &message, Decision::Content),
        MediaError::Refused(_) => own_error("media_refused", &message, Decision::Content),
        MediaError::Unreachable(_) | MediaError::Failed(_) => own_error("file_unavailable", &message, Decision::Retry),
    }
}

fn random_file_id() -> Result<i64, TelegramError> {
    getrandom::u64().map(u64::cast_signed).map_err(|_| {
        own_error(
            "no_randomness",
            "The machine gave no random number for the upload.",
            Decision::Retry,
        )
    })
}

struct Label {
    name: Option<String>,
    content_type: String,
}

/// What an upload is to become. What the job says of it counts before what its bytes say.
fn described(item: &Attachment, label: &Label, facts: Facts, file: tl::enums::InputFile) -> tl::enums::InputMedia {
    if item.kind == MediaKind::Photo {
        return tl::types::InputMediaUploadedPhoto {
            spoiler: item.spoiler,
            live_photo: false,
            file,
            stickers: None,
            ttl_seconds: None,
            video: None,
        }
        .into();
    }
    let file_name = label.name.clone().unwrap_or_else(|| "file".to_owned());
    let mut attributes = vec![tl::types::DocumentAttributeFilename { file_name }.into()];
    match item.kind {
        MediaKind::Voice => attributes.push(voice(item, facts)),
        MediaKind::Video => attributes.push(video(item, facts)),
        MediaKind::Photo | MediaKind::Document => {}
    }
    tl::types::InputMediaUploadedDocument {
        nosound_video: false,
        force_file: item.kind == MediaKind::Document,
        spoiler: item.spoiler,
        file,
        thumb: None,
        mime_type: mime_type(item.kind, label, facts),
        attributes,
        stickers: None,
        video_cover: None,
        video_timestamp: None,
        ttl_seconds: None,
    }
    .into()
}

fn voice(item: &Attachment, facts: Facts) -> tl::enums::DocumentAttribute {
    let read = facts.seconds.map(f64::round);
    #[expect(clippy::cast_possible_truncation, reason = "clamped to what fits")]
    let read = read.map(|seconds| seconds.clamp(1.0, 86_400.0) as i32);
    tl::types::DocumentAttributeAudio {
        voice: true,
        duration: item.duration_seconds.or(read).unwrap_or(0),
        title: None,
        performer: None,
        waveform: None,
    }
    .into()
}

/// Without it a video is a file to be loaded.
fn video(item: &Attachment, facts: Facts) -> tl::enums::DocumentAttribute {
    let given = item.width.zip(item.height);
    let (w, h) = given.or(facts.size).unwrap_or((0, 0));
    tl::types::DocumentAttributeVideo {
        round_message: false,
        supports_streaming: true,
        nosound: false,
        duration: item.duration_seconds.map(f64::from).or(facts.seconds).unwrap_or(0.0),
        w,
        h,
        preload_prefix_size: None,
        video_start_ts: None,
        video_codec: None,
    }
    .into()
}

/// Telegram goes by it: a video that is called anything else is a file.
fn mime_type(kind: MediaKind, label: &Label, facts: Facts) -> String {
    match kind {
        MediaKind::Voice => "audio/ogg".to_owned(),
        MediaKind::Video if facts.is_mp4 && !label.content_type.starts_with("video/") => "video/mp4".to_owned(),
        MediaKind::Video | MediaKind::Photo | MediaKind::Document => label.content_type.clone(),
    }
}

/// What an upload became, as messages name it.
fn reference_to(media: &tl::enums::MessageMedia, spoiler: bool) -> Option<tl::enums::InputMedia> {
    match media {
        tl::enums::MessageMedia::Photo(media) => match media.photo.as_ref()? {
            tl::enums::Photo::Photo(photo) => Some(
                tl::types::InputMediaPhoto {
                    spoiler,
                    live_photo: false,
                    id: tl::types::InputPhoto {
                        id: photo.id,
                        access_hash: photo.access_hash,
                        file_reference: photo.file_reference.clone(),
                    }
                    .into(),
                    ttl_seconds: None,
                    video: None,
                }
                .into(),
            ),
            tl::enums::Photo::Empty(_) => None,
        },
        tl::enums::MessageMedia::Document(media) => match media.document.as_ref()? {
            tl::enums::Document::Document(document) => Some(
                tl::types::InputMediaDocument {
                    spoiler,
                    id: tl::types::InputDocument {
                        id: document.id,
                        access_hash: document.access_hash,
                        file_reference: document.file_reference.clone(),
                    }
                    .into(),
                    video_cover: None,
                    video_timestamp: None,
                    ttl_seconds: None,
                    query: None,
                }
                .into(),
            ),
            tl::enums::Document::Empty(_) => None,
        },
        _ => None,
    }
}
