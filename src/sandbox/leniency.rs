//! Telegram takes a peer where a channel or a user belongs, and some clients rely on it. The three are laid out alike;
//! only the constructor differs.

use grammers_tl_types::{Identifiable as _, types as t};

const TAKEN_FOR: [(u32, u32); 3] = [
    (t::InputPeerChannel::CONSTRUCTOR_ID, t::InputChannel::CONSTRUCTOR_ID),
    (t::InputPeerUser::CONSTRUCTOR_ID, t::InputUser::CONSTRUCTOR_ID),
    (t::InputPeerSelf::CONSTRUCTOR_ID, t::InputUserSelf::CONSTRUCTOR_ID),
];

/// A request that could not be read, with its peers written as channels and users. `None` when it has no peers.
pub(super) fn with_peers_as_inputs(body: &[u8]) -> Option<Vec<u8>> {
    let mut changed = body.to_vec();
    let (words, _) = changed.as_chunks_mut::<4>();
    for word in words {
        let id = u32::from_le_bytes(*word);
        if let Some((_, input)) = TAKEN_FOR.iter().find(|(peer, _)| *peer == id) {
            *word = input.to_le_bytes();
        }
    }
    (changed != body).then_some(changed)
}
