//! Files: bytes in a directory or in any storage with the API of S3, and what is known of them in Postgres.
//!
//! Bytes are streamed in both directions and never held whole. They are stored under a fresh name before their row is: a
//! row without bytes does not exist, and bytes without a row are noted from before the first of them, so that those of an upload
//! that broke off are found. Equal bytes are kept once, by their SHA-256.

mod arrival;
pub mod downloads;
mod erasure;
mod fetch;
mod pieces;

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, aws::AmazonS3Builder, local::LocalFileSystem, path::Path,
};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::{
    config::{FilesConfig, FilesPlace},
    store::{
        self, PgConnection, PgPool, StoreError, downloads as partial_files, failed,
        files::{self, FileRecord, NewFile},
        incoming_files,
    },
};
use arrival::{Arrived, LEFT_AFTER};
use pieces::{Progress, Sink};

const DAY: Duration = Duration::from_hours(24);
/// Files that are swept at once.
const SWEPT_AT_ONCE: i64 = 20;
/// What is read of a file that is too large, so that its sender comes to read the answer: a connection that is closed on bytes
/// that nobody has read takes the answer with it.
const PASSED_OVER: u64 = 8 << 20;
const PASSED_OVER_WITHIN: Duration = Duration::from_secs(5);
/// How often files whose time is over are looked for.
const SWEEP_EACH: Duration = Duration::from_mins(5);

