//! The control interface: the sandbox's controls as JSON over HTTP, on a loopback port of its own.
//!
//! Bodies are JSON objects. `account` is an id, a phone number or a username; `chat` a username, a marked id or a title.
//!
//! - `GET /`: a page that shows accounts, connections and calls.
//! - `GET /stats`; `GET /accounts`, `/chats`, `/links`, `/chats/{chat}/messages`: what there is, and what was asked for.
//! - `GET /faults`, `POST /faults {method, account?, count?, effect: {type, ...}}`, `DELETE /faults`, `DELETE /faults/{id}`:
//!   see [`Fault`] and [`Effect`]; without `count` a fault stays until it is cleared.
//! - `GET /rate-limits`, `POST /rate-limits {method, calls, per_seconds, first_wait, longest_wait?}`, `DELETE /rate-limits`: floods
//!   per account and method, with waits that grow; see [`RateLimit`].
//! - `GET /incidents`, `DELETE /incidents` (gives and forgets them); `GET /keys`: keys used from two places.
//! - `PUT /accounts/{account}/dc {dc}`: the account lives in that data centre from now on.
//! - `GET /connections`, `POST /connections/drop {account?}`, `POST /connections/blackhole {account?}`.
//! - `POST /keys/revoke {account, how: "sign_out" | "forget"}`; `POST /codes/expire {phone?}`.
//! - `POST /logins/accept {account, url}`: scans a QR login's code, `tg://login?token=…`, with the account.
//! - `POST /messages {account, chat, text}`; `POST /joins/approve`, `/joins/decline`, `/bans {chat, account}`.
//! - `POST /histories/hide {chat, hidden}`: whether those who come later see what was written before.
//! - `POST /random-ids/forget {}`, `PUT /random-ids/window {seconds}`, `PUT /clock {offset_seconds}`.
//!
//! Answers are 200; 400 for a body that cannot be read, 404 for what does not exist, 409 with the API's error name where
//! the world refuses.

use std::{io, sync::Arc, time::Duration};

use poem::{
    Endpoint, EndpointExt as _, IntoResponse as _, Route, Server as HttpServer, delete, get, handler,
    http::StatusCode,
    listener::TcpAcceptor,
    post, put,
    web::{Data, Html, Json, Path},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{
    call::{Answer, UserId},
    controls::{Controls, KeyRecord, OpenConnection, Revocation},
    faults::{Effect, Fault, ListedFault},
    key_watch::Incident,
    rate_limits::RateLimit,
    server::{MAIN_DC, Server},
    stats::Calls,
    world::{
        PeerKey, World,
        control::{AccountRow, ChatRow, MessageRow},
        known_links,
    },
};

/// How long requests in progress may take when the sandbox stops.
const LAST_REQUESTS: Duration = Duration::from_secs(1);

/// Serves the control interface until the sandbox stops.
pub(super) async fn serve(listener: TcpListener, server: Arc<Server>) -> io::Result<()> {
    let stop = server.stop.clone();
    let acceptor = TcpAcceptor::from_tokio(listener)?;
    HttpServer::new_with_acceptor(acceptor)
        .run_with_graceful_shutdown(routes(Controls { server }), stop.cancelled(), Some(LAST_REQUESTS))
        .await
}

fn routes(controls: Controls) -> impl Endpoint {
    Route::new()
        .at("/", get(page))
        .at("/stats", get(stats))
        .at("/faults", get(list_faults).post(add_fault).delete(clear_faults))
        .at("/faults/:id", delete(remove_fault))
        .at(
            "/rate-limits",
            get(list_rate_limits).post(set_rate_limit).delete(clear_rate_limits),
        )
        .at("/incidents", get(incidents).delete(take_incidents))
        .at("/keys", get(keys))
        .at("/keys/revoke", post(revoke_keys))
        .at("/connections", get(connections))
        .at("/connections/drop", post(drop_connections))
        .at("/connections/blackhole", post(silence_connections))
        .at("/codes/expire", post(expire_codes))
        .at("/logins/accept", post(accept_login))
        .at("/accounts", get(accounts))
        .at("/accounts/:account/dc", put(move_account))
        .at("/links", get(links))
        .at("/chats", get(chats))
        .at("/chats/:chat/messages", get(messages))
        .at("/messages", post(post_message))
        .at("/joins/approve", post(approve_join))
        .at("/joins/decline", post(decline_join))
        .at("/bans", post(ban))
        .at("/histories/hide", post(hide_history))
        .at("/random-ids/forget", post(forget_random_ids))
        .at("/random-ids/window", put(set_random_id_window))
        .at("/clock", put(set_clock))
        .data(controls)
}

type Reply<T> = poem::Result<Json<T>>;

fn refusal(status: StatusCode, reason: &str) -> poem::Error {
    poem::Error::from_response(Json(json!({ "error": reason })).with_status(status).into_response())
}

/// Somebody of the world, by id, or by phone number, username or marked id as text.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Who {
    Id(UserId),
    Name(String),
}

