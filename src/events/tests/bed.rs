//! A database, an endpoint on the loopback that answers as a test says, and deliverers between the two.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    clock::SystemClock,
    cluster::testing::TestDatabase,
    config::EventsConfig,
    events::{Deliverer, DelivererDeps},
    ids::SubscriptionId,
    store::{
        delivery_log::{self, DeliveryRecord},
        event_types::{EventType, Subject},
        outbox::{self, NewEvent},
        subscriptions::{self, Settings, SubscriptionRecord},
    },
    vault::{Sealed, Vault},
};

pub const BOUND: Duration = Duration::from_secs(30);

/// A request as the endpoint got it.
#[derive(Debug, Clone)]
pub struct Received {
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Received {
    pub fn event(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    pub fn number(&self) -> i64 {
        self.event()["data"]["number"].as_i64().expect("a number")
    }
}

/// What the endpoint does with a request.
#[derive(Debug, Clone)]
pub enum Answer {
    Status(u16),
    Redirect(String),
    Never,
}

type Rule = Box<dyn Fn(&Received) -> Option<Answer> + Send>;

/// An HTTP endpoint that keeps what it gets, in order.
pub struct EndpointBed {
    pub url: String,
    pub received: watch::Receiver<Vec<Received>>,
    rules: Arc<Mutex<VecDeque<Rule>>>,
    _serving: AbortOnDropHandle<()>,
}

impl EndpointBed {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (sender, received) = watch::channel(Vec::new());
        let (sender, rules) = (Arc::new(sender), Arc::new(Mutex::new(VecDeque::<Rule>::new())));
        let answers = Arc::clone(&rules);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&sender), Arc::clone(&answers)));
            }
        });
        Self {
            url,
            received,
            rules,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    /// Puts a rule before those there are; a request that none takes is answered with 204.
    pub fn answer(&self, rule: impl Fn(&Received) -> Option<Answer> + Send + 'static) {
        self.rules
            .lock()
            .expect("no test panics with it")
            .push_front(Box::new(rule));
    }

    /// Every request so far, as soon as there are so many.
    pub async fn got(&self, count: usize) -> Vec<Received> {
        self.got_when(|received| received.len() >= count).await
    }

    pub async fn got_when(&self, enough: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let mut received = self.received.clone();
        let waited = tokio::time::timeout(BOUND, received.wait_for(|received| enough(received))).await;
        let Ok(received) = waited else {
            panic!("not in time: {} requests", self.received.borrow().len());
        };
        received.expect("it serves").clone()
    }
}

async fn serve(mut stream: TcpStream, sender: Arc<watch::Sender<Vec<Received>>>, rules: Arc<Mutex<VecDeque<Rule>>>) {
    let mut bytes = Vec::new();
    while let Some(received) = read(&mut stream, &mut bytes).await {
        let answer = {
            let rules = rules.lock().expect("no test panics with it");
            rules
                .iter()
                .find_map(|rule| rule(&received))
                .unwrap_or(Answer::Status(204))
        };
        sender.send_modify(|all| all.push(received));
        let head = match answer {
            Answer::Status(status) => format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n"),
            Answer::Redirect(to) => format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"),
            Answer::Never => std::future::pending().await,
        };
        if stream.write_all(head.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Received> {
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
            let mut lines = head.lines();
            let path = lines.next()?.split(' ').nth(1)?.to_owned();
            let headers: HashMap<String, String> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            let length: usize = headers.get("content-length")?.parse().ok()?;
            if bytes.len() >= end + 4 + length {
                let body = String::from_utf8(bytes[end + 4..end + 4 + length].to_vec()).ok()?;
                bytes.drain(..end + 4 + length);
                return Some(Received { path, headers, body });
            }
        }
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).await.ok()?;
        if read == 0 {
            return None;
        }
        bytes.extend_from_slice(&chunk[..read]);
    }
}

/// A database with what delivering needs.
pub struct Bed {
    pub database: TestDatabase,
    pub vault: Vault,
    pub logged: watch::Sender<i64>,
    pub config: EventsConfig,
}