/// What went wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("the file is larger than {most} bytes")]
    TooLarge { most: u64 },
    #[error("the file has no bytes")]
    Empty,
    /// Its sender broke off.
    #[error("the bytes did not come in")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the file store failed")]
    Storage(#[from] object_store::Error),
    #[error("the directory of the file store cannot be made")]
    Directory(#[source] std::io::Error),
    #[error("the disk of the file store failed")]
    Disk(#[source] std::io::Error),
    #[error("how far a download is cannot be read or written")]
    Progress(#[source] serde_json::Error),
    #[error("a person cannot be looked for in files")]
    Pattern(#[source] Box<regex::Error>),
    #[error("the hash of a download cannot be gone on with")]
    Unhashed,
    /// This process did not get on with it for so long that its bytes were taken for left behind.
    #[error("the file stood still on its way in, and its bytes were deleted")]
    StoodStill,
    #[error(transparent)]
    Database(#[from] StoreError),
    /// The address is refused, or what is there.
    #[error("{0}")]
    Fetch(String),
    /// The address does not answer now.
    #[error("the address did not give the file: {0}")]
    Unreachable(String),
}

/// What is said of a file that comes in.
#[derive(Debug, Clone, Default)]
pub struct Label {
    pub name: Option<String>,
    pub content_type: String,
    pub created_by: Option<String>,
}

/// The file store.
pub struct Files {
    config: FilesConfig,
    database: PgPool,
    storage: OnceCell<Storage>,
    fetcher: OnceCell<fetch::Fetcher>,
}

/// A file's bytes on their way out.
pub type FileStream = BoxStream<'static, Result<Bytes, FilesError>>;

impl Files {
    /// Nothing is opened before it is needed: most processes never touch a file.
    pub fn new(config: FilesConfig, database: PgPool) -> Self {
        Self {
            config,
            database,
            storage: OnceCell::new(),
            fetcher: OnceCell::new(),
        }
    }

    /// How many days a file is kept after it was uploaded or used.
    pub fn keep_days(&self) -> i32 {
        self.config.keep_days
    }

    pub fn max_bytes(&self) -> u64 {
        self.config.max_bytes
    }

    async fn storage(&self) -> Result<&Storage, FilesError> {
        self.storage
            .get_or_try_init(|| async { open(&self.config.place) })
            .await
    }

    async fn objects(&self) -> Result<&Arc<dyn ObjectStore>, FilesError> {
        Ok(&self.storage().await?.objects)
    }

    async fn sink(&self) -> Result<&Sink, FilesError> {
        Ok(&self.storage().await?.sink)
    }

    /// Stores a file. `true`: one with the same bytes was there, and is the answer.
    pub async fn put<S, E>(&self, bytes: S, label: &Label) -> Result<(FileRecord, bool), FilesError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: std::error::Error + Send + Sync + 'static,
    {
        let id = Uuid::now_v7();
        let object = object_of(id);
        incoming_files::begin(&self.database, id, &object).await?;
        let arrived = self.take_in(id, &object, bytes).await?;
        // After an error nobody knows whether this was committed: bytes that are no file's are swept by their note.
        let record = self.record(id, &object, &arrived, label).await;
        match record {
            Ok(record) if record.id == id => return Ok((record, false)),
            Ok(_) | Err(FilesError::StoodStill) => self.discard(id, &object).await,
            Err(_) => {}
        }
        Ok((record?, true))
    }

    async fn record(&self, id: Uuid, object: &str, arrived: &Arrived, label: &Label) -> Result<FileRecord, FilesError> {
        let mut transaction = self.database.begin().await.map_err(failed("add_file"))?;
        let file = NewFile {
            id,
            sha256: &arrived.sha256,
            object,
            size_bytes: i64::try_from(arrived.size).unwrap_or(i64::MAX),
            content_type: &label.content_type,
            name: label.name.as_deref(),
            created_by: label.created_by.as_deref(),
            keep: DAY * u32::try_from(self.config.keep_days).unwrap_or(u32::MAX),
            downloaded: false,
        };
        let record = files::add(&mut transaction, &file).await?;
        if record.id == id && !incoming_files::end(&mut transaction, id).await? {
            return Err(FilesError::StoodStill);
        }
        transaction.commit().await.map_err(failed("add_file"))?;
        Ok(record)
    }

    /// What is known of a file.
    pub async fn find(&self, id: Uuid) -> Result<Option<FileRecord>, FilesError> {
        Ok(files::find(&self.database, id).await?)
    }

    /// A file's bytes; of a `range` of them, which it must have, those alone.
    pub async fn read(&self, file: &FileRecord, range: Option<Range<u64>>) -> Result<FileStream, FilesError> {
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let path = Path::from(file.object.as_str());
        let got = self.objects().await?.get_opts(&path, options).await?;
        Ok(got.into_stream().map(|chunk| chunk.map_err(FilesError::from)).boxed())
    }

    /// Keeps a file that a job uses.
    pub async fn keep(&self, id: Uuid) -> Result<(), FilesError> {
        Ok(files::keep(&self.database, id, self.config.keep_days).await?)
    }

    /// Fetches an address into the store, if it is one that may be reached and gives what is wanted.
    pub async fn fetch(&self, url: &str, wanted: fetch::Wanted) -> Result<FileRecord, FilesError> {
        let fetcher = self
            .fetcher
            .get_or_try_init(|| async { fetch::Fetcher::new(&self.config) })
            .await?;
        let fetched = fetcher.open(url, wanted, self.config.max_bytes).await?;
        let label = Label {
            name: fetched.name,
            content_type: fetched.content_type,
            created_by: None,
        };
        let (record, _) = tokio::time::timeout(self.config.fetch_timeout, self.put(fetched.bytes, &label))
            .await
            .map_err(|_| FilesError::Unreachable(format!("{} took too long", fetched.host)))??;
        // Equal bytes may be there under another name and type: this message shows what the address says.
        Ok(FileRecord {
            name: label.name,
            content_type: label.content_type,
            ..record
        })
    }

    /// Deletes the bytes of files that are gone or whose time is over; returns how many. Any number of processes may do so.
    pub async fn sweep(&self) -> Result<usize, FilesError> {
        // Committed before a byte is touched: a file that can still be found has its bytes, wherever this breaks off.
        let mut conn = store::connection(&self.database, "expire_files").await?;
        files::keep_scheduled(&mut conn, self.config.keep_days).await?;
        files::expire(&mut conn, SWEPT_AT_ONCE).await?;
        drop(conn);
        let mut transaction = self.database.begin().await.map_err(failed("sweep_files"))?;
        let gone = files::lock_gone(&mut transaction, SWEPT_AT_ONCE).await?;
        let mut ids = Vec::with_capacity(gone.len());
        let mut left = Vec::new();
        for (id, object) in gone {
            match self.objects().await?.delete(&Path::from(object)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => ids.push(id),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a file was not deleted");
                    left.push(id);
                }
            }
        }
        files::put_off(&mut transaction, &left).await?;
        files::forget(&mut transaction, &ids).await?;
        let swept =
            ids.len() + self.sweep_partial(&mut transaction).await? + self.sweep_arrivals(&mut transaction).await?;
        transaction.commit().await.map_err(failed("sweep_files"))?;
        Ok(swept)
    }

    /// The same for what downloads have left.
    async fn sweep_partial(&self, conn: &mut PgConnection) -> Result<usize, FilesError> {
        let mut ids = Vec::new();
        for left in partial_files::lock_left(conn, SWEPT_AT_ONCE).await? {
            let discarded = async {
                let progress = Progress::read(&left.progress)?;
                let sink = self.sink().await?;
                sink.discard(&left.object, progress.upload()).await
            };
            match discarded.await {
                Ok(()) => ids.push(left.id),
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "a download was not discarded"),
            }
        }
        partial_files::forget(conn, &ids).await?;
        Ok(ids.len())
    }

    /// The same for what uploads have left whose process died.
    async fn sweep_arrivals(&self, conn: &mut PgConnection) -> Result<usize, FilesError> {
        let (mut ids, mut stuck) = (Vec::new(), Vec::new());
        for left in incoming_files::lock_left(conn, LEFT_AFTER, SWEPT_AT_ONCE).await? {
            match self.sink().await?.discard(&left.object, left.upload.as_ref()).await {
                Ok(()) => ids.push(left.id),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "an upload was not discarded");
                    stuck.push(left.id);
                }
            }
        }
        incoming_files::put_off(conn, &stuck).await?;
        incoming_files::forget(conn, &ids).await?;
        Ok(ids.len())
    }

    /// Sweeps from time to time, for as long as it is polled.
    pub async fn keep_sweeping(&self) {
        loop {
            match self.sweep().await {
                Ok(swept) if i64::try_from(swept).is_ok_and(|swept| swept >= SWEPT_AT_ONCE) => {}
                Ok(_) => tokio::time::sleep(SWEEP_EACH).await,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "files were not swept");
                    tokio::time::sleep(SWEEP_EACH).await;
                }
            }
        }
    }
}

