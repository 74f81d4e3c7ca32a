//! Scripted faults, as a client meets them.

use std::fmt::Debug;

use grammers_mtsender::InvocationError;
use grammers_tl_types::{RemoteCall, functions as f};

use super::client::{Client, new_key, sandbox, send_code, until};
use crate::sandbox::{Effect, Fault, RateLimit, Revocation};

const PHONE: &str = "+9996620001";
const OTHER: &str = "+9996620002";
const GET_CONFIG: &str = "help.getConfig";

#[tokio::test]
async fn a_flood_wait_carries_its_seconds() {
    let sandbox = sandbox().await;
    sandbox
        .controls()
        .add_fault(Fault::once(GET_CONFIG, Effect::flood_wait(42)));
    let mut client = Client::connect_silently(sandbox.addr(), &new_key(&sandbox).await).await;
    match client.introduce(230).await {
        Err(InvocationError::Rpc(error)) => {
            assert_eq!(
                (error.code, error.name.as_str(), error.value),
                (420, "FLOOD_WAIT", Some(42))
            );
        }
        other => panic!("not a flood wait: {other:?}"),
    }
    client.introduce(230).await.expect("the fault is used up");
}

/// The seconds of the flood that a call meets; `None` when it is answered.
async fn flood(client: &mut Client) -> Option<u32> {
    match client.invoke(&f::help::GetNearestDc {}).await {
        Ok(_) => None,
        Err(InvocationError::Rpc(error)) if error.name == "FLOOD_WAIT" => error.value,
        Err(other) => panic!("not a flood wait: {other:?}"),
    }
}

#[tokio::test]
async fn who_calls_too_often_is_flooded_for_longer_each_time_and_nobody_else() {
    let sandbox = sandbox().await;
    let controls = sandbox.controls();
    let mut client = Client::signed_in(&sandbox, PHONE).await;
    let mut other = Client::signed_in(&sandbox, OTHER).await;
    controls.set_rate_limit(RateLimit::new("help.getNearestDc", 2, 60, 30));
    assert_eq!((flood(&mut client).await, flood(&mut client).await), (None, None));
    let first = flood(&mut client).await.expect("one too many");
    assert_eq!(first, 30);
    assert_eq!(flood(&mut other).await, None, "counted by itself");
    client.invoke(&f::help::GetConfig {}).await.expect("another method");
    assert!(flood(&mut client).await.is_some_and(|left| left <= first));
    controls.with_world(|world| world.set_clock_offset(31));
    assert_eq!((flood(&mut client).await, flood(&mut client).await), (None, None));
    assert_eq!(flood(&mut client).await, Some(60));
    controls.clear_rate_limits();
    assert_eq!(flood(&mut client).await, None);
}

#[tokio::test]
async fn a_fault_of_an_account_hits_its_sign_in() {
    let sandbox = sandbox().await;
    let account = sandbox.controls().account(PHONE).expect("the account exists");
    let banned = Effect::Error {
        code: 400,
        name: "PHONE_NUMBER_BANNED".into(),
    };
    sandbox
        .controls()
        .add_fault(Fault::once("auth.sendCode", banned).of(account).forever());
    let mut client = Client::new(&sandbox).await;
    assert_eq!(
        client.refusal(&send_code(PHONE)).await,
        (400, "PHONE_NUMBER_BANNED".into())
    );
    client.sign_in(OTHER).await.expect("the other account signs in");
    sandbox.controls().clear_faults();
    client.sign_in(PHONE).await.expect("signs in");
}

#[tokio::test]
async fn an_error_after_the_effect_leaves_the_effect() {
    let sandbox = sandbox().await;
    let mut client = Client::signed_in(&sandbox, PHONE).await;
    let internal = Effect::ErrorAfter {
        code: 500,
        name: "INTERNAL".into(),
    };
    sandbox.controls().add_fault(Fault::once("auth.logOut", internal));
    assert_eq!(client.refusal(&f::auth::LogOut {}).await, (500, "INTERNAL".into()));
    assert_eq!(client.refusal(&f::auth::LogOut {}).await.0, 401, "it was logged out");
}

