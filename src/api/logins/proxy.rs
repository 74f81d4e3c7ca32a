//! `PUT /v1/sessions/{id}/proxy`: what a session is connected through. The API seals it for the workers, and shows its address.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{OpenApi, param::Path, payload::Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{no_session, no_worker, session_id};
use crate::{
    api::{
        State,
        auth::{Admin, Allowed},
        document::Tag,
        jobs::invalid,
        problem::{Code, Problem},
        sent::Sent,
        session_health::{self, SessionDetail},
        shell::RequestContext,
        typed::Typed,
    },
    proxy::Proxy,
    store::{
        failed,
        session_proxies::{self, By, Changed},
    },
};

/// What a session is to be connected through.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
// An option is optional to schemars, and this one is not to serde.
#[schemars(rename = "ProxyRequest", extend("required" = ["proxy"]))]
pub struct ProxyBody {
    /// `socks5://[user:password@]host:port`, user name and password percent-encoded; null: connect directly from now on.
    // With `default` a body that names nothing would remove the proxy.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schemars(length(max = 2048), example = &"socks5://user:password@proxy.example.com:1080")]
    proxy: Option<String>,
}

pub struct ProxyApi;

#[OpenApi]
impl ProxyApi {
    /// Set a session's proxy
    ///
    /// Every connection of the session to Telegram goes through this SOCKS5 proxy, or none is made: while it fails, the session
    /// fails (`breaker.error` says how), and never connects directly. A worker that holds the session hangs up at once and
    /// connects anew; what was on its way is retried as after any lost connection. `null` removes the proxy. The URL is sealed
    /// for the workers; what is shown afterwards is host, port, and whether there are credentials. Scope: admin.
    #[oai(
        path = "/v1/sessions/:id/proxy",
        method = "put",
        operation_id = "set_session_proxy",
        tag = "Tag::Sessions"
    )]
    async fn put(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The session's id.
        id: Path<String>,
        body: Sent<ProxyBody>,
    ) -> Result<Json<Typed<SessionDetail>>, Problem> {
        let id = session_id(&id)?;
        let proxy = read(body.read()?.proxy.take())?;
        let actor = caller.0.actor();
        let by = By {
            actor: &actor,
            request_id: Some(context.id()),
        };
        let mut transaction = state.pool.begin().await.map_err(failed("begin_set_proxy"))?;
        match session_proxies::change(&mut transaction, id, proxy.as_ref(), by).await? {
            Changed::Now | Changed::Not => {}
            Changed::Unknown => return Err(no_session()),
            Changed::NoWorker => return Err(no_worker()),
            Changed::OldHolder => {
                let detail = "The worker that holds the session is of an older release, which knows no proxies: it would stay \
                              connected directly. Replace it, then ask again.";
                return Err(Problem::new(Code::SessionStateConflict, detail).session(id));
            }
        }
        transaction.commit().await.map_err(failed("commit_set_proxy"))?;
        state.signals.sessions_changed();
        Ok(Json(Typed(session_health::detail(state.0, id).await?)))
    }
}

/// Reads a proxy that somebody sent; what they wrote is in no message.
pub(super) fn read(text: Option<String>) -> Result<Option<Proxy>, Problem> {
    let Some(text) = text.map(Zeroizing::new) else {
        return Ok(None);
    };
    let proxy = Proxy::parse(&text).map_err(|error| invalid("proxy", format!("{error}.")))?;
    Ok(Some(proxy))
}
