//! Files, and messages with them.

use super::*;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nnot much of a picture";

async fn upload(stack: &Stack, bytes: Vec<u8>, content_type: &str, name: &str) -> (StatusCode, Value) {
    let request = stack.request(Method::POST, &format!("/v1/files?name={name}"));
    let response = request.header("Content-Type", content_type).body(bytes).send().await;
    let response = response.expect("answered");
    (response.status(), response.json().await.expect("JSON"))
}

async fn files() -> (Stack, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("files").display().to_string();
    let stack = Stack::with(Options {
        accounts: vec!["judy"],
        variables: vec![
            ("WIREROOM_SESSIONS_PACE_SECONDS", "0".to_owned()),
            ("WIREROOM_FILES_DIR", path),
            ("WIREROOM_FILES_MAX_MB", "16".to_owned()),
        ],
        ..Options::default()
    })
    .await;
    (stack, directory)
}

fn stored(directory: &tempfile::TempDir) -> usize {
    fn count(path: &std::path::Path) -> usize {
        let Ok(entries) = std::fs::read_dir(path) else { return 0 };
        let entries = entries.map(|entry| entry.expect("readable").path());
        entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
    }
    count(directory.path())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_kept_once_and_given_back() {
    let (stack, directory) = files().await;
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let (status, first) = upload(&stack, bytes.clone(), "video/mp4", "tide.mp4").await;
    assert_eq!(status, StatusCode::CREATED, "{first}");
    assert_eq!(first["size_bytes"], 3_000_000, "{first}");
    let (status, again) = upload(&stack, bytes.clone(), "video/mp4", "other.mp4").await;
    assert_eq!((status, &again["id"]), (StatusCode::OK, &first["id"]));
    assert_eq!(stored(&directory), 1, "equal bytes are kept once");
    let id = first["id"].as_str().expect("an id");
    let content = stack
        .request(Method::GET, &format!("/v1/files/{id}/content"))
        .send()
        .await;
    assert!(content.expect("answered").bytes().await.expect("bytes") == bytes);
    assert_eq!(stack.get("/v1/files").await["items"][0]["id"], first["id"]);
    let gone = stack.request(Method::DELETE, &format!("/v1/files/{id}")).send().await;
    assert_eq!(gone.expect("answered").status(), StatusCode::NO_CONTENT);
    assert_eq!(stored(&directory), 0);
    let gone = stack.request(Method::GET, &format!("/v1/files/{id}")).send().await;
    assert_eq!(gone.expect("answered").status(), StatusCode::NOT_FOUND);
    for (bytes, content_type, status) in [
        (vec![], "image/png", StatusCode::BAD_REQUEST),
        (
            vec![0; 16 * 1024 * 1024 + 1],
            "image/png",
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
        (PNG.to_vec(), "multipart/form-data", StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ] {
        assert_eq!(upload(&stack, bytes, content_type, "x").await.0, status);
    }
    assert_eq!(stored(&directory), 0, "what was refused left nothing");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_documents_and_albums_arrive_whole() {
    let (stack, _directory) = files().await;
    let _worker = stack.worker().await;
    let (_, picture) = upload(&stack, PNG.to_vec(), "image/png", "tide.png").await;
    // Larger than one part, and no multiple of it.
    let large: Vec<u8> = (0..12_345_678_u32)
        .map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[2])
        .collect();
    let (_, document) = upload(&stack, large.clone(), "application/pdf", "tides.pdf").await;
    let photo = json!({ "type": "photo", "file": picture["id"], "spoiler": true });
    let args = json!({ "text": "**Tide**", "format": "markdown", "media": [photo] });
    let sent = stack.succeed("publish", in_market(args)).await;
    assert_eq!(media(&stack, &sent["message_id"]), Some((PNG.to_vec(), true)));
    assert_eq!(stack.count_messages("harbour_market", "Tide"), 1);
    let args = json!({ "media": [{ "type": "document", "file": document["id"] }] });
    let sent = stack.succeed("publish", in_market(args)).await;
    assert!(media(&stack, &sent["message_id"]) == Some((large, false)));
    let item = json!({ "type": "photo", "file": picture["id"] });
    let args = json!({ "text": "Three", "media": [item, item, item] });
    let album = stack.succeed("publish", in_market(args)).await;
    assert_eq!(album["message_ids"].as_array().map(Vec::len), Some(3), "{album}");
    let args = json!({ "media": [{ "type": "photo", "file": document["id"] }] });
    assert_eq!(stack.fail("publish", in_market(args)).await, "media_invalid");
    let nothing = json!({ "media": [{ "type": "photo", "file": uuid::Uuid::nil() }] });
    let problem = refused(&stack, in_market(nothing)).await;
    assert_eq!(problem["field"], "args.media[0].file", "{problem}");
    // One that is taken out while its job waits.
    let at =
        |hours| chrono::DateTime::from_timestamp_millis(now_ms() + i64::from(hours) * 3_600_000).expect("in range");
    let args = in_market(json!({ "media": [{ "type": "photo", "file": picture["id"] }] }));
    let id = stack
        .post_job(json!({ "kind": "publish", "args": args, "run_at": at(1) }))
        .await;
    let path = format!("/v1/files/{}", picture["id"].as_str().expect("an id"));
    let gone = stack.request(Method::DELETE, &path).send().await.expect("answered");
    assert_eq!(gone.status(), StatusCode::NO_CONTENT);
    let request = stack.request(Method::PATCH, &format!("/v1/jobs/{id}"));
    let moved = request
        .json(&json!({ "run_at": at(0) }))
        .send()
        .await
        .expect("answered");
    assert_eq!(moved.status(), StatusCode::OK);
    assert_eq!(stack.finished(&id).await["error"]["code"], "file_not_found");
    stack.finish().await;
}

fn media(stack: &Stack, id: &Value) -> Option<(Vec<u8>, bool)> {
    let chat = stack.chat("harbour_market");
    let id = i32::try_from(id.as_i64().expect("an id")).expect("in range");
    stack.sandbox.controls().with_world(|world| world.media_of(chat, id))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_broke_off_is_repeated_and_the_send_is_not() {
    let (stack, _directory) = files().await;
    let _worker = stack.worker().await;
    let (_, picture) = upload(&stack, PNG.to_vec(), "image/png", "tide.png").await;
    stack.fault(Fault::once("upload.saveFilePart", Effect::DropAfter));
    stack.fault(Fault::once("messages.uploadMedia", Effect::DropAfter));
    stack.fault(Fault::once("messages.sendMedia", Effect::DropAfter));
    let args = json!({ "media": [{ "type": "photo", "file": picture["id"] }] });
    let sent = stack.succeed("publish", in_market(args)).await;
    assert_eq!(media(&stack, &sent["message_id"]), Some((PNG.to_vec(), false)));
    assert!(stack.calls("upload.saveFilePart") >= 2);
    assert_eq!(
        stack.calls("messages.sendMedia"),
        1,
        "found by its photo, not sent again"
    );
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_upload_serves_many_chats() {
    let (stack, _directory) = files().await;
    let _worker = stack.worker().await;
    add_stalls(&stack, 5, "judy");
    let (_, picture) = upload(&stack, PNG.to_vec(), "image/png", "tide.png").await;
    let chats: Vec<String> = (0..5).map(|number| format!("@{}", stall(number))).collect();
    let args = json!({ "chats": chats, "text": "Tide", "media": [{ "type": "photo", "file": picture["id"] }] });
    let result = stack.succeed("publish", args).await;
    assert_eq!(result["counts"], json!({ "sent": 5 }), "{result}");
    assert_eq!(stack.calls("upload.saveFilePart"), 1);
    assert_eq!(stack.calls("messages.sendMedia"), 5);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_the_own_network_are_never_fetched() {
    let (stack, directory) = files().await;
    let _worker = stack.worker().await;
    for url in [
        "http://127.0.0.1/a.png",
        "http://localhost/a.png",
        "http://[::1]/a.png",
        "http://0x7f.1/a.png",
    ] {
        let args = json!({ "media": [{ "type": "photo", "url": url }] });
        assert_eq!(stack.fail("publish", in_market(args)).await, "media_refused", "{url}");
    }
    assert_eq!(stored(&directory), 0);
    stack.finish().await;
}

fn boxed(kind: [u8; 4], body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len() + 8).expect("small");
    [&size.to_be_bytes()[..], &kind, body].concat()
}

/// An MP4 of 1280 by 720, with as much of it as an index tells.
fn mp4(seconds: u32) -> Vec<u8> {
    let mut movie = vec![0; 100];
    movie[12..16].copy_from_slice(&1000_u32.to_be_bytes());
    movie[16..20].copy_from_slice(&(seconds * 1000).to_be_bytes());
    let mut track = vec![0; 84];
    track[40..44].copy_from_slice(&0x0001_0000_u32.to_be_bytes());
    track[76..80].copy_from_slice(&(1280_u32 << 16).to_be_bytes());
    track[80..84].copy_from_slice(&(720_u32 << 16).to_be_bytes());
    let index = [boxed(*b"mvhd", &movie), boxed(*b"trak", &boxed(*b"tkhd", &track))].concat();
    let film: Vec<u8> = (0..700_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    [
        boxed(*b"ftyp", b"isom\0\0\0\0isom"),
        boxed(*b"mdat", &film),
        boxed(*b"moov", &index),
    ]
    .concat()
}

/// An Ogg file of two pages with Opus.
fn ogg(seconds: i64) -> Vec<u8> {
    let page = |position: i64, body: &[u8]| {
        [
            b"OggS\0\0".as_slice(),
            &position.to_le_bytes(),
            &[0; 12],
            &[1, 19],
            body,
        ]
        .concat()
    };
    let head = [b"OpusHead\x01\x01".as_slice(), &312_u16.to_le_bytes(), &[0; 7]].concat();
    [page(0, &head), page(48_000 * seconds + 312, &[4; 100])].concat()
}

fn document(stack: &Stack, id: &Value) -> wireroom::sandbox::world::uploads::DocumentFacts {
    let chat = stack.chat("harbour_market");
    let id = i32::try_from(id.as_i64().expect("an id")).expect("in range");
    let found = stack.sandbox.controls().with_world(|world| world.document_of(chat, id));
    found.expect("a document")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_is_shown_as_one_with_its_length_and_its_size() {
    let (stack, _directory) = files().await;
    let _worker = stack.worker().await;
    let film = mp4(12);
    let (_, video) = upload(&stack, film.clone(), "application/octet-stream", "tide.mp4").await;
    let item = json!({ "type": "video", "file": video["id"], "spoiler": true });
    let sent = stack.succeed("publish", in_market(json!({ "media": [item] }))).await;
    assert!(media(&stack, &sent["message_id"]) == Some((film, true)));
    let shown = document(&stack, &sent["message_id"]);
    assert!(shown.is_video && shown.streams, "{shown:?}");
    assert_eq!((shown.seconds, shown.size), (12.0, (1280, 720)));
    assert_eq!(shown.mime_type, "video/mp4");
    let given = json!({
        "type": "video", "file": video["id"], "duration_seconds": 3, "width": 320, "height": 240,
    });
    let sent = stack.succeed("publish", in_market(json!({ "media": [given] }))).await;
    let shown = document(&stack, &sent["message_id"]);
    assert_eq!((shown.seconds, shown.size), (3.0, (320, 240)));
    let as_file = json!({ "type": "document", "file": video["id"] });
    let sent = stack.succeed("publish", in_market(json!({ "media": [as_file] }))).await;
    assert!(!document(&stack, &sent["message_id"]).is_video);
    let half = json!({ "type": "video", "file": video["id"], "width": 320 });
    let problem = refused(&stack, in_market(json!({ "media": [half] }))).await;
    assert_eq!(problem["field"], "args.media[0]", "{problem}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voice_message_has_its_length_and_stands_alone() {
    let (stack, _directory) = files().await;
    let _worker = stack.worker().await;
    let (_, voice) = upload(&stack, ogg(9), "audio/ogg", "tide.ogg").await;
    let item = json!({ "type": "voice", "file": voice["id"] });
    let args = in_market(json!({ "text": "Listen", "media": [item] }));
    let sent = stack.succeed("publish", args).await;
    let heard = document(&stack, &sent["message_id"]);
    assert!(heard.is_voice && !heard.is_video, "{heard:?}");
    assert_eq!((heard.seconds, heard.mime_type.as_str()), (9.0, "audio/ogg"));
    let problem = refused(&stack, in_market(json!({ "media": [item, item] }))).await;
    assert_eq!(problem["field"], "args.media", "{problem}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_album_of_pictures_and_videos_is_one_and_is_found_again() {
    let (stack, _directory) = files().await;
    let _worker = stack.worker().await;
    let (_, picture) = upload(&stack, PNG.to_vec(), "image/png", "tide.png").await;
    let (_, video) = upload(&stack, mp4(5), "video/mp4", "tide.mp4").await;
    let items = json!([
        { "type": "photo", "file": picture["id"] },
        { "type": "video", "file": video["id"], "spoiler": true },
        { "type": "photo", "file": picture["id"] },
    ]);
    stack.fault(Fault::once("messages.sendMultiMedia", Effect::DropAfter));
    let album = stack
        .succeed("publish", in_market(json!({ "text": "Mixed", "media": items })))
        .await;
    let ids = album["message_ids"].as_array().expect("several").clone();
    assert_eq!(ids.len(), 3, "{album}");
    assert_eq!(stack.calls("messages.sendMultiMedia"), 1, "found again, not sent again");
    let shown = document(&stack, &ids[1]);
    assert_eq!((shown.is_video, shown.seconds), (true, 5.0));
    assert_eq!(media(&stack, &ids[0]).expect("a picture").0, PNG);
    let groups: Vec<Option<i64>> = ids
        .iter()
        .map(|id| {
            message(&stack, id.as_i64().expect("an id"))
                .extras
                .and_then(|extras| extras.group)
        })
        .collect();
    assert!(
        groups[0].is_some() && groups.iter().all(|group| *group == groups[0]),
        "{groups:?}"
    );
    let mixed = json!([
        { "type": "photo", "file": picture["id"] },
        { "type": "document", "file": video["id"] },
    ]);
    let problem = refused(&stack, in_market(json!({ "media": mixed }))).await;
    assert_eq!(problem["field"], "args.media", "{problem}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_is_not_taken_for_another_one() {
    let (stack, _directory) = files().await;
    let _worker = stack.worker().await;
    let (_, picture) = upload(&stack, PNG.to_vec(), "image/png", "tide.png").await;
    let other = [PNG, b" at all"].concat();
    let (_, other) = upload(&stack, other, "image/png", "ebb.png").await;
    let mut posted = Vec::new();
    for file in [&picture, &picture, &other] {
        let args = json!({ "media": [{ "type": "photo", "file": file["id"] }] });
        posted.push(stack.succeed("publish", in_market(args)).await["message_id"].clone());
    }
    let forward = |ids: &[Value]| json!({ "action": "forward", "chat": "@big_bazaar", "from_chat": "@harbour_market", "message_ids": ids });
    let first = stack.succeed("publish", forward(&posted[..2])).await;
    assert_eq!(first["message_ids"].as_array().map(Vec::len), Some(2), "{first}");
    // Never made, and nobody knows: it has no caption either.
    for (ids, hide_sender) in [(&posted[1..2], false), (&posted[2..], false), (&posted[2..], true)] {
        stack.fault(Fault::once("messages.forwardMessages", Effect::Drop));
        let mut args = forward(ids);
        args["hide_sender"] = hide_sender.into();
        let second = stack.succeed("publish", args).await;
        let taken = first["message_ids"].as_array().expect("a list");
        assert!(!taken.contains(&second["message_id"]), "{first} {second}");
    }
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_telegram_wants_again_are_put_in_again() {
    let (stack, _directory) = files().await;
    let _worker = stack.worker().await;
    add_stalls(&stack, 2, "judy");
    let (_, picture) = upload(&stack, PNG.to_vec(), "image/png", "tide.png").await;
    stack.fault(Fault::once("messages.sendMedia", Effect::flood_wait(4)));
    let args = json!({
        "chats": ["@stall1", "@stall2"], "text": "Tide", "media": [{ "type": "photo", "file": picture["id"] }],
    });
    let id = stack.post("publish", args).await;
    eventually(crate::support::stack::JOB_BOUND, async || {
        match stack.calls("messages.sendMedia") {
            0 => Err("not sent yet"),
            _ => Ok(()),
        }
    })
    .await;
    let controls = stack.sandbox.controls();
    controls.with_world(wireroom::sandbox::world::World::expire_file_references);
    let job = stack.finished(&id).await;
    assert_eq!(job["result"]["counts"], json!({ "sent": 2 }), "{job}");
    assert_eq!(stack.calls("upload.saveFilePart"), 2, "one more for all that were left");
    for number in 0..2 {
        assert_eq!(stack.count_messages(&stall(number), "Tide"), 1);
    }
    stack.finish().await;
}
