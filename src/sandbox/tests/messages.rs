//! `MTProto`'s rules for messages, tried by a client that breaks them.

use grammers_tl_types::{self as tl, Deserializable, Identifiable, Serializable, functions as f};

use super::{
    client::{Client, new_key, sandbox, send_code, within},
    raw::RawClient,
};
use crate::sandbox::{
    dispatcher::IMPLEMENTED,
    envelope::{self, Message},
    random,
};

fn ping(ping_id: i64) -> Vec<u8> {
    f::Ping { ping_id }.to_bytes()
}

#[tokio::test]
async fn a_message_that_comes_twice_runs_once() {
    let sandbox = sandbox().await;
    let mut client = RawClient::new(&sandbox).await;
    let call = f::help::GetNearestDc {}.to_bytes();
    let id = client.call(call.clone()).await;
    client.result_of(id).await;
    client.send(id, 1, call).await;
    let ack: tl::types::MsgsAck = client.next().await;
    assert_eq!(ack.msg_ids, [id]);
    assert_eq!(sandbox.controls().calls().by_method["help.getNearestDc"], 1);
}

#[tokio::test]
async fn wrong_message_ids_and_salts_are_told() {
    let sandbox = sandbox().await;
    let mut client = RawClient::new(&sandbox).await;
    let now = client.new_id();
    for (id, code) in [(now + 1, 18), (now - (400 << 32), 16), (now + (60 << 32), 17)] {
        client.send(id, 1, ping(1)).await;
        let told: tl::types::BadMsgNotification = client.next().await;
        assert_eq!((told.bad_msg_id, told.error_code), (id, code));
    }
    client.salt += 1;
    let id = client.call(ping(1)).await;
    let told: tl::types::BadServerSalt = client.next().await;
    assert_eq!((told.bad_msg_id, told.error_code), (id, 48));
    client.salt = told.new_server_salt;
    let id = client.call(ping(2)).await;
    let session: tl::types::NewSessionCreated = client.next().await;
    assert_eq!((session.first_msg_id, session.server_salt), (id, client.salt));
    let pong: tl::types::Pong = client.next().await;
    assert_eq!((pong.msg_id, pong.ping_id), (id, 2));
}

#[tokio::test]
async fn a_container_is_answered_message_by_message() {
    let sandbox = sandbox().await;
    let mut client = RawClient::new(&sandbox).await;
    let (first, second, third) = (client.new_id(), client.new_id(), client.new_id());
    let wait = tl::types::HttpWait {
        max_delay: 0,
        wait_after: 0,
        max_wait: 1,
    };
    let body = envelope::container(&[
        Message {
            msg_id: first,
            seq_no: 1,
            body: tl::enums::HttpWait::Wait(wait).to_bytes(),
        },
        Message {
            msg_id: second,
            seq_no: 3,
            body: f::help::GetNearestDc {}.to_bytes(),
        },
        Message {
            msg_id: third,
            seq_no: 5,
            body: f::GetFutureSalts { num: 3 }.to_bytes(),
        },
    ]);
    let outer = client.new_id();
    client.send(outer, 6, body).await;
    client.result_of(second).await;
    let salts: tl::types::FutureSalts = client.next().await;
    assert_eq!((salts.req_msg_id, salts.salts.0.len()), (third, 3));

    let unknown = client.new_id();
    let request = tl::types::MsgsStateReq {
        msg_ids: vec![second, unknown],
    };
    client.call(tl::enums::MsgsStateReq::Req(request).to_bytes()).await;
    let states: tl::types::MsgsStateInfo = client.next().await;
    assert_eq!(states.info, [4, 1]);
}

#[tokio::test]
async fn sessions_are_destroyed() {
    let sandbox = sandbox().await;
    let mut client = RawClient::new(&sandbox).await;
    let old = client.session_id;
    client.call(ping(1)).await;
    client.session_id += 1;
    client.call(f::DestroySession { session_id: old }.to_bytes()).await;
    assert_eq!(client.next::<tl::types::DestroySessionOk>().await.session_id, old);
    client.call(f::DestroySession { session_id: old }.to_bytes()).await;
    assert_eq!(client.next::<tl::types::DestroySessionNone>().await.session_id, old);
}

#[tokio::test]
async fn a_client_that_stops_pinging_is_disconnected() {
    let sandbox = sandbox().await;
    let mut client = RawClient::new(&sandbox).await;
    client
        .call(
            f::PingDelayDisconnect {
                ping_id: 1,
                disconnect_delay: 0,
            }
            .to_bytes(),
        )
        .await;
    while within(client.receive()).await.is_some() {}
}

#[tokio::test]
async fn what_is_nested_without_end_is_refused() {
    const DEEP: usize = 100_000;
    let sandbox = sandbox().await;
    let mut client = RawClient::new(&sandbox).await;
    let mut nested = f::messages::GetHistory::CONSTRUCTOR_ID.to_le_bytes().to_vec();
    nested.extend(
        tl::types::InputPeerUserFromMessage::CONSTRUCTOR_ID
            .to_le_bytes()
            .repeat(DEEP),
    );
    let mut bounded = nested[..4 * 250].to_vec();
    bounded.extend([0; 8]);
    for body in [nested, bounded] {
        let id = client.call(body).await;
        let error = tl::enums::RpcError::from_bytes(&client.result_of(id).await).expect("an error");
        assert!(matches!(error, tl::enums::RpcError::Error(error) if error.error_message == "INPUT_FETCH_ERROR"));
    }
}

#[tokio::test]
async fn a_peer_is_taken_for_the_user_or_channel_it_is() {
    let sandbox = sandbox().await;
    let key = new_key(&sandbox).await;
    Client::connect(sandbox.addr(), &key)
        .await
        .sign_in("+9996620001")
        .await
        .expect("signs in");
    let mut client = RawClient::with_key(&sandbox, &key).await;
    let request = f::users::GetUsers {
        id: vec![tl::enums::InputUser::UserSelf],
    }
    .to_bytes();
    let as_user = tl::types::InputUserSelf::CONSTRUCTOR_ID.to_le_bytes();
    let as_peer = tl::types::InputPeerSelf::CONSTRUCTOR_ID.to_le_bytes();
    let with_peer = [request.strip_suffix(&as_user).expect("it ends with the user"), &as_peer].concat();
    let (proper, lenient) = (client.call(request).await, client.call(with_peer).await);
    let proper = client.result_of(proper).await;
    assert_eq!(proper, client.result_of(lenient).await);
    Vec::<tl::enums::User>::from_bytes(&proper).expect("it is the list of users");
}

#[tokio::test]
async fn arguments_of_any_kind_break_no_service() {
    let sandbox = sandbox().await;
    let mut client = RawClient::new(&sandbox).await;
    client.call(send_code("+9996620001").to_bytes()).await;
    let vector = 0x1cb5_c415_u32.to_le_bytes();
    for constructor in IMPLEMENTED {
        let mut bodies = vec![Vec::new(), vec![0; 256], vec![255; 256], vector.repeat(64)];
        bodies.extend((0..4).map(|_| random::bytes::<128>().to_vec()));
        bodies.push([[0; 4], vector, [1, 0, 0, 0], [0; 4]].concat().repeat(16));
        for arguments in bodies {
            let body = [constructor.to_le_bytes().as_slice(), &arguments].concat();
            let id = client.call(body).await;
            client.result_of(id).await;
        }
    }
    assert_eq!(sandbox.controls().calls().panicked.len(), 0);
}
