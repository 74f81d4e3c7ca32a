//! Updates reach who is to get them, and nobody else.

use grammers_tl_types::{self as tl, Deserializable as _, Serializable as _, functions as f};

use super::{
    client::{Client, new_key, sandbox},
    raw::RawClient,
};
use crate::sandbox::{Effect, Fault, SandboxHandle, world::PeerKey};

const ALICE: &str = "+9996620001";
const BOB: &str = "+9996620002";
const OTHER: &str = "+9996620004";

/// Sends a text to Bob's private chat, as Alice.
fn write_to_bob(sandbox: &SandboxHandle, text: &str) {
    let controls = sandbox.controls();
    let (alice, bob) = (
        controls.account(ALICE).expect("exists"),
        controls.account(BOB).expect("exists"),
    );
    controls
        .with_world(|world| world.post_as(alice, PeerKey::User(bob), text))
        .expect("Alice may write");
}

/// A client signed in as `phone` on a connection that has said nothing yet.
async fn signed_in(sandbox: &SandboxHandle, phone: &str) -> RawClient {
    let key = new_key(sandbox).await;
    Client::connect(sandbox.addr(), &key)
        .await
        .sign_in(phone)
        .await
        .expect("signs in");
    RawClient::with_key(sandbox, &key).await
}

/// The texts of the updates that came so far: all that come before the answer to a ping.
async fn texts_so_far(client: &mut RawClient) -> Vec<String> {
    let asked = client.call(f::Ping { ping_id: 1 }.to_bytes()).await;
    let mut texts = Vec::new();
    loop {
        let body = client.receive().await.expect("the connection is open").body;
        match tl::enums::Pong::from_bytes(&body) {
            Ok(tl::enums::Pong::Pong(pong)) if pong.msg_id == asked => return texts,
            _ => {}
        }
        if let Ok(tl::enums::Updates::Updates(updates)) = tl::enums::Updates::from_bytes(&body) {
            texts.extend(updates.updates.iter().filter_map(text_of));
        }
    }
}

fn text_of(update: &tl::enums::Update) -> Option<String> {
    match update {
        tl::enums::Update::NewMessage(tl::types::UpdateNewMessage {
            message: tl::enums::Message::Message(m),
            ..
        }) => Some(m.message.clone()),
        _ => None,
    }
}

async fn introduce(client: &mut RawClient) {
    let call = client.call(f::help::GetNearestDc {}.to_bytes()).await;
    client.result_of(call).await;
}

#[tokio::test]
async fn a_message_is_pushed_to_its_receiver_only() {
    let sandbox = sandbox().await;
    let (mut bob, mut other) = (signed_in(&sandbox, BOB).await, signed_in(&sandbox, OTHER).await);
    introduce(&mut bob).await;
    introduce(&mut other).await;
    write_to_bob(&sandbox, "one");
    write_to_bob(&sandbox, "two");
    assert_eq!(texts_so_far(&mut bob).await, ["one", "two"]);
    assert_eq!(texts_so_far(&mut other).await, [""; 0]);
}

#[tokio::test]
async fn updates_are_lost_by_script() {
    let sandbox = sandbox().await;
    let mut bob = signed_in(&sandbox, BOB).await;
    introduce(&mut bob).await;
    let account = sandbox.controls().account(BOB).expect("exists");
    sandbox
        .controls()
        .add_fault(Fault::once("*", Effect::LoseUpdates).of(account));
    write_to_bob(&sandbox, "lost");
    write_to_bob(&sandbox, "kept");
    assert_eq!(texts_so_far(&mut bob).await, ["kept"]);
}

#[tokio::test]
async fn updates_come_twice_by_script() {
    let sandbox = sandbox().await;
    let mut bob = signed_in(&sandbox, BOB).await;
    introduce(&mut bob).await;
    let account = sandbox.controls().account(BOB).expect("exists");
    let doubled = Fault::once("*", Effect::DuplicateUpdates).of(account);
    sandbox.controls().add_fault(doubled);
    write_to_bob(&sandbox, "doubled");
    write_to_bob(&sandbox, "once");
    assert_eq!(texts_so_far(&mut bob).await, ["doubled", "doubled", "once"]);
}

#[tokio::test]
async fn who_wants_no_updates_gets_none() {
    let sandbox = sandbox().await;
    let mut bob = signed_in(&sandbox, BOB).await;
    let quiet = f::InvokeWithoutUpdates {
        query: f::help::GetNearestDc {},
    };
    let call = bob.call(quiet.to_bytes()).await;
    bob.result_of(call).await;
    write_to_bob(&sandbox, "unheard");
    assert_eq!(texts_so_far(&mut bob).await, [""; 0]);
    introduce(&mut bob).await;
    write_to_bob(&sandbox, "heard");
    assert_eq!(texts_so_far(&mut bob).await, ["heard"]);
}