#[tokio::test]
async fn a_connection_is_dropped_before_or_after_the_effect() {
    let sandbox = sandbox().await;
    let account = sandbox.controls().account(PHONE).expect("the account exists");
    for (effect, still_signed_in) in [(Effect::Drop, true), (Effect::DropAfter, false)] {
        let mut client = Client::signed_in(&sandbox, PHONE).await;
        sandbox
            .controls()
            .add_fault(Fault::once("auth.logOut", effect).of(account));
        assert!(!matches!(
            client.invoke(&f::auth::LogOut {}).await,
            Ok(_) | Err(InvocationError::Rpc(_))
        ));
        // Revoking counts the keys that are signed in.
        let signed_in = sandbox.controls().revoke_keys(account, Revocation::SignOut);
        assert_eq!(signed_in == 1, still_signed_in);
    }
}

/// Invokes a call that must not be answered, until something else shows that it has come to its end.
async fn unanswered<R: RemoteCall<Return: Debug>>(client: &mut Client, call: &R, shown: impl FnMut() -> bool) {
    tokio::select! {
        answer = client.invoke(call) => panic!("answered: {answer:?}"),
        () = until(shown) => {}
    }
}

#[tokio::test]
async fn a_black_hole_answers_nothing_and_stays_open() {
    let sandbox = sandbox().await;
    let controls = sandbox.controls();
    let mut client = Client::signed_in(&sandbox, PHONE).await;
    controls.add_fault(Fault::once("auth.logOut", Effect::BlackholeAfter));
    let is_silent = || {
        controls
            .connections()
            .iter()
            .any(|open| open.silent && open.account.is_none())
    };
    unanswered(&mut client, &f::auth::LogOut {}, is_silent).await;

    let reads = || controls.keys(None)[0].uses[0].reads;
    let before = reads();
    unanswered(&mut client, &f::help::GetConfig {}, || reads() > before).await;
    assert_eq!(
        controls.calls().by_method[GET_CONFIG],
        1,
        "the second call was not heeded"
    );
    assert!(is_silent(), "it is open");
    drop(client);
    until(|| controls.connections().is_empty()).await;
}

#[tokio::test]
async fn a_delayed_call_holds_nothing_else_up() {
    let sandbox = sandbox().await;
    let controls = sandbox.controls();
    let mut client = Client::new(&sandbox).await;
    controls.add_fault(Fault::once(GET_CONFIG, Effect::Delay { ms: 60_000 }));
    unanswered(&mut client, &f::help::GetConfig {}, || {
        controls.calls().by_method[GET_CONFIG] == 2
    })
    .await;
    client
        .invoke(&f::Ping { ping_id: 3 })
        .await
        .expect("a ping is answered meanwhile");
    controls.add_fault(Fault::once(GET_CONFIG, Effect::Delay { ms: 20 }));
    client
        .invoke(&f::help::GetConfig {})
        .await
        .expect("it is answered in the end");
}

#[tokio::test]
async fn a_held_call_is_run_when_its_fault_is_removed_unless_its_caller_has_gone() {
    let sandbox = sandbox().await;
    let controls = sandbox.controls();
    let account = controls.account(PHONE);
    let log_out = f::auth::LogOut {};
    let held = || controls.calls().by_method.get("auth.logOut").copied();
    let mut client = Client::signed_in(&sandbox, PHONE).await;
    controls.add_fault(Fault::once("auth.logOut", Effect::Hold));
    unanswered(&mut client, &log_out, || held() == Some(1)).await;
    drop(client);
    until(|| controls.connections().is_empty()).await;
    controls.clear_faults();
    let mut client = Client::signed_in(&sandbox, PHONE).await;
    let fault = controls.add_fault(Fault::once("auth.logOut", Effect::Hold));
    unanswered(&mut client, &log_out, || held() == Some(2)).await;
    client
        .invoke(&f::Ping { ping_id: 3 })
        .await
        .expect("a ping is answered meanwhile");
    assert!(controls.remove_fault(fault));
    until(|| controls.keys(account).len() == 1).await;
}

#[tokio::test]
async fn an_answer_is_lost_and_the_next_is_not() {
    let sandbox = sandbox().await;
    let controls = sandbox.controls();
    let account = controls.account(PHONE);
    let mut client = Client::signed_in(&sandbox, PHONE).await;
    controls.add_fault(Fault::once("auth.logOut", Effect::LoseAnswer));
    unanswered(&mut client, &f::auth::LogOut {}, || controls.keys(account).is_empty()).await;
    assert_eq!(client.refusal(&f::auth::LogOut {}).await.0, 401);
}
