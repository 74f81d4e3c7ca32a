//! Files that scans download, on their way into the file store: one attempt of one job.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use uuid::Uuid;
use wireroom_jobs::{
    ports::StoreError as PortError,
    scan::{
        FilesReport,
        ports::{FileKeeper, OpenFile, PassedOver, WaitingFile},
    },
};

use super::{Files, FilesError, object_of, pieces::Progress};
use crate::store::{
    StoreError,
    downloads::{Downloads, PartialFile},
};

/// The file store, as one attempt of a scan sees it.
pub struct Keeper {
    files: Arc<Files>,
    store: Downloads,
}

impl Keeper {
    pub fn new(files: Arc<Files>, store: Downloads) -> Self {
        Self { files, store }
    }
}

fn port(error: FilesError) -> PortError {
    match error {
        FilesError::Database(error) => error.into(),
        error => {
            tracing::warn!(error = &error as &dyn std::error::Error, "a download was not kept");
            PortError::Failed(Box::new(error))
        }
    }
}

impl From<StoreError> for PieceError {
    fn from(error: StoreError) -> Self {
        Self(error.into())
    }
}

impl From<FilesError> for PieceError {
    fn from(error: FilesError) -> Self {
        Self(port(error))
    }
}

struct PieceError(PortError);

#[async_trait]
impl FileKeeper for Keeper {
    fn max_bytes(&self) -> i64 {
        i64::try_from(self.files.max_bytes()).unwrap_or(i64::MAX)
    }

    async fn report(&self) -> Result<FilesReport, PortError> {
        Ok(self.store.report().await?)
    }

    async fn waiting(&self, limit: i64) -> Result<Vec<WaitingFile>, PortError> {
        Ok(self.store.waiting(limit).await?)
    }

    async fn take_known(&self, file: &WaitingFile) -> Result<bool, PortError> {
        Ok(self.store.take_known(file).await?)
    }

    async fn pass_over(&self, file: &WaitingFile, why: PassedOver) -> Result<(), PortError> {
        Ok(self.store.pass_over(file, why).await?)
    }

    async fn open(&self, file: &WaitingFile) -> Result<Box<dyn OpenFile>, PortError> {
        let id = Uuid::now_v7();
        let fresh = PartialFile {
            id,
            object: object_of(id),
            size_bytes: 0,
            progress: Progress::default().write().map_err(port)?,
        };
        let partial = self.store.open(file, fresh).await?;
        let progress = Progress::read(&partial.progress).map_err(port)?;
        Ok(Box::new(Incoming {
            files: Arc::clone(&self.files),
            store: self.store.clone(),
            file: file.clone(),
            partial,
            progress,
            buffer: BytesMut::new(),
        }))
    }
}

/// One file that comes in.
struct Incoming {
    files: Arc<Files>,
    store: Downloads,
    file: WaitingFile,
    partial: PartialFile,
    progress: Progress,
    /// Behind what is kept, and less than a piece.
    buffer: BytesMut,
}

impl Incoming {
    async fn keep(&mut self, bytes: Bytes, is_last: bool) -> Result<(), PieceError> {
        let sink = self.files.sink().await?;
        let offset = u64::try_from(self.partial.size_bytes).unwrap_or(0);
        let size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        let mut progress = self.progress.clone();
        if sink
            .begin(&self.partial.object, &mut progress, is_last && offset == 0)
            .await?
        {
            // Whoever comes after this process can delete what it has put there.
            self.partial.progress = progress.write()?;
            self.progress = progress.clone();
            self.store.advance(&self.partial).await?;
        }
        sink.keep(&self.partial.object, &mut progress, offset, bytes, is_last)
            .await?;
        self.partial.size_bytes += size;
        self.partial.progress = progress.write()?;
        self.progress = progress;
        // Only now: what is written down is there.
        self.store.advance(&self.partial).await?;
        Ok(())
    }

    async fn complete(&mut self) -> Result<(), PieceError> {
        if !self.buffer.is_empty() {
            let rest = self.buffer.split().freeze();
            self.keep(rest, true).await?;
        }
        let sink = self.files.sink().await?;
        let size = u64::try_from(self.partial.size_bytes).unwrap_or(0);
        sink.complete(&self.partial.object, &self.progress, size).await?;
        let sha256 = self.progress.sha256()?;
        if self.store.finish(&self.file, &self.partial, &sha256).await?.is_none() {
            self.store.discard(&self.partial).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl OpenFile for Incoming {
    fn offset(&self) -> i64 {
        self.partial.size_bytes + i64::try_from(self.buffer.len()).unwrap_or(0)
    }

    async fn write(&mut self, bytes: Vec<u8>) -> Result<(), PortError> {
        self.buffer.extend_from_slice(&bytes);
        let piece = self.files.sink().await.map_err(port)?.piece();
        // The last piece is kept as such, when the file is finished: what may be it stays.
        while self.buffer.len() > piece || (self.buffer.len() == piece && self.offset() < self.file.remote.size_bytes) {
            let full = self.buffer.split_to(piece).freeze();
            self.keep(full, false).await.map_err(|error| error.0)?;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), PortError> {
        self.complete().await.map_err(|error| error.0)
    }

    async fn discard(self: Box<Self>) -> Result<(), PortError> {
        Ok(self.store.discard(&self.partial).await?)
    }
}