pub use fetch::Wanted;

/// What the bytes of a file are called.
fn object_of(id: Uuid) -> String {
    format!("{:02x}/{id}", id.as_bytes()[15])
}

/// The bytes' place, as it takes them whole and piece by piece.
struct Storage {
    objects: Arc<dyn ObjectStore>,
    sink: Sink,
}

fn open(place: &FilesPlace) -> Result<Storage, FilesError> {
    match place {
        FilesPlace::Directory(directory) => {
            std::fs::create_dir_all(directory).map_err(FilesError::Directory)?;
            let objects = LocalFileSystem::new_with_prefix(directory)?.with_automatic_cleanup(true);
            Ok(Storage {
                objects: Arc::new(objects),
                sink: Sink::Directory(directory.clone()),
            })
        }
        FilesPlace::S3 {
            bucket,
            endpoint,
            region,
            key_id,
            secret,
        } => {
            let mut builder = AmazonS3Builder::new()
                .with_bucket_name(bucket)
                .with_region(region)
                .with_access_key_id(key_id)
                .with_secret_access_key(secret.expose());
            if let Some(endpoint) = endpoint {
                builder = builder
                    .with_endpoint(endpoint)
                    .with_allow_http(endpoint.starts_with("http://"));
            }
            let storage = Arc::new(builder.build()?);
            Ok(Storage {
                objects: Arc::clone(&storage) as Arc<dyn ObjectStore>,
                sink: Sink::S3(storage),
            })
        }
    }
}

/// Reads on, and keeps nothing.
async fn pass_over<S, E>(bytes: &mut S)
where
    S: Stream<Item = Result<Bytes, E>> + Unpin + Send,
{
    let reading = async {
        let mut left = PASSED_OVER;
        while let Some(Ok(chunk)) = bytes.next().await {
            left = left.saturating_sub(chunk.len() as u64);
            if left == 0 {
                return;
            }
        }
    };
    // A sender that is slower than that is not waited for.
    let _ = tokio::time::timeout(PASSED_OVER_WITHIN, reading).await;
}

#[cfg(test)]
mod tests;
