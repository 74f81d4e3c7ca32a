//! From a call's bytes to the service that answers it.

use std::{
    borrow::Cow,
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use grammers_tl_types::{
    self as tl, Cursor, Deserializable, Identifiable as _, RemoteCall, Serializable, functions as f,
};

use super::{
    call::{Answer, Call, Caller, Push, RpcError, UserId},
    connections::{Connection, Recipient},
    faults::{Ending, Plan},
    leniency, nesting,
    server::Server,
    services,
    world::World,
};

/// The layer of the types compiled in.
pub(super) const NEWEST_LAYER: i32 = tl::LAYER;
/// The oldest layer whose types are the same, as far as the sandbox uses them.
const OLDEST_LAYER: i32 = 229;

type Handler = fn(&Server, &mut Call<'_>, &mut Cursor<'_>) -> Answer<Vec<u8>>;

/// Writes the table from constructor to service: one row per method. Services in `server` also get the server.
macro_rules! table {
    (
        server { $($server_function:path => $server_service:path,)* }
        world { $($world_function:path => $world_service:path,)* }
    ) => {
        /// Every method there is a service for.
        #[cfg(test)]
        pub(super) const IMPLEMENTED: &[u32] = &[
            $(<$server_function>::CONSTRUCTOR_ID,)*
            $(<$world_function>::CONSTRUCTOR_ID,)*
        ];

        fn find(constructor: u32) -> Option<Handler> {
            match constructor {
                $(<$server_function>::CONSTRUCTOR_ID => Some(|server, call, arguments| {
                    let request: $server_function = read(arguments)?;
                    Ok(bytes::<$server_function>(&$server_service(server, call, request)?))
                }),)*
                $(<$world_function>::CONSTRUCTOR_ID => Some(|_, call, arguments| {
                    let request: $world_function = read(arguments)?;
                    Ok(bytes::<$world_function>(&$world_service(call, request)?))
                }),)*
                _ => None,
            }
        }
    };
}

table! {
    server {
        f::auth::SendCode => services::auth::send_code,
        f::auth::ResendCode => services::auth::resend_code,
        f::auth::CancelCode => services::auth::cancel_code,
        f::auth::SignIn => services::auth::sign_in,
        f::auth::CheckPassword => services::auth::check_password,
        f::auth::LogOut => services::auth::log_out,
        f::auth::ExportLoginToken => services::tokens::export_login_token,
        f::auth::ImportLoginToken => services::tokens::import_login_token,
        f::auth::AcceptLoginToken => services::tokens::accept_login_token,
        f::auth::ExportAuthorization => services::exports::export_authorization,
        f::auth::ImportAuthorization => services::exports::import_authorization,
        f::auth::ImportBotAuthorization => services::tokens::import_bot_authorization,
        f::account::GetPassword => services::auth::get_password,
        f::help::GetConfig => services::help::get_config,
        f::help::GetNearestDc => services::help::get_nearest_dc,
        f::help::GetAppConfig => services::help::get_app_config,
    }
    world {
        f::users::GetUsers => services::users::get_users,
        f::users::GetFullUser => services::users::get_full_user,
        f::contacts::ResolveUsername => services::contacts::resolve_username,
        f::contacts::Search => services::contacts::search,
        f::channels::CreateChannel => services::channels::create_channel,
        f::channels::JoinChannel => services::channels::join_channel,
        f::channels::LeaveChannel => services::channels::leave_channel,
        f::channels::GetChannels => services::channels::get_channels,
        f::channels::GetFullChannel => services::channels::get_full_channel,
        f::channels::GetParticipants => services::channels::get_participants,
        f::channels::GetParticipant => services::channels::get_participant,
        f::channels::InviteToChannel => services::channels::invite_to_channel,
        f::channels::GetMessages => services::channels::get_messages,
        f::channels::DeleteMessages => services::channels::delete_messages,
        f::channels::ReadHistory => services::channels::read_history,
        f::messages::CreateChat => services::chats::create_chat,
        f::messages::AddChatUser => services::chats::add_chat_user,
        f::messages::DeleteChatUser => services::chats::delete_chat_user,
        f::messages::GetFullChat => services::chats::get_full_chat,
        f::messages::GetChats => services::chats::get_chats,
        f::messages::CheckChatInvite => services::invites::check_chat_invite,
        f::messages::ImportChatInvite => services::invites::import_chat_invite,
        f::messages::ExportChatInvite => services::invites::export_chat_invite,
        f::messages::HideChatJoinRequest => services::invites::hide_chat_join_request,
        f::messages::GetChatInviteImporters => services::invites::get_chat_invite_importers,
        f::messages::GetForumTopicsById => services::forums::get_forum_topics_by_id,
        f::messages::MigrateChat => services::forums::migrate_chat,
        f::messages::SendMessage => services::messages::send_message,
        f::messages::SendMedia => services::media::send_media,
        f::messages::SendMultiMedia => services::media::send_multi_media,
        f::messages::UploadMedia => services::media::upload_media,
        f::upload::GetFile => services::media::get_file,
        f::upload::SaveFilePart => services::media::save_file_part,
        f::upload::SaveBigFilePart => services::media::save_big_file_part,
        f::messages::ForwardMessages => services::publishing::forward_messages,
        f::messages::UpdatePinnedMessage => services::publishing::update_pinned_message,
        f::messages::GetScheduledHistory => services::publishing::get_scheduled_history,
        f::messages::EditMessage => services::messages::edit_message,
        f::messages::DeleteMessages => services::messages::delete_messages,
        f::messages::ReadHistory => services::messages::read_history,
        f::messages::GetHistory => services::messages::get_history,
        f::messages::GetMessages => services::messages::get_messages,
        f::messages::Search => services::messages::search,
        f::messages::GetDiscussionMessage => services::comments::get_discussion_message,
        f::messages::GetReplies => services::comments::get_replies,
        f::messages::GetDialogs => services::messages::get_dialogs,
        f::updates::GetState => services::updates::get_state,
        f::updates::GetDifference => services::updates::get_difference,
        f::updates::GetChannelDifference => services::updates::get_channel_difference,
    }
}

fn read<F: Deserializable>(arguments: &mut Cursor<'_>) -> Answer<F> {
    F::deserialize(arguments).map_err(|_| unreadable())
}

/// The error for arguments that are not those of the method.
fn unreadable() -> RpcError {
    RpcError::new(400, "INPUT_FETCH_ERROR")
}

fn bytes<F: RemoteCall<Return: Serializable>>(result: &F::Return) -> Vec<u8> {
    result.to_bytes()
}

/// An error as the content of an `rpc_result`.
pub(super) fn error_bytes(error: &RpcError) -> Vec<u8> {
    tl::enums::RpcError::Error(tl::types::RpcError {
        error_code: error.code,
        error_message: error.name.clone(),
    })
    .to_bytes()
}

/// A call without its wrappers.
pub(super) struct Request {
    caller: Caller,
    body: Vec<u8>,
    constructor: u32,
}

impl Request {
    /// `None` when the body is too short for a call.
    pub fn new(caller: Caller, body: Vec<u8>) -> Option<Self> {
        let constructor = u32::from_le_bytes(*body.first_chunk()?);
        Some(Self {
            caller,
            body,
            constructor,
        })
    }

    /// The method's name in TL, or its number when there is no such method.
    pub fn method(&self) -> Cow<'static, str> {
        match tl::name_for_id(self.constructor) {
            "(unknown)" => Cow::Owned(format!("{:08x}", self.constructor)),
            name => Cow::Borrowed(name),
        }
    }

    /// The account the call is made by or, before sign-in, for.
    fn account(&self, server: &Server) -> Option<UserId> {
        if self.caller.account.is_some() {
            return self.caller.account;
        }
        let mut arguments = Cursor::from_slice(&self.body[4..]);
        let phone = match self.constructor {
            f::auth::SendCode::CONSTRUCTOR_ID => f::auth::SendCode::deserialize(&mut arguments).ok()?.phone_number,
            f::auth::ResendCode::CONSTRUCTOR_ID => f::auth::ResendCode::deserialize(&mut arguments).ok()?.phone_number,
            f::auth::SignIn::CONSTRUCTOR_ID => f::auth::SignIn::deserialize(&mut arguments).ok()?.phone_number,
            _ => return server.logins.awaited_password(self.caller.key_id),
        };
        services::auth::account_of_phone(&server.world(), &phone)
    }
}

