//! `POST /v1/sessions`, `/v1/sessions/qr` and `/v1/sessions/import`: a session comes to be, or is logged in again.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use poem::{http::HeaderMap, web::Data};
use poem_openapi::{ApiResponse, OpenApi, param::Header, payload::Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{LoginView, asking::Asking, formats, patience, proxy};
use crate::{
    api::{
        State,
        auth::{Admin, Allowed},
        document::Tag,
        jobs::invalid,
        problem::{Code, Problem},
        sent::Sent,
        shell::RequestContext,
        typed::Typed,
    },
    ids::ApplicationId,
    login_input::{self, NotUsable},
    proxy::Proxy,
    store::{
        self, applications,
        errands::{Portable, Task},
        login_requests::LoginRequest,
        session_reads,
    },
};

/// Most characters of a session in text.
const MAX_SESSION_TEXT: usize = 4096;

/// A login with a phone number, or a bot's token: one of the two.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LoginRequest")]
pub struct LoginBody {
    /// The session's name for people, 1 to 100 characters; never a phone number. A session of that label that is not in use is
    /// logged in again.
    #[schemars(length(min = 1, max = 100), example = &"shop-1")]
    label: String,
    /// The pool of sessions it may stand in for. Left out: of a new session `default`, and one that there is stays in its own.
    #[serde(default)]
    #[schemars(example = &"default")]
    pool: Option<String>,
    /// The application's id or label. Left out: of a new session the default one, and one that there is keeps its own.
    #[serde(default)]
    application: Option<String>,
    /// In the international form.
    #[serde(default)]
    #[schemars(example = &"+999 66 2 0001")]
    phone: Option<String>,
    /// As Telegram's `@BotFather` shows it.
    #[serde(default)]
    bot_token: Option<String>,
    /// A SOCKS5 proxy that every connection of the session goes through, this login's too: a URL, with a user name and a
    /// password if need be (percent-encoded). Names are resolved by the proxy. Left out, a session that has one keeps it.
    #[serde(default)]
    #[schemars(length(max = 2048), example = &"socks5://user:password@proxy.example.com:1080")]
    proxy: Option<String>,
}

/// A login by a QR code.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "QrLoginRequest")]
pub struct QrBody {
    /// The session's name for people, 1 to 100 characters; never a phone number.
    #[schemars(length(min = 1, max = 100), example = &"shop-2")]
    label: String,
    /// Left out: of a new session `default`, and one that there is stays in its own.
    #[serde(default)]
    pool: Option<String>,
    /// The application's id or label. Left out: of a new session the default one, and one that there is keeps its own.
    #[serde(default)]
    application: Option<String>,
    /// A SOCKS5 proxy that every connection of the session goes through, as for a login by phone.
    #[serde(default)]
    #[schemars(length(max = 2048), example = &"socks5://user:password@proxy.example.com:1080")]
    proxy: Option<String>,
}

/// An authorisation that was made elsewhere.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ImportRequest")]
pub struct ImportBody {
    /// The session's name for people, 1 to 100 characters; never a phone number.
    #[schemars(length(min = 1, max = 100), example = &"shop-3")]
    label: String,
    /// Left out: of a new session `default`, and one that there is stays in its own.
    #[serde(default)]
    pool: Option<String>,
    /// The application it was made with, by id or label; the default one when it is left out.
    #[serde(default)]
    application: Option<String>,
    /// A string session of Telethon or Pyrogram (or a library with the same format, such as Kurigram).
    #[serde(default)]
    #[schemars(length(min = 1, max = 4096))]
    session: Option<String>,
    /// Instead of it, a `.session` file of Telethon, in base64; up to 700 kB.
    #[serde(default)]
    session_file: Option<String>,
    /// A SOCKS5 proxy that every connection of the session goes through, as for a login by phone.
    #[serde(default)]
    #[schemars(length(max = 2048), example = &"socks5://user:password@proxy.example.com:1080")]
    proxy: Option<String>,
}

#[derive(ApiResponse)]
enum LoginBegun {
    /// The session is there; `state` of the login says what it waits for.
    #[oai(status = 201)]
    Created(
        Json<Typed<LoginView>>,
        /// Where the session is.
        #[oai(header = "Location")]
        String,
    ),
}

pub struct BeginApi;

#[OpenApi]
impl BeginApi {
    /// Log in with a phone number or a bot's token
    ///
    /// Makes a session of that label (or takes one that is not in use) and lets a worker send the code: the answer is the login in
    /// the state `code_needed`, and says how the code was sent. A bot is logged in at once (`done`). What Telegram refuses is a
    /// problem of its own each: `phone_number_invalid`, `phone_number_banned`, `phone_number_flooded`,
    /// `phone_number_unregistered` (at the code), `login_flooded` with `Retry-After`, `bot_token_invalid`.
    ///
    /// Waits up to 60 s for a worker (`Prefer: wait=N` for less), then 504 `login_pending` with the session: go on with GET
    /// `/v1/sessions/{id}/login`. A challenge is given up after five minutes. Phone number, code and password are sealed for the
    /// worker and erased when it has used them. Scope: admin.
    #[oai(
        path = "/v1/sessions",
        method = "post",
        operation_id = "create_session",
        tag = "Tag::Sessions"
    )]
    async fn create(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        headers: &HeaderMap,
        /// `wait=N`: seconds to wait for a worker, at most and by default 60.
        #[oai(name = "Prefer")]
        _prefer: Header<Option<String>>,
        body: Sent<LoginBody>,
    ) -> Result<LoginBegun, Problem> {
        let mut body = body.read()?;
        let phone = body.phone.take().map(Zeroizing::new);
        let token = body.bot_token.take().map(Zeroizing::new);
        let proxy = proxy::read(body.proxy.take())?;
        let (task, input) = match (phone, token) {
            (Some(phone), None) => (Task::Phone, login_input::phone_number(&phone).map_err(unusable)?),
            (None, Some(token)) => (Task::Bot, login_input::bot_token(&token).map_err(unusable)?),
            _ => {
                let detail = "Give a phone (to log a user in) or a bot_token (to log a bot in), and not both.";
                return Err(Problem::new(Code::MissingField, detail).field("phone"));
            }
        };
        let asking = Asking::new(state.0, &caller.0, context.0);
        let about = About::of(
            state.0,
            &body.label,
            body.pool.as_deref(),
            body.application.as_deref(),
            proxy,
        )
        .await?;
        begin(&asking, &about, task, Some(input.as_bytes()), headers).await
    }

    /// Log in by a QR code
    ///
    /// Answers with a login in the state `scan_needed`: its URL and a picture. Scan it in the account's own app (Settings,
    /// Devices); GET `/v1/sessions/{id}/login` has the current code, made anew before it runs out, and shows when it was scanned:
    /// `done`, or `password_needed`. A fresh authorisation, which disturbs no other. Scope: admin.
    #[oai(
        path = "/v1/sessions/qr",
        method = "post",
        operation_id = "create_session_by_qr",
        tag = "Tag::Sessions"
    )]
    async fn qr(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        headers: &HeaderMap,
        /// `wait=N`: seconds to wait for a worker, at most and by default 60.
        #[oai(name = "Prefer")]
        _prefer: Header<Option<String>>,
        body: Sent<QrBody>,
    ) -> Result<LoginBegun, Problem> {
        let mut body = body.read()?;
        let proxy = proxy::read(body.proxy.take())?;
        let asking = Asking::new(state.0, &caller.0, context.0);
        let about = About::of(
            state.0,
            &body.label,
            body.pool.as_deref(),
            body.application.as_deref(),
            proxy,
        )
        .await?;
        begin(&asking, &about, Task::Qr, None, headers).await
    }

    /// Import a session from elsewhere
    ///
    /// Stores a string session of Telethon or Pyrogram, or a session file of Telethon, as a session in the state `disabled`, and connects nothing: a session that
    /// still runs elsewhere dies at once and for good when it is used from two places (`AUTH_KEY_DUPLICATED`). Stop it there, then
    /// POST `/v1/sessions/{id}/enable` with `stopped_elsewhere: true`; it is checked with one call before it counts. Who cannot be
    /// sure logs in by QR instead. Scope: admin.
    #[oai(
        path = "/v1/sessions/import",
        method = "post",
        operation_id = "import_session",
        tag = "Tag::Sessions"
    )]
    async fn import(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        headers: &HeaderMap,
        /// `wait=N`: seconds to wait for a worker, at most and by default 60.
        #[oai(name = "Prefer")]
        _prefer: Header<Option<String>>,
        body: Sent<ImportBody>,
    ) -> Result<LoginBegun, Problem> {
        let mut body = body.read()?;
        let text = body.session.take().map(Zeroizing::new);
        let file = body.session_file.take().map(Zeroizing::new);
        let proxy = proxy::read(body.proxy.take())?;
        let portable = authorisation(text.as_deref(), file.as_deref())?;
        let input = portable.to_text();
        let asking = Asking::new(state.0, &caller.0, context.0);
        let about = About::of(
            state.0,
            &body.label,
            body.pool.as_deref(),
            body.application.as_deref(),
            proxy,
        )
        .await?;
        begin(&asking, &about, Task::Import, Some(&input), headers).await
    }
}

