//! grammers' whole client against the world: dialogs, members, history, and an update stream that catches up.

use std::{collections::BTreeSet, sync::Arc};

use grammers_client::{
    Client as Whole,
    client::UpdateStream,
    message::{InputMessage, Message},
};
use grammers_mtsender::{ConnectionParams, NoRetries, SenderPool, UpdatesConfiguration};
use grammers_session::{
    Session,
    storages::MemorySession,
    types::{DcOption, PeerInfo, UpdateState},
    updates::{MessageBox, State},
};
use grammers_tl_types::{self as tl, functions as f};
use tokio::task::JoinHandle;

use super::client::{Client, new_key, sandbox, within};
use crate::sandbox::{SandboxHandle, world::PeerKey};

const ALICE: &str = "+9996620001";
const BOB: &str = "+9996620002";
const DC: i32 = 2;

/// A connected account with its stream of updates.
struct Connected {
    client: Whole,
    stream: UpdateStream,
    session: Arc<MemorySession>,
    pool: JoinHandle<()>,
    quit: grammers_mtsender::SenderPoolFatHandle,
}

/// Makes a session whose key is signed in.
async fn session_of(sandbox: &SandboxHandle, phone: &str) -> Arc<MemorySession> {
    let key = new_key(sandbox).await;
    let mut client = Client::connect(sandbox.addr(), &key).await;
    let tl::enums::auth::Authorization::Authorization(signed_in) = client.sign_in(phone).await.expect("signs in")
    else {
        panic!("the account exists")
    };
    drop(client);
    let session = MemorySession::default();
    let std::net::SocketAddr::V4(ipv4) = sandbox.addr() else {
        panic!("it listens on 127.0.0.1")
    };
    let ipv6 = std::net::SocketAddrV6::new(ipv4.ip().to_ipv6_mapped(), ipv4.port(), 0, 0);
    let option = DcOption {
        id: DC,
        ipv4,
        ipv6,
        auth_key: Some(key.auth_key),
    };
    session.set_dc_option(&option).await.expect("in memory");
    session.set_home_dc_id(DC).await.expect("in memory");
    let user = PeerInfo::User {
        id: signed_in.user.id(),
        auth: None,
        bot: Some(false),
        is_self: Some(true),
    };
    session.cache_peer(user).await.expect("in memory");
    Arc::new(session)
}

impl Connected {
    async fn with(session: Arc<MemorySession>) -> Self {
        let parameters = ConnectionParams {
            retry_policy: Box::new(NoRetries),
            ..ConnectionParams::default()
        };
        let SenderPool {
            runner,
            handle,
            updates,
        } = SenderPool::with_configuration(Arc::clone(&session), 1, parameters);
        let pool = tokio::spawn(runner.run());
        let client = Whole::new(handle.clone());
        let configuration = UpdatesConfiguration { catch_up: true };
        let stream = client
            .stream_updates(updates, configuration)
            .await
            .expect("the session is in memory");
        Self {
            client,
            stream,
            session,
            pool,
            quit: handle,
        }
    }

    /// Reads updates until each of `texts` came in, and returns them in the order they came.
    async fn hear(&mut self, texts: &[String]) -> Vec<String> {
        let mut awaited: BTreeSet<&String> = texts.iter().collect();
        let mut heard = Vec::new();
        while !awaited.is_empty() {
            let next = Box::pin(self.stream.next_raw());
            let (update, state, _) = within(next).await.expect("the connection holds");
            if let Some(text) = new_text(&update) {
                awaited.remove(&text);
                heard.push(text);
            }
            self.keep(state).await;
        }
        heard
    }

    /// Stores where the stream is, as a client does that wants to go on from there.
    async fn keep(&self, state: State) {
        let place = match state.message_box {
            Some(MessageBox::Common { pts }) => UpdateState::Primary {
                pts,
                date: state.date,
                seq: state.seq,
            },
            Some(MessageBox::Secondary { qts }) => UpdateState::Secondary { qts },
            Some(MessageBox::Channel { channel_id, pts }) => UpdateState::Channel { id: channel_id, pts },
            None => return,
        };
        self.session.set_update_state(place).await.expect("in memory");
    }

    /// Closes the connection; the session stays.
    async fn leave(self) -> Arc<MemorySession> {
        self.quit.thin.quit();
        within(self.pool).await.expect("the pool ends well");
        self.session
    }
}

