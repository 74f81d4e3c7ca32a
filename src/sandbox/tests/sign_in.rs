//! Keys, codes and passwords.

use grammers_crypto::two_factor_auth::calculate_2fa;
use grammers_tl_types::{self as tl, functions as f};

use super::client::{Client, refused, sandbox, send_code, sign_in};

/// An account without a password, and one with.
const PLAIN: &str = "+9990000001";

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
