//! Several data centres with one world: each has its own auth keys, and sends accounts home.

use grammers_mtproto::transport;
use grammers_mtsender::InvocationError;
use grammers_tl_types::{self as tl, functions as f};

use super::client::{Client, new_key, new_key_at, sandbox, send_code, within};
use crate::sandbox::{Sandbox, SandboxConfig, SandboxError, SandboxHandle};

const ALICE: &str = "+9996620001";

fn dc_4(sandbox: &SandboxHandle) -> std::net::SocketAddr {
    sandbox.dc_addr(4).expect("there is one")
}

fn config(config: tl::enums::Config) -> (i32, Vec<(i32, i32)>) {
    let tl::enums::Config::Config(config) = config;
    let options = config.dc_options.into_iter();
    let place = |tl::enums::DcOption::Option(option)| (option.id, option.port);
    (config.this_dc, options.map(place).collect())
}

#[tokio::test]
async fn each_lists_them_all_and_knows_itself() {
    let sandbox = sandbox().await;
    let (main, other) = (sandbox.addr(), dc_4(&sandbox));
    let listed = vec![(2, i32::from(main.port())), (4, i32::from(other.port()))];
    let mut client = Client::connect(main, &new_key(&sandbox).await).await;
    let answer = client.invoke(&f::help::GetConfig {}).await.expect("answered");
    assert_eq!(config(answer), (2, listed.clone()));
    let mut client = Client::connect(other, &new_key_at(&sandbox, other).await).await;
    let answer = client.invoke(&f::help::GetConfig {}).await.expect("answered");
    assert_eq!(config(answer), (4, listed));
    sandbox.shutdown().await;
}

#[tokio::test]
async fn a_key_belongs_to_the_one_it_was_made_with() {
    let sandbox = sandbox().await;
    let key = new_key(&sandbox).await;
    let mut client = Client::connect_silently(dc_4(&sandbox), &key).await;
    let refused = client.introduce(tl::LAYER).await.expect_err("nobody knows it there");
    let status = matches!(
        refused,
        InvocationError::Transport(transport::Error::BadStatus { status: 404 })
    );
    assert!(status, "{refused:?}");
    Client::connect(sandbox.addr(), &key).await;
    sandbox.shutdown().await;
}

#[tokio::test]
async fn an_account_is_sent_home_before_and_after_it_signed_in() {
    let sandbox = sandbox().await;
    let mut early = Client::signed_in(&sandbox, ALICE).await;
    let alice = sandbox.controls().account(ALICE).expect("an account");
    assert!(
        sandbox.controls().move_account(alice, 3).is_err(),
        "there is no such data centre"
    );
    sandbox.controls().move_account(alice, 4).expect("moved");
    let mut client = Client::new(&sandbox).await;
    assert_eq!(client.refusal(&send_code(ALICE)).await, (303, "PHONE_MIGRATE".into()));
    let who = f::users::GetUsers {
        id: vec![tl::enums::InputUser::UserSelf],
    };
    assert_eq!(early.refusal(&who).await, (303, "USER_MIGRATE".into()));
    let other = dc_4(&sandbox);
    let mut at_home = Client::connect(other, &new_key_at(&sandbox, other).await).await;
    at_home.sign_in(ALICE).await.expect("signs in");
    at_home.invoke(&who).await.expect("answered");
    sandbox.shutdown().await;
}

#[tokio::test]
async fn an_authorisation_is_taken_along_once_and_to_the_place_it_was_exported_for() {
    let sandbox = sandbox().await;
    let mut home = Client::signed_in(&sandbox, ALICE).await;
    let mut stranger = Client::new(&sandbox).await;
    let export = |dc_id| f::auth::ExportAuthorization { dc_id };
    assert_eq!(stranger.refusal(&export(4)).await.1, "AUTH_KEY_UNREGISTERED");
    for nowhere in [2, 3] {
        assert_eq!(home.refusal(&export(nowhere)).await.1, "DC_ID_INVALID");
    }
    let tl::enums::auth::ExportedAuthorization::Authorization(exported) =
        home.invoke(&export(4)).await.expect("exported");
    let import = f::auth::ImportAuthorization {
        id: exported.id,
        bytes: exported.bytes,
    };
    assert_eq!(
        stranger.refusal(&import).await.1,
        "AUTH_BYTES_INVALID",
        "for another place"
    );
    let tl::enums::auth::ExportedAuthorization::Authorization(exported) =
        home.invoke(&export(4)).await.expect("exported");
    let import = f::auth::ImportAuthorization {
        id: exported.id,
        bytes: exported.bytes,
    };
    let other = dc_4(&sandbox);
    let mut away = Client::connect(other, &new_key_at(&sandbox, other).await).await;
    let tl::enums::auth::Authorization::Authorization(entered) = away.invoke(&import).await.expect("imported") else {
        panic!("not let in");
    };
    assert_eq!(entered.user.id(), import.id);
    assert_eq!(away.refusal(&import).await.1, "AUTH_BYTES_INVALID", "a second time");
    sandbox.shutdown().await;
}

#[tokio::test]
async fn a_number_counts_once() {
    let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    for (dc, wrong) in [(2, 2), (0, 0)] {
        let config = SandboxConfig {
            other_dcs: vec![(dc, loopback)],
            ..SandboxConfig::default()
        };
        let refused = within(Sandbox::start(config)).await.err().expect("refused");
        assert!(
            matches!(refused, SandboxError::DcNumber(number) if number == wrong),
            "{refused}"
        );
    }
}