impl Who {
    fn find(&self, controls: &Controls) -> poem::Result<UserId> {
        let found = match self {
            Self::Id(id) => Some(*id),
            Self::Name(name) => {
                controls
                    .account(name)
                    .or_else(|| match controls.with_world(|world| world.find_peer(name)) {
                        Some(PeerKey::User(id)) => Some(id),
                        _ => None,
                    })
            }
        };
        found.ok_or_else(|| refusal(StatusCode::NOT_FOUND, "there is no such account"))
    }
}

fn find_chat(world: &World, name: &str) -> poem::Result<PeerKey> {
    world
        .find_peer(name)
        .ok_or_else(|| refusal(StatusCode::NOT_FOUND, "there is no such chat"))
}

fn answered<T>(answer: Answer<T>) -> poem::Result<T> {
    answer.map_err(|error| refusal(StatusCode::CONFLICT, &error.name))
}

fn done() -> Json<Value> {
    Json(json!({}))
}

/// What the other routes tell, for people.
#[handler]
fn page() -> Html<&'static str> {
    Html(include_str!("page.html"))
}

#[derive(Serialize)]
struct Stats {
    calls: Calls,
    connections: Vec<OpenConnection>,
    /// Since the start.
    connections_made: u64,
    chats: Vec<Chat>,
    incidents: usize,
}

#[derive(Serialize)]
struct Chat {
    /// The marked id: negative for groups, from -1,000,000,000,000 down for channels.
    id: i64,
    title: String,
    username: Option<String>,
    members: i32,
    join_requests: i32,
    messages: usize,
}

fn chats_of(world: &World) -> Vec<Chat> {
    let describe = |row: ChatRow| Chat {
        id: row.chat.marked(),
        messages: world.messages_of(row.chat).len(),
        title: row.title,
        username: row.username,
        members: row.members,
        join_requests: row.requests,
    };
    world.chats().into_iter().map(describe).collect()
}

#[handler]
fn stats(Data(controls): Data<&Controls>) -> Json<Stats> {
    Json(Stats {
        calls: controls.calls(),
        connections: controls.connections(),
        connections_made: controls.connections_made(),
        chats: controls.with_world(|world| chats_of(world)),
        incidents: controls.incidents().len(),
    })
}

#[handler]
fn list_faults(Data(controls): Data<&Controls>) -> Json<Vec<ListedFault>> {
    Json(controls.faults())
}

/// A fault as it is posted: the account may be named.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewFault {
    method: String,
    account: Option<Who>,
    count: Option<u32>,
    effect: Effect,
}

#[handler]
fn add_fault(Data(controls): Data<&Controls>, Json(new): Json<NewFault>) -> Reply<Value> {
    let account = new.account.map(|who| who.find(controls)).transpose()?;
    if new.effect.is_for_updates() && new.method != "*" {
        return Err(refusal(
            StatusCode::BAD_REQUEST,
            "updates are lost or doubled for method * only",
        ));
    }
    let fault = Fault {
        method: new.method,
        account,
        count: new.count,
        effect: new.effect,
    };
    Ok(Json(json!({ "id": controls.add_fault(fault) })))
}

