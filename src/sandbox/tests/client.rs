//! A client made of grammers' sender, as the worker's is.

use std::{net::SocketAddr, time::Duration};

use grammers_mtproto::{mtp, transport::Full};
use grammers_mtsender::{InvocationError, Sender, ServerAddr};
use grammers_tl_types::{self as tl, RemoteCall, functions as f};

use crate::{
    sandbox::{Sandbox, SandboxConfig, SandboxHandle},
    telegram::handshake::{AuthKeyExchange, ServerKey, generate_auth_key},
};

/// How long anything may take before a test fails.
const BOUND: Duration = Duration::from_mins(1);

pub(super) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, work)
        .await
        .expect("it happens within the bound")
}

/// Waits for a condition that nothing announces.
pub(super) async fn until(mut holds: impl FnMut() -> bool) {
    const INTERVAL: Duration = Duration::from_millis(2);
    within(async {
        while !holds() {
            tokio::time::sleep(INTERVAL).await;
        }
    })
    .await;
}

pub(super) async fn sandbox() -> SandboxHandle {
    within(Sandbox::start(SandboxConfig::default()))
        .await
        .expect("the sandbox starts")
}

pub(super) async fn new_key(sandbox: &SandboxHandle) -> AuthKeyExchange {
    new_key_at(sandbox, sandbox.addr()).await
}

/// A key of the data centre at `addr`.
pub(super) async fn new_key_at(sandbox: &SandboxHandle, addr: SocketAddr) -> AuthKeyExchange {
    let server_key = ServerKey::from_pem(sandbox.public_key_pem()).expect("the sandbox gives a usable key");
    within(generate_auth_key(addr, &server_key))
        .await
        .expect("a key is made")
}

pub(super) struct Client {
    sender: Sender<Full, mtp::Encrypted>,
}

impl Client {
    /// Connects with a key, and introduces itself.
    pub async fn connect(addr: SocketAddr, key: &AuthKeyExchange) -> Self {
        let mut client = Self::connect_silently(addr, key).await;
        client.introduce(tl::LAYER).await.expect("help.getConfig is answered");
        client
    }

    pub async fn connect_silently(addr: SocketAddr, key: &AuthKeyExchange) -> Self {
        let encryption = mtp::Encrypted::build()
            .time_offset(key.time_offset)
            .first_salt(key.first_salt);
        let address = ServerAddr::Tcp { address: addr };
        let connecting = Sender::connect(Full::new(), encryption.finish(key.auth_key), address);
        Self {
            sender: within(connecting).await.expect("the sandbox accepts"),
        }
    }

    /// A client with a new key.
    pub async fn new(sandbox: &SandboxHandle) -> Self {
        Self::connect(sandbox.addr(), &new_key(sandbox).await).await
    }

    /// A client that is signed in.
    pub async fn signed_in(sandbox: &SandboxHandle, phone: &str) -> Self {
        let mut client = Self::new(sandbox).await;
        client.sign_in(phone).await.expect("signs in");
        client
    }

    pub async fn introduce(&mut self, layer: i32) -> Result<tl::enums::Config, InvocationError> {
        let query = f::InitConnection {
            api_id: 1,
            device_model: "test".into(),
            system_version: "1".into(),
            app_version: "1".into(),
            system_lang_code: "en".into(),
            lang_pack: String::new(),
            lang_code: "en".into(),
            proxy: None,
            params: None,
            query: f::help::GetConfig {},
        };
        self.invoke(&f::InvokeWithLayer { layer, query }).await
    }

    pub async fn invoke<R: RemoteCall>(&mut self, request: &R) -> Result<R::Return, InvocationError> {
        within(self.sender.invoke(request)).await
    }

    /// Invokes, and expects an error of the API, by its name without numbers.
    pub async fn refusal<R: RemoteCall<Return: std::fmt::Debug>>(&mut self, request: &R) -> (i32, String) {
        refused(self.invoke(request).await)
    }

    pub async fn send_code(&mut self, phone: &str) -> String {
        match self.invoke(&send_code(phone)).await.expect("a code is sent") {
            tl::enums::auth::SentCode::Code(sent) => sent.phone_code_hash,
            other => panic!("not a sent code: {other:?}"),
        }
    }

    pub async fn sign_in(&mut self, phone: &str) -> Result<tl::enums::auth::Authorization, InvocationError> {
        let hash = self.send_code(phone).await;
        self.invoke(&sign_in(phone, &hash, "22222")).await
    }
}

pub(super) fn send_code(phone: &str) -> f::auth::SendCode {
    f::auth::SendCode {
        phone_number: phone.into(),
        api_id: 1,
        api_hash: "hash".into(),
        settings: tl::types::CodeSettings {
            allow_flashcall: false,
            current_number: false,
            allow_app_hash: false,
            allow_missed_call: false,
            allow_firebase: false,
            unknown_number: false,
            logout_tokens: None,
            token: None,
            app_sandbox: None,
        }
        .into(),
    }
}

pub(super) fn sign_in(phone: &str, hash: &str, code: &str) -> f::auth::SignIn {
    f::auth::SignIn {
        phone_number: phone.into(),
        phone_code_hash: hash.into(),
        phone_code: Some(code.into()),
        email_verification: None,
    }
}

/// The code and name of the API error a call ended with.
pub(super) fn refused<T: std::fmt::Debug>(result: Result<T, InvocationError>) -> (i32, String) {
    match result {
        Err(InvocationError::Rpc(error)) => (error.code, error.name),
        other => panic!("not refused by the API: {other:?}"),
    }
}
