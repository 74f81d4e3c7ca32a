//! We post, and another client sees it.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_what_telethon_sees() {
    let files = tempfile::tempdir().expect("a directory");
    let stack = Stack::with(Options {
        accounts: vec!["judy"],
        variables: vec![("WIREROOM_FILES_DIR", files.path().display().to_string())],
        ..Options::default()
    })
    .await;
    let _worker = stack.worker().await;
    let text = "Tide at <b>six</b>, \u{1f30a} <a href=\"https://example.com/tides\">seven</a>";
    let args = json!({ "chat": "@harbour_market", "text": text, "format": "html" });
    let sent = stack.succeed("publish", args).await;
    let request = stack
        .request(Method::POST, "/v1/files")
        .header("Content-Type", "image/png");
    let picture = request.body(b"\x89PNG\r\n\x1a\na picture".to_vec()).send().await;
    let picture: Value = picture.expect("answered").json().await.expect("JSON");
    let media = json!({ "type": "photo", "file": picture["id"], "spoiler": true });
    let args = json!({
        "chat": "@harbour_market", "text": "The harbour", "media": [media], "reply_to": sent["message_id"],
    });
    stack.succeed("publish", args).await;
    let pin = json!({ "chat": "@harbour_market", "action": "pin", "message_id": sent["message_id"] });
    assert_eq!(stack.succeed("publish", pin).await["status"], "pinned");
    TELETHON.check("telethon_publish.py", &stack.sandbox, &[], "").await;
    stack.finish().await;
}
