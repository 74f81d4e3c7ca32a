//! What becomes of bytes and rows when something breaks between them, and what equal bytes are called.

use futures::TryStreamExt as _;

use super::*;
use crate::cluster::testing::TestDatabase;

struct Place {
    database: TestDatabase,
    directory: tempfile::TempDir,
    files: Files,
}

impl Place {
    async fn new() -> Self {
        let database = TestDatabase::new().await;
        let directory = tempfile::tempdir().expect("a directory");
        let config = FilesConfig {
            place: FilesPlace::Directory(directory.path().to_owned()),
            max_bytes: 1000,
            keep_days: 1,
            fetch_timeout: Duration::from_secs(5),
            allow_private: false,
        };
        let files = Files::new(config, database.pool().clone());
        Self {
            database,
            directory,
            files,
        }
    }

    async fn put(&self, bytes: &'static [u8], label: &Label) -> (FileRecord, bool) {
        let bytes = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(bytes))]);
        self.files.put(bytes, label).await.expect("stored")
    }

    async fn bytes(&self, file: &FileRecord) -> Vec<u8> {
        let chunks = self.files.read(file, None).await.expect("bytes are there");
        chunks.try_collect::<Vec<Bytes>>().await.expect("read").concat()
    }

    async fn run(&self, statement: &'static str) {
        sqlx::query(statement)
            .execute(self.database.pool())
            .await
            .expect("a statement");
    }
}

fn called(content_type: &str, name: Option<&str>) -> Label {
    Label {
        name: name.map(str::to_owned),
        content_type: content_type.to_owned(),
        created_by: Some("key:1".to_owned()),
    }
}

#[tokio::test]
async fn a_sweep_that_breaks_off_leaves_no_file_without_its_bytes() {
    let place = Place::new().await;
    let label = called("image/png", None);
    let (first, _) = place.put(b"tide", &label).await;
    place
        .run("UPDATE files SET expires_at = wireroom_now() - interval '1 day'")
        .await;
    place
        .run("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''broken''; END'")
        .await;
    place
        .run("CREATE TRIGGER broken BEFORE DELETE ON files FOR EACH ROW EXECUTE FUNCTION refuse()")
        .await;
    assert!(place.files.sweep().await.is_err(), "the row cannot be deleted");
    let (second, was_there) = place.put(b"tide", &label).await;
    assert!(!was_there, "what is being deleted is not found again");
    assert_ne!(first.id, second.id);
    assert_eq!(place.bytes(&second).await, b"tide");
    place.run("DROP TRIGGER broken ON files").await;
    assert_eq!(place.files.sweep().await.expect("swept"), 1);
    assert_eq!(place.bytes(&second).await, b"tide");
}

