//! The bare loops: grammers' own client, which stores nothing, with its own iterator, or sending one message after the other.

use std::{
    net::{Ipv4Addr, SocketAddrV4, SocketAddrV6},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use grammers_client::Client;
use grammers_mtsender::{ConnectionParams, NoRetries, SenderPool, SenderPoolFatHandle};
use grammers_session::{
    Session,
    storages::MemorySession,
    types::{DcOption, PeerRef},
};
use tokio::{task::JoinHandle, time::timeout};

use crate::{
    cli::bench::sessions::telegram::{Account, Telegram},
    telegram::handshake::{ServerKey, generate_auth_key},
};

const DC: i32 = 2;
/// How long the connection may take to close.
const BOUND: Duration = Duration::from_secs(30);

/// A signed-in client.
pub struct Bare {
    client: Client,
    handle: SenderPoolFatHandle,
    running: JoinHandle<()>,
}

impl Bare {
    pub async fn sign_in(telegram: &Telegram, account: &Account) -> anyhow::Result<Self> {
        let ipv4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, telegram.port());
        let pem = std::fs::read_to_string(telegram.key_file()).context("the sandbox's public key is gone")?;
        let key = generate_auth_key(ipv4.into(), &ServerKey::from_pem(&pem)?).await?;
        let session = MemorySession::default();
        let option = DcOption {
            id: DC,
            ipv4,
            ipv6: SocketAddrV6::new(ipv4.ip().to_ipv6_mapped(), ipv4.port(), 0, 0),
            auth_key: Some(key.auth_key),
        };
        session.set_dc_option(&option).await?;
        session.set_home_dc_id(DC).await?;
        let parameters = ConnectionParams {
            retry_policy: Box::new(NoRetries),
            ..ConnectionParams::default()
        };
        let SenderPool { runner, handle, .. } = SenderPool::with_configuration(Arc::new(session), 1, parameters);
        let running = tokio::spawn(runner.run());
        let client = Client::new(handle.clone());
        let token = client.request_login_code(&account.phone, "bench").await?;
        let code = Telegram::login_code();
        // What it says beside "no" is of no use to whoever measures.
        if client.sign_in(&token, code.expose()).await.is_err() {
            return Err(anyhow!("the account of the bare loop was not signed in"));
        }
        Ok(Self {
            client,
            handle,
            running,
        })
    }

    /// Reads the members of a chat; how many there were.
    pub async fn read(&self, username: &str) -> anyhow::Result<i64> {
        let chat = self.find(username).await?;
        let mut members = self.client.iter_participants(chat);
        let mut read = 0;
        while members.next().await?.is_some() {
            read += 1;
        }
        Ok(read)
    }

    /// How a public chat is referred to.
    pub async fn find(&self, username: &str) -> anyhow::Result<PeerRef> {
        let chat = self.client.resolve_username(username).await?;
        let chat = chat.context("the sandbox has no such chat")?;
        chat.to_ref()
            .await
            .map_err(anyhow::Error::from_boxed)?
            .context("the chat cannot be referred to")
    }

    /// Sends the same to each of these chats, the next when the last is answered.
    pub async fn send(&self, chats: &[PeerRef], text: &str) -> anyhow::Result<()> {
        for chat in chats {
            Box::pin(self.client.send_message(*chat, text)).await?;
        }
        Ok(())
    }

    pub async fn leave(self) -> anyhow::Result<()> {
        self.handle.quit();
        timeout(BOUND, self.running)
            .await
            .context("the bare loop did not hang up")??;
        Ok(())
    }
}