fn authorisation(text: Option<&String>, file: Option<&String>) -> Result<Portable, Problem> {
    let unknown = |field: &'static str, error: &dyn std::fmt::Display| {
        Problem::new(Code::SessionFormatUnknown, format!("{field} {error}")).field(field)
    };
    match (text, file) {
        (Some(text), None) if text.is_empty() || text.len() > MAX_SESSION_TEXT => Err(invalid(
            "session",
            format!("must be 1 to {MAX_SESSION_TEXT} characters."),
        )),
        (Some(text), None) => formats::parse(text.trim()).map_err(|error| unknown("session", &error)),
        (None, Some(file)) => {
            let bytes = STANDARD.decode(file.trim()).map(Zeroizing::new);
            let bytes = bytes.map_err(|_| invalid("session_file", "must be base64."))?;
            formats::parse_file(&bytes).map_err(|error| unknown("session_file", &error))
        }
        _ => {
            let detail =
                "Give a session (a string session) or a session_file (a Telethon file in base64), and not both.";
            Err(Problem::new(Code::MissingField, detail).field("session"))
        }
    }
}

/// What the session is to be.
struct About<'a> {
    label: &'a str,
    pool: Option<&'a str>,
    application: Option<ApplicationId>,
    proxy: Option<Proxy>,
}

