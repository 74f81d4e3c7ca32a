//! What a message has beside its text: where it hangs, when it is shown, its buttons and its media.

use std::fmt;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Most pictures, videos or files of one message.
pub const MOST_ATTACHMENTS: usize = 10;
const MOST_LABEL: usize = 64;
/// What Telegram carries in a callback button, in bytes.
const MOST_DATA: usize = 64;

/// A button under a bot's message: with `url` it opens an address, with `data` the bot is told that it was pressed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Button {
    /// What stands on it.
    #[schemars(length(min = 1, max = 64))]
    pub text: String,
    /// An address beginning with `http://`, `https://` or `tg://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub url: Option<String>,
    /// At most 64 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub data: Option<String>,
}

impl fmt::Debug for Button {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Button").finish_non_exhaustive()
    }
}

impl Button {
    pub(super) fn check(&self) -> Result<(), String> {
        let label = self.text.trim().chars().count();
        if label == 0 || label > MOST_LABEL {
            return Err(format!("needs a text of 1 to {MOST_LABEL} characters"));
        }
        match (&self.url, &self.data) {
            (Some(url), None) => {
                let known = ["http://", "https://", "tg://"]
                    .iter()
                    .any(|scheme| url.starts_with(scheme) && url.len() > scheme.len());
                if known && url.len() <= 2048 && !url.contains(char::is_whitespace) {
                    Ok(())
                } else {
                    Err("has a url that Telegram does not open; it begins with https://, http:// or tg://".into())
                }
            }
            (None, Some(data)) if data.is_empty() || data.len() > MOST_DATA => Err(format!(
                "has {} bytes of data; Telegram carries 1 to {MOST_DATA}",
                data.len()
            )),
            (None, Some(_)) => Ok(()),
            _ => Err("needs either url or data".into()),
        }
    }
}

/// What sort of media an attachment is shown as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MediaKind {
    /// A picture, made smaller by Telegram.
    Photo,
    Video,
    /// A file as it is.
    Document,
    /// A voice message: OGG with Opus.
    Voice,
}

/// A picture, video or file of a message: one that was uploaded to `/v1/files`, or one that is fetched from an address.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// What it is shown as.
    #[serde(rename = "type")]
    pub kind: MediaKind,
    /// The id of an uploaded file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<Uuid>,
    /// An address, fetched when the job runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub url: Option<String>,
    /// Hidden until it is tapped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spoiler: bool,
    /// How long a video or a voice message is. Left out, it is read from the file: from MP4 and MOV, from Ogg.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub duration_seconds: Option<i32>,
    /// Of a video, in pixels, together with `height`. Left out, both are read from the file, MP4 and MOV.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub width: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub height: Option<i32>,
}

/// An address may carry a secret in its query.
impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment")
            .field("kind", &self.kind)
            .field("file", &self.file)
            .field("url", &self.url.as_ref().map(|_| "…"))
            .field("spoiler", &self.spoiler)
            .finish_non_exhaustive()
    }
}

impl Attachment {
    pub(super) fn check(&self) -> Result<(), String> {
        match (&self.file, &self.url) {
            (Some(_), None) => {}
            (None, Some(url)) => {
                let is_web = url.starts_with("https://") || url.starts_with("http://");
                if !is_web || url.len() > 2048 || url.contains(char::is_whitespace) {
                    return Err("has a url that cannot be fetched; it begins with https:// or http://".into());
                }
            }
            _ => return Err("needs either file, the id of an uploaded one, or url".into()),
        }
        if self.spoiler && !matches!(self.kind, MediaKind::Photo | MediaKind::Video) {
            return Err("cannot be a spoiler; pictures and videos can".into());
        }
        self.check_shape()
    }

    fn check_shape(&self) -> Result<(), String> {
        let is_video = self.kind == MediaKind::Video;
        if self.duration_seconds.is_some() && !is_video && self.kind != MediaKind::Voice {
            return Err("has duration_seconds, which videos and voice messages have".into());
        }
        if self
            .duration_seconds
            .is_some_and(|seconds| !(1..=86_400).contains(&seconds))
        {
            return Err("has duration_seconds that are not from 1 to 86400".into());
        }
        let sides = [self.width, self.height];
        if sides.iter().any(Option::is_some) && !is_video {
            return Err("has a width or a height, which are for videos".into());
        }
        if self.width.is_some() != self.height.is_some() {
            return Err("needs both width and height, or neither".into());
        }
        if sides.iter().flatten().any(|side| !(1..=10_000).contains(side)) {
            return Err("has a width or a height that is not from 1 to 10000".into());
        }
        Ok(())
    }

    pub(super) fn go_together(items: &[Self]) -> bool {
        let seen = |kind: MediaKind| matches!(kind, MediaKind::Photo | MediaKind::Video);
        items.iter().all(|item| seen(item.kind)) || items.iter().all(|item| item.kind == MediaKind::Document)
    }
}

/// What Telegram made of an attachment that was uploaded to it: to be put into messages of this session. Opaque here.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploaded {
    /// How Telegram refers to it.
    pub reference: Vec<u8>,
    pub spoiler: bool,
}

impl fmt::Debug for Uploaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uploaded").finish_non_exhaustive()
    }
}

/// The parts of a draft that most have not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extras {
    pub reply_to: Option<i32>,
    pub topic: Option<i32>,
    pub schedule_at: Option<DateTime<Utc>>,
    pub protect: bool,
    pub buttons: Vec<Vec<Button>>,
    pub media: Vec<Uploaded>,
}
