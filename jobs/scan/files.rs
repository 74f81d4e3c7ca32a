//! Downloading the files of messages that are stored: one after the other, in parts, each part kept before the next one is
//! asked for. What an attempt has kept no other one asks for again.

use super::{
    DownloadArgs, FilesReport,
    ports::{FilePart, OpenFile, PassedOver, RemoteFile, ScannedMessage, WaitingFile},
    rate::Rate,
};
use crate::{JobContext, LogLevel, LogLine, Outcome, ports::TelegramError};

/// How many bytes one request asks for. Telegram wants parts that divide a mebibyte, at multiples of themselves.
pub const PART: i32 = 512 * 1024;
/// How many files are looked up at a time.
const BATCH: i64 = 100;

/// The downloads of one attempt.
pub(super) struct Downloads<'a> {
    context: &'a JobContext,
    wanted: &'a DownloadArgs,
    report: FilesReport,
}

/// How a file ended.
enum End {
    Stored,
    PassedOver(PassedOver),
}

impl<'a> Downloads<'a> {
    /// `None`: none are wanted.
    pub async fn begin(context: &'a JobContext, wanted: Option<&'a DownloadArgs>) -> Result<Option<Self>, Outcome> {
        let Some(wanted) = wanted else { return Ok(None) };
        let report = context.files.report().await?;
        Ok(Some(Self {
            context,
            wanted,
            report,
        }))
    }

    /// Says of each message what is to become of its file.
    pub fn plan(downloads: Option<&Self>, messages: &mut [ScannedMessage]) {
        for scanned in messages {
            match downloads {
                Some(this) => this.wanted.plan(scanned, this.context.files.max_bytes()),
                None => scanned.file = None,
            }
        }
    }

    /// Downloads what waits, of this attempt's pages and of earlier ones.
    pub async fn run(&mut self, rate: &mut Rate) -> Result<(), Outcome> {
        let before = self.report.clone();
        loop {
            let waiting = self.context.files.waiting(BATCH).await?;
            if waiting.is_empty() {
                break;
            }
            for file in waiting {
                rate.stop_if_due_now(self.context)?;
                self.fetch(&file, rate).await?;
            }
        }
        if before != self.report {
            let line = LogLine::new("files_stored", "The files of a page are stored.")
                .with("downloaded", self.report.downloaded)
                .with("known", self.report.known)
                .with("bytes", self.report.bytes);
            self.context.log(LogLevel::Info, line).await;
        }
        Ok(())
    }

    /// What became of all files of the job.
    pub async fn report(self) -> Result<FilesReport, Outcome> {
        Ok(self.context.files.report().await?)
    }

    async fn fetch(&mut self, file: &WaitingFile, rate: &mut Rate) -> Result<(), Outcome> {
        let files = &self.context.files;
        if files.take_known(file).await? {
            self.report.known += 1;
            return Ok(());
        }
        let size = file.remote.size_bytes;
        let end = if self.report.bytes.saturating_add(size) > self.wanted.max_bytes_total {
            End::PassedOver(PassedOver::TotalBound)
        } else {
            self.transfer(file, rate).await?
        };
        match end {
            End::Stored => {
                self.report.downloaded += 1;
                self.report.bytes += size;
            }
            End::PassedOver(why) => files.pass_over(file, why).await?,
        }
        Ok(())
    }

    async fn transfer(&self, file: &WaitingFile, rate: &mut Rate) -> Result<End, Outcome> {
        let mut remote = file.remote.clone();
        let mut is_fresh = false;
        let mut open = self.context.files.open(file).await?;
        while open.offset() < remote.size_bytes {
            rate.stop_if_due_now(self.context)?;
            let offset = open.offset();
            match self.context.telegram.file_part(&remote, offset, PART).await {
                Ok(FilePart::Bytes(bytes)) => {
                    if !fits(&bytes, offset, remote.size_bytes) {
                        return discard(open, PassedOver::NotDownloadable).await;
                    }
                    open.write(bytes).await?;
                }
                Ok(FilePart::Elsewhere) => return discard(open, PassedOver::NotDownloadable).await,
                Err(error) if is_expired(&error) => {
                    let again = if is_fresh { None } else { self.again(file).await? };
                    let Some(again) = again else {
                        return discard(open, PassedOver::ReferenceExpired).await;
                    };
                    remote = again;
                    is_fresh = true;
                }
                Err(error) if is_refused(&error) => return discard(open, PassedOver::NotDownloadable).await,
                Err(error) => return Err(error.into()),
            }
        }
        open.finish().await?;
        Ok(End::Stored)
    }

    /// Reads the message again, for a fresh reference to its file; `None`: the file is not there any more.
    async fn again(&self, file: &WaitingFile) -> Result<Option<RemoteFile>, Outcome> {
        let chat = self.context.telegram.chat_by_id(file.chat_id).await?;
        let read = self.context.telegram.message_again(&chat, file.message_id).await?;
        let fresh = read.and_then(|scanned| scanned.file);
        Ok(fresh.filter(|fresh| fresh.is_same(&file.remote)))
    }
}

async fn discard(open: Box<dyn OpenFile>, why: PassedOver) -> Result<End, Outcome> {
    open.discard().await?;
    Ok(End::PassedOver(why))
}

/// Whether these are the bytes from `offset` on of a file of `size`: a whole part, or what is left of it.
fn fits(bytes: &[u8], offset: i64, size: i64) -> bool {
    let wanted = (size - offset).min(PART.into());
    i64::try_from(bytes.len()).is_ok_and(|given| given == wanted)
}

fn is_expired(error: &TelegramError) -> bool {
    error.code.starts_with("FILE_REFERENCE_")
}

/// Telegram does not give the file, whoever asks.
fn is_refused(error: &TelegramError) -> bool {
    const CODES: [&str; 5] = [
        "FILE_ID_INVALID",
        "LOCATION_INVALID",
        "LOCATION_NOT_AVAILABLE",
        "FILEREF_UPGRADE_NEEDED",
        "MEDIA_EMPTY",
    ];
    CODES.contains(&error.code.as_str())
}

#[cfg(test)]
mod tests;
