//! `messages.getDialogs`.

use grammers_tl_types as tl;
use tl::functions::messages::GetDialogs;

use crate::sandbox::call::{Answer, Call};
use crate::sandbox::world::World;
use crate::sandbox::world::hearing::Named;
use crate::sandbox::world::view::dialogs::DialogRow;
use crate::sandbox::world::view::messages::tl_message;

/// The longest page.
const LONGEST_PAGE: i32 = 100;

/// The caller's chats, newest message first; those of channels carry their `pts`. Folders are empty.
pub fn get_dialogs(call: &mut Call<'_>, request: GetDialogs) -> Answer<tl::enums::messages::Dialogs> {
    let me = call.caller.signed_in()?;
    let world = &*call.world;
    let archived = request.folder_id.is_some_and(|folder| folder != 0);
    let rows = if archived { Vec::new() } else { world.dialog_rows(me) };
    let limit = if request.limit <= 0 {
        LONGEST_PAGE
    } else {
        request.limit.min(LONGEST_PAGE)
    };
    let start = start_of(world, me, &rows, &request);
    let end = start
        .saturating_add(usize::try_from(limit).unwrap_or(0))
        .min(rows.len());
    let page = &rows[start..end];
    let mut named = Named::default();
    for row in page {
        named.peer(row.chat);
    }
    let top_messages: Vec<_> = page.iter().filter_map(|row| world.dialog_message(me, row)).collect();
    for message in &top_messages {
        named.message(message);
    }
    let messages = top_messages
        .into_iter()
        .map(|message| tl_message(me, message))
        .collect();
    let dialogs: Vec<tl::enums::Dialog> = page.iter().map(|row| world.tl_dialog(me, row).into()).collect();
    let (chats, users) = (world.named_chats(me, &named), world.named_users(me, &named));
    if dialogs.len() == rows.len() {
        return Ok(tl::types::messages::Dialogs {
            dialogs,
            messages,
            chats,
            users,
        }
        .into());
    }
    let count = i32::try_from(rows.len()).unwrap_or(i32::MAX);
    Ok(tl::types::messages::DialogsSlice {
        count,
        dialogs,
        messages,
        chats,
        users,
    }
    .into())
}

/// Where a page begins: after the chat that the last one ended with, or at the date when that chat has moved since.
fn start_of(world: &World, me: i64, rows: &[DialogRow], request: &GetDialogs) -> usize {
    if request.offset_date <= 0 && request.offset_id <= 0 {
        return 0;
    }
    let offset_peer = world.input_peer(me, &request.offset_peer).ok();
    let same = |row: &DialogRow| Some(row.chat) == offset_peer && row.top_message == request.offset_id;
    match rows.iter().position(same) {
        Some(at) => at + 1,
        None => rows.iter().take_while(|row| row.date >= request.offset_date).count(),
    }
}
