//! Connections, keys and salts, and the watch over them.

use grammers_mtproto::transport;
use grammers_mtsender::InvocationError;
use grammers_tl_types::{self as tl, functions as f};

use super::client::{Client, new_key, sandbox, within};
use crate::{
    sandbox::{Misuse, Revocation},
    telegram::handshake::AuthKeyExchange,
};

const PHONE: &str = "+9996620001";

#[tokio::test]
async fn two_connections_with_one_key_are_an_incident() {
    let sandbox = sandbox().await;
    let key = new_key(&sandbox).await;
    let mut first = Client::connect(sandbox.addr(), &key).await;
    first.sign_in(PHONE).await.expect("signs in");
    assert_eq!(sandbox.incidents(), []);

    let mut second = Client::connect(sandbox.addr(), &key).await;
    let incidents = sandbox.incidents();
    assert_eq!(incidents.len(), 1);
    assert_eq!(incidents[0].kind, Misuse::OpenTwice);
    assert_eq!(incidents[0].account, sandbox.controls().account(PHONE));
    assert!(incidents[0].older < incidents[0].newer);

    first.invoke(&f::Ping { ping_id: 1 }).await.expect("answers");
    second.invoke(&f::Ping { ping_id: 1 }).await.expect("answers");
    let kinds: Vec<_> = sandbox.incidents().into_iter().map(|incident| incident.kind).collect();
    assert_eq!(kinds, [Misuse::OpenTwice, Misuse::Interleaved]);
}

#[tokio::test]
async fn coming_back_with_a_key_is_no_incident() {
    let sandbox = sandbox().await;
    let key = new_key(&sandbox).await;
    for _ in 0..20 {
        drop(Client::connect(sandbox.addr(), &key).await);
    }
    assert_eq!(sandbox.incidents(), []);
    let records = sandbox.controls().keys(None);
    assert_eq!(records.len(), 1);
    let uses = &records[0].uses;
    assert_eq!(uses.len(), 20);
    assert!(
        uses.windows(2).all(|pair| pair[0].last_ms <= pair[1].first_ms),
        "{uses:?}"
    );
}

#[tokio::test]
async fn a_wrong_salt_is_corrected() {
    let sandbox = sandbox().await;
    let key = AuthKeyExchange {
        first_salt: 0,
        ..new_key(&sandbox).await
    };
    let mut client = Client::connect(sandbox.addr(), &key).await;
    client.sign_in(PHONE).await.expect("signs in");
}

#[tokio::test]
async fn an_unknown_key_is_answered_by_404() {
    let sandbox = sandbox().await;
    let key = AuthKeyExchange {
        auth_key: [9; 256],
        ..new_key(&sandbox).await
    };
    let mut client = Client::connect_silently(sandbox.addr(), &key).await;
    assert_not_found(&client.introduce(tl::LAYER).await);
}

fn assert_not_found<T: std::fmt::Debug>(result: &Result<T, InvocationError>) {
    let expected = transport::Error::BadStatus { status: 404 };
    assert!(
        matches!(result, Err(InvocationError::Transport(error)) if *error == expected),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_key_is_revoked_in_both_ways() {
    let sandbox = sandbox().await;
    let controls = sandbox.controls();
    let account = controls.account(PHONE).expect("the account exists");
    let mut client = Client::signed_in(&sandbox, PHONE).await;
    assert_eq!(controls.revoke_keys(account, Revocation::SignOut), 1);
    assert_eq!(
        client.refusal(&f::auth::LogOut {}).await,
        (401, "AUTH_KEY_UNREGISTERED".into())
    );

    client.sign_in(PHONE).await.expect("signs in again");
    assert_eq!(controls.revoke_keys(account, Revocation::Forget), 1);
    assert_not_found(&client.invoke(&f::help::GetConfig {}).await);
    assert_eq!(controls.revoke_keys(account, Revocation::Forget), 0);
}

#[tokio::test]
async fn connections_are_dropped_by_account() {
    let sandbox = sandbox().await;
    let controls = sandbox.controls();
    let mut client = Client::signed_in(&sandbox, PHONE).await;
    let mut other = Client::new(&sandbox).await;
    let account = controls.account(PHONE);
    assert_eq!(controls.drop_connections(account), 1);
    assert!(client.invoke(&f::help::GetConfig {}).await.is_err());
    other.invoke(&f::help::GetConfig {}).await.expect("the other goes on");
    assert!(controls.connections().iter().all(|open| open.account != account));
}

#[tokio::test]
async fn shutting_down_closes_every_socket() {
    let sandbox = sandbox().await;
    let (addr, control_addr) = (sandbox.addr(), sandbox.control_addr());
    let mut client = Client::new(&sandbox).await;
    within(sandbox.shutdown()).await;
    assert!(client.invoke(&f::help::GetConfig {}).await.is_err());
    for closed in [addr, control_addr] {
        assert!(tokio::net::TcpStream::connect(closed).await.is_err());
    }
}

#[tokio::test]
async fn dropping_the_handle_closes_every_socket() {
    let sandbox = sandbox().await;
    let mut client = Client::new(&sandbox).await;
    drop(sandbox);
    assert!(client.invoke(&f::help::GetConfig {}).await.is_err());
}
