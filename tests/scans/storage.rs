//! The same on a storage with the API of S3, a server of another's writing: what is uploaded, published and downloaded, in one
//! part and in several, and what is left of it afterwards.

use std::{process::Stdio, time::Duration};

use futures::TryStreamExt as _;
use object_store::{ObjectStore as _, aws::AmazonS3Builder};
use reqwest::StatusCode;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::Mutex,
};
use wireroom::sandbox::{Effect, Fault};

use super::{
    media::{PART, bytes, content, document, hold_part_after, row, send, wanted},
    *,
};
use crate::{
    clients::Library,
    support::{
        stack::{JOB_BOUND, patience},
        wait::eventually,
    },
};

const BUCKET: &str = "harbour";
const START_BOUND: Duration = Duration::from_mins(1);
/// Parts of a download on their way to S3.
const PIECE: usize = 8 << 20;
/// The same in parts of Telegram's.
const PIECE_PARTS: u32 = 16;

static MOTO: Library = Library {
    name: "moto-5.2.5",
    packages: &[
        "moto==5.2.5",
        "boto3==1.44.5",
        "botocore==1.44.5",
        "s3transfer==0.19.3",
        "jmespath==1.1.0",
        "python-dateutil==2.9.0.post0",
        "six==1.17.0",
        "urllib3==2.8.0",
        "cryptography==50.0.2",
        "cffi==2.1.1",
        "pycparser==3.12",
        "requests==2.34.2",
        "certifi==2026.10.18",
        "charset-normalizer==3.5.2",
        "idna==3.20",
        "responses==0.26.3",
        "PyYAML==6.0.3",
        "Werkzeug==3.1.9",
        "MarkupSafe==3.0.4",
        "Jinja2==3.1.6",
        "xmltodict==1.0.4",
        "Flask==3.1.3",
        "flask-cors==6.0.5",
        "blinker==1.9.0",
        "click==8.5.1",
        "itsdangerous==2.2.0",
        "py-partiql-parser==0.6.3",
    ],
    made: Mutex::const_new(()),
};

/// A server with one bucket; it ends with the test.
struct Storage {
    endpoint: String,
    _server: Child,
}

