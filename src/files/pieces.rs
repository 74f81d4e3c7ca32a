//! A file that comes in piece by piece, over as many attempts as it takes: what is kept for good, and what is needed to go on.
//!
//! In a directory a piece is written at its place and brought to the disk before it counts. In a storage with the API of S3 a
//! piece is a part of a multipart upload, which that keeps until the upload is completed or aborted; a file of less than a piece
//! is put at once. A piece that is written twice, by an attempt that had lost its job, has the same bytes both times.

use std::{io::SeekFrom, path::PathBuf};

use bytes::Bytes;
use object_store::{
    ObjectStoreExt as _,
    aws::AmazonS3,
    multipart::{MultipartStore as _, PartId},
    path::Path,
};
use serde::{Deserialize, Serialize};
use sha2::{
    Digest, Sha256,
    digest::common::hazmat::{SerializableState as _, SerializedState},
};
use tokio::{
    fs::{self, OpenOptions},
    io::{AsyncSeekExt as _, AsyncWriteExt as _},
};

use super::FilesError;

/// A directory takes each part of a download as it comes.
const LOCAL_PIECE: usize = 512 * 1024;
/// S3 takes no part of less than 5 MiB but the last one, and some storages none of another size than the first.
const S3_PIECE: usize = 8 * 1024 * 1024;

/// Where pieces go.
#[derive(Debug, Clone)]
pub enum Sink {
    Directory(PathBuf),
    S3(std::sync::Arc<AmazonS3>),
}

/// What is needed to go on with a file.
#[derive(Clone, Serialize, Deserialize)]
pub struct Progress {
    /// Of the bytes so far.
    hash: Vec<u8>,
    /// Of S3: the upload, and what it calls its parts.
    upload: Option<String>,
    parts: Vec<String>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            hash: Sha256::new().serialize().to_vec(),
            upload: None,
            parts: Vec::new(),
        }
    }
}

impl Progress {
    pub fn read(bytes: &[u8]) -> Result<Self, FilesError> {
        serde_json::from_slice(bytes).map_err(FilesError::Progress)
    }

    pub fn write(&self) -> Result<Vec<u8>, FilesError> {
        serde_json::to_vec(self).map_err(FilesError::Progress)
    }

    /// What S3 calls the upload.
    pub fn upload(&self) -> Option<&String> {
        self.upload.as_ref()
    }

    fn hash(&self) -> Result<Sha256, FilesError> {
        let state = SerializedState::<Sha256>::try_from(self.hash.as_slice()).map_err(|_| FilesError::Unhashed)?;
        Sha256::deserialize(&state).map_err(|_| FilesError::Unhashed)
    }

    /// Of all bytes that were kept.
    pub fn sha256(&self) -> Result<Vec<u8>, FilesError> {
        Ok(self.hash()?.finalize().to_vec())
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), FilesError> {
        let mut hash = self.hash()?;
        hash.update(bytes);
        self.hash = hash.serialize().to_vec();
        Ok(())
    }
}

impl Sink {
    /// How many bytes are kept at a time.
    pub fn piece(&self) -> usize {
        match self {
            Self::Directory(_) => LOCAL_PIECE,
            Self::S3(_) => S3_PIECE,
        }
    }

    /// Asks for an upload where the pieces need one. `true`: there is one now, and nothing may be kept before that is written down.
    pub async fn begin(&self, object: &str, progress: &mut Progress, is_whole: bool) -> Result<bool, FilesError> {
        match self {
            Self::S3(storage) if progress.upload.is_none() && !is_whole => {
                progress.upload = Some(storage.create_multipart(&Path::from(object)).await?);
                Ok(true)
            }
            Self::Directory(_) | Self::S3(_) => Ok(false),
        }
    }

    /// Keeps the bytes from `offset` on: a whole piece, or the last one. Those of a file of several pieces after
    /// [`begin`](Self::begin).
    pub async fn keep(
        &self,
        object: &str,
        progress: &mut Progress,
        offset: u64,
        bytes: Bytes,
        is_last: bool,
    ) -> Result<(), FilesError> {
        progress.add(&bytes)?;
        match self {
            Self::Directory(directory) => write_at(&directory.join(object), offset, &bytes).await,
            Self::S3(storage) => {
                let path = Path::from(object);
                let Some(upload) = &progress.upload else {
                    debug_assert!(is_last && offset == 0, "an upload was to be begun");
                    storage.put(&path, bytes.into()).await?;
                    return Ok(());
                };
                let part = storage.put_part(&path, upload, progress.parts.len(), bytes.into());
                let part = part.await?;
                progress.parts.push(part.content_id);
                Ok(())
            }
        }
    }

