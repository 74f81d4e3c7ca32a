//! Giving files back, and what a test does to them from outside: put them into chats, let their references expire, move them to
//! another data centre.

use grammers_tl_types as tl;

use super::World;
use super::hearing::Actor;
use super::messages::{Content, Draft, Extras};
use super::peers::PeerKey;
use super::refusal::bad;
use crate::sandbox::call::{Answer, RpcError, UserId};

/// Offsets and lengths are multiples of this.
const UNIT: i64 = 4096;
/// A part divides this, and does not cross a multiple of it.
const WINDOW: i64 = 1024 * 1024;

/// A file that somebody in the world sends.
#[derive(Debug, Clone)]
pub struct SentFile {
    pub bytes: Vec<u8>,
    /// A photo whatever its bytes are; otherwise a document of this type and name.
    pub is_photo: bool,
    pub mime_type: String,
    pub name: String,
    /// A voice message.
    pub is_voice: bool,
}

impl World {
    /// A part of a file, for whoever is signed in.
    ///
    /// # Errors
    /// `LIMIT_INVALID`, `OFFSET_INVALID`, `LOCATION_INVALID`, `FILE_REFERENCE_EXPIRED`, `FILE_MIGRATE_X` from another data
    /// centre than the file's.
    pub fn file_part(
        &mut self,
        dc: i32,
        location: &tl::enums::InputFileLocation,
        offset: i64,
        limit: i64,
    ) -> Answer<Vec<u8>> {
        use tl::enums::InputFileLocation as L;
        let (id, hash, reference, size) = match location {
            L::InputPhotoFileLocation(it) => (it.id, it.access_hash, &it.file_reference, it.thumb_size.as_str()),
            L::InputDocumentFileLocation(it) => (it.id, it.access_hash, &it.file_reference, it.thumb_size.as_str()),
            _ => return Err(bad("LOCATION_INVALID")),
        };
        if limit < 1 || limit % UNIT != 0 || WINDOW % limit != 0 {
            return Err(bad("LIMIT_INVALID"));
        }
        if offset < 0 || offset % UNIT != 0 || offset / WINDOW != (offset + limit - 1) / WINDOW {
            return Err(bad("OFFSET_INVALID"));
        }
        let stored = self.uploads.find(id).ok_or_else(|| bad("LOCATION_INVALID"))?;
        let wanted_size = match &stored.media {
            tl::enums::MessageMedia::Photo(_) => "x",
            _ => "",
        };
        if hash != !id || size != wanted_size {
            return Err(bad("LOCATION_INVALID"));
        }
        if stored.dc != dc {
            return Err(RpcError::new(303, format!("FILE_MIGRATE_{}", stored.dc)));
        }
        if *reference != self.uploads.reference_of(id) {
            return Err(bad("FILE_REFERENCE_EXPIRED"));
        }
        let (from, count) = (usize::try_from(offset), usize::try_from(limit));
        let (Ok(from), Ok(count)) = (from, count) else {
            return Err(bad("OFFSET_INVALID"));
        };
        let part: Vec<u8> = stored.bytes.iter().skip(from).take(count).copied().collect();
        self.uploads.asked.push((id, offset));
        Ok(part)
    }

    /// The parts that were given, as (file, offset), in order.
    pub fn parts_given(&self) -> Vec<(i64, i64)> {
        self.uploads.asked.clone()
    }

    /// Writes messages with files to a chat as a user of the world, as one album when there are several. The ids of the messages, and
    /// those of the files.
    pub fn post_files_as(&mut self, user: UserId, chat: PeerKey, files: &[SentFile]) -> Answer<Vec<(i32, i64)>> {
        self.person(user)?;
        self.may_write(user, chat)?;
        let mut posted: Vec<(i32, i64)> = Vec::with_capacity(files.len());
        for file in files {
            let id = self.next_file();
            let media = if file.is_photo {
                self.tl_photo(id, &file.bytes, false)
            } else {
                self.tl_document(id, &file.bytes, &described(file))
            };
            self.keep(id, user, file.bytes.clone(), media.clone());
            let first = posted.first().map_or(id, |(_, first)| *first);
            let group = (files.len() > 1).then_some(first);
            posted.push((self.post_media(user, chat, media, group)?, id));
        }
        Ok(posted)
    }

