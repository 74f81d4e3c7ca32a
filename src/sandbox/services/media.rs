//! `upload.*`, and messages with media.

use grammers_tl_types as tl;
use tl::functions::messages::{SendMedia, SendMultiMedia, UploadMedia};
use tl::functions::upload::{GetFile, SaveBigFilePart, SaveFilePart};

use super::messages::{Place, check_random_ids, kept, put_in};
use crate::sandbox::call::{Answer, Call};
use crate::sandbox::world::World;
use crate::sandbox::world::hearing::Actor;
use crate::sandbox::world::messages::{Content, Draft, Extras};
use crate::sandbox::world::refusal::bad;
use crate::sandbox::world::text;

const MOST_IN_ALBUM: usize = 10;

/// Takes a part of a file of up to 10 MB.
pub fn save_file_part(call: &mut Call<'_>, request: SaveFilePart) -> Answer<bool> {
    let me = call.caller.signed_in()?;
    let uploads = &mut call.world.uploads;
    uploads.keep_part(me, request.file_id, request.file_part, request.bytes)?;
    Ok(true)
}

/// Takes a part of a larger file.
pub fn save_big_file_part(call: &mut Call<'_>, request: SaveBigFilePart) -> Answer<bool> {
    let me = call.caller.signed_in()?;
    let uploads = &mut call.world.uploads;
    uploads.keep_part(me, request.file_id, request.file_part, request.bytes)?;
    Ok(true)
}

/// Gives a part of a file, in the data centre where it lies.
pub fn get_file(call: &mut Call<'_>, request: GetFile) -> Answer<tl::enums::upload::File> {
    call.caller.signed_in()?;
    let (dc, limit) = (call.caller.dc, request.limit.into());
    let bytes = call.world.file_part(dc, &request.location, request.offset, limit)?;
    let part = tl::types::upload::File {
        r#type: tl::enums::storage::FileType::FileUnknown,
        mtime: call.world.now(),
        bytes,
    };
    Ok(part.into())
}

/// Makes a photo or a document of an upload, and sends nothing.
pub fn upload_media(call: &mut Call<'_>, request: UploadMedia) -> Answer<tl::enums::MessageMedia> {
    let me = call.caller.signed_in()?;
    // For no chat in particular, as bots write it.
    if !matches!(request.peer, tl::enums::InputPeer::Empty) {
        call.world.input_peer(me, &request.peer)?;
    }
    call.world.accept_media(me, &request.media)
}

/// Sends a message with media.
pub fn send_media(call: &mut Call<'_>, request: SendMedia) -> Answer<tl::enums::Updates> {
    let by = Actor::of(&call.caller)?;
    let world = &mut *call.world;
    let chat = world.input_peer(by.account, &request.peer)?;
    check_random_ids(world, by, &[request.random_id])?;
    let place = Place::of(request.reply_to.as_ref())?;
    let extras = Extras {
        protected: request.noforwards,
        topic: place.topic,
        media: Some(world.accept_media(by.account, &request.media)?),
        ..Extras::default()
    };
    let caption = (request.message.as_str(), request.entities.unwrap_or_default());
    let draft = draft(world, by, caption, extras, place, request.silent, request.random_id)?;
    put_in(world, by, chat, vec![draft], request.schedule_date)
}

/// Sends an album.
pub fn send_multi_media(call: &mut Call<'_>, request: SendMultiMedia) -> Answer<tl::enums::Updates> {
    let by = Actor::of(&call.caller)?;
    let world = &mut *call.world;
    let chat = world.input_peer(by.account, &request.peer)?;
    let items: Vec<_> = request
        .multi_media
        .into_iter()
        .map(|tl::enums::InputSingleMedia::Media(item)| item)
        .collect();
    if items.is_empty() || items.len() > MOST_IN_ALBUM {
        return Err(bad("MULTI_MEDIA_TOO_LONG"));
    }
    let ids: Vec<i64> = items.iter().map(|item| item.random_id).collect();
    check_random_ids(world, by, &ids)?;
    let place = Place::of(request.reply_to.as_ref())?;
    let group = ids[0];
    let mut drafts = Vec::with_capacity(items.len());
    for item in items {
        let media = match &item.media {
            tl::enums::InputMedia::Photo(_) | tl::enums::InputMedia::Document(_) => {
                world.accept_media(by.account, &item.media)?
            }
            // An album takes what was made media before.
            _ => return Err(bad("MEDIA_INVALID")),
        };
        let extras = Extras {
            protected: request.noforwards,
            topic: place.topic,
            media: Some(media),
            group: Some(group),
            ..Extras::default()
        };
        let caption = (item.message.as_str(), item.entities.unwrap_or_default());
        drafts.push(draft(
            world,
            by,
            caption,
            extras,
            place,
            request.silent,
            item.random_id,
        )?);
    }
    put_in(world, by, chat, drafts, request.schedule_date)
}

fn draft(
    world: &World,
    by: Actor,
    (caption, entities): (&str, Vec<tl::enums::MessageEntity>),
    extras: Extras,
    place: Place,
    silent: bool,
    random_id: i64,
) -> Answer<Draft> {
    let (text, entities) = text::accept_caption(caption, entities)?;
    Ok(Draft {
        content: Content::Text {
            text,
            entities: world.visible_entities(by.account, entities),
        },
        reply_to: place.reply_to,
        silent,
        random_id: Some(random_id),
        extras: kept(extras),
    })
}
