//! What lies between encryption and calls: messages, containers, compression, and the wrappers around a query.

use std::io::{Read as _, Write as _};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use grammers_tl_types::{self as tl, Cursor, Deserializable, Identifiable as _, Serializable};

const MSG_CONTAINER: u32 = 0x73f1_f8dc;
const GZIP_PACKED: u32 = 0x3072_cfa1;
const RPC_RESULT: u32 = 0xf35c_6d01;

/// The constructors that wrap another query. Their types in grammers are generic over the query, so they have no ids.
const INVOKE_AFTER_MSG: u32 = 0xcb9f_372d;
const INVOKE_AFTER_MSGS: u32 = 0x3dc4_b4f0;
const INIT_CONNECTION: u32 = 0xc1cd_5ea9;
const INVOKE_WITH_LAYER: u32 = 0xda9b_0d0d;
const INVOKE_WITHOUT_UPDATES: u32 = 0xbf94_59b7;

/// The largest message after unpacking: a small packet must not fill the memory.
const UNPACKED_LIMIT: u64 = 8 << 20;
/// The most messages one container may have.
const CONTAINER_LIMIT: i32 = 1_024;
/// How deep wrappers, compression and JSON values may be nested.
const DEPTH_LIMIT: usize = 16;
/// Answers from this size on are compressed, as Telegram does.
const COMPRESS_FROM: usize = 1_024;

/// A packet or message that cannot be read. The connection is closed for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {0}")]
pub(super) struct Malformed(pub &'static str);

impl From<tl::deserialize::Error> for Malformed {
    fn from(_: tl::deserialize::Error) -> Self {
        Self("truncated or of another type")
    }
}

/// One `MTProto` message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub msg_id: i64,
    pub seq_no: i32,
    pub body: Vec<u8>,
}

impl Message {
    /// Whether the sender wants to know that it arrived.
    pub fn is_content_related(&self) -> bool {
        self.seq_no & 1 == 1
    }
}

impl Serializable for Message {
    fn serialize(&self, buffer: &mut impl Extend<u8>) {
        self.msg_id.serialize(buffer);
        self.seq_no.serialize(buffer);
        i32::try_from(self.body.len())
            .expect("messages are smaller than 2 GiB")
            .serialize(buffer);
        buffer.extend(self.body.iter().copied());
    }
}

/// The messages inside `message`: those of a container, or itself; decompressed.
pub(super) fn unpack(message: Message) -> Result<Vec<Message>, Malformed> {
    let message = decompressed(message)?;
    let mut cursor = Cursor::from_slice(&message.body);
    if u32::deserialize(&mut cursor)? != MSG_CONTAINER {
        return Ok(vec![message]);
    }
    let count = i32::deserialize(&mut cursor)?;
    if !(0..=CONTAINER_LIMIT).contains(&count) {
        return Err(Malformed("number of messages in the container"));
    }
    (0..count)
        .map(|_| {
            let inner = read_inner(&mut cursor, &message.body)?;
            let inner = decompressed(inner)?;
            if inner.body.starts_with(&MSG_CONTAINER.to_le_bytes()) {
                return Err(Malformed("a container inside a container"));
            }
            Ok(inner)
        })
        .collect()
}

fn read_inner(cursor: &mut Cursor<'_>, container: &[u8]) -> Result<Message, Malformed> {
    let msg_id = i64::deserialize(cursor)?;
    let seq_no = i32::deserialize(cursor)?;
    let length = usize::try_from(i32::deserialize(cursor)?).map_err(|_| Malformed("negative length"))?;
    if length < 4 || length > container.len() - cursor.pos() {
        return Err(Malformed("length of a message in the container"));
    }
    let mut body = vec![0; length];
    cursor.read_exact(&mut body)?;
    Ok(Message { msg_id, seq_no, body })
}

fn decompressed(mut message: Message) -> Result<Message, Malformed> {
    if let Some(body) = decompress(&message.body)? {
        message.body = body;
    }
    Ok(message)
}

/// The content of `gzip_packed`, or `None` when it is something else.
fn decompress(body: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut cursor = Cursor::from_slice(body);
    if u32::deserialize(&mut cursor)? != GZIP_PACKED {
        return Ok(None);
    }
    let packed = Vec::<u8>::deserialize(&mut cursor)?;
    let mut content = Vec::new();
    let mut decoder = GzDecoder::new(packed.as_slice()).take(UNPACKED_LIMIT + 1);
    decoder
        .read_to_end(&mut content)
        .map_err(|_| Malformed("compressed data"))?;
    if content.len() as u64 > UNPACKED_LIMIT {
        return Err(Malformed("compressed data is too large"));
    }
    if content.len() < 4 {
        return Err(Malformed("compressed data is too short"));
    }
    Ok(Some(content))
}

