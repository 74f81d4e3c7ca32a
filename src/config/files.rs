use std::{path::PathBuf, time::Duration};

use super::{ConfigError, Secret, Source, source::invalid};

/// A mebibyte.
const MB: u64 = 1024 * 1024;

/// The largest file that may be allowed, in MB, and the longest time to fetch one, in seconds: an attempt has time for both.
pub const MOST_FILE_MB: u64 = 1900;
pub const MOST_FETCH_SECONDS: u64 = 240;

/// Where uploaded files are kept, and what may be fetched. The API and the workers need the same.
#[derive(Debug, Clone)]
pub struct FilesConfig {
    pub place: FilesPlace,
    /// `WIREROOM_FILES_MAX_MB`: the largest file, 64 by default.
    pub max_bytes: u64,
    /// `WIREROOM_FILES_KEEP_DAYS`: how long a file is kept after it was uploaded or last used, 30 by default.
    pub keep_days: i32,
    /// `WIREROOM_FILES_FETCH_SECONDS`: how long fetching an address may take in all, 60 by default.
    pub fetch_timeout: Duration,
    /// `WIREROOM_FILES_ALLOW_PRIVATE`: whether media may be fetched from addresses that are not on the public internet; false by
    /// default.
    pub allow_private: bool,
}

/// Where the bytes are.
#[derive(Debug, Clone)]
pub enum FilesPlace {
    /// `WIREROOM_FILES_DIR`: a directory that all processes see, `files` by default.
    Directory(PathBuf),
    /// `WIREROOM_FILES_S3_BUCKET` and its variables: any storage with the API of S3.
    S3 {
        bucket: String,
        /// `WIREROOM_FILES_S3_ENDPOINT`: left out for AWS itself.
        endpoint: Option<String>,
        /// `WIREROOM_FILES_S3_REGION`, `us-east-1` by default.
        region: String,
        /// `WIREROOM_FILES_S3_KEY_ID`
        key_id: String,
        /// `WIREROOM_FILES_S3_SECRET`
        secret: Secret,
    },
}

impl FilesConfig {
    pub fn read(source: &mut Source) -> Result<Self, ConfigError> {
        let directory = source.text("WIREROOM_FILES_DIR");
        let bucket = source.text("WIREROOM_FILES_S3_BUCKET");
        let endpoint = source.text("WIREROOM_FILES_S3_ENDPOINT");
        let region = source.text("WIREROOM_FILES_S3_REGION");
        let key_id = source.text("WIREROOM_FILES_S3_KEY_ID");
        let secret = source.text("WIREROOM_FILES_S3_SECRET");
        let place = match bucket {
            Some(_) if directory.is_some() => {
                let message = "stands beside WIREROOM_FILES_S3_BUCKET; files are kept in one of the two";
                return Err(invalid("WIREROOM_FILES_DIR", message));
            }
            Some(bucket) => FilesPlace::S3 {
                bucket,
                endpoint,
                region: region.unwrap_or_else(|| "us-east-1".to_owned()),
                key_id: key_id.ok_or_else(|| invalid("WIREROOM_FILES_S3_KEY_ID", "goes with the bucket"))?,
                secret: Secret::new(secret.ok_or_else(|| invalid("WIREROOM_FILES_S3_SECRET", "goes with the bucket"))?),
            },
            None => FilesPlace::Directory(directory.unwrap_or_else(|| "files".to_owned()).into()),
        };
        Ok(Self {
            place,
            max_bytes: source.within("WIREROOM_FILES_MAX_MB", 64, 1, MOST_FILE_MB)? * MB,
            keep_days: source.within("WIREROOM_FILES_KEEP_DAYS", 30, 1, 3650)?,
            fetch_timeout: Duration::from_secs(source.within(
                "WIREROOM_FILES_FETCH_SECONDS",
                60,
                1,
                MOST_FETCH_SECONDS,
            )?),
            allow_private: source.parsed("WIREROOM_FILES_ALLOW_PRIVATE", false)?,
        })
    }
}