fn new_text(update: &tl::enums::Update) -> Option<String> {
    let message = match update {
        tl::enums::Update::NewMessage(update) => &update.message,
        tl::enums::Update::NewChannelMessage(update) => &update.message,
        _ => return None,
    };
    match message {
        tl::enums::Message::Message(message) => Some(message.message.clone()),
        _ => None,
    }
}

async fn join(client: &Whole, username: &str) {
    let peer = client
        .resolve_username(username)
        .await
        .expect("answers")
        .expect("it is public");
    let channel = peer.to_ref().await.expect("in memory").expect("known by now").into();
    client
        .invoke(&f::channels::JoinChannel { channel })
        .await
        .expect("lets everyone in");
}

#[tokio::test]
async fn the_update_stream_catches_up_without_loss_or_repetition() {
    let sandbox = sandbox().await;
    let session = session_of(&sandbox, BOB).await;
    let mut bob = Connected::with(session).await;
    join(&bob.client, "harbour_market").await;
    let (market, alice, bob_id, admin) = sandbox.controls().with_world(|world| {
        let account = |phone| world.account_by_phone(phone).expect("the account exists");
        let Some(PeerKey::User(admin)) = world.find_peer("judy") else {
            panic!("she is a person")
        };
        (
            world.find_peer("harbour_market").expect("it is there"),
            account(ALICE),
            account(BOB),
            admin,
        )
    });
    let say = |texts: &[String]| {
        for text in texts {
            let private = text.starts_with("letter");
            let (from, to) = if private {
                (alice, PeerKey::User(bob_id))
            } else {
                (admin, market)
            };
            sandbox
                .controls()
                .with_world(|world| world.post_as(from, to, text))
                .expect("they may write");
        }
    };

    let live: Vec<String> = ["notice 0", "letter 0"].map(str::to_owned).to_vec();
    say(&live);
    assert_eq!(bob.hear(&live).await, live);

    let session = bob.leave().await;
    let missed: Vec<String> = (1..=150)
        .map(|n| format!("notice {n}"))
        .chain((1..=130).map(|n| format!("letter {n}")))
        .collect();
    say(&missed);
    let mut bob = Connected::with(session).await;
    let mut heard = bob.hear(&missed).await;
    heard.sort_by_key(|text| missed.iter().position(|awaited| awaited == text));
    assert_eq!(heard, missed, "each once");

    let last = vec!["notice 151".to_owned()];
    say(&last);
    assert_eq!(bob.hear(&last).await, last);
}

#[tokio::test]
async fn the_whole_client_reads_the_world() {
    let sandbox = sandbox().await;
    let alice = Connected::with(session_of(&sandbox, ALICE).await).await;
    let client = &alice.client;
    join(client, "harbour_market").await;
    let market = client
        .resolve_username("harbour_market")
        .await
        .expect("answers")
        .expect("it is public");
    let market = market.to_ref().await.expect("in memory").expect("known by now");

    let mut members = client.iter_participants(market);
    let mut seen = BTreeSet::new();
    while let Some(member) = members.next().await.expect("answers") {
        assert!(seen.insert(member.user.id().bare_id()), "nobody twice");
    }
    assert_eq!(seen.len(), 1251);

    let sending = Box::pin(client.send_message(market, InputMessage::new().text("for sale")));
    let sent = sending.await.expect("she is in it");
    client
        .edit_message(market, sent.id(), InputMessage::new().text("sold"))
        .await
        .expect("her own");
    let mut history = client.iter_messages(market).limit(150);
    let mut texts = Vec::new();
    while let Some(message) = history.next().await.expect("answers") {
        texts.push(message.text().to_owned());
    }
    assert_eq!((texts.len(), texts[0].as_str()), (150, "sold"));
    let mut own = client.search_messages(market).sent_by_self();
    let first = own.next().await.expect("answers").expect("she wrote");
    assert_eq!(first.id(), sent.id());

    let mut dialogs = client.iter_dialogs();
    let mut names = BTreeSet::new();
    while let Some(dialog) = dialogs.next().await.expect("answers") {
        names.insert(dialog.peer().name().unwrap_or_default().to_owned());
    }
    assert_eq!(names, ["Harbour market", "Quay friends"].map(str::to_owned).into());
    client.delete_messages(market, &[sent.id()]).await.expect("her own");
    // grammers shows the empty message that stands for a deleted one.
    let gone = client.get_messages_by_id(market, &[sent.id()]).await.expect("answers");
    assert_eq!(gone[0].as_ref().map(Message::text), Some(""));
}