    /// Makes the pieces one object of `size` bytes. May be done again.
    pub async fn complete(&self, object: &str, progress: &Progress, size: u64) -> Result<(), FilesError> {
        match self {
            Self::Directory(directory) => {
                let file = OpenOptions::new().write(true).open(directory.join(object)).await;
                let file = file.map_err(FilesError::Disk)?;
                file.set_len(size).await.map_err(FilesError::Disk)?;
                file.sync_all().await.map_err(FilesError::Disk)
            }
            Self::S3(storage) => {
                let Some(upload) = &progress.upload else { return Ok(()) };
                let path = Path::from(object);
                let parts = progress.parts.iter().cloned();
                let parts = parts.map(|content_id| PartId { content_id }).collect();
                let Err(error) = storage.complete_multipart(&path, upload, parts).await else {
                    return Ok(());
                };
                // An attempt before this one may have done so, and died.
                match storage.head(&path).await {
                    Ok(there) if there.size == size => Ok(()),
                    _ => Err(error.into()),
                }
            }
        }
    }

    /// Deletes what there is of it.
    pub async fn discard(&self, object: &str, upload: Option<&String>) -> Result<(), FilesError> {
        match self {
            Self::Directory(directory) => {
                // The second is what the library calls an object that is not whole yet.
                for name in [object.to_owned(), format!("{object}#1")] {
                    match fs::remove_file(directory.join(name)).await {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                            return Err(FilesError::Disk(error));
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
            Self::S3(storage) => {
                let path = Path::from(object);
                if let Some(upload) = upload {
                    match storage.abort_multipart(&path, upload).await {
                        Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                match storage.delete(&path).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }
}

async fn write_at(path: &std::path::Path, offset: u64, bytes: &[u8]) -> Result<(), FilesError> {
    let written = async {
        let mut file = open_in_place(path).await?;
        file.seek(SeekFrom::Start(offset)).await?;
        file.write_all(bytes).await?;
        file.flush().await?;
        file.sync_data().await
    };
    written.await.map_err(FilesError::Disk)
}

async fn open_in_place(path: &std::path::Path) -> std::io::Result<fs::File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    // Whoever deletes the last file of a directory deletes the directory too, perhaps at this moment.
    for _ in 0..3 {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).await?;
        }
        match options.open(path).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            opened => return opened,
        }
    }
    options.open(path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_gone_on_with_by_what_was_written_down() {
        let directory = tempfile::tempdir().expect("a directory");
        let sink = Sink::Directory(directory.path().to_owned());
        let whole: Vec<u8> = (0..1_300_000_u32).map(|number| number.to_le_bytes()[1]).collect();
        let mut progress = Progress::default();
        let mut offset = 0;
        for piece in whole.chunks(sink.piece()) {
            // As another process would.
            progress = Progress::read(&progress.write().expect("written")).expect("read");
            let bytes = Bytes::copy_from_slice(piece);
            let is_last = offset + piece.len() == whole.len();
            let kept = sink.keep("0a/one", &mut progress, offset as u64, bytes.clone(), is_last);
            kept.await.expect("kept");
            // Once more, as by an attempt that has lost its job.
            let mut stale = Progress::default();
            let again = sink.keep("0a/one", &mut stale, offset as u64, bytes, is_last);
            again.await.expect("kept");
            offset += piece.len();
        }
        for _ in 0..2 {
            let size = whole.len() as u64;
            sink.complete("0a/one", &progress, size).await.expect("complete");
        }
        assert!(std::fs::read(directory.path().join("0a/one")).expect("readable") == whole);
        assert_eq!(progress.sha256().expect("hashed"), Sha256::digest(&whole).to_vec());
        for _ in 0..2 {
            sink.discard("0a/one", progress.upload()).await.expect("discarded");
        }
        assert!(!directory.path().join("0a/one").exists());
    }
}
