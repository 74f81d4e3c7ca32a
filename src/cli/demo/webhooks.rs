//! The demo's own endpoint for webhooks: it takes what is signed as it should be, and remembers it.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use anyhow::{Context, bail};
use poem::{EndpointExt, Request, Route, Server, handler, http::StatusCode, listener::TcpAcceptor, post, web::Data};
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::BOUND;
use crate::events::{SigningKey, signature_header};

/// A listener on this machine, until it is dropped.
pub struct Webhooks {
    address: SocketAddr,
    desk: Desk,
    _serving: AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct Desk {
    key: Arc<OnceLock<SigningKey>>,
    received: watch::Sender<Vec<Value>>,
}

impl Webhooks {
    pub async fn listen() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("no port for the demo's webhooks")?;
        let address = listener.local_addr().context("the listener has no address")?;
        let acceptor = TcpAcceptor::from_tokio(listener).context("the listener cannot be used")?;
        let desk = Desk {
            key: Arc::default(),
            received: watch::Sender::default(),
        };
        let app = Route::new().at("/", post(take)).data(desk.clone());
        let serving = tokio::spawn(async move {
            // It ends with the demo.
            let _ = Server::new_with_acceptor(acceptor).run(app).await;
        });
        Ok(Self {
            address,
            desk,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// From here on only what is signed with this secret is taken.
    pub fn expect_signatures_under(&self, secret: &str) -> anyhow::Result<()> {
        let key = SigningKey::of(secret.as_bytes()).context("the subscription's secret cannot be used")?;
        if self.desk.key.set(key).is_err() {
            bail!("the demo has its secret already");
        }
        Ok(())
    }

    /// Waits for an event like that, which may have come before.
    pub async fn when(&self, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let mut received = self.desk.received.subscribe();
        let any = received.wait_for(|all| all.iter().any(&wanted));
        let all = timeout(BOUND, any)
            .await
            .with_context(|| format!("nothing came within {} s", BOUND.as_secs()))?
            .context("the endpoint has ended")?;
        let event = all.iter().find(|event| wanted(event)).cloned();
        event.context("what has come is gone")
    }
}

#[handler]
#[expect(clippy::needless_pass_by_value, reason = "what a handler is given is its own")]
fn take(request: &Request, body: Vec<u8>, desk: Data<&Desk>) -> StatusCode {
    let header = |name| request.header(name).unwrap_or_default();
    let (id, at) = (header("webhook-id"), header("webhook-timestamp").parse());
    let (Some(key), Ok(at)) = (desk.key.get(), at) else {
        return StatusCode::UNAUTHORIZED;
    };
    if header("webhook-signature") != signature_header(&[key], id, at, &body) {
        return StatusCode::UNAUTHORIZED;
    }
    let Ok(event) = serde_json::from_slice::<Value>(&body) else {
        return StatusCode::BAD_REQUEST;
    };
    desk.received.send_modify(|received| {
        // An event may come twice.
        if received.iter().all(|one| one["position"] != event["position"]) {
            received.push(event);
        }
    });
    StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn what_is_signed_is_taken_once_and_what_is_not_is_refused() {
        crate::tls::install();
        let webhooks = Webhooks::listen().await.unwrap();
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        webhooks.expect_signatures_under(secret).unwrap();
        let body = json!({ "position": 7, "type": "job.succeeded" }).to_string();
        let key = SigningKey::of(secret.as_bytes()).unwrap();
        let good = signature_header(&[&key], "evt_7", 1, body.as_bytes());
        for (signature, expected) in [("v1,AAAA", 401), (good.as_str(), 204), (good.as_str(), 204)] {
            let request = reqwest::Client::new().post(webhooks.url()).body(body.clone());
            let request = request.header("webhook-id", "evt_7").header("webhook-timestamp", "1");
            let answer = request.header("webhook-signature", signature).send().await.unwrap();
            assert_eq!(answer.status(), expected, "{signature}");
        }
        let event = webhooks.when(|event| event["position"] == 7).await.unwrap();
        assert_eq!(event["type"], "job.succeeded");
        assert_eq!(webhooks.desk.received.borrow().len(), 1);
    }
}
