//! What a scan downloads of the files of its messages, and what it passes over and says so.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ports::{PassedOver, ScannedMessage};
use crate::{ArgsError, message::MediaKind};

/// The media that are files.
pub const FILE_KINDS: [MediaKind; 8] = [
    MediaKind::Photo,
    MediaKind::Video,
    MediaKind::VideoNote,
    MediaKind::Voice,
    MediaKind::Audio,
    MediaKind::Animation,
    MediaKind::Sticker,
    MediaKind::Document,
];

const DEFAULT_TOTAL: i64 = 1 << 30;
const MOST_TOTAL: i64 = 1 << 40;

/// Which files of the messages to download into the file store (`/v1/files`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DownloadArgs {
    /// Only files of these kinds: `photo`, `video`, `video_note`, `voice`, `audio`, `animation`, `sticker`, `document`. All of
    /// them when it is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<MediaKind>,
    /// Pass over files with more bytes than this. The bound of the file store (`WIREROOM_FILES_MAX_MB`) holds in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_bytes_each: Option<i64>,
    /// Pass over a file that would make the job download more bytes than this in all; smaller ones may still fit. Files that
    /// are in the store already cost nothing.
    #[serde(default = "default_total")]
    #[schemars(range(min = 1, max = 1_099_511_627_776_i64))]
    pub max_bytes_total: i64,
}

const fn default_total() -> i64 {
    DEFAULT_TOTAL
}

impl Default for DownloadArgs {
    fn default() -> Self {
        Self {
            kinds: Vec::new(),
            max_bytes_each: None,
            max_bytes_total: default_total(),
        }
    }
}

/// What became of the files of a scan's messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FilesReport {
    /// How many files the job downloaded.
    pub downloaded: i64,
    /// How many were in the store already, by Telegram's id of them.
    pub known: i64,
    /// How many bytes were downloaded.
    pub bytes: i64,
    /// How many were passed over, by reason: `kind`, `too_large`, `total_bound`, `reference_expired`, `not_downloadable`.
    pub skipped: BTreeMap<String, i64>,
}

impl DownloadArgs {
    pub(super) fn check(&self) -> Result<(), ArgsError> {
        let wrong = |field: &str, message: String| {
            Err(ArgsError {
                field: format!("args.download.{field}"),
                message,
            })
        };
        if let Some(at) = self.kinds.iter().position(|kind| !FILE_KINDS.contains(kind)) {
            return wrong(
                &format!("kinds[{at}]"),
                "is no kind of file; take photo, video, video_note, voice, audio, animation, sticker or document"
                    .into(),
            );
        }
        if let Some(most) = self.max_bytes_each.filter(|most| *most < 1) {
            return wrong("max_bytes_each", format!("is {most}; give 1 or more, or leave it out"));
        }
        if !(1..=MOST_TOTAL).contains(&self.max_bytes_total) {
            let given = self.max_bytes_total;
            return wrong("max_bytes_total", format!("is {given}; give 1 to {MOST_TOTAL}"));
        }
        Ok(())
    }

    /// Decides what is known before anything is asked for; `most`: what the file store takes.
    pub(super) fn plan(&self, scanned: &mut ScannedMessage, most: i64) {
        let Some(kind) = scanned.message.media.filter(|kind| FILE_KINDS.contains(kind)) else {
            scanned.file = None;
            return;
        };
        let largest = self.max_bytes_each.map_or(most, |each| each.min(most));
        scanned.passed_over = if !self.kinds.is_empty() && !self.kinds.contains(&kind) {
            Some(PassedOver::Kind)
        } else {
            match &scanned.file {
                // It deletes itself, or Telegram does not show it any more.
                None => Some(PassedOver::NotDownloadable),
                Some(file) if file.size_bytes < 1 => Some(PassedOver::NotDownloadable),
                Some(file) if file.size_bytes > largest => Some(PassedOver::TooLarge),
                Some(_) => None,
            }
        };
    }
}
