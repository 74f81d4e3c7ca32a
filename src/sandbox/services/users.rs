//! `users.*`.

use grammers_tl_types as tl;
use tl::functions::users::{GetFullUser, GetUsers};

use crate::sandbox::call::{Answer, Call};

/// Users by reference; those that cannot be named come back as `userEmpty`.
pub fn get_users(call: &mut Call<'_>, request: GetUsers) -> Answer<Vec<tl::enums::User>> {
    let me = call.caller.signed_in()?;
    let world = &*call.world;
    let user = |input| match world.input_user(me, &input) {
        Ok(id) => world.tl_user(me, id),
        Err(_) => tl::types::UserEmpty { id: named_id(&input) }.into(),
    };
    Ok(request.id.into_iter().map(user).collect())
}

fn named_id(input: &tl::enums::InputUser) -> i64 {
    match input {
        tl::enums::InputUser::User(user) => user.user_id,
        tl::enums::InputUser::FromMessage(user) => user.user_id,
        tl::enums::InputUser::Empty | tl::enums::InputUser::UserSelf => 0,
    }
}

/// A user's page.
pub fn get_full_user(call: &mut Call<'_>, request: GetFullUser) -> Answer<tl::enums::users::UserFull> {
    let me = call.caller.signed_in()?;
    let id = call.world.input_user(me, &request.id)?;
    let full_user = call.world.tl_user_full(call.world.person(id)?);
    Ok(tl::types::users::UserFull {
        full_user,
        chats: Vec::new(),
        users: vec![call.world.tl_user(me, id)],
    }
    .into())
}
