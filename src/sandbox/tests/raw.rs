//! A client that says exactly what a test wants, also what no proper client would.

use std::collections::VecDeque;

use grammers_crypto::{AuthKey, DequeBuffer, decrypt_data_v2, encrypt_data_v2};
use grammers_mtproto::transport::{self, Full, Transport as _};
use grammers_tl_types::{Cursor, Deserializable, Identifiable, Serializable};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::client::{new_key, within};
use crate::{
    sandbox::{
        SandboxHandle, clock,
        envelope::{self, Message},
        random,
    },
    telegram::handshake::AuthKeyExchange,
};

pub(super) struct RawClient {
    stream: TcpStream,
    sending: Full,
    receiving: Full,
    received: Vec<u8>,
    messages: VecDeque<Message>,
    key: AuthKey,
    pub salt: i64,
    pub session_id: i64,
    last_id: i64,
}

impl RawClient {
    /// A client with a new key and the right salt.
    pub async fn new(sandbox: &SandboxHandle) -> Self {
        Self::with_key(sandbox, &new_key(sandbox).await).await
    }

    /// A client with a key that was made before.
    pub async fn with_key(sandbox: &SandboxHandle, key: &AuthKeyExchange) -> Self {
        Self {
            stream: TcpStream::connect(sandbox.addr()).await.expect("connects"),
            sending: Full::new(),
            receiving: Full::new(),
            received: Vec::new(),
            messages: VecDeque::new(),
            key: AuthKey::from_bytes(key.auth_key),
            salt: key.first_salt,
            session_id: random::number(),
            last_id: 0,
        }
    }

    /// A message id of now that was not used before.
    pub fn new_id(&mut self) -> i64 {
        self.last_id = (self.last_id + 4).max(i64::from(clock::unix_seconds()) << 32);
        self.last_id
    }

    pub async fn send(&mut self, msg_id: i64, seq_no: i32, body: Vec<u8>) {
        let mut plain = Vec::new();
        self.salt.serialize(&mut plain);
        self.session_id.serialize(&mut plain);
        Message { msg_id, seq_no, body }.serialize(&mut plain);
        let mut buffer = DequeBuffer::with_capacity(plain.len(), 64);
        buffer.extend(&plain);
        encrypt_data_v2(&mut buffer, &self.key);
        self.sending.pack(&mut buffer);
        within(self.stream.write_all(buffer.as_ref())).await.expect("writes");
    }

    /// Sends a call under a new id, and gives the id.
    pub async fn call(&mut self, body: Vec<u8>) -> i64 {
        let id = self.new_id();
        self.send(id, 1, body).await;
        id
    }

    /// The next message of the server; `None` when it closes the connection.
    pub async fn receive(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Some(message);
            }
            match self.receiving.unpack(&mut self.received) {
                Ok(found) => {
                    let mut packet = self.received[found.data_range].to_vec();
                    self.received.drain(..found.next_offset);
                    let plain = decrypt_data_v2(&mut packet, &self.key).expect("the server encrypts as it should");
                    let message = read_message(&plain[16..]);
                    self.messages
                        .extend(envelope::unpack(message).expect("the server packs as it should"));
                }
                Err(transport::Error::MissingBytes) => {
                    let count = within(self.stream.read_buf(&mut self.received)).await.unwrap_or(0);
                    if count == 0 {
                        return None;
                    }
                }
                Err(error) => panic!("the server sent {error}"),
            }
        }
    }

    /// The next message of type `T`; others are passed over.
    pub async fn next<T: Identifiable + Deserializable>(&mut self) -> T {
        loop {
            let message = self.receive().await.expect("the connection is open");
            let mut cursor = Cursor::from_slice(&message.body);
            if u32::deserialize(&mut cursor) == Ok(T::CONSTRUCTOR_ID) {
                return T::deserialize(&mut cursor).expect("it is whole");
            }
        }
    }

    /// The result of the call with this id, as bytes; other messages are passed over.
    pub async fn result_of(&mut self, msg_id: i64) -> Vec<u8> {
        let head = envelope::rpc_result(msg_id, &[]);
        loop {
            let message = self.receive().await.expect("the connection is open");
            if let Some(result) = message.body.strip_prefix(head.as_slice()) {
                return result.to_vec();
            }
        }
    }
}

fn read_message(bytes: &[u8]) -> Message {
    let mut cursor = Cursor::from_slice(bytes);
    let mut number = || i64::deserialize(&mut cursor).expect("a message has a head");
    let (msg_id, seq_no_and_length) = (number(), number().to_le_bytes());
    let half = |at: usize| i32::from_le_bytes(*seq_no_and_length[at..].first_chunk().expect("four bytes"));
    let length = usize::try_from(half(4)).expect("a length is positive");
    Message {
        msg_id,
        seq_no: half(0),
        body: bytes[16..16 + length].to_vec(),
    }
}
