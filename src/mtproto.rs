//! What both ends of `MTProto` must agree on: the client's handshake (`telegram`) and the sandbox's are siblings, and neither
//! imports the other.

use grammers_tl_types::Serializable;
use num_bigint::BigUint;
use sha1::{Digest, Sha1};

/// The safe prime that Telegram's servers use, big-endian.
pub const TELEGRAM_DH_PRIME: [u8; 256] = parse_hex(
    b"C71CAEB9C6B1C9048E6C522F70F13F73980D40238E3E21C14934D037563D930F\
      48198A0AA7C14058229493D22530F4DBFA336F6E0AC925139543AED44CCE7C37\
      20FD51F69458705AC68CD4FE6B6B13ABDC9746512969328454F18FAF8C595F64\
      2477FE96BB2A941D5BCD1D4AC8CC49880708FA9B378E3C4F3A9060BEE67CF9A4\
      A4A695811051907E162753B56B0F6B410DBA74D8A84B2A14B3144E0EF1284754\
      FD17ED950D5965B4B9DD46582DB1178D169C6BC465B0D6FF9CA3928FEF5B9AE4\
      E418FC15E83EBEA0F87FA9FF5EED70050DED2849F47BF959D956850CE929851F\
      0D8115F635B105EE2E4E15D04B2454BF6F4FADF034B10403119CD8E3B92FCC5B",
);

/// The number by which `MTProto` names an RSA key: the low 64 bits of the SHA-1 of its modulus and exponent.
pub fn fingerprint(modulus: &BigUint, exponent: &BigUint) -> i64 {
    let mut bytes = Vec::with_capacity(272);
    modulus.to_bytes_be().serialize(&mut bytes);
    exponent.to_bytes_be().serialize(&mut bytes);
    let hash = Sha1::digest(&bytes);
    let mut low = [0; 8];
    low.copy_from_slice(&hash[12..20]);
    i64::from_le_bytes(low)
}

const fn parse_hex(digits: &[u8; 512]) -> [u8; 256] {
    const fn value(digit: u8) -> u8 {
        match digit {
            b'0'..=b'9' => digit - b'0',
            b'A'..=b'F' => digit - b'A' + 10,
            _ => panic!("not an upper-case hexadecimal digit"),
        }
    }
    let mut bytes = [0; 256];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = value(digits[2 * at]) << 4 | value(digits[2 * at + 1]);
        at += 1;
    }
    bytes
}
