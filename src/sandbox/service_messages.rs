//! `MTProto`'s own messages: pings, salts, acknowledgements, sessions. See
//! <https://core.telegram.org/mtproto/service_messages>.

use std::time::Duration;

use grammers_tl_types::{self as tl, Cursor, Deserializable, Identifiable as _, Serializable as _};

use super::{
    auth_keys::AuthKeys,
    clock,
    connections::{MessageKind, Recipient},
    envelope::{self, Malformed, Message},
};

/// Codes of `bad_msg_notification`.
pub(super) const ID_TOO_LOW: i32 = 16;
pub(super) const ID_TOO_HIGH: i32 = 17;
pub(super) const ID_NOT_DIVISIBLE: i32 = 18;
pub(super) const ID_TOO_OLD: i32 = 20;
const WRONG_SALT: i32 = 48;

/// How far a client's clock, as its message ids show it, may be behind and ahead of ours, in seconds.
const BEHIND: i64 = 300;
const AHEAD: i64 = 30;

/// What became of a message.
pub(super) enum Handled {
    /// It is none of `MTProto`'s own: a call.
    Not,
    Silently,
    Reply(MessageKind, Vec<u8>),
    /// The same, and the connection is to be closed unless the client says so again within the time.
    ReplyAndStay(Vec<u8>, Duration),
}

/// Handles `message` when it is one of `MTProto`'s own.
pub(super) fn handle(keys: &AuthKeys, from: &Recipient, message: &Message) -> Result<Handled, Malformed> {
    let mut cursor = Cursor::from_slice(&message.body);
    let cursor = &mut cursor;
    Ok(match u32::deserialize(cursor)? {
        tl::types::MsgsAck::CONSTRUCTOR_ID
        | tl::types::HttpWait::CONSTRUCTOR_ID
        | tl::types::MsgsStateInfo::CONSTRUCTOR_ID
        | tl::types::MsgsAllInfo::CONSTRUCTOR_ID => Handled::Silently,
        tl::functions::Ping::CONSTRUCTOR_ID => {
            let request = tl::functions::Ping::deserialize(cursor)?;
            Handled::Reply(MessageKind::Service, pong(message.msg_id, request.ping_id))
        }
        tl::functions::PingDelayDisconnect::CONSTRUCTOR_ID => {
            let request = tl::functions::PingDelayDisconnect::deserialize(cursor)?;
            let delay = Duration::from_secs(u64::try_from(request.disconnect_delay).unwrap_or(0));
            Handled::ReplyAndStay(pong(message.msg_id, request.ping_id), delay)
        }
        tl::functions::GetFutureSalts::CONSTRUCTOR_ID => {
            let request = tl::functions::GetFutureSalts::deserialize(cursor)?;
            Handled::Reply(MessageKind::Service, future_salts(from, message.msg_id, request.num))
        }
        tl::functions::DestroySession::CONSTRUCTOR_ID => {
            let session_id = tl::functions::DestroySession::deserialize(cursor)?.session_id;
            // The session a message comes in cannot be destroyed by it.
            let done = session_id != from.session_id && keys.destroy_session(from.key_id, session_id);
            let answer: tl::enums::DestroySessionRes = if done {
                tl::types::DestroySessionOk { session_id }.into()
            } else {
                tl::types::DestroySessionNone { session_id }.into()
            };
            Handled::Reply(MessageKind::Service, answer.to_bytes())
        }
        tl::types::MsgsStateReq::CONSTRUCTOR_ID => {
            let ids = tl::types::MsgsStateReq::deserialize(cursor)?.msg_ids;
            Handled::Reply(MessageKind::Service, states(keys, from, message.msg_id, &ids))
        }
        tl::types::MsgResendReq::CONSTRUCTOR_ID | tl::types::MsgResendAnsReq::CONSTRUCTOR_ID => {
            let ids = Vec::<i64>::deserialize(cursor)?;
            Handled::Reply(MessageKind::Service, states(keys, from, message.msg_id, &ids))
        }
        tl::functions::RpcDropAnswer::CONSTRUCTOR_ID => {
            let answer = tl::enums::RpcDropAnswer::RpcAnswerUnknown.to_bytes();
            Handled::Reply(MessageKind::Result, envelope::rpc_result(message.msg_id, &answer))
        }
        tl::functions::DestroyAuthKey::CONSTRUCTOR_ID => {
            keys.forget(from.key_id);
            let answer = tl::enums::DestroyAuthKeyRes::DestroyAuthKeyOk.to_bytes();
            Handled::Reply(MessageKind::Result, envelope::rpc_result(message.msg_id, &answer))
        }
        _ => Handled::Not,
    })
}

/// What is wrong with a client's message id, as a code of `bad_msg_notification`.
pub(super) fn fault_of_id(msg_id: i64) -> Option<i32> {
    let now = i64::from(clock::unix_seconds());
    let stated = msg_id >> 32;
    if msg_id & 3 != 0 {
        Some(ID_NOT_DIVISIBLE)
    } else if stated < now - BEHIND {
        Some(ID_TOO_LOW)
    } else if stated > now + AHEAD {
        Some(ID_TOO_HIGH)
    } else {
        None
    }
}

/// Tells the client that a message was not heeded.
pub(super) fn bad_message(message: &Message, code: i32) -> Vec<u8> {
    tl::enums::BadMsgNotification::Notification(tl::types::BadMsgNotification {
        bad_msg_id: message.msg_id,
        bad_msg_seqno: message.seq_no,
        error_code: code,
    })
    .to_bytes()
}

/// Tells the client that a message was not heeded for its salt, and which to use.
pub(super) fn bad_salt(message: &Message, salt: i64) -> Vec<u8> {
    tl::enums::BadMsgNotification::BadServerSalt(tl::types::BadServerSalt {
        bad_msg_id: message.msg_id,
        bad_msg_seqno: message.seq_no,
        error_code: WRONG_SALT,
        new_server_salt: salt,
    })
    .to_bytes()
}

/// Tells the client that its session was not known, so that updates may be missing.
pub(super) fn new_session(first_msg_id: i64, unique_id: i64, server_salt: i64) -> Vec<u8> {
    tl::enums::NewSession::Created(tl::types::NewSessionCreated {
        first_msg_id,
        unique_id,
        server_salt,
    })
    .to_bytes()
}

/// Tells the client that a message arrived.
pub(super) fn acknowledgement(msg_id: i64) -> Vec<u8> {
    tl::enums::MsgsAck::Ack(tl::types::MsgsAck { msg_ids: vec![msg_id] }).to_bytes()
}

fn pong(msg_id: i64, ping_id: i64) -> Vec<u8> {
    tl::enums::Pong::Pong(tl::types::Pong { msg_id, ping_id }).to_bytes()
}

fn future_salts(from: &Recipient, req_msg_id: i64, count: i32) -> Vec<u8> {
    let now = clock::unix_seconds();
    let salts = tl::RawVec(from.known.salts.future(now, count));
    tl::enums::FutureSalts::Salts(tl::types::FutureSalts { req_msg_id, now, salts }).to_bytes()
}

/// One byte per message: 4 for a received one, 1 for one of which nothing is known.
fn states(keys: &AuthKeys, from: &Recipient, req_msg_id: i64, ids: &[i64]) -> Vec<u8> {
    let state = |id: &i64| {
        if keys.was_received(from.key_id, from.session_id, *id) {
            4
        } else {
            1
        }
    };
    let info = ids.iter().map(state).collect();
    tl::enums::MsgsStateInfo::Info(tl::types::MsgsStateInfo { req_msg_id, info }).to_bytes()
}
