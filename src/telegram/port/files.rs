//! Files of messages: which one a message carries, and its bytes, part by part, from the data centre where they lie.

use grammers_session::types::{PeerKind, PeerRef};
use grammers_tl_types::{self as tl, Deserializable, Identifiable, Serializable};
use wireroom_jobs::{
    Action,
    ports::{Chat, Decision, TelegramError},
    scan::ports::{FilePart, Medium, RemoteFile, ScannedMessage},
};

use super::{JobTelegram, chats::kind_of, failures, own_error};
use crate::telegram::connection::CallError;

/// How often Telegram may send one request on.
const MOST_MOVES: u32 = 2;

/// The file that a message carries, as far as Telegram shows it.
pub(super) fn file_of(message: &tl::enums::Message) -> Option<RemoteFile> {
    let tl::enums::Message::Message(message) = message else {
        return None;
    };
    match message.media.as_ref()? {
        tl::enums::MessageMedia::Photo(media) => match media.photo.as_ref()? {
            tl::enums::Photo::Photo(photo) => photo_file(photo),
            tl::enums::Photo::Empty(_) => None,
        },
        tl::enums::MessageMedia::Document(media) => match media.document.as_ref()? {
            tl::enums::Document::Document(document) => Some(document_file(document)),
            tl::enums::Document::Empty(_) => None,
        },
        _ => None,
    }
}

