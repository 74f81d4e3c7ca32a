//! `MTProto` 2.0 encryption on the server's side, which grammers-crypto offers for the client's side only.
//!
//! See <https://core.telegram.org/mtproto/description>.

use grammers_crypto::{AuthKey, aes};
use grammers_tl_types::{Cursor, Deserializable, Serializable};
use sha2::{Digest as _, Sha256};

use super::{
    envelope::{Malformed, Message},
    random,
};

/// The key id and the message key, in front of what is encrypted.
const HEADER: usize = 8 + 16;
/// Salt, session id, message id, sequence number and length.
const INNER_HEADER: usize = 8 + 8 + 8 + 4 + 4;

/// Where in the auth key the material for a direction begins.
#[derive(Clone, Copy)]
enum Direction {
    FromClient = 0,
    FromServer = 8,
}

/// An opened packet of a client.
pub(super) struct Inbound {
    pub salt: i64,
    pub session_id: i64,
    pub message: Message,
}

/// The id of the key a packet is encrypted with; zeros for an unencrypted one. `None` when the packet is too short.
pub(super) fn key_id_of(packet: &[u8]) -> Option<[u8; 8]> {
    packet.first_chunk().copied()
}

/// Opens a packet that a client encrypted with `key`.
pub(super) fn open(packet: &[u8], key: &AuthKey) -> Result<Inbound, Malformed> {
    let encrypted = packet.len().checked_sub(HEADER).ok_or(Malformed("short packet"))?;
    if encrypted < INNER_HEADER || !encrypted.is_multiple_of(16) {
        return Err(Malformed("length of the packet"));
    }
    let auth_key = key.to_bytes();
    let mut msg_key = [0; 16];
    msg_key.copy_from_slice(&packet[8..HEADER]);
    let (aes_key, iv) = aes_parameters(&auth_key, &msg_key, Direction::FromClient);
    let mut plain = packet[HEADER..].to_vec();
    aes::ige_decrypt(&mut plain, &aes_key, &iv);
    if message_key(&auth_key, &plain, Direction::FromClient) != msg_key {
        return Err(Malformed("message key"));
    }
    let mut cursor = Cursor::from_slice(&plain);
    let salt = i64::deserialize(&mut cursor)?;
    let session_id = i64::deserialize(&mut cursor)?;
    let msg_id = i64::deserialize(&mut cursor)?;
    let seq_no = i32::deserialize(&mut cursor)?;
    let length = usize::try_from(i32::deserialize(&mut cursor)?).map_err(|_| Malformed("negative length"))?;
    let body = plain[INNER_HEADER..]
        .get(..length)
        .ok_or(Malformed("length of the message"))?;
    let padding = plain.len() - INNER_HEADER - length;
    if !length.is_multiple_of(4) || !(12..=1024).contains(&padding) {
        return Err(Malformed("padding"));
    }
    Ok(Inbound {
        salt,
        session_id,
        message: Message {
            msg_id,
            seq_no,
            body: body.to_vec(),
        },
    })
}

/// Encrypts a message for the client that shares `key`, and gives the packet.
pub(super) fn seal(key: &AuthKey, salt: i64, session_id: i64, message: &Message) -> Vec<u8> {
    let auth_key = key.to_bytes();
    let mut plain = Vec::with_capacity(INNER_HEADER + message.body.len() + 32);
    salt.serialize(&mut plain);
    session_id.serialize(&mut plain);
    message.serialize(&mut plain);
    let padding = 12 + (16 - (plain.len() + 12) % 16) % 16;
    plain.extend(&random::bytes::<32>()[..padding]);

    let msg_key = message_key(&auth_key, &plain, Direction::FromServer);
    let (aes_key, iv) = aes_parameters(&auth_key, &msg_key, Direction::FromServer);
    aes::ige_encrypt(&mut plain, &aes_key, &iv);
    let mut packet = Vec::with_capacity(HEADER + plain.len());
    packet.extend(key_id(key));
    packet.extend(msg_key);
    packet.extend(plain);
    packet
}

/// The low 64 bits of the SHA-1 of a key, by which packets name it.
pub(super) fn key_id(key: &AuthKey) -> [u8; 8] {
    let hash = sha1::Sha1::digest(key.to_bytes());
    let mut id = [0; 8];
    id.copy_from_slice(&hash[12..20]);
    id
}

fn message_key(auth_key: &[u8; 256], padded: &[u8], direction: Direction) -> [u8; 16] {
    let x = direction as usize;
    let hash = Sha256::new()
        .chain_update(&auth_key[88 + x..120 + x])
        .chain_update(padded)
        .finalize();
    let mut key = [0; 16];
    key.copy_from_slice(&hash[8..24]);
    key
}

fn aes_parameters(auth_key: &[u8; 256], msg_key: &[u8; 16], direction: Direction) -> ([u8; 32], [u8; 32]) {
    let x = direction as usize;
    let a = Sha256::new()
        .chain_update(msg_key)
        .chain_update(&auth_key[x..x + 36])
        .finalize();
    let b = Sha256::new()
        .chain_update(&auth_key[40 + x..76 + x])
        .chain_update(msg_key)
        .finalize();
    let mixed = |outer: &[u8], middle: &[u8]| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&outer[..8]);
        bytes[8..24].copy_from_slice(&middle[8..24]);
        bytes[24..].copy_from_slice(&outer[24..]);
        bytes
    };
    (mixed(&a, &b), mixed(&b, &a))
}

#[cfg(test)]
mod tests {
    use grammers_crypto::{DequeBuffer, decrypt_data_v2, encrypt_data_v2};

    use super::*;

    fn auth_key() -> AuthKey {
        AuthKey::from_bytes(random::bytes())
    }

    #[test]
    fn a_packet_of_grammers_opens() {
        let key = auth_key();
        let mut buffer = DequeBuffer::with_capacity(128, 64);
        let mut plain = Vec::new();
        7_i64.serialize(&mut plain);
        8_i64.serialize(&mut plain);
        Message {
            msg_id: 12,
            seq_no: 1,
            body: vec![1, 2, 3, 4],
        }
        .serialize(&mut plain);
        buffer.extend(&plain);
        encrypt_data_v2(&mut buffer, &key);
        let inbound = open(buffer.as_ref(), &key).expect("opens");
        assert_eq!((inbound.salt, inbound.session_id, inbound.message.msg_id), (7, 8, 12));
        assert_eq!(inbound.message.body, [1, 2, 3, 4]);
    }

    #[test]
    fn grammers_opens_our_packet() {
        let key = auth_key();
        for length in [0, 4, 8, 12, 16, 400] {
            let message = Message {
                msg_id: 13,
                seq_no: 2,
                body: vec![9; length],
            };
            let mut packet = seal(&key, 7, 8, &message);
            let plain = decrypt_data_v2(&mut packet, &key).expect("grammers opens it");
            assert_eq!(plain[INNER_HEADER..INNER_HEADER + length], vec![9; length]);
        }
    }

    #[test]
    fn a_changed_or_cut_packet_is_refused() {
        let key = auth_key();
        let message = Message {
            msg_id: 13,
            seq_no: 2,
            body: vec![9; 16],
        };
        let mut packet = seal(&key, 7, 8, &message);
        assert!(open(&packet, &key).is_err(), "the other direction's key material");
        for length in 0..packet.len() {
            assert!(open(&packet[..length], &key).is_err());
        }
        packet[40] ^= 1;
        assert!(open(&packet, &key).is_err());
    }
}
