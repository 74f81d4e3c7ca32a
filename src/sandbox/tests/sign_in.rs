//! Keys, codes and passwords.

use std::os::unix::fs::PermissionsExt as _;

use grammers_crypto::two_factor_auth::{calculate_2fa, check_p_and_g};
use grammers_tl_types::{self as tl, functions as f};

use super::client::{Client, refused, sandbox, send_code, sign_in, within};
use crate::{
    sandbox::{Sandbox, SandboxConfig, SandboxError, SandboxHandle, ServerKeyError},
    telegram::handshake::{HandshakeError, ServerKey, generate_auth_key},
};

/// An account without a password, and one with.
const PLAIN: &str = "+9996620001";

#[tokio::test]
async fn grammers_makes_a_key_and_signs_in() {
    let sandbox = sandbox().await;
    let mut client = Client::new(&sandbox).await;
    let pong = client
        .invoke(&f::Ping { ping_id: 77 })
        .await
        .expect("a ping is answered");
    assert!(matches!(pong, tl::enums::Pong::Pong(pong) if pong.ping_id == 77));
    client.sign_in(PLAIN).await.expect("signs in");
    sandbox.shutdown().await;
}

#[tokio::test]
async fn wrong_codes_and_numbers_are_refused() {
    let sandbox = sandbox().await;
    let mut client = Client::new(&sandbox).await;
    assert_eq!(
        client.refusal(&send_code("+15550100")).await,
        (400, "PHONE_NUMBER_INVALID".into())
    );
    assert_eq!(
        client.refusal(&send_code("+999")).await,
        (400, "PHONE_NUMBER_INVALID".into())
    );
    let hash = client.send_code(PLAIN).await;
    let mut refusal = async |request| client.refusal(&request).await.1;
    assert_eq!(refusal(sign_in(PLAIN, &hash, "")).await, "PHONE_CODE_EMPTY");
    assert_eq!(refusal(sign_in(PLAIN, &hash, "12345")).await, "PHONE_CODE_INVALID");
    assert_eq!(refusal(sign_in(PLAIN, "other", "22222")).await, "PHONE_CODE_EXPIRED");
    assert_eq!(
        refused(client.sign_in("+9991234567890").await).1,
        "PHONE_NUMBER_UNOCCUPIED"
    );
    client
        .invoke(&sign_in(PLAIN, &hash, "22222"))
        .await
        .expect("the code is still good");
    assert_eq!(
        client.refusal(&sign_in(PLAIN, &hash, "22222")).await.1,
        "PHONE_CODE_EXPIRED"
    );
    client.invoke(&f::auth::LogOut {}).await.expect("logs out");
    assert_eq!(
        client.refusal(&f::auth::LogOut {}).await,
        (401, "AUTH_KEY_UNREGISTERED".into())
    );
}

#[tokio::test]
async fn a_password_is_checked_with_grammers_own_arithmetic() {
    let sandbox = sandbox().await;
    let (phone, password) = account_with_password(&sandbox);
    let mut client = Client::new(&sandbox).await;
    assert_eq!(client.refusal(&f::account::GetPassword {}).await.0, 401);
    assert_eq!(
        refused(client.sign_in(&phone).await),
        (401, "SESSION_PASSWORD_NEEDED".into())
    );
    assert_eq!(
        client.refusal(&f::auth::LogOut {}).await.0,
        401,
        "not signed in before the password"
    );

    let wrong = answer_to_challenge(&mut client, "wrong").await;
    assert_eq!(client.refusal(&wrong).await, (400, "PASSWORD_HASH_INVALID".into()));
    assert_eq!(client.refusal(&wrong).await, (400, "SRP_ID_INVALID".into()));
    let right = answer_to_challenge(&mut client, &password).await;
    client.invoke(&right).await.expect("the password is right");
    client.invoke(&f::account::GetPassword {}).await.expect("signed in");
}

