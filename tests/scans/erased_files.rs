//! Erasing a person whose files were downloaded, and who is named in files.

use reqwest::StatusCode;

use super::{
    media::{bytes, content, document, given, row, send, stored, wanted, with_files},
    *,
};

async fn upload(stack: &Stack, bytes: Vec<u8>, content_type: &str) -> Value {
    let request = stack.request(Method::POST, "/v1/files?name=list");
    let response = request.header("Content-Type", content_type).body(bytes).send().await;
    response.expect("answered").json().await.expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_an_erased_person_and_files_that_name_them_are_gone() {
    let (stack, directory) = with_files().await;
    let _worker = stack.worker().await;
    let (frank, chat) = (stack.account("frank"), stack.chat("harbour_market"));
    let controls = stack.sandbox.controls();
    // His own, one whose bytes somebody else sent too, one that somebody forwarded, and somebody else's.
    let own = send(&stack, "frank", &[document(bytes(900, 31), "own.bin", "video/mp4")])[0];
    let both = send(&stack, "frank", &[document(bytes(901, 32), "both.bin", "video/mp4")])[0];
    let forwarded = send(&stack, "frank", &[document(bytes(902, 33), "sent.bin", "video/mp4")])[0];
    let hers = send(&stack, "alice", &[document(bytes(901, 32), "hers.bin", "video/mp4")])[0];
    let alice = stack.account("alice");
    let again = controls
        .with_world(|world| world.post_again_as(alice, chat, forwarded.1))
        .expect("posted");
    let others = send(&stack, "alice", &[document(bytes(903, 34), "others.bin", "video/mp4")])[0];
    let listed = format!("id,name\n7,Anna\n{frank},Somebody\n");
    let letters = send(
        &stack,
        "alice",
        &[document(listed.clone().into_bytes(), "list.csv", "text/csv")],
    )[0];
    let (id, result) = scanned(&stack, wanted(12, &json!({}))).await;
    assert_eq!(result["files"]["downloaded"], 6, "{result}");
    let mut files = Vec::new();
    for message in [own.0, both.0, hers.0, again, others.0, letters.0] {
        files.push(row(&stack, &id, message).await["file"]["id"].clone());
    }
    // A name is his once a scan has seen who bears it.
    let person = "INSERT INTO people (id, username, first_name, is_bot, is_deleted, is_premium, expires_at)
        VALUES ($1, 'frank', 'Frank', false, false, false, wireroom_now() + interval '1 day') ON CONFLICT DO NOTHING";
    let stored_person = sqlx::query(person).bind(frank).execute(stack.database.pool()).await;
    stored_person.expect("stored");
    let named = upload(
        &stack,
        b"{\"who\": \"@Frank\", \"what\": \"fish\"}".to_vec(),
        "application/json",
    )
    .await;
    let far = [vec![b'x'; 3_000_000], b" write to t.me/frank today".to_vec()].concat();
    let far = upload(&stack, far, "text/plain").await;
    let plain = upload(&stack, b"to be frank, nobody came\n".to_vec(), "text/plain").await;
    let picture = upload(&stack, format!("no text {frank}").into_bytes(), "image/png").await;
    let request = stack.request(Method::DELETE, &format!("/v1/people/{frank}"));
    let answer = request.send().await.expect("answered");
    assert_eq!(answer.status(), StatusCode::OK);
    let answer: Value = answer.json().await.expect("JSON");
    assert_eq!(
        (&answer["state"], &answer["tables"]["files"]),
        (&json!("done"), &json!(3)),
        "{answer}"
    );
    let statuses = |expected: StatusCode, ids: Vec<Value>| {
        let stack = &stack;
        async move {
            for id in ids {
                assert_eq!(content(stack, &id).await.0, expected, "{id}");
            }
        }
    };
    let gone = vec![
        files[0].clone(),
        files[5].clone(),
        named["id"].clone(),
        far["id"].clone(),
    ];
    statuses(StatusCode::NOT_FOUND, gone).await;
    let kept = vec![
        files[1].clone(),
        files[3].clone(),
        files[4].clone(),
        plain["id"].clone(),
        picture["id"].clone(),
    ];
    assert_eq!(files[1], files[2], "equal bytes are one file");
    statuses(StatusCode::OK, kept).await;
    assert_eq!(stored(directory.path()), 5, "the bytes are gone too");
    assert_eq!(stack.figure("SELECT count(*) FROM file_erasures").await, 0);
    let frank = frank.to_string();
    let left = rows_with(&stack, &frank, &["session_peers"]).await;
    assert_eq!(left, Vec::<String>::new());
    // He writes again, and nothing of it is taken.
    let more = send(&stack, "frank", &[document(bytes(904, 35), "more.bin", "video/mp4")])[0];
    let (id, _) = scanned(&stack, wanted(1, &json!({}))).await;
    let rows = rows(&stack, &format!("/v1/jobs/{id}/messages")).await;
    assert!(rows.iter().all(|row| row["id"] != more.0), "{rows:?}");
    assert_eq!(given(&stack, more.1), Vec::<i64>::new());
    stack.finish().await;
}
