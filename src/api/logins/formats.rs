//! String sessions of other libraries, read and written. Where a format names the server's address it is not believed: workers
//! know where Telegram's data centres are.
//!
//! Telethon: `1`, then base64 of the data centre (1 byte), its IPv4 or IPv6 address, the port (2) and the key (256). Pyrogram and
//! Kurigram: base64 of the data centre (1), the API id (4; absent before version 2), test mode (1), the key (256), the user id (8; 4
//! in the oldest) and whether it is a bot (1). All big-endian, URL-safe.

use std::net::SocketAddrV4;

use base64::{
    Engine,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose},
};
use zeroize::Zeroizing;

use super::sqlite;
use crate::store::errands::Portable;

const KEY: usize = 256;
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a text is no session. Quotes nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("is neither a Telethon nor a Pyrogram string session: its length or its characters are not those of one.")]
    Unknown,
    #[error("is of Telegram's test servers, which this does not reach.")]
    TestMode,
    #[error("names a data centre that there is not.")]
    Dc,
    #[error("has no authorisation in it: its key is empty.")]
    NoKey,
}

/// Reads a string session of any known format.
pub fn parse(text: &str) -> Result<Portable, FormatError> {
    if let Some(rest) = text.strip_prefix('1')
        && let Some(bytes) = decode(rest)
        && let Some(ip) = [4, 16].into_iter().find(|ip| bytes.len() == 1 + ip + 2 + KEY)
    {
        let (&dc, _) = bytes.split_first().ok_or(FormatError::Unknown)?;
        return portable(dc, &bytes[1 + ip + 2..], None, false);
    }
    let bytes = decode(text).ok_or(FormatError::Unknown)?;
    // Where the key begins, and how long the user id is.
    let (key_at, id_bytes) = match bytes.len() {
        271 => (6, 8),
        267 => (2, 8),
        263 => (2, 4),
        _ => return Err(FormatError::Unknown),
    };
    if bytes[key_at - 1] != 0 {
        return Err(FormatError::TestMode);
    }
    let id_at = key_at + KEY;
    let id = bytes[id_at..id_at + id_bytes]
        .iter()
        .fold(0_i64, |id, byte| id << 8 | i64::from(*byte));
    let is_bot = bytes[id_at + id_bytes] != 0;
    portable(bytes[0], &bytes[key_at..id_at], Some(id).filter(|id| *id > 0), is_bot)
}

/// Reads a session file of Telethon (or one with the same table).
pub fn parse_file(bytes: &[u8]) -> Result<Portable, FileError> {
    let rows = sqlite::rows(bytes, "sessions")?;
    let row = rows.last().ok_or(FormatError::NoKey)?;
    let key = row.values.iter().find_map(|value| match value {
        sqlite::Value::Bytes(bytes) if bytes.len() == KEY => Some(*bytes),
        _ => None,
    });
    let dc = u8::try_from(row.id).map_err(|_| FormatError::Dc)?;
    Ok(portable(dc, key.ok_or(FormatError::NoKey)?, None, false)?)
}

/// Why a file is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Sqlite(#[from] sqlite::SqliteError),
    #[error(transparent)]
    Format(#[from] FormatError),
}

fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    LENIENT.decode(text).ok().map(Zeroizing::new)
}

fn portable(dc: u8, key: &[u8], account_id: Option<i64>, is_bot: bool) -> Result<Portable, FormatError> {
    if !(1..=5).contains(&dc) {
        return Err(FormatError::Dc);
    }
    if key.iter().all(|byte| *byte == 0) {
        return Err(FormatError::NoKey);
    }
    Ok(Portable {
        dc: i32::from(dc),
        key: general_purpose::STANDARD.encode(key),
        account_id,
        is_bot,
        address: String::new(),
        api_id: None,
    })
}

/// Writes a Telethon string session. `None`: the authorisation cannot be written in it.
pub fn telethon(portable: &Portable) -> Option<Zeroizing<String>> {
    let address: SocketAddrV4 = portable.address.parse().ok()?;
    let dc = u8::try_from(portable.dc).ok()?;
    let bytes = joined(&[
        &[dc],
        &address.ip().octets(),
        &address.port().to_be_bytes(),
        &key(portable)?,
    ]);
    let mut text = Zeroizing::new(String::with_capacity(1 + bytes.len().div_ceil(3) * 4));
    text.push('1');
    general_purpose::URL_SAFE.encode_string(bytes.as_slice(), &mut text);
    Some(text)
}

