//! `contacts.*`.

use grammers_tl_types as tl;
use tl::functions::contacts::{ResolveUsername, Search};

use crate::sandbox::call::{Answer, Call};
use crate::sandbox::world::hearing::Named;
use crate::sandbox::world::peers::PeerKey;
use crate::sandbox::world::refusal::bad;

/// Results of a search in each of its two lists, at most.
const MOST_RESULTS: i32 = 50;

/// Who has a username.
pub fn resolve_username(call: &mut Call<'_>, request: ResolveUsername) -> Answer<tl::enums::contacts::ResolvedPeer> {
    let me = call.caller.signed_in()?;
    let peer = call.world.resolve_username(me, &request.username)?;
    let mut named = Named::default();
    named.peer(peer);
    Ok(tl::types::contacts::ResolvedPeer {
        peer: peer.to_tl(),
        chats: call.world.named_chats(me, &named),
        users: call.world.named_users(me, &named),
    }
    .into())
}

/// People and chats by the beginning of their names: one's own first, then public ones.
pub fn search(call: &mut Call<'_>, request: Search) -> Answer<tl::enums::contacts::Found> {
    let me = call.caller.signed_in()?;
    let query = request.q.trim().trim_start_matches('@');
    if query.is_empty() {
        return Err(bad("SEARCH_QUERY_EMPTY"));
    }
    if query.chars().count() < 2 {
        return Err(bad("QUERY_TOO_SHORT"));
    }
    let limit = usize::try_from(request.limit.clamp(0, MOST_RESULTS)).unwrap_or(0);
    let own = call.world.search_own(me, query, limit);
    let public = call.world.search_public(me, query, limit);
    let mut named = Named::default();
    own.iter().chain(&public).for_each(|peer| named.peer(*peer));
    let peers = |found: Vec<PeerKey>| found.into_iter().map(PeerKey::to_tl).collect();
    Ok(tl::types::contacts::Found {
        my_results: peers(own),
        results: peers(public),
        chats: call.world.named_chats(me, &named),
        users: call.world.named_users(me, &named),
    }
    .into())
}