impl Storage {
    async fn start() -> Self {
        let python = MOTO.python().await;
        let mut server = Command::new(python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(env!("CARGO_TARGET_TMPDIR"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(server.stderr.take().expect("piped")).lines();
        let listening = async {
            loop {
                let line = lines.next_line().await.expect("readable").expect("it runs");
                if let Some((_, address)) = line.split_once("Running on ") {
                    return address.trim().to_owned();
                }
            }
        };
        let endpoint = tokio::time::timeout(START_BOUND, listening).await.expect("it listens");
        // What it says of each request has to go somewhere.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let made = crate::support::stack::http_client().put(format!("{endpoint}/{BUCKET}"));
        assert_eq!(made.send().await.expect("answered").status(), StatusCode::OK);
        Self {
            endpoint,
            _server: server,
        }
    }

    async fn stack(&self) -> Stack {
        Stack::with(Options {
            accounts: vec!["judy"],
            variables: vec![
                ("WIREROOM_PERSON_KEY", KEY.to_owned()),
                ("WIREROOM_FILES_S3_BUCKET", BUCKET.to_owned()),
                ("WIREROOM_FILES_S3_ENDPOINT", self.endpoint.clone()),
                ("WIREROOM_FILES_S3_KEY_ID", "harbour".to_owned()),
                ("WIREROOM_FILES_S3_SECRET", "not much of a secret".to_owned()),
                ("WIREROOM_FILES_MAX_MB", "32".to_owned()),
                patience(),
            ],
            ..Options::default()
        })
        .await
    }

    /// How many uploads were begun, and neither completed nor aborted.
    async fn uploads(&self) -> usize {
        let client = crate::support::stack::http_client();
        let listed = client.get(format!("{}/{BUCKET}?uploads", self.endpoint)).send().await;
        let text = listed.expect("answered").text().await.expect("text");
        text.matches("<UploadId>").count()
    }

    /// How large the objects are, the largest first.
    async fn objects(&self) -> Vec<u64> {
        let storage = AmazonS3Builder::new()
            .with_bucket_name(BUCKET)
            .with_region("us-east-1")
            .with_endpoint(&self.endpoint)
            .with_allow_http(true)
            .with_access_key_id("harbour")
            .with_secret_access_key("not much of a secret")
            .build()
            .expect("a client");
        let listed: Vec<_> = storage.list(None).try_collect().await.expect("listed");
        let mut sizes: Vec<u64> = listed.into_iter().map(|object| object.size).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        sizes
    }
}

async fn upload(stack: &Stack, bytes: Vec<u8>, content_type: &str) -> (StatusCode, Value) {
    let request = stack.request(Method::POST, "/v1/files?name=tide.bin");
    let response = request.header("Content-Type", content_type).body(bytes).send().await;
    let response = response.expect("answered");
    (response.status(), response.json().await.expect("JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_kept_published_and_deleted_on_s3() {
    let storage = Storage::start().await;
    let stack = storage.stack().await;
    let _worker = stack.worker().await;
    // One part of S3's, and several.
    let (small, large) = (bytes(900, 21), bytes(12_345_678, 22));
    let (status, first) = upload(&stack, small.clone(), "application/pdf").await;
    assert_eq!(status, StatusCode::CREATED, "{first}");
    let (status, second) = upload(&stack, large.clone(), "application/pdf").await;
    assert_eq!(status, StatusCode::CREATED, "{second}");
    let (status, again) = upload(&stack, large.clone(), "application/pdf").await;
    assert_eq!((status, &again["id"]), (StatusCode::OK, &second["id"]));
    assert_eq!(storage.objects().await, [12_345_678, 900], "equal bytes are kept once");
    for (file, expected) in [(&first, &small), (&second, &large)] {
        let (status, bytes) = content(&stack, &file["id"]).await;
        assert!(status == StatusCode::OK && bytes == *expected);
    }
    let item = json!({ "type": "document", "file": second["id"] });
    let args = json!({ "chat": "@harbour_market", "media": [item] });
    let sent = stack.succeed("publish", args).await;
    let (chat, id) = (stack.chat("harbour_market"), &sent["message_id"]);
    let id = i32::try_from(id.as_i64().expect("an id")).expect("in range");
    let media = stack.sandbox.controls().with_world(|world| world.media_of(chat, id));
    assert!(media == Some((large, false)), "it arrived otherwise");
    let (status, _) = upload(&stack, bytes((32 << 20) + 1, 23), "application/pdf").await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    for file in [&first, &second] {
        let path = format!("/v1/files/{}", file["id"].as_str().expect("an id"));
        let gone = stack.request(Method::DELETE, &path).send().await.expect("answered");
        assert_eq!(gone.status(), StatusCode::NO_CONTENT);
    }
    assert_eq!(
        storage.objects().await,
        Vec::<u64>::new(),
        "and of what was refused nothing is left"
    );
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_go_on_in_an_upload_of_several_parts() {
    let storage = Storage::start().await;
    let stack = storage.stack().await;
    let worker = stack.worker().await;
    let (small, large) = (bytes(4711, 24), bytes(2 * PIECE + PART + 3, 25));
    let even = bytes(PIECE, 26);
    let last = send(&stack, "judy", &[document(large.clone(), "long.bin", "video/mp4")])[0];
    let middle = send(&stack, "judy", &[document(even.clone(), "even.bin", "video/mp4")])[0];
    let first = send(&stack, "judy", &[document(small.clone(), "short.bin", "video/mp4")])[0];
    // The two smaller ones, and more than a piece of the last.
    hold_part_after(&stack, 1 + PIECE_PARTS + PIECE_PARTS + 1);
    let id = stack.post("scan", wanted(3, &json!({}))).await;
    let kept =
        "SELECT coalesce(max(p.size_bytes), 0)::bigint FROM partial_files p JOIN scan_files f USING (job_id, media_id)
        WHERE f.size_bytes > 10000000";
    let piece = i64::try_from(PIECE).expect("small");
    eventually(JOB_BOUND, async || match stack.figure(kept).await {
        bytes if bytes == piece => Ok(()),
        bytes => Err(bytes),
    })
    .await;
    worker.kill();
    stack.sandbox.controls().clear_faults();
    let given = |file: i64| -> Vec<i64> {
        let parts = stack.sandbox.controls().with_world(|world| world.parts_given());
        let of_file = parts.into_iter().filter(|(of, _)| *of == file);
        of_file.map(|(_, offset)| offset).collect()
    };
    let before = given(last.1).len();
    let _second = stack.worker().await;
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(job["result"]["files"]["downloaded"], 3, "{job}");
    assert!(
        given(last.1)[before..].iter().all(|offset| *offset >= piece),
        "what was kept was asked for again"
    );
    assert_eq!((given(first.1).len(), given(middle.1).len()), (1, 16));
    for ((message, _), expected) in [(first, &small), (middle, &even), (last, &large)] {
        let row = row(&stack, &id, message).await;
        assert!(content(&stack, &row["file"]["id"]).await.1 == *expected, "{row}");
    }
    let sizes: Vec<u64> = [large.len(), even.len(), small.len()].map(|size| size as u64).into();
    assert_eq!(storage.objects().await, sizes);
    assert_eq!(stack.figure("SELECT count(*) FROM partial_files").await, 0);
    // Half a file of a job that is cancelled is swept with whatever is deleted next.
    stack.fault(Fault::once("upload.getFile", Effect::Delay { ms: 0 }).times(PIECE_PARTS + 1));
    let held = Fault::once("upload.getFile", Effect::Hold);
    let held = stack.sandbox.controls().add_fault(held);
    // Long enough for the worker to hear of it.
    stack.fault(Fault::once("upload.getFile", Effect::Delay { ms: 2_000 }).forever());
    send(
        &stack,
        "judy",
        &[document(bytes(2 * PIECE, 27), "half.bin", "video/mp4")],
    );
    let id = stack.post("scan", wanted(1, &json!({}))).await;
    eventually(JOB_BOUND, async || {
        match stack
            .figure("SELECT coalesce(max(size_bytes), 0)::bigint FROM partial_files")
            .await
        {
            bytes if bytes == piece => Ok(()),
            bytes => Err(bytes),
        }
    })
    .await;
    let cancel = stack.request(Method::POST, &format!("/v1/jobs/{id}/cancel"));
    assert!(cancel.send().await.expect("answered").status().is_success());
    stack.sandbox.controls().remove_fault(held);
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "cancelled", "{job}");
    let (_, other) = upload(&stack, bytes(10, 28), "text/plain").await;
    let path = format!("/v1/files/{}", other["id"].as_str().expect("an id"));
    stack.request(Method::DELETE, &path).send().await.expect("answered");
    assert_eq!(stack.figure("SELECT count(*) FROM partial_files").await, 0);
    assert_eq!(storage.objects().await, sizes);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_process_is_killed_leaves_nothing_on_s3() {
    let storage = Storage::start().await;
    let mut stack = storage.stack().await;
    let mut sender = TcpStream::connect(stack.api_addr).await.expect("connected");
    let head = format!(
        "POST /v1/files?name=tide.bin HTTP/1.1\r\nHost: harbour\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/pdf\r\nContent-Length: 20000000\r\n\r\n",
        stack.key
    );
    sender.write_all(head.as_bytes()).await.expect("written");
    // Two parts, and never the rest.
    sender.write_all(&bytes(12_345_678, 29)).await.expect("written");
    eventually(JOB_BOUND, async || match storage.uploads().await {
        1 => Ok(()),
        uploads => Err(uploads),
    })
    .await;
    stack.replace_api().await.kill();
    let named = "SELECT count(*) FROM incoming_files WHERE upload IS NOT NULL";
    assert_eq!(stack.figure(named).await, 1, "it was noted before it had a part");
    sqlx::query("UPDATE incoming_files SET touched_at = wireroom_now() - interval '1 hour'")
        .execute(stack.database.pool())
        .await
        .expect("aged");
    // Swept with whatever is deleted next.
    let (_, other) = upload(&stack, bytes(10, 30), "text/plain").await;
    let path = format!("/v1/files/{}", other["id"].as_str().expect("an id"));
    stack.request(Method::DELETE, &path).send().await.expect("answered");
    assert_eq!(stack.figure("SELECT count(*) FROM incoming_files").await, 0);
    assert_eq!((storage.uploads().await, storage.objects().await), (0, vec![]));
    stack.finish().await;
}