#[handler]
fn clear_faults(Data(controls): Data<&Controls>) -> Json<Value> {
    controls.clear_faults();
    done()
}

#[handler]
fn remove_fault(Data(controls): Data<&Controls>, Path(id): Path<u64>) -> Reply<Value> {
    if controls.remove_fault(id) {
        Ok(done())
    } else {
        Err(refusal(StatusCode::NOT_FOUND, "there is no such fault"))
    }
}

#[handler]
fn list_rate_limits(Data(controls): Data<&Controls>) -> Json<Vec<RateLimit>> {
    Json(controls.rate_limits())
}

#[handler]
fn set_rate_limit(Data(controls): Data<&Controls>, Json(limit): Json<RateLimit>) -> Reply<Value> {
    if limit.per_seconds == 0 || limit.first_wait == 0 {
        return Err(refusal(
            StatusCode::BAD_REQUEST,
            "per_seconds and first_wait are at least 1",
        ));
    }
    controls.set_rate_limit(limit);
    Ok(done())
}

#[handler]
fn clear_rate_limits(Data(controls): Data<&Controls>) -> Json<Value> {
    controls.clear_rate_limits();
    done()
}

#[handler]
fn incidents(Data(controls): Data<&Controls>) -> Json<Vec<Incident>> {
    Json(controls.incidents())
}

#[handler]
fn take_incidents(Data(controls): Data<&Controls>) -> Json<Vec<Incident>> {
    Json(controls.take_incidents())
}