/// Counts a call, and finds what is to go wrong with it.
pub(super) fn plan(server: &Server, request: &Request) -> Plan {
    let method = request.method();
    server.stats.called(&method);
    let is_limited = !server.limits.is_empty();
    if server.faults.is_empty() && !is_limited {
        return Plan::NONE;
    }
    let account = request.account(server);
    let plan = server.faults.plan(&method, account);
    if is_limited
        && plan == Plan::NONE
        && let Some(account) = account
    {
        let now = server.world().now();
        if let Some(seconds) = server.limits.flood(&method, account, now) {
            return Plan {
                run: false,
                ending: Ending::Error(RpcError::new(420, format!("FLOOD_WAIT_{seconds}"))),
                ..Plan::NONE
            };
        }
    }
    plan
}

/// Runs a call, hands its answer to `end`, and sends out the updates it caused. All while the world is locked.
pub(super) fn run(server: &Server, request: &Request, end: impl FnOnce(Answer<Vec<u8>>)) {
    let mut world = server.world();
    // Sign-in and sign-out of the same key may have happened since the call came in.
    let caller = Caller {
        account: server.keys.account(request.caller.key_id),
        ..request.caller
    };
    end(run_in(server, &mut world, caller, request));
    deliver(server, world.take_pushes());
}