    /// Writes a message with a file that somebody has sent before: the same to Telegram, whoever sends it.
    pub fn post_again_as(&mut self, user: UserId, chat: PeerKey, file: i64) -> Answer<i32> {
        let stored = self.uploads.find(file).ok_or_else(|| bad("MEDIA_INVALID"))?;
        let media = stored.media.clone();
        self.post_media(user, chat, media, None)
    }

    fn post_media(
        &mut self,
        user: UserId,
        chat: PeerKey,
        media: tl::enums::MessageMedia,
        group: Option<i64>,
    ) -> Answer<i32> {
        let extras = Extras {
            media: Some(media),
            group,
            ..Extras::default()
        };
        let draft = Draft {
            content: Content::Text {
                text: String::new(),
                entities: Vec::new(),
            },
            extras: Some(Box::new(extras)),
            ..Draft::text("")
        };
        Ok(self.post(Actor::offstage(user), chat, draft)?.id)
    }

    /// Moves a file to another data centre. `is_told`: messages say so; otherwise only `FILE_MIGRATE` does.
    pub fn move_file(&mut self, file: i64, dc: i32, is_told: bool) {
        if let Some(stored) = self.uploads.stored.get_mut(&file) {
            stored.dc = dc;
        }
        if is_told {
            self.change_media(|id, _, named| {
                if id == file {
                    *named = dc;
                }
            });
        }
    }

    /// Lets all references that were handed out so far expire: whoever reads a message again gets a fresh one.
    pub fn expire_file_references(&mut self) {
        self.uploads.age += 1;
        let age = self.uploads.age;
        self.change_media(|id, reference, _| *reference = [id.to_be_bytes().as_slice(), &age.to_be_bytes()].concat());
    }

    /// Changes reference and data centre wherever a file is shown.
    fn change_media(&mut self, change: impl Fn(i64, &mut Vec<u8>, &mut i32)) {
        let boxes = self
            .channels
            .values_mut()
            .map(|channel| &mut channel.posts)
            .chain(self.accounts.values_mut().map(|account| &mut account.inbox));
        for letters in boxes {
            let with_media = letters.newest_first().filter(|message| {
                let extras = message.extras.as_deref();
                extras.is_some_and(|extras| extras.media.is_some())
            });
            let ids: Vec<i32> = with_media.map(|message| message.id).collect();
            for id in ids {
                letters.change(id, |extras| {
                    if let Some(media) = &mut extras.media {
                        change_one(media, &change);
                    }
                });
            }
        }
        for stored in self.uploads.stored.values_mut() {
            change_one(&mut stored.media, &change);
        }
    }
}

fn change_one(media: &mut tl::enums::MessageMedia, change: &impl Fn(i64, &mut Vec<u8>, &mut i32)) {
    match media {
        tl::enums::MessageMedia::Photo(media) => {
            if let Some(tl::enums::Photo::Photo(photo)) = &mut media.photo {
                change(photo.id, &mut photo.file_reference, &mut photo.dc_id);
            }
        }
        tl::enums::MessageMedia::Document(media) => {
            if let Some(tl::enums::Document::Document(document)) = &mut media.document {
                change(document.id, &mut document.file_reference, &mut document.dc_id);
            }
        }
        _ => {}
    }
}

fn described(file: &SentFile) -> tl::types::InputMediaUploadedDocument {
    let mut attributes = vec![
        tl::types::DocumentAttributeFilename {
            file_name: file.name.clone(),
        }
        .into(),
    ];
    if file.is_voice {
        let voice = tl::types::DocumentAttributeAudio {
            voice: true,
            duration: 1,
            title: None,
            performer: None,
            waveform: None,
        };
        attributes.push(voice.into());
    }
    let nothing = tl::types::InputFile {
        id: 0,
        parts: 0,
        name: String::new(),
        md5_checksum: String::new(),
    };
    tl::types::InputMediaUploadedDocument {
        nosound_video: false,
        force_file: false,
        spoiler: false,
        file: nothing.into(),
        thumb: None,
        mime_type: file.mime_type.clone(),
        attributes,
        stickers: None,
        video_cover: None,
        video_timestamp: None,
        ttl_seconds: None,
    }
}