impl Bed {
    pub async fn new() -> Self {
        crate::tls::install();
        Self {
            database: TestDatabase::new().await,
            vault: Vault::parse(&Vault::generate("k1").expect("a key")).expect("a vault"),
            logged: watch::Sender::new(0),
            config: EventsConfig {
                allow_private: true,
                timeout: Duration::from_secs(15),
                concurrency: 8,
            },
        }
    }

    pub fn pool(&self) -> &sqlx::PgPool {
        self.database.pool()
    }

    pub fn deliverer(&self) -> Deliverer {
        let deps = DelivererDeps {
            pool: self.pool().clone(),
            vault: self.vault.clone(),
            clock: Arc::new(SystemClock),
            logged: self.logged.subscribe(),
            has_subscriptions: watch::channel(true).1,
            config: self.config.clone(),
        };
        Deliverer::start(deps, CancellationToken::new()).expect("a client")
    }

    pub fn secret(&self, id: SubscriptionId, text: &str) -> Sealed {
        let (key_id, slot) = self.vault.slot().expect("a key");
        Sealed {
            key_id: key_id.to_owned(),
            bytes: slot
                .seal(&subscriptions::secret_owner(id), text.as_bytes())
                .expect("sealed"),
        }
    }

    /// A subscription of everything from the beginning.
    pub async fn subscribe(&self, url: &str, types: &[&str]) -> SubscriptionId {
        let id = SubscriptionId::generate();
        let settings = settings(url, types);
        let secret = self.secret(id, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let mut conn = self.pool().acquire().await.expect("a connection");
        subscriptions::insert(&mut conn, id, &settings, &secret, 0, "test")
            .await
            .expect("stored");
        id
    }

    /// Events of these subjects, with these numbers.
    pub async fn raise(&self, events: &[(&Subject, i64)]) {
        let events: Vec<NewEvent> = events
            .iter()
            .map(|(subject, number)| NewEvent {
                event_type: EventType::SessionStateChanged,
                subject: (*subject).clone(),
                data: json!({ "number": number }),
            })
            .collect();
        let mut conn = self.pool().acquire().await.expect("a connection");
        outbox::append(&mut conn, &events).await.expect("appended");
        let sequenced = outbox::sequence(&mut conn, 10_000).await.expect("sequenced");
        self.logged.send_replace(sequenced.position);
    }

    /// Sets the database's clock ahead.
    pub async fn advance(&self, seconds: u32) {
        let statement = format!(
            "CREATE OR REPLACE FUNCTION wireroom_now() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
             AS 'SELECT clock_timestamp() + interval ''{seconds} seconds'''"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(self.pool())
            .await
            .expect("set");
    }

    pub async fn execute(&self, statement: &'static str) {
        sqlx::query(statement).execute(self.pool()).await.expect("a statement");
    }

    pub async fn subscription(&self, id: SubscriptionId) -> SubscriptionRecord {
        let mut found = subscriptions::list(self.pool(), Some(id)).await.expect("read");
        found.pop().expect("it is there")
    }

    /// The deliveries, the oldest event first, once they are as wanted.
    pub async fn deliveries(
        &self,
        id: SubscriptionId,
        wanted: impl Fn(&[DeliveryRecord]) -> bool,
    ) -> Vec<DeliveryRecord> {
        let mut conn = self.pool().acquire().await.expect("a connection");
        let waiting = async {
            loop {
                let mut rows = delivery_log::page(&mut conn, id, None, None, 1_000)
                    .await
                    .expect("read");
                rows.reverse();
                if wanted(&rows) {
                    return rows;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let Ok(rows) = tokio::time::timeout(BOUND, waiting).await else {
            let mut conn = self.pool().acquire().await.expect("a connection");
            panic!(
                "not in time: {:?}",
                delivery_log::page(&mut conn, id, None, None, 1_000).await
            );
        };
        rows
    }
}

pub fn settings(url: &str, types: &[&str]) -> Settings {
    Settings {
        url: url.to_owned(),
        description: String::new(),
        types: types.iter().map(|pattern| (*pattern).to_owned()).collect(),
        subjects: Vec::new(),
        enabled: true,
    }
}

pub fn all_delivered(count: usize) -> impl Fn(&[DeliveryRecord]) -> bool {
    move |rows| rows.len() == count && rows.iter().all(|row| row.state == "delivered")
}
