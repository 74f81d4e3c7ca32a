//! The media of messages, from the file store: what the workers' Telegram side asks for.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use wireroom_jobs::publish::post::{Attachment, MediaKind};

use crate::{
    files::{Files, FilesError, Wanted},
    telegram::port::{MediaError, MediaSource, OpenMedia},
};

/// Files as media.
pub struct Media(pub Arc<Files>);

#[async_trait]
impl MediaSource for Media {
    async fn open(&self, item: &Attachment) -> Result<OpenMedia, MediaError> {
        let file = match (&item.file, &item.url) {
            (Some(id), _) => {
                let file = self.0.find(*id).await.map_err(media_error)?;
                let file = file.ok_or(MediaError::NotFound)?;
                self.0.keep(file.id).await.map_err(media_error)?;
                file
            }
            (None, Some(url)) => self.0.fetch(url, wanted(item.kind)).await.map_err(media_error)?,
            (None, None) => return Err(MediaError::NotFound),
        };
        let bytes = self.0.read(&file, None).await.map_err(media_error)?;
        Ok(OpenMedia {
            size: u64::try_from(file.size_bytes).unwrap_or(0),
            name: file.name,
            content_type: file.content_type,
            bytes: bytes.map(|chunk| chunk.map_err(media_error)).boxed(),
        })
    }
}

const fn wanted(kind: MediaKind) -> Wanted {
    match kind {
        MediaKind::Photo => Wanted::Picture,
        MediaKind::Video => Wanted::Video,
        MediaKind::Voice => Wanted::Voice,
        MediaKind::Document => Wanted::Anything,
    }
}

fn media_error(error: FilesError) -> MediaError {
    match error {
        FilesError::Fetch(why) => MediaError::Refused(format!("The url in args.media was not used: {why}.")),
        FilesError::Unreachable(why) => {
            MediaError::Unreachable(format!("The file at the url in args.media was not fetched: {why}."))
        }
        FilesError::TooLarge { most } => MediaError::Refused(format!(
            "The file in args.media has more than {most} bytes (WIREROOM_FILES_MAX_MB)."
        )),
        FilesError::Empty => MediaError::Refused("The file in args.media has no bytes.".to_owned()),
        error => MediaError::Failed(Box::new(error)),
    }
}