/// Several messages as one.
pub(super) fn container(messages: &[Message]) -> Vec<u8> {
    let mut body = Vec::with_capacity(8 + messages.iter().map(|message| 16 + message.body.len()).sum::<usize>());
    MSG_CONTAINER.serialize(&mut body);
    i32::try_from(messages.len())
        .expect("a container has at most a thousand messages")
        .serialize(&mut body);
    for message in messages {
        message.serialize(&mut body);
    }
    body
}

/// The answer to the call in message `msg_id`, compressed when it is large and that helps.
pub(super) fn rpc_result(msg_id: i64, result: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(12 + result.len());
    RPC_RESULT.serialize(&mut body);
    msg_id.serialize(&mut body);
    match compress(result) {
        Some(packed) => {
            GZIP_PACKED.serialize(&mut body);
            packed.serialize(&mut body);
        }
        None => body.extend(result),
    }
    body
}

fn compress(result: &[u8]) -> Option<Vec<u8>> {
    if result.len() < COMPRESS_FROM {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(result).ok()?;
    encoder.finish().ok().filter(|packed| packed.len() + 8 < result.len())
}

/// A call without what was wrapped around it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// The layer named by `invokeWithLayer`.
    pub layer: Option<i32>,
    /// The application named by `initConnection`.
    pub api_id: Option<i32>,
    /// Whether the connection is to get updates from now on: false inside `invokeWithoutUpdates`.
    pub wants_updates: bool,
    /// The constructor id and arguments.
    pub body: Vec<u8>,
}

impl Query {
    /// Takes the wrappers off a call.
    pub fn unwrap(body: &[u8]) -> Result<Self, Malformed> {
        let mut query = Self {
            layer: None,
            api_id: None,
            wants_updates: true,
            body: Vec::new(),
        };
        let mut body = body.to_vec();
        for _ in 0..DEPTH_LIMIT {
            if let Some(content) = decompress(&body)? {
                body = content;
                continue;
            }
            let mut cursor = Cursor::from_slice(&body);
            match u32::deserialize(&mut cursor)? {
                INVOKE_WITH_LAYER => query.layer = Some(i32::deserialize(&mut cursor)?),
                INVOKE_WITHOUT_UPDATES => query.wants_updates = false,
                INVOKE_AFTER_MSG => drop(i64::deserialize(&mut cursor)?),
                INVOKE_AFTER_MSGS => drop(Vec::<i64>::deserialize(&mut cursor)?),
                INIT_CONNECTION => query.api_id = Some(read_connection_header(&mut cursor)?),
                _ => {
                    query.body = body;
                    return Ok(query);
                }
            }
            body.drain(..cursor.pos());
        }
        Err(Malformed("too many wrappers"))
    }
}

fn read_connection_header(cursor: &mut Cursor<'_>) -> Result<i32, Malformed> {
    let flags = u32::deserialize(cursor)?;
    let api_id = i32::deserialize(cursor)?;
    // Device, system, application, two languages and a language pack.
    for _ in 0..6 {
        String::deserialize(cursor)?;
    }
    if flags & 1 != 0 {
        tl::enums::InputClientProxy::deserialize(cursor)?;
    }
    if flags & 2 != 0 {
        skip_json(cursor, DEPTH_LIMIT)?;
    }
    Ok(api_id)
}

/// Skips a `JSONValue`. grammers' own reader recurses as deep as the client says, up to the end of the stack.
fn skip_json(cursor: &mut Cursor<'_>, depth: usize) -> Result<(), Malformed> {
    let depth = depth.checked_sub(1).ok_or(Malformed("JSON is nested too deep"))?;
    match u32::deserialize(cursor)? {
        tl::types::JsonNull::CONSTRUCTOR_ID => {}
        tl::types::JsonBool::CONSTRUCTOR_ID => drop(bool::deserialize(cursor)?),
        tl::types::JsonNumber::CONSTRUCTOR_ID => drop(f64::deserialize(cursor)?),
        tl::types::JsonString::CONSTRUCTOR_ID => drop(String::deserialize(cursor)?),
        tl::types::JsonArray::CONSTRUCTOR_ID => {
            for _ in 0..vector_length(cursor)? {
                skip_json(cursor, depth)?;
            }
        }
        tl::types::JsonObject::CONSTRUCTOR_ID => {
            for _ in 0..vector_length(cursor)? {
                u32::deserialize(cursor)?;
                String::deserialize(cursor)?;
                skip_json(cursor, depth)?;
            }
        }
        _ => return Err(Malformed("not a JSON value")),
    }
    Ok(())
}

