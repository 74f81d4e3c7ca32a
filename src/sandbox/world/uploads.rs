//! Files: put in in parts, then made photos and documents that messages refer to.

use std::collections::{BTreeMap, HashMap};

use grammers_tl_types as tl;

use super::World;
use super::peers::PeerKey;
use super::refusal::bad;
use crate::sandbox::call::{Answer, RpcError, UserId};

/// A part's size is a multiple of this, and divides the largest.
const PART_UNIT: usize = 1024;
const LARGEST_PART: usize = 512 * 1024;
/// Where files lie that nobody has moved.
pub(super) const MAIN_DC: i32 = 2;
/// Telegram takes 4,000 parts of 512 KiB.
const MOST_PARTS: i32 = 4000;

/// Bytes that came in for a file, by part.
#[derive(Debug, Default)]
struct Parts {
    parts: BTreeMap<i32, Vec<u8>>,
}

/// What became a photo or a document.
#[derive(Debug, Clone)]
pub struct Stored {
    pub owner: UserId,
    pub bytes: Vec<u8>,
    pub(super) media: tl::enums::MessageMedia,
    /// The data centre where it lies.
    pub(super) dc: i32,
}

/// What is said of a document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DocumentFacts {
    pub mime_type: String,
    pub is_video: bool,
    pub is_voice: bool,
    /// Of a video or a voice message.
    pub seconds: f64,
    /// Width and height of a video.
    pub size: (i32, i32),
    /// A video that may be shown while it loads.
    pub streams: bool,
}

/// All files of the sandbox, in memory.
#[derive(Debug, Default)]
pub struct Uploads {
    parts: HashMap<(UserId, i64), Parts>,
    pub(super) stored: BTreeMap<i64, Stored>,
    last_id: i64,
    /// References of earlier ages have expired.
    pub(super) age: u32,
    /// The parts that were asked for, as (file, offset).
    pub(super) asked: Vec<(i64, i64)>,
}

impl Uploads {
    /// Keeps a part of a file.
    ///
    /// # Errors
    /// `FILE_PART_INVALID`, `FILE_PART_EMPTY`, `FILE_PART_SIZE_INVALID`.
    pub fn keep_part(&mut self, owner: UserId, file: i64, part: i32, bytes: Vec<u8>) -> Answer<()> {
        if !(0..MOST_PARTS).contains(&part) {
            return Err(bad("FILE_PART_INVALID"));
        }
        if bytes.is_empty() {
            return Err(bad("FILE_PART_EMPTY"));
        }
        if bytes.len() > LARGEST_PART {
            return Err(bad("FILE_PART_TOO_BIG"));
        }
        self.parts.entry((owner, file)).or_default().parts.insert(part, bytes);
        Ok(())
    }

    /// The whole file, taken out.
    fn assemble(&mut self, owner: UserId, file: &tl::enums::InputFile) -> Answer<Vec<u8>> {
        let (id, count) = match file {
            tl::enums::InputFile::File(file) => (file.id, file.parts),
            tl::enums::InputFile::Big(file) => (file.id, file.parts),
            tl::enums::InputFile::StoryDocument(_) => return Err(bad("FILE_PARTS_INVALID")),
        };
        let parts = self.parts.get(&(owner, id)).ok_or_else(|| bad("FILE_PARTS_INVALID"))?;
        for part in 0..count {
            let Some(bytes) = parts.parts.get(&part) else {
                return Err(RpcError::new(400, format!("FILE_PART_{part}_MISSING")));
            };
            if part + 1 < count && (!bytes.len().is_multiple_of(PART_UNIT) || !LARGEST_PART.is_multiple_of(bytes.len()))
            {
                return Err(bad("FILE_PART_SIZE_INVALID"));
            }
        }
        let parts = self.parts.remove(&(owner, id)).unwrap_or_default();
        Ok(parts.parts.into_values().flatten().collect())
    }

    /// What a photo or document is made of.
    pub fn find(&self, id: i64) -> Option<&Stored> {
        self.stored.get(&id)
    }

    /// By what a file is referred to now.
    pub(super) fn reference_of(&self, id: i64) -> Vec<u8> {
        [id.to_be_bytes().as_slice(), &self.age.to_be_bytes()].concat()
    }

    /// How many photos and documents there are.
    pub fn count(&self) -> usize {
        self.stored.len()
    }
}

