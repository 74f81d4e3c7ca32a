//! Files of messages: whole, once, within their bounds, from whichever data centre they lie in, and gone on with after a worker
//! died in the middle of one.

use std::{collections::HashSet, path::Path};

use reqwest::StatusCode;
use tempfile::TempDir;
use wireroom::sandbox::{
    Effect, Fault,
    world::{World, files::SentFile},
};

use super::*;
use crate::support::{
    stack::{JOB_BOUND, patience},
    wait::eventually,
};

pub const PART: usize = 512 * 1024;
const CHAT: &str = "harbour_market";

/// Bytes that no two files have alike.
pub fn bytes(size: usize, seed: u8) -> Vec<u8> {
    let wide = u32::from(seed) * 7919;
    let number = |at: usize| (u32::try_from(at).expect("small") + wide).wrapping_mul(2_654_435_761);
    (0..size).map(|at| number(at).to_be_bytes()[0]).collect()
}

pub fn document(bytes: Vec<u8>, name: &str, mime_type: &str) -> SentFile {
    SentFile {
        bytes,
        is_photo: false,
        mime_type: mime_type.to_owned(),
        name: name.to_owned(),
        is_voice: false,
    }
}

fn photo(bytes: Vec<u8>) -> SentFile {
    SentFile {
        is_photo: true,
        ..document(bytes, "", "")
    }
}

/// A stack whose files are in a directory of the test's own.
pub async fn with_files() -> (Stack, TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("files").display().to_string();
    let stack = Stack::with(Options {
        variables: vec![
            ("WIREROOM_PERSON_KEY", KEY.to_owned()),
            ("WIREROOM_FILES_DIR", path),
            ("WIREROOM_FILES_MAX_MB", "16".to_owned()),
            patience(),
        ],
        ..Options::default()
    })
    .await;
    (stack, directory)
}

/// Writes messages with these files; the ids of the messages and of the files.
pub fn send(stack: &Stack, who: &str, files: &[SentFile]) -> Vec<(i32, i64)> {
    let (user, chat) = (stack.account(who), stack.chat(CHAT));
    let controls = stack.sandbox.controls();
    let posted = controls.with_world(|world| {
        // Whoever is in it already is told so.
        let _ = world.put_in(chat, user);
        world.post_files_as(user, chat, files)
    });
    posted.expect("posted")
}

/// The args of a scan of the newest `last` messages with their files.
pub fn wanted(last: usize, download: &Value) -> Value {
    let more = json!({ "history": { "last": last }, "download": download });
    scan("history", &format!("@{CHAT}"), more)
}

/// The row of a message in a scan.
pub async fn row(stack: &Stack, job: &str, message: i32) -> Value {
    let rows = rows(stack, &format!("/v1/jobs/{job}/messages")).await;
    let found = rows.into_iter().find(|row| row["id"] == message);
    found.unwrap_or_else(|| panic!("message {message} is not there"))
}

pub async fn content(stack: &Stack, id: &Value) -> (StatusCode, Vec<u8>) {
    let id = id.as_str().expect("an id");
    let request = stack.request(Method::GET, &format!("/v1/files/{id}/content"));
    let response = request.send().await.expect("answered");
    (response.status(), response.bytes().await.expect("bytes").to_vec())
}

/// Lets so many parts through, and holds the next one until the faults are cleared.
pub fn hold_part_after(stack: &Stack, parts: u32) {
    stack.fault(Fault::once("upload.getFile", Effect::Delay { ms: 0 }).times(parts));
    stack.fault(Fault::once("upload.getFile", Effect::Hold));
}

/// How many files there are under a directory.
pub fn stored(directory: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    let entries = entries.map(|entry| entry.expect("readable").path());
    entries.map(|path| if path.is_dir() { stored(&path) } else { 1 }).sum()
}

