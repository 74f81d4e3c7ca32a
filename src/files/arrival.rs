//! A file's bytes on their way in, from one sender, in one go. They are noted in the database before the first of them is stored,
//! with what S3 calls the upload before it has a part: a process that dies at any moment leaves nothing that cannot be found.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use object_store::{
    MultipartId, MultipartUpload, ObjectStoreExt as _, PutPayload, PutResult, UploadPart, WriteMultipart,
    aws::AmazonS3,
    multipart::{MultipartStore, PartId},
    path::Path,
};
use sha2::{Digest, Sha256};
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::{Files, FilesError, pass_over, pieces::Sink};
use crate::store::{self, incoming_files};

/// Parts of an upload on their way to the storage at a time.
const PARTS_AT_A_TIME: usize = 4;
/// How often its note is renewed while bytes come in.
const TOUCH_EACH: Duration = Duration::from_mins(1);
/// Nobody is at a file whose note is older; a process that stood still for longer finds its bytes gone, and says so.
pub(super) const LEFT_AFTER: Duration = Duration::from_mins(30);

/// What has come in.
pub(super) struct Arrived {
    pub sha256: Vec<u8>,
    pub size: u64,
}

impl Files {
    /// Stores bytes under a name that is noted already. After an error nothing of them stays, or its note does.
    pub(super) async fn take_in<S, E>(&self, id: Uuid, object: &str, bytes: S) -> Result<Arrived, FilesError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: std::error::Error + Send + Sync + 'static,
    {
        let upload = self.begin_upload(id, object).await?;
        let mut writer = WriteMultipart::new(upload);
        match self.copy(id, &mut writer, bytes).await {
            Ok(arrived) => {
                writer.finish().await?;
                Ok(arrived)
            }
            Err(error) => {
                match writer.abort().await {
                    Ok(()) => self.forget_arrival(id).await,
                    Err(left) => tracing::warn!(
                        error = &left as &dyn std::error::Error,
                        object,
                        "an upload that broke off left bytes behind, which are swept later"
                    ),
                }
                Err(error)
            }
        }
    }

    async fn begin_upload(&self, id: Uuid, object: &str) -> Result<Box<dyn MultipartUpload>, FilesError> {
        let path = Path::from(object);
        match self.sink().await? {
            Sink::Directory(_) => Ok(self.objects().await?.put_multipart(&path).await?),
            Sink::S3(storage) => {
                let upload = storage.create_multipart(&path).await?;
                incoming_files::name_upload(&self.database, id, &upload).await?;
                Ok(Box::new(NamedUpload::new(Arc::clone(storage), path, upload)))
            }
        }
    }

    async fn copy<S, E>(&self, id: Uuid, writer: &mut WriteMultipart, bytes: S) -> Result<Arrived, FilesError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: std::error::Error + Send + Sync + 'static,
    {
        let mut hash = Sha256::new();
        let mut size = 0_u64;
        let mut bytes = std::pin::pin!(bytes);
        let mut touch = tokio::time::interval(TOUCH_EACH);
        touch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        touch.reset();
        loop {
            let chunk = tokio::select! {
                chunk = bytes.next() => chunk,
                _ = touch.tick() => {
                    incoming_files::touch(&self.database, id).await?;
                    continue;
                }
            };
            let Some(chunk) = chunk else { break };
            let chunk = chunk.map_err(|error| FilesError::Broken(Box::new(error)))?;
            size += chunk.len() as u64;
            if size > self.config.max_bytes {
                pass_over(&mut bytes).await;
                let most = self.config.max_bytes;
                return Err(FilesError::TooLarge { most });
            }
            hash.update(&chunk);
            writer.wait_for_capacity(PARTS_AT_A_TIME).await?;
            writer.put(chunk);
        }
        if size == 0 {
            return Err(FilesError::Empty);
        }
        let sha256 = hash.finalize().to_vec();
        Ok(Arrived { sha256, size })
    }

    /// Deletes bytes that are no file's, and then their note; what fails is swept later.
    pub(super) async fn discard(&self, id: Uuid, object: &str) {
        let gone = async { Ok::<_, FilesError>(self.objects().await?.delete(&Path::from(object)).await?) };
        match gone.await {
            Ok(()) => self.forget_arrival(id).await,
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                object,
                "bytes without a file were left behind, which are swept later"
            ),
        }
    }

    async fn forget_arrival(&self, id: Uuid) {
        let forgotten = async {
            let mut conn = store::connection(&self.database, "forget_incoming_files").await?;
            incoming_files::forget(&mut conn, &[id]).await
        };
        if let Err(error) = forgotten.await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the note of an upload that is over was left behind"
            );
        }
    }
}

/// An upload of S3's whose id is known, and not the library's secret.
#[derive(Debug)]
struct NamedUpload {
    storage: Arc<AmazonS3>,
    path: Path,
    id: MultipartId,
    begun: usize,
    parts: Arc<Mutex<BTreeMap<usize, PartId>>>,
}

impl NamedUpload {
    fn new(storage: Arc<AmazonS3>, path: Path, id: MultipartId) -> Self {
        Self {
            storage,
            path,
            id,
            begun: 0,
            parts: Arc::default(),
        }
    }
}

#[async_trait]
impl MultipartUpload for NamedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (storage, path, id) = (Arc::clone(&self.storage), self.path.clone(), self.id.clone());
        let parts = Arc::clone(&self.parts);
        let index = self.begun;
        self.begun += 1;
        Box::pin(async move {
            let part = storage.put_part(&path, &id, index, data).await?;
            let mut parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
            parts.insert(index, part);
            Ok(())
        })
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let parts = std::mem::take(&mut *self.parts.lock().unwrap_or_else(PoisonError::into_inner));
        let parts: Vec<PartId> = parts.into_values().collect();
        self.storage.complete_multipart(&self.path, &self.id, parts).await
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.storage.abort_multipart(&self.path, &self.id).await
    }
}
