//! grammers' own client and pool of connections, which is what a worker uses.

use std::{
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    sync::Arc,
};

use grammers_client::{Client, SignInError, update::Update};
use grammers_mtsender::{SenderPool, UpdatesConfiguration};
use grammers_session::{SessionData, storages::MemorySession, types::DcOption, updates::UpdatesLike};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::client::{new_key, sandbox, within};
use crate::sandbox::SandboxHandle;

const ALICE: &str = "+9996620001";
const BOB: &str = "+9996620002";
const WITH_PASSWORD: &str = "+9996620003";

struct Pool {
    client: Client,
    updates: mpsc::Receiver<UpdatesLike>,
    _running: AbortOnDropHandle<()>,
}

async fn connect(sandbox: &SandboxHandle) -> Pool {
    let SocketAddr::V4(ipv4) = sandbox.addr() else {
        panic!("the sandbox listens on IPv4")
    };
    let auth_key = Some(new_key(sandbox).await.auth_key);
    let dc = DcOption {
        id: 2,
        ipv4,
        ipv6: mapped(ipv4),
        auth_key,
    };
    let data = SessionData {
        home_dc: 2,
        dc_options: [(2, dc)].into(),
        ..SessionData::default()
    };
    let SenderPool {
        runner,
        handle,
        updates,
    } = SenderPool::new(Arc::new(MemorySession::from(data)), 1);
    let running = AbortOnDropHandle::new(tokio::spawn(runner.run()));
    Pool {
        client: Client::new(handle),
        updates,
        _running: running,
    }
}

fn mapped(ipv4: SocketAddrV4) -> SocketAddrV6 {
    SocketAddrV6::new(ipv4.ip().to_ipv6_mapped(), ipv4.port(), 0, 0)
}

async fn signed_in(sandbox: &SandboxHandle, phone: &str) -> Pool {
    let pool = connect(sandbox).await;
    let token = within(pool.client.request_login_code(phone, "hash"))
        .await
        .expect("a code is sent");
    within(pool.client.sign_in(&token, sandbox.login_code()))
        .await
        .expect("signs in");
    pool
}

#[tokio::test]
async fn grammers_client_signs_in_with_code_and_password() {
    let sandbox = sandbox().await;
    let Pool { client, .. } = &connect(&sandbox).await;
    assert!(!within(client.is_authorized()).await.expect("it is answered"));
    let token = within(client.request_login_code(WITH_PASSWORD, "hash"))
        .await
        .expect("a code is sent");
    let asked = match within(client.sign_in(&token, sandbox.login_code())).await {
        Err(SignInError::PasswordRequired(asked)) => asked,
        other => panic!("no password is asked for: {other:?}"),
    };
    let user = within(client.check_password(asked, "sandbox"))
        .await
        .expect("the password is right");
    assert_eq!(user.username(), Some("carol"));
    assert!(within(client.is_authorized()).await.expect("it is answered"));
    assert_eq!(sandbox.incidents(), []);
}

#[tokio::test]
async fn a_message_comes_out_of_grammers_stream_of_updates() {
    let sandbox = sandbox().await;
    let (alice, bob) = (signed_in(&sandbox, ALICE).await, signed_in(&sandbox, BOB).await);
    let configuration = UpdatesConfiguration { catch_up: true };
    let mut updates = within(bob.client.stream_updates(bob.updates, configuration))
        .await
        .expect("the stream opens");
    let peer = within(alice.client.resolve_username("bob"))
        .await
        .expect("it is answered")
        .expect("Bob exists");
    let peer = within(peer.to_ref())
        .await
        .expect("the session answers")
        .expect("the peer is known");
    within(Box::pin(alice.client.send_message(peer, "hello")))
        .await
        .expect("it is sent");
    let text = within(Box::pin(async {
        loop {
            if let Update::NewMessage(message) = updates.next().await.expect("the stream goes on") {
                return message.text().to_owned();
            }
        }
    }));
    assert_eq!(text.await, "hello");
    assert_eq!(sandbox.incidents(), []);
    assert!(
        sandbox.controls().calls().unimplemented.is_empty(),
        "{:?}",
        sandbox.controls().calls()
    );
}
