//! Sign-in without a phone number: by a token that another client of the account accepts (QR), and as a bot.
//!
//! A bot's token is its user id, a colon, its username and `-sandbox`: `7100000006:harbour_bot-sandbox`.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use grammers_tl_types::{self as tl, Serializable as _};

use super::auth;
use crate::sandbox::{
    auth_keys::KeyId,
    call::{Answer, Call, RpcError, UserId},
    clock, random,
    server::Server,
};

/// Seconds for which a login token can be accepted, as Telegram's are.
const TOKEN_LIFETIME: i32 = 30;
/// How long an accepted token can be collected.
const ACCEPTED_LIFETIME: i32 = 300;
/// How many tokens are kept; the oldest make room.
const MOST_TOKENS: usize = 10_000;

/// Login tokens that were given out.
#[derive(Default)]
pub(in crate::sandbox) struct LoginTokens(Mutex<HashMap<Vec<u8>, Token>>);

struct Token {
    /// Whose login it is.
    key: KeyId,
    made_at: i32,
    /// Who let it in.
    accepted_by: Option<UserId>,
}

impl LoginTokens {
    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Token>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a key a new token.
    fn give(&self, key: KeyId) -> (Vec<u8>, i32) {
        let now = clock::unix_seconds();
        let mut tokens = self.lock();
        tokens.retain(|_, token| {
            let lifetime = if token.accepted_by.is_some() {
                ACCEPTED_LIFETIME
            } else {
                TOKEN_LIFETIME
            };
            now - token.made_at < lifetime
        });
        if tokens.len() >= MOST_TOKENS {
            tokens.clear();
        }
        let bytes = random::bytes::<32>().to_vec();
        let token = Token {
            key,
            made_at: now,
            accepted_by: None,
        };
        tokens.insert(bytes.clone(), token);
        (bytes, now + TOKEN_LIFETIME)
    }

    /// The token of a key that somebody let in, and who.
    fn accepted(&self, key: KeyId) -> Option<(Vec<u8>, UserId)> {
        let tokens = self.lock();
        tokens
            .iter()
            .filter(|(_, token)| token.key == key)
            .find_map(|(bytes, token)| Some((bytes.clone(), token.accepted_by?)))
    }

    fn accept(&self, bytes: &[u8], account: UserId) -> Answer<KeyId> {
        let now = clock::unix_seconds();
        let mut tokens = self.lock();
        let token = tokens
            .get_mut(bytes)
            .ok_or_else(|| RpcError::new(400, "AUTH_TOKEN_INVALID"))?;
        if now - token.made_at >= TOKEN_LIFETIME {
            return Err(RpcError::new(400, "AUTH_TOKEN_EXPIRED"));
        }
        if token.accepted_by.replace(account).is_some() {
            return Err(RpcError::new(400, "AUTH_TOKEN_ALREADY_ACCEPTED"));
        }
        Ok(token.key)
    }
}

pub(in crate::sandbox) fn export_login_token(
    server: &Server,
    call: &mut Call<'_>,
    _: tl::functions::auth::ExportLoginToken,
) -> Answer<tl::enums::auth::LoginToken> {
    let key = call.caller.key_id;
    if let Some((token, account)) = server.tokens.accepted(key) {
        return settle(server, call, token, account);
    }
    let (token, expires) = server.tokens.give(key);
    Ok(tl::types::auth::LoginToken { expires, token }.into())
}

pub(in crate::sandbox) fn import_login_token(
    server: &Server,
    call: &mut Call<'_>,
    request: tl::functions::auth::ImportLoginToken,
) -> Answer<tl::enums::auth::LoginToken> {
    let accepted = server
        .tokens
        .lock()
        .get(&request.token)
        .ok_or_else(|| RpcError::new(400, "AUTH_TOKEN_INVALID"))?
        .accepted_by;
    let account = accepted.ok_or_else(|| RpcError::new(400, "AUTH_TOKEN_INVALID"))?;
    settle(server, call, request.token, account)
}

/// Signs in with a token that was let in, or sends it on to the data centre where its account lives.
fn settle(server: &Server, call: &Call<'_>, token: Vec<u8>, account: UserId) -> Answer<tl::enums::auth::LoginToken> {
    let home = auth::home_dc(call.world, account);
    if home != call.caller.dc {
        return Ok(tl::types::auth::LoginTokenMigrateTo { dc_id: home, token }.into());
    }
    server.tokens.lock().remove(&token);
    let authorization = auth::enter(server, call, account)?;
    Ok(tl::types::auth::LoginTokenSuccess { authorization }.into())
}

pub(in crate::sandbox) fn accept_login_token(
    server: &Server,
    call: &mut Call<'_>,
    request: tl::functions::auth::AcceptLoginToken,
) -> Answer<tl::enums::Authorization> {
    let account = call.caller.signed_in()?;
    accept(server, &request.token, account)?;
    let now = clock::unix_seconds();
    Ok(tl::types::Authorization {
        current: false,
        official_app: false,
        password_pending: call.world.password_of(account).is_some(),
        encrypted_requests_disabled: false,
        call_requests_disabled: false,
        unconfirmed: false,
        hash: random::number(),
        device_model: "sandbox".into(),
        platform: "sandbox".into(),
        system_version: String::new(),
        api_id: 1,
        app_name: "sandbox".into(),
        app_version: String::new(),
        date_created: now,
        date_active: now,
        ip: "127.0.0.1".into(),
        country: "XX".into(),
        region: format!("dc{}", call.caller.dc),
    }
    .into())
}

/// Lets the login of a token in, and tells it.
pub(in crate::sandbox) fn accept(server: &Server, token: &[u8], account: UserId) -> Answer<()> {
    let key = server.tokens.accept(token, account)?;
    let update = tl::types::UpdateShort {
        update: tl::enums::Update::LoginToken,
        date: clock::unix_seconds(),
    };
    let body = tl::enums::Updates::from(update).to_bytes();
    for connection in server.connections.list() {
        if let Some(recipient) = connection.recipient()
            && recipient.key_id == key
        {
            connection.push(&recipient, &body);
        }
    }
    Ok(())
}

pub(in crate::sandbox) fn import_bot_authorization(
    server: &Server,
    call: &mut Call<'_>,
    request: tl::functions::auth::ImportBotAuthorization,
) -> Answer<tl::enums::auth::Authorization> {
    let invalid = || RpcError::new(400, "ACCESS_TOKEN_INVALID");
    let (id, rest) = request.bot_auth_token.split_once(':').ok_or_else(invalid)?;
    let id: UserId = id.parse().map_err(|_| invalid())?;
    let person = call.world.person(id).map_err(|_| invalid())?;
    let username = person.username.as_deref().unwrap_or_default();
    if !person.is_bot() || rest != format!("{username}-sandbox") {
        return Err(invalid());
    }
    call.world.open_bot(id);
    auth::lives_here(call, id, "USER")?;
    auth::enter(server, call, id)
}