#[handler]
fn keys(Data(controls): Data<&Controls>) -> Json<Vec<KeyRecord>> {
    Json(controls.keys(None))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokedKeys {
    account: Who,
    how: Revocation,
}

#[handler]
fn revoke_keys(Data(controls): Data<&Controls>, Json(request): Json<RevokedKeys>) -> Reply<Value> {
    let account = request.account.find(controls)?;
    Ok(Json(json!({ "keys": controls.revoke_keys(account, request.how) })))
}

#[handler]
fn connections(Data(controls): Data<&Controls>) -> Json<Vec<OpenConnection>> {
    Json(controls.connections())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScannedLogin {
    account: Who,
    url: String,
}

#[handler]
fn accept_login(Data(controls): Data<&Controls>, Json(request): Json<ScannedLogin>) -> Reply<Value> {
    let account = request.account.find(controls)?;
    answered(controls.accept_login(&request.url, account))?;
    Ok(done())
}

/// Whose connections are meant; everyone's when nobody is named.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whose {
    account: Option<Who>,
}

#[handler]
fn drop_connections(Data(controls): Data<&Controls>, Json(whose): Json<Whose>) -> Reply<Value> {
    let account = whose.account.map(|who| who.find(controls)).transpose()?;
    Ok(Json(json!({ "connections": controls.drop_connections(account) })))
}

#[handler]
fn silence_connections(Data(controls): Data<&Controls>, Json(whose): Json<Whose>) -> Reply<Value> {
    let account = whose.account.map(|who| who.find(controls)).transpose()?;
    Ok(Json(json!({ "connections": controls.silence_connections(account) })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpiredCodes {
    phone: Option<String>,
}

#[handler]
fn expire_codes(Data(controls): Data<&Controls>, Json(request): Json<ExpiredCodes>) -> Json<Value> {
    controls.expire_codes(request.phone.as_deref());
    done()
}

#[handler]
fn accounts(Data(controls): Data<&Controls>) -> Json<Value> {
    let rows = controls.with_world(|world| world.accounts());
    let account = |row: AccountRow| json!({ "id": row.id, "phone": format!("+{}", row.phone), "username": row.username, "has_password": row.has_password, "dc": row.home_dc.unwrap_or(MAIN_DC) });
    Json(rows.into_iter().map(account).collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HomeDc {
    dc: i32,
}

#[handler]
fn move_account(
    Data(controls): Data<&Controls>,
    Path(account): Path<String>,
    Json(home): Json<HomeDc>,
) -> Reply<Value> {
    // A phone number with its plus would be read as a number too.
    let who = match account.parse() {
        Ok(id) if !account.starts_with('+') => Who::Id(id),
        _ => Who::Name(account),
    };
    let account = who.find(controls)?;
    answered(controls.move_account(account, home.dc))?;
    Ok(done())
}

#[handler]
fn links() -> Json<Value> {
    Json(
        known_links()
            .into_iter()
            .map(|(hash, leads_to)| json!({ "hash": hash, "leads_to": leads_to }))
            .collect(),
    )
}

#[handler]
fn chats(Data(controls): Data<&Controls>) -> Json<Vec<Chat>> {
    Json(controls.with_world(|world| chats_of(world)))
}

#[handler]
fn messages(Data(controls): Data<&Controls>, Path(chat): Path<String>) -> Reply<Value> {
    let rows = controls.with_world(|world| Ok::<_, poem::Error>(world.messages_of(find_chat(world, &chat)?)))?;
    let message = |row: MessageRow| {
        json!({
            "id": row.id,
            "sender": row.sender,
            "text": row.text,
            "random_id": row.random_id,
            "date": row.date,
            "edit_date": row.edit_date,
        })
    };
    Ok(Json(rows.into_iter().map(message).collect()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewMessage {
    account: Who,
    /// A username, a marked id or a title.
    chat: String,
    text: String,
}

#[handler]
fn post_message(Data(controls): Data<&Controls>, Json(new): Json<NewMessage>) -> Reply<Value> {
    let account = new.account.find(controls)?;
    let id = controls.with_world(|world| {
        let chat = find_chat(world, &new.chat)?;
        answered(world.post_as(account, chat, &new.text))
    })?;
    Ok(Json(json!({ "id": id })))
}

/// Somebody in a chat.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Membership {
    chat: String,
    account: Who,
}

impl Membership {
    fn settle(&self, controls: &Controls, act: impl FnOnce(&mut World, PeerKey, UserId) -> Answer<()>) -> Reply<Value> {
        let account = self.account.find(controls)?;
        controls.with_world(|world| {
            let chat = find_chat(world, &self.chat)?;
            answered(act(world, chat, account))
        })?;
        Ok(done())
    }
}

#[handler]
fn approve_join(Data(controls): Data<&Controls>, Json(join): Json<Membership>) -> Reply<Value> {
    join.settle(controls, World::approve_join)
}

#[handler]
fn decline_join(Data(controls): Data<&Controls>, Json(join): Json<Membership>) -> Reply<Value> {
    join.settle(controls, World::decline_join)
}

#[handler]
fn ban(Data(controls): Data<&Controls>, Json(banned): Json<Membership>) -> Reply<Value> {
    banned.settle(controls, World::ban)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HiddenHistory {
    chat: String,
    hidden: bool,
}

#[handler]
fn hide_history(Data(controls): Data<&Controls>, Json(hidden): Json<HiddenHistory>) -> Reply<Value> {
    controls.with_world(|world| {
        let chat = find_chat(world, &hidden.chat)?;
        answered(world.hide_history(chat, hidden.hidden))
    })?;
    Ok(done())
}

#[handler]
fn forget_random_ids(Data(controls): Data<&Controls>) -> Json<Value> {
    controls.with_world(World::forget_random_ids);
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RandomIdWindow {
    seconds: u64,
}

#[handler]
fn set_random_id_window(Data(controls): Data<&Controls>, Json(window): Json<RandomIdWindow>) -> Json<Value> {
    controls.with_world(|world| world.set_random_id_window(Duration::from_secs(window.seconds)));
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockOffset {
    offset_seconds: i64,
}

#[handler]
fn set_clock(Data(controls): Data<&Controls>, Json(clock): Json<ClockOffset>) -> Json<Value> {
    controls.with_world(|world| world.set_clock_offset(clock.offset_seconds));
    done()
}
