//! How packets are told apart on the wire. The client chooses among three framings by its first bytes.
//!
//! See <https://core.telegram.org/mtproto/mtproto-transports>. The two short ones are written out here: grammers' own
//! take some packets of clients for transport errors, since it expects to hear from servers only.

use grammers_crypto::DequeBuffer;
use grammers_mtproto::transport::{self, Full, Transport as _};

/// The largest packet taken, as on Telegram's side, with room for the envelope.
const PACKET_LIMIT: usize = (1 << 20) + (64 << 10);

const ABRIDGED_TAG: u8 = 0xef;
const INTERMEDIATE_TAG: [u8; 4] = [0xee; 4];
/// From this length in words on, the abridged framing writes it in three bytes.
const ABRIDGED_LONG: u8 = 0x7f;

/// The choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Length, counter and checksum.
    Full,
    /// A length of one or four bytes.
    Abridged,
    /// A length of four bytes.
    Intermediate,
}

/// Bytes that are no packet of the framing chosen.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadFrame {
    #[error("a packet of {0} bytes")]
    Length(usize),
    #[error("not a packet of the full transport")]
    Full(#[source] transport::Error),
}

impl Framing {
    /// Reads the client's choice off the front of what it sent; `None` while too little has come.
    pub fn detect(received: &mut Vec<u8>) -> Option<Self> {
        if received.first() == Some(&ABRIDGED_TAG) {
            received.drain(..1);
            return Some(Self::Abridged);
        }
        if *received.first_chunk()? == INTERMEDIATE_TAG {
            received.drain(..4);
            return Some(Self::Intermediate);
        }
        Some(Self::Full)
    }

    /// Takes the next whole packet off the front of what was received. `full` counts those of the full framing.
    pub fn unpack(self, full: &mut Full, received: &mut Vec<u8>) -> Result<Option<Vec<u8>>, BadFrame> {
        match self {
            Self::Full => unpack_full(full, received),
            Self::Abridged => match received.as_slice() {
                [ABRIDGED_LONG, a, b, c, ..] => cut(received, 4, 4 * u32::from_le_bytes([*a, *b, *c, 0]) as usize),
                [ABRIDGED_LONG, ..] | [] => Ok(None),
                [words, ..] => cut(received, 1, 4 * usize::from(*words)),
            },
            Self::Intermediate => match received.first_chunk() {
                Some(length) => cut(received, 4, u32::from_le_bytes(*length) as usize),
                None => Ok(None),
            },
        }
    }

    /// A packet as it goes on the wire. Its length must be a multiple of four, as every `MTProto` packet's is.
    pub fn pack(self, full: &mut Full, packet: &[u8]) -> Vec<u8> {
        let length = u32::try_from(packet.len()).expect("packets are smaller than 4 GiB");
        match self {
            Self::Full => {
                let mut buffer = DequeBuffer::with_capacity(packet.len() + 4, 8);
                buffer.extend(packet);
                full.pack(&mut buffer);
                buffer.as_ref().to_vec()
            }
            Self::Abridged => match u8::try_from(length / 4) {
                Ok(words) if words < ABRIDGED_LONG => [&[words], packet].concat(),
                _ => [&((length / 4) << 8 | u32::from(ABRIDGED_LONG)).to_le_bytes(), packet].concat(),
            },
            Self::Intermediate => [&length.to_le_bytes(), packet].concat(),
        }
    }

    /// A transport error such as 404: its negative code.
    pub fn status(self, full: &mut Full, code: i32) -> Vec<u8> {
        let code = (-code).to_le_bytes();
        match self {
            // Outside any packet, and three times, as Telegram does: some clients read a length, a counter and a body
            // before they look.
            Self::Full => code.repeat(3),
            Self::Abridged | Self::Intermediate => self.pack(full, &code),
        }
    }
}

fn unpack_full(full: &mut Full, received: &mut Vec<u8>) -> Result<Option<Vec<u8>>, BadFrame> {
    if let Some(length) = received.first_chunk().copied().map(i32::from_le_bytes)
        && let Ok(length) = usize::try_from(length)
        && length > PACKET_LIMIT
    {
        return Err(BadFrame::Length(length));
    }
    match full.unpack(received) {
        Ok(found) => {
            let packet = received[found.data_range].to_vec();
            received.drain(..found.next_offset);
            Ok(Some(packet))
        }
        Err(transport::Error::MissingBytes) => Ok(None),
        Err(error) => Err(BadFrame::Full(error)),
    }
}

fn cut(received: &mut Vec<u8>, head: usize, length: usize) -> Result<Option<Vec<u8>>, BadFrame> {
    if length == 0 || length > PACKET_LIMIT {
        return Err(BadFrame::Length(length));
    }
    let Some(packet) = received.get(head..head + length).map(<[u8]>::to_vec) else {
        return Ok(None);
    };
    received.drain(..head + length);
    Ok(Some(packet))
}

#[cfg(test)]
mod tests {
    use grammers_mtproto::transport::{Abridged, Intermediate, Transport};

    use super::*;

    fn sent_by(client: &mut impl Transport, packets: &[Vec<u8>]) -> Vec<u8> {
        let mut wire = Vec::new();
        for packet in packets {
            let mut buffer = DequeBuffer::with_capacity(packet.len(), 16);
            buffer.extend(packet);
            client.pack(&mut buffer);
            wire.extend(buffer.as_ref());
        }
        wire
    }

    fn both_ways(mut client: impl Transport, expected: Framing) {
        let packets: Vec<Vec<u8>> = [4, 40, 504, 508, 512, 70_000].map(|length| vec![0xfa; length]).into();
        let mut received = Vec::new();
        let (mut framing, mut full, mut taken) = (None, Full::new(), Vec::new());
        // Byte by byte, so that every cut is tried.
        for byte in sent_by(&mut client, &packets) {
            received.push(byte);
            framing = framing.or_else(|| Framing::detect(&mut received));
            if let Some(framing) = framing {
                taken.extend(framing.unpack(&mut full, &mut received).expect("it is well-formed"));
            }
        }
        assert_eq!((framing, received.len()), (Some(expected), 0));
        assert!(taken == packets);

        let framing = expected;
        for packet in packets.into_iter().skip(1).map(|packet| vec![0x0a; packet.len()]) {
            let mut wire = framing.pack(&mut full, &packet);
            let found = client.unpack(&mut wire).expect("grammers takes it");
            assert!(wire[found.data_range] == packet && found.next_offset == wire.len());
        }
        let refused = client.unpack(&mut framing.status(&mut full, 404));
        assert_eq!(refused, Err(transport::Error::BadStatus { status: 404 }));
    }

    #[test]
    fn grammers_framings_are_understood_both_ways() {
        both_ways(Full::new(), Framing::Full);
        both_ways(Abridged::new(), Framing::Abridged);
        both_ways(Intermediate::new(), Framing::Intermediate);
    }

    #[test]
    fn lengths_without_bounds_are_refused() {
        let unpack = |framing: Framing, bytes: &[u8]| framing.unpack(&mut Full::new(), &mut bytes.to_vec());
        assert!(unpack(Framing::Full, &i32::MAX.to_le_bytes()).is_err());
        assert!(unpack(Framing::Intermediate, &[255; 4]).is_err());
        assert!(unpack(Framing::Intermediate, &[0; 4]).is_err());
        assert!(unpack(Framing::Abridged, &[0x7f, 255, 255, 255]).is_err());
        assert!(unpack(Framing::Abridged, &[0]).is_err());
    }
}