#[tokio::test]
async fn bytes_that_cannot_be_deleted_are_in_nobodys_way() {
    let place = Place::new().await;
    std::fs::create_dir_all(place.directory.path().join("stuck/inside")).expect("a directory");
    place
        .run(
            "INSERT INTO files (id, sha256, object, size_bytes, content_type, expires_at, deleted_at)
                SELECT gen_random_uuid(), n::text::bytea, 'stuck', 1, 'image/png',
                    wireroom_now() - interval '2 days', wireroom_now() - interval '2 days'
                FROM generate_series(1, 20) n",
        )
        .await;
    place.put(b"tide", &called("image/png", None)).await;
    place
        .run("UPDATE files SET expires_at = wireroom_now() - interval '1 day' WHERE object <> 'stuck'")
        .await;
    place.files.sweep().await.expect("a sweep");
    place.files.sweep().await.expect("a sweep");
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM files WHERE object <> 'stuck'")
        .fetch_one(place.database.pool())
        .await
        .expect("counted");
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_sweep_reads_no_file_that_stays() {
    let place = Place::new().await;
    place
        .run(
            "INSERT INTO files (id, sha256, object, size_bytes, content_type, expires_at)
                SELECT gen_random_uuid(), n::text::bytea, n::text, 1, 'image/png', wireroom_now() + interval '9 days'
                FROM generate_series(1, 5000) n",
        )
        .await;
    place.run("ANALYZE files").await;
    let before = rows_read(&place).await;
    place.files.sweep().await.expect("a sweep");
    assert_eq!(rows_read(&place).await - before, 0);
}

/// The statements of all connections have to be counted, so each of them tells.
async fn rows_read(place: &Place) -> i64 {
    let pool = place.database.pool();
    let mut connections = Vec::new();
    while let Some(mut conn) = pool.try_acquire() {
        sqlx::query("SELECT pg_stat_force_next_flush()")
            .execute(&mut *conn)
            .await
            .expect("flushed");
        connections.push(conn);
    }
    drop(connections);
    sqlx::query_scalar(
        "SELECT coalesce(sum(coalesce(idx_tup_fetch, 0) + seq_tup_read), 0)::bigint FROM pg_stat_user_tables
            WHERE relname = 'files'",
    )
    .fetch_one(pool)
    .await
    .expect("counters")
}

#[tokio::test]
async fn equal_bytes_are_what_was_said_of_them_last() {
    let place = Place::new().await;
    let (first, _) = place
        .put(b"tide", &called("application/octet-stream", Some("a.bin")))
        .await;
    let (again, was_there) = place.put(b"tide", &called("video/mp4", None)).await;
    assert!(was_there);
    assert_eq!(
        (again.id, again.content_type.as_str(), again.name.as_deref()),
        (first.id, "video/mp4", Some("a.bin"))
    );
    let (again, _) = place
        .put(b"tide", &called("application/octet-stream", Some("tide.mp4")))
        .await;
    assert_eq!(
        (again.content_type.as_str(), again.name.as_deref()),
        ("video/mp4", Some("tide.mp4")),
        "who says nothing of a type takes none away"
    );
    let fetched = Label {
        created_by: None,
        ..called("image/png", Some("other.png"))
    };
    let (again, _) = place.put(b"tide", &fetched).await;
    assert_eq!(
        (again.content_type.as_str(), again.name.as_deref()),
        ("video/mp4", Some("tide.mp4")),
        "what a job fetches renames no upload"
    );
}

impl Place {
    /// How many files there are in the directory, whatever they are.
    fn on_disk(&self) -> usize {
        let mut directories = vec![self.directory.path().to_owned()];
        let mut files = 0;
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).expect("readable") {
                let path = entry.expect("readable").path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    files += 1;
                }
            }
        }
        files
    }

    async fn count(&self, query: &'static str) -> i64 {
        let count = sqlx::query_scalar(query).fetch_one(self.database.pool());
        count.await.expect("counted")
    }

    /// Waits until an upload has begun to put bytes into the directory.
    async fn begun(&self) {
        let begun = async {
            while self.on_disk() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), begun)
            .await
            .expect("it begins");
    }

    /// Nobody has been at any upload for longer than it takes to be given up.
    async fn age(&self) {
        self.run("UPDATE incoming_files SET touched_at = wireroom_now() - interval '31 minutes'")
            .await;
    }
}

const NOTES: &str = "SELECT count(*) FROM incoming_files";

#[tokio::test]
async fn what_an_upload_whose_process_died_has_left_is_swept() {
    let place = Place::new().await;
    let label = called("image/png", None);
    let endless = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"tide"))]);
    let endless = endless.chain(futures::stream::pending());
    let mut put = Box::pin(place.files.put(endless, &label));
    tokio::select! {
        _ = &mut put => panic!("it has no end"),
        () = place.begun() => {}
    }
    // As a process that dies does: nothing of it runs any more.
    std::mem::forget(put);
    assert_eq!(place.files.sweep().await.expect("swept"), 0, "somebody may be at it");
    assert_eq!((place.count(NOTES).await, place.on_disk()), (1, 1));
    place.age().await;
    assert_eq!(place.files.sweep().await.expect("swept"), 1);
    assert_eq!((place.count(NOTES).await, place.on_disk()), (0, 0));
}