impl World {
    /// Makes media of an upload, or finds media by reference.
    ///
    /// # Errors
    /// `MEDIA_INVALID`, `IMAGE_PROCESS_FAILED`, `FILE_REFERENCE_EXPIRED`, and those of files with parts missing.
    pub fn accept_media(&mut self, owner: UserId, media: &tl::enums::InputMedia) -> Answer<tl::enums::MessageMedia> {
        use tl::enums::InputMedia;
        match media {
            InputMedia::UploadedPhoto(photo) => {
                let bytes = self.uploads.assemble(owner, &photo.file)?;
                if !is_picture(&bytes) {
                    return Err(bad("IMAGE_PROCESS_FAILED"));
                }
                let id = self.next_file();
                let photo = self.tl_photo(id, &bytes, photo.spoiler);
                self.keep(id, owner, bytes, photo.clone());
                Ok(photo)
            }
            InputMedia::UploadedDocument(document) => {
                let bytes = self.uploads.assemble(owner, &document.file)?;
                let id = self.next_file();
                let media = self.tl_document(id, &bytes, document);
                self.keep(id, owner, bytes, media.clone());
                Ok(media)
            }
            InputMedia::Photo(photo) => {
                let tl::enums::InputPhoto::Photo(wanted) = &photo.id else {
                    return Err(bad("MEDIA_EMPTY"));
                };
                let mut media = self.by_reference(owner, wanted.id, &wanted.file_reference)?;
                if let tl::enums::MessageMedia::Photo(media) = &mut media {
                    media.spoiler = photo.spoiler;
                }
                Ok(media)
            }
            InputMedia::Document(document) => {
                let tl::enums::InputDocument::Document(wanted) = &document.id else {
                    return Err(bad("MEDIA_EMPTY"));
                };
                let mut media = self.by_reference(owner, wanted.id, &wanted.file_reference)?;
                if let tl::enums::MessageMedia::Document(media) = &mut media {
                    media.spoiler = document.spoiler;
                }
                Ok(media)
            }
            _ => Err(bad("MEDIA_INVALID")),
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

    /// What is said of the document of a channel's message. `None` when it has none.
    pub fn document_of(&self, chat: PeerKey, id: i32) -> Option<DocumentFacts> {
        use grammers_tl_types::enums::{Document, DocumentAttribute, MessageMedia};
        let PeerKey::Channel(channel) = chat else { return None };
        let message = self.channels.get(&channel)?.posts.get(id)?;
        let MessageMedia::Document(media) = message.extras.as_ref()?.media.as_ref()? else {
            return None;
        };
        let Document::Document(document) = media.document.as_ref()? else {
            return None;
        };
        let mut facts = DocumentFacts {
            mime_type: document.mime_type.clone(),
            is_video: media.video,
            is_voice: media.voice,
            ..DocumentFacts::default()
        };
        for attribute in &document.attributes {
            match attribute {
                DocumentAttribute::Video(video) => {
                    facts.seconds = video.duration;
                    facts.size = (video.w, video.h);
                    facts.streams = video.supports_streaming;
                }
                DocumentAttribute::Audio(audio) => facts.seconds = audio.duration.into(),
                _ => {}
            }
        }
        Some(facts)
    }

    fn by_reference(&self, owner: UserId, id: i64, reference: &[u8]) -> Answer<tl::enums::MessageMedia> {
        let stored = self.uploads.stored.get(&id).filter(|stored| stored.owner == owner);
        let stored = stored.ok_or_else(|| bad("MEDIA_INVALID"))?;
        if reference != self.uploads.reference_of(id) {
            return Err(bad("FILE_REFERENCE_EXPIRED"));
        }
        Ok(stored.media.clone())
    }

    pub(super) fn next_file(&mut self) -> i64 {
        self.uploads.last_id += 1;
        5_000_000 + self.uploads.last_id
    }

    pub(super) fn keep(&mut self, id: i64, owner: UserId, bytes: Vec<u8>, media: tl::enums::MessageMedia) {
        let dc = MAIN_DC;
        let stored = Stored {
            owner,
            bytes,
            media,
            dc,
        };
        self.uploads.stored.insert(id, stored);
    }

    pub(super) fn tl_photo(&self, id: i64, bytes: &[u8], spoiler: bool) -> tl::enums::MessageMedia {
        let size = tl::types::PhotoSize {
            r#type: "x".to_owned(),
            w: 640,
            h: 480,
            size: i32::try_from(bytes.len()).unwrap_or(i32::MAX),
        };
        let photo = tl::types::Photo {
            has_stickers: false,
            id,
            access_hash: !id,
            file_reference: self.uploads.reference_of(id),
            date: self.now(),
            sizes: vec![size.into()],
            video_sizes: None,
            dc_id: MAIN_DC,
        };
        tl::types::MessageMediaPhoto {
            spoiler,
            live_photo: false,
            photo: Some(photo.into()),
            ttl_seconds: None,
            video: None,
        }
        .into()
    }

    pub(super) fn tl_document(
        &self,
        id: i64,
        bytes: &[u8],
        uploaded: &tl::types::InputMediaUploadedDocument,
    ) -> tl::enums::MessageMedia {
        let mut attributes = uploaded.attributes.iter();
        let voice = attributes.any(|one| matches!(one, tl::enums::DocumentAttribute::Audio(audio) if audio.voice));
        let mut attributes = uploaded.attributes.iter();
        let video = attributes.any(|one| matches!(one, tl::enums::DocumentAttribute::Video(_)));
        let document = tl::types::Document {
            id,
            access_hash: !id,
            file_reference: self.uploads.reference_of(id),
            date: self.now(),
            mime_type: uploaded.mime_type.clone(),
            size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
            thumbs: None,
            video_thumbs: None,
            dc_id: MAIN_DC,
            attributes: uploaded.attributes.clone(),
        };
        tl::types::MessageMediaDocument {
            nopremium: false,
            spoiler: uploaded.spoiler,
            video,
            round: false,
            voice,
            document: Some(document.into()),
            alt_documents: None,
            video_cover: None,
            video_timestamp: None,
            ttl_seconds: None,
        }
        .into()
    }
}

fn is_picture(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, 0xd8, 0xff]) || bytes.starts_with(b"\x89PNG\r\n\x1a\n")
}