fn run_in(server: &Server, world: &mut World, caller: Caller, request: &Request) -> Answer<Vec<u8>> {
    if !(OLDEST_LAYER..=NEWEST_LAYER).contains(&caller.layer) {
        return Err(RpcError::new(400, "CONNECTION_LAYER_INVALID"));
    }
    let Some(handler) = find(request.constructor) else {
        server.stats.unimplemented(&request.method());
        return Err(RpcError::new(400, "METHOD_NOT_IMPLEMENTED"));
    };
    if !nesting::is_bounded(&request.body) {
        return Err(unreadable());
    }
    if let Some(account) = caller.account {
        let (method, home) = (request.method(), services::auth::home_dc(world, account));
        // Away from home there is nothing but what leads there, and files.
        if home != caller.dc
            && !["auth.", "help.", "upload."]
                .iter()
                .any(|space| method.starts_with(space))
        {
            return Err(RpcError::new(303, format!("USER_MIGRATE_{home}")));
        }
    }
    world.show_due();
    let mut call = Call { world, caller };
    let mut attempt = |body: &[u8]| {
        // A bug in one service must not take the other connections down with it.
        catch_unwind(AssertUnwindSafe(|| {
            handler(server, &mut call, &mut Cursor::from_slice(&body[4..]))
        }))
    };
    let mut outcome = attempt(&request.body);
    // What cannot be read has not been run either.
    if matches!(&outcome, Ok(Err(error)) if *error == unreadable())
        && let Some(body) = leniency::with_peers_as_inputs(&request.body)
    {
        outcome = attempt(&body);
    }
    outcome.unwrap_or_else(|_| {
        server.stats.panicked(&request.method());
        Err(RpcError::new(500, "INTERNAL"))
    })
}

/// Looks at the world or changes it from outside a connection, and sends out the updates this caused.
pub(super) fn with_world<T>(server: &Server, act: impl FnOnce(&mut World) -> T) -> T {
    let mut world = server.world();
    let result = act(&mut world);
    deliver(server, world.take_pushes());
    result
}

/// A connection that wants updates, and whom it speaks for.
type Listener = (Arc<Connection>, Arc<Recipient>);

/// Sends updates to every connection that is signed in as their account and wants them.
fn deliver(server: &Server, pushes: Vec<Push>) {
    if pushes.is_empty() {
        return;
    }
    let mut listeners: HashMap<UserId, Vec<Listener>> = HashMap::new();
    for connection in server.connections.list() {
        let Some(recipient) = connection.recipient().filter(|_| connection.wants_updates()) else {
            continue;
        };
        if let Some(account) = server.keys.account(recipient.key_id) {
            listeners.entry(account).or_default().push((connection, recipient));
        }
    }
    for push in pushes {
        let copies = server.faults.copies_of_update(push.account);
        let body = push.updates.to_bytes();
        for (connection, recipient) in listeners.get(&push.account).into_iter().flatten() {
            if push.except != Some(recipient.key_id) {
                for _ in 0..copies {
                    connection.push(recipient, &body);
                }
            }
        }
    }
}
