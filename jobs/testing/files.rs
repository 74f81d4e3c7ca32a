//! The fake of the file store: what one scan downloads, in memory. Each part is kept for good.

use async_trait::async_trait;

use super::MemoryStore;
use crate::{
    ports::StoreError,
    scan::{
        FilesReport,
        ports::{FileKeeper, OpenFile, PassedOver, WaitingFile},
    },
};

/// A file as a [`MemoryStore`] keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeptFile {
    pub bytes: Vec<u8>,
    pub end: Option<KeptEnd>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptEnd {
    Stored,
    Known,
    PassedOver(PassedOver),
}

/// The most that a [`MemoryStore`] takes.
pub const MOST_BYTES: i64 = 8 << 20;

#[async_trait]
impl FileKeeper for MemoryStore {
    fn max_bytes(&self) -> i64 {
        MOST_BYTES
    }

    async fn report(&self) -> Result<FilesReport, StoreError> {
        let state = self.open("report")?;
        let mut report = FilesReport::default();
        for kept in state.files.values() {
            match kept.end {
                Some(KeptEnd::Stored) => {
                    report.downloaded += 1;
                    report.bytes += i64::try_from(kept.bytes.len()).unwrap_or(i64::MAX);
                }
                Some(KeptEnd::Known) => report.known += 1,
                Some(KeptEnd::PassedOver(why)) => *report.skipped.entry(why.as_str().to_owned()).or_default() += 1,
                None => {}
            }
        }
        Ok(report)
    }

    async fn waiting(&self, limit: i64) -> Result<Vec<WaitingFile>, StoreError> {
        let state = self.open("waiting")?;
        let is_waiting = |key: &(i64, i32)| state.files.get(key).is_none_or(|kept| kept.end.is_none());
        let waiting = state.messages.iter().filter(|(key, _)| is_waiting(key));
        let waiting = waiting.filter_map(|((chat_id, message_id), (_, scanned))| {
            let remote = scanned.file.clone().filter(|_| scanned.passed_over.is_none())?;
            Some(WaitingFile {
                chat_id: *chat_id,
                owner: 0,
                message_id: *message_id,
                remote,
            })
        });
        Ok(waiting.take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
    }

    async fn take_known(&self, file: &WaitingFile) -> Result<bool, StoreError> {
        let mut state = self.open("take_known")?;
        let is_known = state.known_files.contains(&file.remote.id);
        if is_known {
            state.files.entry(key(file)).or_default().end = Some(KeptEnd::Known);
        }
        Ok(is_known)
    }

    async fn pass_over(&self, file: &WaitingFile, why: PassedOver) -> Result<(), StoreError> {
        let mut state = self.open("pass_over")?;
        state.files.entry(key(file)).or_default().end = Some(KeptEnd::PassedOver(why));
        Ok(())
    }

    async fn open(&self, file: &WaitingFile) -> Result<Box<dyn OpenFile>, StoreError> {
        drop(MemoryStore::open(self, "open")?);
        Ok(Box::new(Open {
            store: self.clone(),
            file: file.clone(),
        }))
    }
}

fn key(file: &WaitingFile) -> (i64, i32) {
    (file.chat_id, file.message_id)
}

struct Open {
    store: MemoryStore,
    file: WaitingFile,
}

#[async_trait]
impl OpenFile for Open {
    fn offset(&self) -> i64 {
        let state = self.store.state();
        let kept = state.files.get(&key(&self.file)).map_or(0, |kept| kept.bytes.len());
        i64::try_from(kept).unwrap_or(i64::MAX)
    }

    async fn write(&mut self, bytes: Vec<u8>) -> Result<(), StoreError> {
        let mut state = self.store.open("write")?;
        state.files.entry(key(&self.file)).or_default().bytes.extend(bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), StoreError> {
        let mut state = self.store.open("finish")?;
        state.files.entry(key(&self.file)).or_default().end = Some(KeptEnd::Stored);
        state.known_files.insert(self.file.remote.id);
        Ok(())
    }

    async fn discard(self: Box<Self>) -> Result<(), StoreError> {
        let mut state = self.store.open("discard")?;
        state.files.entry(key(&self.file)).or_default().bytes.clear();
        Ok(())
    }
}