#[tokio::test]
async fn bytes_whose_row_was_never_written_are_swept() {
    let place = Place::new().await;
    place
        .run("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''broken''; END'")
        .await;
    place
        .run("CREATE TRIGGER broken BEFORE INSERT ON files FOR EACH ROW EXECUTE FUNCTION refuse()")
        .await;
    let bytes = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"tide"))]);
    let refused = place.files.put(bytes, &called("image/png", None)).await;
    assert!(matches!(refused, Err(FilesError::Database(_))), "{refused:?}");
    assert_eq!((place.count(NOTES).await, place.on_disk()), (1, 1));
    place.age().await;
    assert_eq!(place.files.sweep().await.expect("swept"), 1);
    assert_eq!((place.count(NOTES).await, place.on_disk()), (0, 0));
}

#[tokio::test]
async fn an_upload_that_was_swept_meanwhile_is_no_file() {
    let place = Place::new().await;
    let label = called("image/png", None);
    let (finish, finished) = tokio::sync::oneshot::channel::<()>();
    let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"tide"))]);
    let last = futures::stream::once(async {
        finished.await.expect("told");
        Ok(Bytes::from_static(b" table"))
    });
    let put = place.files.put(first.chain(last), &label);
    let sweeper = async {
        place.begun().await;
        // As a sweep does, whose deletion has missed the bytes that came after it.
        place.run("DELETE FROM incoming_files").await;
        finish.send(()).expect("heard");
    };
    let (put, ()) = tokio::join!(put, sweeper);
    assert!(matches!(put, Err(FilesError::StoodStill)), "{put:?}");
    assert_eq!(place.count("SELECT count(*) FROM files").await, 0);
    assert_eq!(place.on_disk(), 0);
}

#[tokio::test]
async fn an_upload_leaves_no_note() {
    let place = Place::new().await;
    let label = called("image/png", None);
    place.put(b"tide", &label).await;
    let (_, was_there) = place.put(b"tide", &label).await;
    assert!(was_there);
    let large = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![0; 2000]))]);
    let refused = place.files.put(large, &label).await;
    assert!(matches!(refused, Err(FilesError::TooLarge { .. })), "{refused:?}");
    let broken = futures::stream::iter([Err::<Bytes, _>(std::io::Error::other("gone"))]);
    let refused = place.files.put(broken, &label).await;
    assert!(matches!(refused, Err(FilesError::Broken(_))), "{refused:?}");
    assert_eq!((place.count(NOTES).await, place.on_disk()), (0, 1));
}

#[tokio::test]
async fn a_sweep_leaves_the_files_of_schedules() {
    let place = Place::new().await;
    let (kept, _) = place.put(b"tide", &called("image/png", None)).await;
    place.put(b"ebb", &called("image/png", None)).await;
    sqlx::query(
        "INSERT INTO schedules (id, name, cron, time_zone, kind, args, priority, tags, missed, missed_max,
                missed_after_seconds, overlap, jitter_seconds, next_tick_at, next_due_at, created_by, created_at, updated_at)
            SELECT gen_random_uuid(), 'tides', '@yearly', 'UTC', 'publish',
                jsonb_build_object('media', jsonb_build_array(jsonb_build_object('url', 'x'), jsonb_build_object('file', $1))),
                0, '{}', 'once', 1, 60, 'allow', 0, at, at, 'key:1', at, at
            FROM (SELECT wireroom_now() + interval '90 days' AS at) AS time",
    )
    .bind(kept.id)
    .execute(place.database.pool())
    .await
    .expect("a schedule");
    place
        .run("UPDATE files SET expires_at = wireroom_now() - interval '1 day'")
        .await;
    assert_eq!(place.files.sweep().await.expect("swept"), 1);
    assert_eq!(place.bytes(&kept).await, b"tide");
    assert!(place.files.find(kept.id).await.expect("looked for").is_some());
}