/// A photo in its largest size.
fn photo_file(photo: &tl::types::Photo) -> Option<RemoteFile> {
    let sizes = photo.sizes.iter().filter_map(|size| match size {
        tl::enums::PhotoSize::Size(size) => Some((i64::from(size.w) * i64::from(size.h), &size.r#type, size.size)),
        tl::enums::PhotoSize::Progressive(size) => {
            let whole = size.sizes.iter().copied().max()?;
            Some((i64::from(size.w) * i64::from(size.h), &size.r#type, whole))
        }
        _ => None,
    });
    let (_, name, bytes) = sizes.max_by_key(|(area, _, _)| *area)?;
    let location = tl::types::InputPhotoFileLocation {
        id: photo.id,
        access_hash: photo.access_hash,
        file_reference: photo.file_reference.clone(),
        thumb_size: name.clone(),
    };
    Some(RemoteFile {
        medium: Medium::Photo,
        id: photo.id,
        size_bytes: bytes.into(),
        // Telegram makes every photo one.
        content_type: "image/jpeg".to_owned(),
        name: None,
        dc: photo.dc_id,
        location: tl::enums::InputFileLocation::from(location).to_bytes(),
    })
}

fn document_file(document: &tl::types::Document) -> RemoteFile {
    let name = document.attributes.iter().find_map(|attribute| match attribute {
        tl::enums::DocumentAttribute::Filename(name) => Some(plain_name(&name.file_name)),
        _ => None,
    });
    let location = tl::types::InputDocumentFileLocation {
        id: document.id,
        access_hash: document.access_hash,
        file_reference: document.file_reference.clone(),
        thumb_size: String::new(),
    };
    RemoteFile {
        medium: Medium::Document,
        id: document.id,
        size_bytes: document.size,
        content_type: plain_type(&document.mime_type),
        name: name.filter(|name| !name.is_empty()),
        dc: document.dc_id,
        location: tl::enums::InputFileLocation::from(location).to_bytes(),
    }
}

/// A name that whoever sent it chose, without what would make it a path, and not too long.
fn plain_name(name: &str) -> String {
    let plain = name.chars().map(|c| match c {
        '/' | '\\' => '_',
        c => c,
    });
    plain.filter(|c| !c.is_control()).take(100).collect()
}

/// A type that is none becomes that of bytes of any kind.
fn plain_type(given: &str) -> String {
    let plain = given.to_ascii_lowercase();
    let is_type = plain.len() <= 100
        && plain.split('/').count() == 2
        && plain
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"/.+-_".contains(&byte));
    if is_type {
        plain
    } else {
        "application/octet-stream".to_owned()
    }
}

impl JobTelegram {
    pub(super) async fn read_again(&self, chat: &Chat, id: i32) -> Result<Option<ScannedMessage>, TelegramError> {
        let wanted: Vec<tl::enums::InputMessage> = vec![tl::types::InputMessageId { id }.into()];
        let answer = if kind_of(chat)? == PeerKind::Channel {
            let request = |peer: PeerRef| tl::functions::channels::GetMessages {
                channel: peer.into(),
                id: wanted.clone(),
            };
            self.call_about(Action::Read, chat, request).await?
        } else {
            let request = tl::functions::messages::GetMessages { id: wanted };
            self.call(Action::Read, None, &request).await?
        };
        let page = self.page_of_messages(answer).await?;
        let mut found = page.messages.into_iter();
        Ok(found.find(|scanned| scanned.message.id == id && scanned.message.chat_id == chat.id))
    }

    pub(super) async fn part_of_file(
        &self,
        file: &RemoteFile,
        offset: i64,
        limit: i32,
    ) -> Result<FilePart, TelegramError> {
        let location = tl::enums::InputFileLocation::from_bytes(&file.location).map_err(|_| {
            own_error(
                "FILE_REFERENCE_EXPIRED",
                "What the file is asked for with was kept by another version of Wireroom.",
                Decision::Content,
            )
        })?;
        let request = tl::functions::upload::GetFile {
            precise: false,
            cdn_supported: false,
            location,
            offset,
            limit,
        };
        // Where the last part came from, the next one does too.
        let moved = *self.moved_file.lock().await;
        let mut dc = moved.filter(|(id, _)| *id == file.id).map_or(file.dc, |(_, dc)| dc);
        for _ in 0..=MOST_MOVES {
            if !self.connection.knows(dc) {
                return Ok(FilePart::Elsewhere);
            }
            match self.ask_in(dc, &request).await? {
                Asked::Answer(tl::enums::upload::File::File(part)) => return Ok(FilePart::Bytes(part.bytes)),
                Asked::Answer(tl::enums::upload::File::CdnRedirect(_)) => return Ok(FilePart::Elsewhere),
                Asked::Moved(to) => {
                    *self.moved_file.lock().await = Some((file.id, to));
                    dc = to;
                }
            }
        }
        Ok(FilePart::Elsewhere)
    }

    /// One call, as every other one, in the data centre `dc`.
    async fn ask_in(&self, dc: i32, request: &tl::functions::upload::GetFile) -> Result<Asked, TelegramError> {
        let action = Action::Other;
        self.admit(action, None)?;
        self.pace.turn().await;
        self.admit(action, None)?;
        self.bind().await?;
        let mut waits = 0;
        loop {
            let answer = if dc == self.connection.storage().home_dc() {
                self.connection.call(request).await
            } else {
                self.connection.call_elsewhere(dc, request).await
            };
            let error = match answer {
                Ok(answer) => return Ok(Asked::Answer(answer)),
                Err(CallError::Rpc(error)) => error,
                Err(other) => return Err(failures::without_answer(&other)),
            };
            if error.name == "FILE_MIGRATE"
                && let Some(to) = error.value.and_then(|to| i32::try_from(to).ok())
            {
                return Ok(Asked::Moved(to));
            }
            if is_about_the_file(&error.name) {
                return Err(own_error(
                    &error.name,
                    "Telegram does not give the file by this reference.",
                    Decision::Content,
                ));
            }
            let call = failures::Call {
                action,
                chat_id: None,
                method: tl::name_for_id(tl::functions::upload::GetFile::CONSTRUCTOR_ID),
            };
            match self.on_refusal(call, &error, waits).await {
                Some(error) => return Err(error),
                None => waits += 1,
            }
            self.admit_again(action, None)?;
        }
    }
}

/// What came of asking.
enum Asked {
    Answer(tl::enums::upload::File),
    /// It lies there.
    Moved(i32),
}

/// Refusals that are no trouble of the session's: the scan passes the file over, or asks with a fresh reference.
fn is_about_the_file(name: &str) -> bool {
    name.starts_with("FILE_REFERENCE_")
        || [
            "FILE_ID_INVALID",
            "LOCATION_INVALID",
            "LOCATION_NOT_AVAILABLE",
            "FILEREF_UPGRADE_NEEDED",
        ]
        .contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_path_and_a_type_is_a_type() {
        assert_eq!(plain_name("../../etc/pass\u{0}wd\n"), ".._.._etc_passwd");
        assert_eq!(plain_name(&"x".repeat(300)).len(), 100);
        assert_eq!(plain_type("Image/PNG"), "image/png");
        for odd in ["", "image", "text/html; charset=x", "a/b/c"] {
            assert_eq!(plain_type(odd), "application/octet-stream", "{odd}");
        }
    }

    #[test]
    fn of_a_photo_the_largest_size_is_taken() {
        let size = |name: &str, w, size| {
            tl::enums::PhotoSize::from(tl::types::PhotoSize {
                r#type: name.to_owned(),
                w,
                h: w,
                size,
            })
        };
        let progressive = tl::types::PhotoSizeProgressive {
            r#type: "y".to_owned(),
            w: 1280,
            h: 1280,
            sizes: vec![10_000, 70_000, 40_000],
        };
        let photo = tl::types::Photo {
            has_stickers: false,
            id: 5,
            access_hash: 6,
            file_reference: vec![7],
            date: 0,
            sizes: vec![size("m", 320, 9_000), progressive.into(), size("x", 800, 50_000)],
            video_sizes: None,
            dc_id: 4,
        };
        let file = photo_file(&photo).expect("a file");
        assert_eq!((file.size_bytes, file.dc), (70_000, 4));
        let location = tl::enums::InputFileLocation::from_bytes(&file.location).expect("a location");
        let tl::enums::InputFileLocation::InputPhotoFileLocation(location) = location else {
            panic!("{location:?}");
        };
        assert_eq!(location.thumb_size, "y");
    }
}