impl<'a> About<'a> {
    async fn of(
        state: &State,
        label: &'a str,
        pool: Option<&'a str>,
        application: Option<&str>,
        proxy: Option<Proxy>,
    ) -> Result<Self, Problem> {
        login_input::label(label).map_err(unusable)?;
        if let Some(pool) = pool
            && !session_reads::pool_exists(&state.pool, pool).await?
        {
            return Err(Problem::new(Code::UnknownPool, "No pool has that name.").field("pool"));
        }
        let mut conn = store::connection(&state.pool, "find_application").await?;
        let application = match application {
            None => None,
            Some(name) => Some(applications::find(&mut conn, name).await?.ok_or_else(|| {
                let detail = "No application has that id or label; GET /v1/applications lists them.";
                Problem::new(Code::UnknownApplication, detail).field("application")
            })?),
        };
        Ok(Self {
            label,
            pool,
            application,
            proxy,
        })
    }
}

async fn begin(
    asking: &Asking<'_>,
    about: &About<'_>,
    task: Task,
    input: Option<&[u8]>,
    headers: &HeaderMap,
) -> Result<LoginBegun, Problem> {
    let patience = patience(asking.state, headers)?;
    let request = LoginRequest {
        label: about.label,
        pool: about.pool,
        application: about.application,
        proxy: about.proxy.as_ref(),
        task,
        input,
    };
    let (session, errand) = asking.login(&request).await?;
    let view = asking.shown(session, errand, &patience).await?;
    Ok(LoginBegun::Created(
        Json(Typed(view)),
        format!("/v1/sessions/{session}"),
    ))
}

fn unusable(refused: NotUsable) -> Problem {
    invalid(refused.field, refused.why)
}
