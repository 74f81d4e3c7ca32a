//! Keeps requests from being nested deeper than the stack is.
//!
//! grammers reads a type inside itself by recursion, as deep as the client says, and a stack that overflows ends the
//! whole process. So requests are looked over first. TL is written in words of four bytes: a constructor can be counted
//! without reading what is around it.

use grammers_tl_types::{Identifiable as _, types as t};

/// What a request may have this often at most: constructors that hold one of their own type.
const COUNTED: [u32; 4] = [
    t::InputPeerUserFromMessage::CONSTRUCTOR_ID,
    t::InputPeerChannelFromMessage::CONSTRUCTOR_ID,
    t::InputMediaInvoice::CONSTRUCTOR_ID,
    t::InputMediaPaidMedia::CONSTRUCTOR_ID,
];
const MOST: usize = 256;

/// The ways into types with too many such constructors to count, pages and polls. No service takes either.
const REFUSED: [u32; 2] = [t::InputRichMessage::CONSTRUCTOR_ID, t::InputMediaPoll::CONSTRUCTOR_ID];

/// Whether a request can be read safely.
pub(super) fn is_bounded(body: &[u8]) -> bool {
    let mut counted = 0;
    for word in body.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)) {
        if REFUSED.contains(&word) {
            return false;
        }
        counted += usize::from(COUNTED.contains(&word));
    }
    counted <= MOST
}
