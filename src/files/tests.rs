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