fn vector_length(cursor: &mut Cursor<'_>) -> Result<u32, Malformed> {
    const VECTOR: u32 = 0x1cb5_c415;
    if u32::deserialize(cursor)? != VECTOR {
        return Err(Malformed("not a vector"));
    }
    Ok(u32::deserialize(cursor)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ping(id: i64) -> Vec<u8> {
        tl::functions::Ping { ping_id: id }.to_bytes()
    }

    fn packed(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(content).expect("memory takes it");
        let mut body = GZIP_PACKED.to_le_bytes().to_vec();
        encoder.finish().expect("memory takes it").serialize(&mut body);
        body
    }

    #[test]
    fn a_container_with_a_compressed_message_unpacks() {
        let messages = [
            Message {
                msg_id: 4,
                seq_no: 1,
                body: ping(1),
            },
            Message {
                msg_id: 8,
                seq_no: 3,
                body: packed(&ping(2)),
            },
        ];
        let outer = Message {
            msg_id: 12,
            seq_no: 2,
            body: container(&messages),
        };
        let bodies: Vec<_> = unpack(outer)
            .expect("unpacks")
            .into_iter()
            .map(|message| message.body)
            .collect();
        assert_eq!(bodies, [ping(1), ping(2)]);
    }

    #[test]
    fn lying_lengths_are_refused() {
        let mut body = container(&[Message {
            msg_id: 4,
            seq_no: 1,
            body: ping(1),
        }]);
        body[4] = 2;
        assert!(
            unpack(Message {
                msg_id: 8,
                seq_no: 0,
                body: body.clone()
            })
            .is_err()
        );
        body[4..8].copy_from_slice(&(-1_i32).to_le_bytes());
        assert!(
            unpack(Message {
                msg_id: 8,
                seq_no: 0,
                body
            })
            .is_err()
        );
        let nested = container(&[Message {
            msg_id: 4,
            seq_no: 1,
            body: container(&[]),
        }]);
        assert!(
            unpack(Message {
                msg_id: 8,
                seq_no: 0,
                body: nested
            })
            .is_err()
        );
        let bomb = packed(&vec![0; usize::try_from(UNPACKED_LIMIT).expect("fits") + 4]);
        assert!(
            unpack(Message {
                msg_id: 8,
                seq_no: 0,
                body: bomb
            })
            .is_err()
        );
    }

    #[test]
    fn wrappers_come_off() {
        let call = tl::functions::InvokeWithLayer {
            layer: 230,
            query: tl::functions::InitConnection {
                api_id: 1,
                device_model: "d".into(),
                system_version: "s".into(),
                app_version: "a".into(),
                system_lang_code: "en".into(),
                lang_pack: String::new(),
                lang_code: "en".into(),
                proxy: None,
                params: Some(
                    tl::types::JsonObject {
                        value: vec![
                            tl::types::JsonObjectValue {
                                key: "tz_offset".into(),
                                value: tl::types::JsonNumber { value: 3.0 }.into(),
                            }
                            .into(),
                        ],
                    }
                    .into(),
                ),
                query: tl::functions::InvokeWithoutUpdates {
                    query: tl::functions::help::GetConfig {},
                },
            },
        };
        let query = Query::unwrap(&call.to_bytes()).expect("unwraps");
        let body = tl::functions::help::GetConfig {}.to_bytes();
        assert_eq!(
            query,
            Query {
                layer: Some(230),
                api_id: Some(1),
                wants_updates: false,
                body
            }
        );
    }

    #[test]
    fn deep_nesting_is_refused_before_the_stack_ends() {
        let mut body = Vec::new();
        INIT_CONNECTION.serialize(&mut body);
        2_u32.serialize(&mut body);
        1_i32.serialize(&mut body);
        for _ in 0..6 {
            String::new().serialize(&mut body);
        }
        for _ in 0..50_000 {
            tl::types::JsonArray::CONSTRUCTOR_ID.serialize(&mut body);
            0x1cb5_c415_u32.serialize(&mut body);
            1_u32.serialize(&mut body);
        }
        assert_eq!(Query::unwrap(&body), Err(Malformed("JSON is nested too deep")));
        let wrappers = INVOKE_WITHOUT_UPDATES.to_le_bytes().repeat(1_000);
        assert_eq!(Query::unwrap(&wrappers), Err(Malformed("too many wrappers")));
    }

    #[test]
    fn large_answers_are_compressed() {
        let result = vec![7; 4_096];
        let body = rpc_result(5, &result);
        assert!(body.len() < 200);
        assert_eq!(decompress(&body[12..]), Ok(Some(result)));
        assert_eq!(rpc_result(5, &[1, 2, 3, 4])[12..], [1, 2, 3, 4]);
    }
}