pub fn given(stack: &Stack, file: i64) -> Vec<i64> {
    let parts = stack.sandbox.controls().with_world(|world| world.parts_given());
    parts
        .into_iter()
        .filter_map(|(of, offset)| (of == file).then_some(offset))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_arrive_byte_for_byte_and_once() {
    let (stack, directory) = with_files().await;
    let _worker = stack.worker().await;
    // More than a part and no multiple of one, exactly two, and less.
    let large = bytes(3 * PART + 4711, 1);
    let even = bytes(2 * PART, 2);
    let small = bytes(900, 3);
    let sent = send(
        &stack,
        "alice",
        &[
            document(large.clone(), "tides.pdf", "application/pdf"),
            photo(even.clone()),
            SentFile {
                is_voice: true,
                ..document(small.clone(), "voice.ogg", "audio/ogg")
            },
        ],
    );
    // The same file once more, and another one with the same bytes.
    let (user, chat) = (stack.account("alice"), stack.chat(CHAT));
    let again = stack
        .sandbox
        .controls()
        .with_world(|world| world.post_again_as(user, chat, sent[0].1))
        .expect("posted");
    let equal = send(&stack, "alice", &[document(even.clone(), "copy.bin", "Text/; odd")])[0];
    let (id, result) = scanned(&stack, wanted(6, &json!({}))).await;
    let all = large.len() + 2 * even.len() + small.len();
    assert_eq!(
        result["files"],
        json!({ "downloaded": 4, "known": 1, "bytes": all, "skipped": {} }),
        "{result}"
    );
    let album: Vec<Value> = [row(&stack, &id, sent[0].0).await, row(&stack, &id, sent[1].0).await].into();
    assert!(album[0]["album"].is_i64() && album[0]["album"] == album[1]["album"]);
    for ((message, file), expected) in sent.iter().zip([&large, &even, &small]) {
        let row = row(&stack, &id, *message).await;
        let (status, bytes) = content(&stack, &row["file"]["id"]).await;
        assert_eq!(status, StatusCode::OK);
        assert!(bytes == *expected, "file {file} arrived otherwise");
    }
    let first = row(&stack, &id, sent[0].0).await;
    assert_eq!(first["file"]["name"], "tides.pdf", "{first}");
    let newest = row(&stack, &id, again).await;
    assert_eq!(newest["file"]["id"], first["file"]["id"]);
    // From the newest on.
    assert_eq!(
        (&newest["file"]["state"], &first["file"]["state"]),
        (&json!("downloaded"), &json!("known"))
    );
    let copy = row(&stack, &id, equal.0).await;
    let picture = row(&stack, &id, sent[1].0).await;
    assert_eq!(copy["file"]["id"], picture["file"]["id"], "equal bytes are one file");
    assert_eq!(stack.figure("SELECT count(*) FROM files").await, 3);
    let offsets: Vec<i64> = (0..4).map(|part| part * i64::try_from(PART).expect("small")).collect();
    assert_eq!(
        given(&stack, sent[0].1),
        offsets,
        "each part once, by whichever message"
    );
    // A second scan asks for nothing.
    let before = stack.calls("upload.getFile");
    let (second, result) = scanned(&stack, wanted(6, &json!({}))).await;
    assert_eq!(
        result["files"],
        json!({ "downloaded": 0, "known": 5, "bytes": 0, "skipped": {} }),
        "{result}"
    );
    assert_eq!(stack.calls("upload.getFile"), before);
    let csv = whole(&stack, &format!("/v1/jobs/{second}/messages"), "text/csv").await;
    assert!(
        csv.lines()
            .next()
            .expect("a head")
            .ends_with("file_state,file_id,file_reason")
    );
    assert_eq!(csv.matches(",known,").count(), 5, "{csv}");
    // Without `download` nothing is said of files.
    let (plain, result) = scanned(
        &stack,
        scan("history", "@harbour_market", json!({ "history": { "last": 6 } })),
    )
    .await;
    assert!(result.get("files").is_none(), "{result}");
    assert_eq!(row(&stack, &plain, sent[0].0).await["file"], Value::Null);
    assert!(stored(directory.path()) >= 3);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_in_a_file_is_followed_by_one_that_goes_on_in_it() {
    let (stack, _directory) = with_files().await;
    let worker = stack.worker().await;
    let first = bytes(PART + 5, 4);
    let second = bytes(10 * PART + 77, 5);
    // The newest message's file is the first one.
    let slow = send(&stack, "alice", &[document(second.clone(), "long.bin", "video/mp4")])[0];
    let quick = send(&stack, "alice", &[document(first.clone(), "short.bin", "video/mp4")])[0];
    // Two of the quick one, and some of the other.
    hold_part_after(&stack, 2 + 4);
    let id = stack.post("scan", wanted(2, &json!({}))).await;
    let kept = "SELECT coalesce(max(size_bytes), 0)::bigint FROM partial_files";
    eventually(JOB_BOUND, async || {
        let asked = stack.calls("upload.getFile");
        match stack.figure(kept).await {
            bytes if asked >= 2 + 5 && bytes >= 3 * i64::try_from(PART).expect("small") => Ok(()),
            bytes => Err((asked, bytes)),
        }
    })
    .await;
    worker.kill();
    let kept = stack.figure(kept).await;
    assert!(kept < i64::try_from(second.len()).expect("small"), "it was quicker");
    let before = given(&stack, slow.1).len();
    stack.sandbox.controls().clear_faults();
    let _second = stack.worker().await;
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(
        job["result"]["files"],
        json!({ "downloaded": 2, "known": 0, "bytes": first.len() + second.len(), "skipped": {} })
    );
    assert_eq!(
        given(&stack, quick.1).len(),
        2,
        "a finished file is not asked for again"
    );
    let asked = given(&stack, slow.1);
    assert!(
        asked[before..].iter().all(|offset| *offset >= kept),
        "a part that was kept was asked for again: {asked:?} from {kept} on"
    );
    assert!(asked.len() <= 12, "{asked:?}");
    for (message, expected) in [(slow.0, &second), (quick.0, &first)] {
        let row = row(&stack, &id, message).await;
        assert!(content(&stack, &row["file"]["id"]).await.1 == *expected);
    }
    assert_eq!(stack.figure("SELECT count(*) FROM partial_files").await, 0);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_in_the_middle_puts_the_job_off_with_its_place() {
    let (stack, _directory) = with_files().await;
    let _worker = stack
        .worker_with(&[("WIREROOM_TELEGRAM_WAIT_IN_PLACE_SECONDS", "0".to_owned())])
        .await;
    let whole = bytes(4 * PART, 6);
    let sent = send(&stack, "alice", &[document(whole.clone(), "a.bin", "video/mp4")])[0];
    for name in ["FLOOD_WAIT_2", "FLOOD_PREMIUM_WAIT_2"] {
        let flood = Effect::Error {
            code: 420,
            name: name.to_owned(),
        };
        stack.fault(Fault::once("upload.getFile", Effect::Delay { ms: 1 }));
        stack.fault(Fault::once("upload.getFile", flood));
    }
    let id = stack.post("scan", wanted(1, &json!({}))).await;
    let waits = stack
        .job_when(&id, "put off", |job| {
            job["state"] == "scheduled" && job["wait_reason"]["code"] == "flood"
        })
        .await;
    assert_eq!(waits["wait_reason"]["code"], "flood");
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(given(&stack, sent.1).len(), 4, "each part once");
    let floods = stack
        .figure("SELECT count(*) FROM floods WHERE method = 'upload.getFile'")
        .await;
    assert_eq!(floods, 2);
    let row = row(&stack, &id, sent.0).await;
    assert!(content(&stack, &row["file"]["id"]).await.1 == whole);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_or_not_wanted_is_passed_over_and_said() {
    let (stack, directory) = with_files().await;
    let _worker = stack.worker().await;
    let sent: Vec<(i32, i64)> = [
        document(bytes(900, 7), "first.bin", "video/mp4"),
        photo(bytes(800, 8)),
        document(bytes(1500, 9), "each.bin", "video/mp4"),
        document(bytes(700, 10), "total.bin", "video/mp4"),
        document(bytes(17 << 20, 11), "store.bin", "video/mp4"),
    ]
    .into_iter()
    .rev()
    .map(|file| send(&stack, "alice", &[file])[0])
    .collect();
    let download = json!({ "kinds": ["document"], "max_bytes_each": 1000, "max_bytes_total": 1500 });
    let (id, result) = scanned(&stack, wanted(5, &download)).await;
    assert_eq!(
        result["files"],
        json!({ "downloaded": 1, "known": 0, "bytes": 900, "skipped": { "kind": 1, "too_large": 2, "total_bound": 1 } }),
        "{result}"
    );
    let reasons = ["too_large", "total_bound", "too_large", "kind"];
    for ((message, _), reason) in sent.iter().zip(reasons) {
        let row = row(&stack, &id, *message).await;
        assert_eq!(
            (&row["file"]["state"], &row["file"]["reason"]),
            (&json!("skipped"), &json!(reason)),
            "{row}"
        );
    }
    assert_eq!(stack.calls("upload.getFile"), 1);
    assert_eq!(stored(directory.path()), 1);
    // The store's own bound holds where none is given.
    let (_, result) = scanned(&stack, wanted(5, &json!({}))).await;
    assert_eq!(result["files"]["skipped"], json!({ "too_large": 1 }), "{result}");
    for (download, field) in [
        (json!({ "kinds": ["poll"] }), "args.download.kinds[0]"),
        (json!({ "max_bytes_each": 0 }), "args.download.max_bytes_each"),
        (json!({ "max_bytes_total": 0 }), "args.download.max_bytes_total"),
    ] {
        let body = json!({ "kind": "scan", "args": wanted(1, &download) });
        let refused = stack.request(Method::POST, "/v1/jobs").json(&body).send().await;
        let refused: Value = refused.expect("answered").json().await.expect("JSON");
        assert_eq!(refused["field"], field, "{refused}");
    }
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_reference_is_read_again_and_what_is_gone_is_passed_over() {
    let (stack, _directory) = with_files().await;
    let _worker = stack.worker().await;
    let whole = bytes(3 * PART, 12);
    let sent = send(&stack, "alice", &[document(whole.clone(), "a.bin", "video/mp4")])[0];
    hold_part_after(&stack, 1);
    let id = stack.post("scan", wanted(1, &json!({}))).await;
    eventually(JOB_BOUND, async || match stack.calls("upload.getFile") {
        0 | 1 => Err("the second part is not asked for"),
        _ => Ok(()),
    })
    .await;
    let controls = stack.sandbox.controls();
    controls.with_world(World::expire_file_references);
    controls.clear_faults();
    let job = stack.finished(&id).await;
    assert_eq!(job["result"]["files"]["downloaded"], 1, "{job}");
    assert_eq!(given(&stack, sent.1).len(), 3);
    assert_eq!(stack.calls("channels.getMessages"), 1);
    let found = row(&stack, &id, sent.0).await;
    assert!(content(&stack, &found["file"]["id"]).await.1 == whole);
    // A fresh reference does not help either.
    let expired = Effect::Error {
        code: 400,
        name: "FILE_REFERENCE_EXPIRED".to_owned(),
    };
    stack.fault(Fault::once("upload.getFile", expired).forever());
    let other = send(&stack, "alice", &[document(bytes(100, 13), "b.bin", "video/mp4")])[0];
    let (id, result) = scanned(&stack, wanted(1, &json!({}))).await;
    assert_eq!(
        result["files"]["skipped"],
        json!({ "reference_expired": 1 }),
        "{result}"
    );
    assert_eq!(row(&stack, &id, other.0).await["file"]["reason"], "reference_expired");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_another_data_centre_is_fetched_there_with_a_key_of_its_own() {
    let (stack, _directory) = with_files().await;
    let worker = stack.worker().await;
    let controls = stack.sandbox.controls();
    let (told, moved) = (bytes(PART + 1, 14), bytes(2 * PART + 1, 15));
    let first = send(&stack, "alice", &[document(told.clone(), "told.bin", "video/mp4")])[0];
    let second = send(&stack, "alice", &[document(moved.clone(), "moved.bin", "video/mp4")])[0];
    controls.with_world(|world| {
        world.move_file(first.1, 4, true);
        world.move_file(second.1, 4, false);
    });
    let (id, result) = scanned(&stack, wanted(2, &json!({}))).await;
    assert_eq!(result["files"]["downloaded"], 2, "{result}");
    for (message, expected) in [(first.0, &told), (second.0, &moved)] {
        let row = row(&stack, &id, message).await;
        assert!(content(&stack, &row["file"]["id"]).await.1 == *expected);
    }
    assert_eq!(
        given(&stack, second.1).len(),
        3,
        "once sent on, the rest is asked for there"
    );
    assert_eq!(stack.calls("auth.exportAuthorization"), 1);
    let keys = "SELECT count(*) FROM session_dcs WHERE auth_key_sealed IS NOT NULL";
    assert_eq!(stack.figure(keys).await, 2);
    // Another worker has the key, and needs no other.
    worker.kill();
    let third = send(&stack, "alice", &[document(bytes(10, 16), "c.bin", "video/mp4")])[0];
    controls.with_world(|world| world.move_file(third.1, 4, true));
    let _worker = stack.worker().await;
    let (_, result) = scanned(&stack, wanted(1, &json!({}))).await;
    assert_eq!(result["files"]["downloaded"], 1, "{result}");
    assert_eq!(stack.calls("auth.exportAuthorization"), 1);
    let alice = stack.account("alice");
    let used: HashSet<String> = controls.keys(Some(alice)).into_iter().map(|key| key.key).collect();
    assert_eq!(used.len(), 2, "a key for each data centre");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_with_the_last_row_that_names_it() {
    let (stack, directory) = with_files().await;
    let _worker = stack.worker().await;
    let sent = send(&stack, "alice", &[document(bytes(900, 17), "a.bin", "video/mp4")])[0];
    let mut short = wanted(1, &json!({}));
    short["retention_days"] = json!(1);
    let (first, _) = scanned(&stack, short).await;
    let (second, _) = scanned(&stack, wanted(1, &json!({}))).await;
    let file = row(&stack, &first, sent.0).await["file"]["id"].clone();
    let expire = "DELETE FROM scan_files WHERE job_id = $1";
    let pool = stack.database.pool();
    for (job, status) in [(&first, StatusCode::OK), (&second, StatusCode::NOT_FOUND)] {
        let job: uuid::Uuid = job.parse().expect("an id");
        sqlx::query(expire).bind(job).execute(pool).await.expect("deleted");
        assert_eq!(content(&stack, &file).await.0, status);
    }
    assert_eq!(stored(directory.path()), 1, "its bytes are swept in time");
    // Whoever uploads the same bytes has a file of their own.
    let (third, _) = scanned(&stack, wanted(1, &json!({}))).await;
    let upload = stack.request(Method::POST, "/v1/files?name=a.bin");
    let upload = upload.header("Content-Type", "video/mp4").body(bytes(900, 17));
    assert_eq!(upload.send().await.expect("answered").status(), StatusCode::OK);
    let file = row(&stack, &third, sent.0).await["file"]["id"].clone();
    let job: uuid::Uuid = third.parse().expect("an id");
    sqlx::query(expire).bind(job).execute(pool).await.expect("deleted");
    assert_eq!(content(&stack, &file).await.0, StatusCode::OK);
    stack.finish().await;
}