fn account_with_password(sandbox: &SandboxHandle) -> (String, String) {
    sandbox.controls().with_world(|world| {
        let account = world.accounts().into_iter().find(|account| account.has_password);
        let account = account.expect("the world has an account with a password");
        let password = world.password_of(account.id).expect("it has a password").to_owned();
        (format!("+{}", account.phone), password)
    })
}

async fn answer_to_challenge(client: &mut Client, password: &str) -> f::auth::CheckPassword {
    let tl::enums::account::Password::Password(asked) = client
        .invoke(&f::account::GetPassword {})
        .await
        .expect("a challenge is given");
    let Some(tl::enums::PasswordKdfAlgo::Sha256Sha256Pbkdf2Hmacsha512iter100000Sha256ModPow(algorithm)) =
        asked.current_algo
    else {
        panic!("the password has no algorithm");
    };
    assert!(check_p_and_g(&algorithm.p, &algorithm.g));
    let public = asked.srp_b.expect("a challenge has a public number");
    let tl::types::PasswordKdfAlgoSha256Sha256Pbkdf2Hmacsha512iter100000Sha256ModPow { salt1, salt2, g, p } = algorithm;
    let (proof, ours) = calculate_2fa(&salt1, &salt2, &p, &g, public, asked.secure_random, password);
    let srp_id = asked.srp_id.expect("a challenge has an id");
    let password = tl::types::InputCheckPasswordSrp {
        srp_id,
        a: ours.to_vec(),
        m1: proof.to_vec(),
    }
    .into();
    f::auth::CheckPassword { password }
}

#[tokio::test]
async fn only_layers_with_the_same_types_are_served() {
    let sandbox = sandbox().await;
    let mut client = Client::new(&sandbox).await;
    client.introduce(229).await.expect("the layer before is served");
    for layer in [228, 231] {
        assert_eq!(
            refused(client.introduce(layer).await),
            (400, "CONNECTION_LAYER_INVALID".into())
        );
    }
    client.introduce(tl::LAYER).await.expect("the newest layer is served");
    let unknown = f::account::GetTmpPassword {
        password: tl::enums::InputCheckPasswordSrp::InputCheckPasswordEmpty,
        period: 60,
    };
    assert_eq!(client.refusal(&unknown).await, (400, "METHOD_NOT_IMPLEMENTED".into()));
    let calls = sandbox.controls().calls();
    assert_eq!(calls.unimplemented.get("account.getTmpPassword"), Some(&1));
    assert_eq!(calls.by_method.get("help.getConfig"), Some(&5));
}

#[tokio::test]
async fn the_key_file_keeps_the_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("new").join("key.pem");
    let config = SandboxConfig {
        key_file: Some(path.clone()),
        ..SandboxConfig::default()
    };
    let first = within(Sandbox::start(config.clone())).await.expect("starts");
    let second = within(Sandbox::start(config.clone())).await.expect("starts");
    assert_eq!(first.public_key_pem(), second.public_key_pem());
    let mode = std::fs::metadata(&path)
        .expect("the file is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::write(&path, "no key").expect("writes");
    let refused = within(Sandbox::start(config)).await;
    assert!(matches!(
        refused,
        Err(SandboxError::Key(ServerKeyError::Content { .. }))
    ));
}

#[tokio::test]
async fn a_client_with_another_server_key_makes_no_auth_key() {
    let (sandbox, other) = (sandbox().await, sandbox().await);
    let key = ServerKey::from_pem(other.public_key_pem()).expect("reads");
    let refused = within(generate_auth_key(sandbox.addr(), &key)).await;
    assert!(matches!(refused, Err(HandshakeError::OtherKey { .. })));
    let addr = sandbox.addr();
    sandbox.shutdown().await;
    let refused = within(generate_auth_key(addr, &key)).await;
    assert!(matches!(refused, Err(HandshakeError::Connect(_))));
}

#[tokio::test]
async fn only_loopback_is_listened_on() {
    let config = SandboxConfig {
        listen: ([0, 0, 0, 0], 0).into(),
        ..SandboxConfig::default()
    };
    assert!(matches!(
        Sandbox::start(config).await,
        Err(SandboxError::NotLoopback(_))
    ));
}