/// Writes a Pyrogram string session (version 2), for the application of that API id.
pub fn pyrogram(portable: &Portable, api_id: i32) -> Option<Zeroizing<String>> {
    let dc = u8::try_from(portable.dc).ok()?;
    let api_id = u32::try_from(api_id).ok()?.to_be_bytes();
    let account = u64::try_from(portable.account_id?).ok()?.to_be_bytes();
    let bytes = joined(&[
        &[dc],
        &api_id,
        &[0],
        &key(portable)?,
        &account,
        &[u8::from(portable.is_bot)],
    ]);
    Some(Zeroizing::new(
        general_purpose::URL_SAFE_NO_PAD.encode(bytes.as_slice()),
    ))
}

/// With room for all of it from the start: a buffer that grew would leave copies behind.
fn joined(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes
}

fn key(portable: &Portable) -> Option<Zeroizing<Vec<u8>>> {
    let key = general_purpose::STANDARD
        .decode(&portable.key)
        .ok()
        .map(Zeroizing::new)?;
    (key.len() == KEY).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Portable {
        let key: Vec<u8> = (0..=255).collect();
        Portable {
            dc: 4,
            key: general_purpose::STANDARD.encode(key),
            account_id: Some(7_000_000_001),
            is_bot: true,
            address: "149.154.167.92:443".into(),
            api_id: None,
        }
    }

    fn same(read: &Portable, written: &Portable, knows_account: bool) {
        assert_eq!((read.dc, &read.key), (written.dc, &written.key));
        if knows_account {
            assert_eq!((read.account_id, read.is_bot), (written.account_id, written.is_bot));
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let sample = sample();
        let telethon = telethon(&sample).unwrap();
        assert_eq!(telethon.len(), 353, "as Telethon's own");
        same(&parse(&telethon).unwrap(), &sample, false);
        let pyrogram = pyrogram(&sample, 12345).unwrap();
        assert_eq!(pyrogram.len(), 362, "as Pyrogram's own");
        same(&parse(&pyrogram).unwrap(), &sample, true);
    }

    #[test]
    fn a_telethon_file_is_read() {
        let read = parse_file(include_bytes!("tests/made-up.session")).unwrap();
        same(&read, &sample(), false);
        assert!(parse_file(b"hello").is_err());
    }

    #[test]
    fn older_forms_and_addresses_of_both_kinds_are_read() {
        let sample = sample();
        let key = key(&sample).unwrap();
        let url_safe = |parts: &[&[u8]]| general_purpose::URL_SAFE_NO_PAD.encode(parts.concat());
        let ipv6 = format!("1{}", url_safe(&[&[4], &[0x20; 16], &443_u16.to_be_bytes(), &key]));
        same(&parse(&ipv6).unwrap(), &sample, false);
        let id = 7_000_000_001_u64.to_be_bytes();
        same(&parse(&url_safe(&[&[4, 0], &key, &id, &[1]])).unwrap(), &sample, true);
        let mut small = self::sample();
        small.account_id = Some(77);
        same(
            &parse(&url_safe(&[&[4, 0], &key, &77_u32.to_be_bytes(), &[1]])).unwrap(),
            &small,
            true,
        );
    }

    #[test]
    fn what_is_no_session_is_refused_without_being_shown() {
        let key = key(&sample()).unwrap();
        let url_safe = |parts: &[&[u8]]| general_purpose::URL_SAFE_NO_PAD.encode(parts.concat());
        for (text, error) in [
            ("hello".to_owned(), FormatError::Unknown),
            ("1hello".to_owned(), FormatError::Unknown),
            ("ü".to_owned(), FormatError::Unknown),
            (url_safe(&[&[4, 1], &key, &[0; 8], &[0]]), FormatError::TestMode),
            (url_safe(&[&[9, 0], &key, &[0; 8], &[0]]), FormatError::Dc),
            (url_safe(&[&[4, 0], &[0; 256], &[0; 8], &[0]]), FormatError::NoKey),
        ] {
            let refused = parse(&text).err().unwrap();
            assert_eq!(refused, error);
            assert!(!refused.to_string().contains(&text));
        }
    }
}
