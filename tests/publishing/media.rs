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
    assert_eq!(stack.fail("publish", in_market(nothing)).await, "file_not_found");
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
