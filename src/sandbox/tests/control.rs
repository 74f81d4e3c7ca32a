//! The control interface.

use grammers_tl_types::functions as f;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::client::{Client, sandbox, within};
use crate::sandbox::SandboxHandle;

const PHONE: &str = "+9996620001";

struct Control<'a>(&'a SandboxHandle);

impl Control<'_> {
    /// One request over a connection of its own: the status, and the body when it is JSON.
    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.0.control_addr())
            .await
            .expect("the control interface accepts");
        let body = body.to_string();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).await.expect("writes");
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer))
            .await
            .expect("the control interface answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .expect("an answer has a status");
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.call("POST", path, body).await
    }

    async fn delete(&self, path: &str) -> (u16, Value) {
        self.call("DELETE", path, Value::Null).await
    }
}

#[tokio::test]
async fn faults_are_scripted_over_http() {
    let sandbox = sandbox().await;
    let control = Control(&sandbox);
    let mut client = Client::signed_in(&sandbox, PHONE).await;
    let fault = json!({
        "method": "help.getConfig",
        "account": PHONE,
        "count": 2,
        "effect": { "type": "error", "code": 420, "name": "FLOOD_WAIT_7" },
    });
    assert_eq!(control.post("/faults", fault).await, (200, json!({ "id": 1 })));
    assert_eq!(client.refusal(&f::help::GetConfig {}).await, (420, "FLOOD_WAIT".into()));
    let list = control.get("/faults").await;
    assert_eq!((&list[0]["id"], &list[0]["count"]), (&json!(1), &json!(1)));
    assert_eq!(control.delete("/faults/1").await.0, 200);
    assert_eq!(control.delete("/faults/1").await.0, 404);
    client.invoke(&f::help::GetConfig {}).await.expect("the fault is gone");

    let unknown = json!({ "method": "*", "account": "+9990000000", "effect": { "type": "drop" } });
    assert_eq!(control.post("/faults", unknown).await.0, 404);
    assert_eq!(control.post("/faults", json!({ "method": "*" })).await.0, 400);
    let updates_of_a_method = json!({ "method": "messages.sendMessage", "effect": { "type": "lose_updates" } });
    assert_eq!(control.post("/faults", updates_of_a_method).await.0, 400);
    assert_eq!(control.delete("/faults").await.0, 200);
    assert_eq!(control.get("/faults").await, json!([]));
}

#[tokio::test]
async fn connections_and_keys_are_seen_and_cut_over_http() {
    let sandbox = sandbox().await;
    let control = Control(&sandbox);
    let mut client = Client::signed_in(&sandbox, PHONE).await;
    let account = sandbox.controls().account(PHONE).expect("the account exists");
    let stats = control.get("/stats").await;
    assert_eq!(stats["calls"]["by_method"]["auth.signIn"], 1);
    assert_eq!(stats["connections"][0]["account"], account);
    assert_eq!(control.get("/keys").await[0]["account"], account);
    assert_eq!(control.get("/incidents").await, json!([]));

    let revoked = control
        .post("/keys/revoke", json!({ "account": PHONE, "how": "sign_out" }))
        .await;
    assert_eq!(revoked, (200, json!({ "keys": 1 })));
    assert_eq!(client.refusal(&f::auth::LogOut {}).await.0, 401);
    client.sign_in(PHONE).await.expect("signs in");
    let silenced = control
        .post("/connections/blackhole", json!({ "account": account }))
        .await;
    assert_eq!(silenced, (200, json!({ "connections": 1 })));
    assert_eq!(control.get("/connections").await[0]["silent"], true);
    let dropped = control.post("/connections/drop", json!({})).await;
    assert_eq!(dropped, (200, json!({ "connections": 1 })));
    assert!(client.invoke(&f::help::GetConfig {}).await.is_err());
}

#[tokio::test]
async fn the_world_is_seen_and_moved_over_http() {
    let sandbox = sandbox().await;
    let control = Control(&sandbox);
    let accounts = control.get("/accounts").await;
    assert!(accounts.as_array().is_some_and(|accounts| accounts.len() >= 12));
    let chats = control.get("/chats").await;
    let public = chats
        .as_array()
        .into_iter()
        .flatten()
        .find(|chat| chat["username"].is_string());
    let username = public
        .and_then(|chat| chat["username"].as_str())
        .expect("the world has a public chat")
        .to_owned();
    assert!(control.get(&format!("/chats/{username}/messages")).await.is_array());
    let (status, _) = control.call("GET", "/chats/nowhere_at_all/messages", Value::Null).await;
    assert_eq!(status, 404);

    let note = json!({ "account": PHONE, "chat": accounts[1]["username"], "text": "hello from outside" });
    let (status, posted) = control.post("/messages", note).await;
    assert_eq!(status, 200, "{posted}");
    let inbox = control.get(&format!("/chats/{}/messages", accounts[1]["id"])).await;
    let newest = inbox
        .as_array()
        .and_then(|inbox| inbox.last())
        .expect("there is a message");
    assert_eq!(newest["text"], "hello from outside");
    let forbidden = json!({ "account": PHONE, "chat": "morning_news", "text": "let me in" });
    assert_eq!(
        control.post("/messages", forbidden).await,
        (409, json!({ "error": "CHAT_WRITE_FORBIDDEN" }))
    );
    assert_eq!(control.post("/random-ids/forget", json!({})).await.0, 200);
    assert_eq!(
        control
            .call("PUT", "/random-ids/window", json!({ "seconds": 5 }))
            .await
            .0,
        200
    );
    assert_eq!(
        control.call("PUT", "/clock", json!({ "offset_seconds": 60 })).await.0,
        200
    );
    assert_eq!(control.post("/codes/expire", json!({ "phone": null })).await.0, 200);
    let limit = json!({ "method": "*", "calls": 9, "per_seconds": 10, "first_wait": 5 });
    assert_eq!(control.post("/rate-limits", limit).await.0, 200);
    assert_eq!(control.get("/rate-limits").await[0]["longest_wait"], 86_400);
    let endless = json!({ "method": "*", "calls": 9, "per_seconds": 10, "first_wait": 0 });
    assert_eq!(control.post("/rate-limits", endless).await.0, 400);
    assert_eq!(control.delete("/rate-limits").await.0, 200);
    assert_eq!(control.get("/rate-limits").await, json!([]));
    let move_to = async |account: &str, dc: i32| {
        let path = format!("/accounts/{account}/dc");
        control.call("PUT", &path, json!({ "dc": dc })).await.0
    };
    assert_eq!(move_to(PHONE, 4).await, 200);
    assert_eq!((move_to(PHONE, 9).await, move_to("nobody_at_all", 4).await), (409, 404));
    assert_eq!(control.get("/accounts").await[0]["dc"], 4);
    let updates = json!({ "method": "messages.sendMessage", "effect": { "type": "duplicate_updates" } });
    assert_eq!(control.post("/faults", updates).await.0, 400);
    let (status, page) = control.call("GET", "/", Value::Null).await;
    assert_eq!((status, page), (200, Value::Null), "a page, and no JSON");
    assert!(control.get("/links").await.is_array());
}
