//! Events over real processes: from what makes them true to those who read, follow and subscribe.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use poem::{EndpointExt as _, Route, Server, handler, http::StatusCode, listener::TcpAcceptor, post, web::Data};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::support::{
    stack::{JOB_BOUND, Options, Stack},
    wait::eventually,
};

/// What an endpoint got, as (webhook-id, event).
#[derive(Clone, Default)]
struct Received {
    webhooks: Arc<Mutex<Vec<(String, Value)>>>,
    /// It takes nothing, and says nothing.
    hangs: Arc<Mutex<bool>>,
}

impl Received {
    fn all(&self) -> Vec<(String, Value)> {
        self.webhooks.lock().expect("no test panics with it").clone()
    }

    fn hang(&self, hangs: bool) {
        *self.hangs.lock().expect("no test panics with it") = hangs;
    }

    async fn when(&self, what: &str, wanted: impl Fn(&[(String, Value)]) -> bool) -> Vec<(String, Value)> {
        eventually(JOB_BOUND, async || {
            let all = self.all();
            if wanted(&all) {
                Ok(all)
            } else {
                Err(format!("not {what}: {all:?}"))
            }
        })
        .await
    }
}

#[handler]
async fn hook(request: &poem::Request, body: String, received: Data<&Received>) -> StatusCode {
    let id = request.header("webhook-id").unwrap_or_default().to_owned();
    let event = serde_json::from_str(&body).expect("JSON");
    received
        .webhooks
        .lock()
        .expect("no test panics with it")
        .push((id, event));
    let hangs = *received.hangs.lock().expect("no test panics with it");
    if hangs {
        std::future::pending::<()>().await;
    }
    StatusCode::NO_CONTENT
}

/// An endpoint on the loopback, its URL, and what serves it.
async fn endpoint() -> (Received, String, AbortOnDropHandle<()>) {
    let received = Received::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let acceptor = TcpAcceptor::from_tokio(listener).expect("an acceptor");
    let app = Route::new().at("/", post(hook)).data(received.clone());
    let serving = tokio::spawn(async move {
        // It ends with the test.
        let _ = Server::new_with_acceptor(acceptor).run(app).await;
    });
    (received, address, AbortOnDropHandle::new(serving))
}

fn options() -> Options {
    let private = ("WIREROOM_WEBHOOK_ALLOW_PRIVATE", "true".to_owned());
    let timeout = ("WIREROOM_WEBHOOK_TIMEOUT_SECONDS", "2".to_owned());
    Options {
        variables: vec![private, timeout],
        ..Options::default()
    }
}

/// Makes a subscription; answers with its id.
async fn subscribe(stack: &Stack, address: &str, types: &[&str]) -> String {
    let made = stack
        .request(Method::POST, "/v1/subscriptions")
        .json(&json!({ "url": format!("http://{address}/"), "types": types }));
    let made = made.send().await.expect("answered");
    assert_eq!(made.status(), 201);
    let made: Value = made.json().await.expect("JSON");
    made["subscription"]["id"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_s_end_reaches_a_webhook_a_waiting_reader_and_a_consumer() {
    let stack = Stack::with(options()).await;
    let _worker = stack.worker().await;
    let (received, address, _serving) = endpoint().await;
    let subscription = subscribe(&stack, &address, &["job.*"]).await;
    let head = stack.get("/v1/events?limit=1").await["head"]
        .as_i64()
        .expect("a number");
    let reader = stack.get("/v1/events?type=job.*").await;
    let waiting = tokio::spawn({
        let (client, key) = stack.client();
        let url = format!("http://{}/v1/events?type=job.*&after={head}&wait=60", stack.api_addr);
        async move {
            let answer = client.get(url).bearer_auth(key).send().await.expect("answered");
            answer.json::<Value>().await.expect("JSON")
        }
    });
    assert_eq!(reader["items"], json!([]), "nothing of a job so far");
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    let webhooks = received.when("delivered", |all| !all.is_empty()).await;
    let (id, event) = &webhooks[0];
    assert_eq!(event["type"], "job.succeeded");
    assert_eq!(event["data"]["kind"], "join");
    assert_eq!(*id, format!("evt_{}", event["position"]));
    let read = waiting.await.expect("read");
    assert_eq!(read["items"][0], *event, "the same in each way");

    let ack = json!({ "consumer": "crm", "position": event["position"], "create": true });
    let acked = stack.request(Method::POST, "/v1/events/ack").json(&ack).send();
    assert_eq!(acked.await.expect("answered").status(), 200);
    assert_eq!(stack.get("/v1/events?consumer=crm").await["items"], json!([]));
    let test = stack
        .request(Method::POST, &format!("/v1/subscriptions/{subscription}/test"))
        .send();
    let test: Value = test.await.expect("answered").json().await.expect("JSON");
    assert_eq!(
        (&test["delivered"], &test["status"]),
        (&json!(true), &json!(204)),
        "{test}"
    );
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_between_sending_and_noting_sends_nothing_less_and_under_the_same_id() {
    let stack = Stack::with(options()).await;
    let mut worker = stack.worker().await;
    let (received, address, _serving) = endpoint().await;
    received.hang(true);
    subscribe(&stack, &address, &["job.*"]).await;
    // It begins with the next event, so it has to be known first.
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    received.when("on its way", |all| !all.is_empty()).await;
    worker.kill();
    worker.wait_for_end(Duration::from_secs(10)).await;
    let before = received.all();
    received.hang(false);
    let _next = stack.worker().await;
    let after = received.when("sent again", |all| all.len() > before.len()).await;
    assert_eq!(after[before.len()], before[0]);
    stack.finish().await;
}
