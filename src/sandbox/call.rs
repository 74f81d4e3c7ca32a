//! What a service sees of one API call, and how it answers: the boundary between the transport side (`transport`,
//! `dispatcher`, `faults`) and the world side (`world`, `services`).

use grammers_tl_types as tl;

use super::world::World;

/// Telegram's user id of an account of the sandbox.
pub type UserId = i64;

/// Who calls: an auth key, and the account that is signed in with it.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// The id of the auth key (the low 64 bits of its SHA-1).
    pub key_id: [u8; 8],
    /// The account that signed in with this key; `None` before `auth.signIn`.
    pub account: Option<UserId>,
    /// The data centre it calls.
    pub dc: i32,
    /// The TL layer the client named in `invokeWithLayer`.
    pub layer: i32,
}

impl Caller {
    /// The signed-in account, or the error Telegram gives to a key nobody signed in with.
    pub fn signed_in(&self) -> Answer<UserId> {
        self.account.ok_or_else(|| RpcError::new(401, "AUTH_KEY_UNREGISTERED"))
    }
}

/// One call in progress. The world is locked for its duration, so that a call is atomic.
pub struct Call<'a> {
    pub world: &'a mut World,
    pub caller: Caller,
}

/// An error as Telegram sends it: `FLOOD_WAIT_30` with code 420.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcError {
    pub code: i32,
    pub name: String,
}

impl RpcError {
    pub fn new(code: i32, name: impl Into<String>) -> Self {
        Self {
            code,
            name: name.into(),
        }
    }
}

/// What a service returns: the function's own return type, or an error for the client.
pub type Answer<T> = Result<T, RpcError>;

/// An update that a call caused, to be pushed to every connection of `account` once the call is done.
pub struct Push {
    pub account: UserId,
    pub updates: tl::enums::Updates,
    /// The connection's key that must not get it, because the call's answer already carries it.
    pub except: Option<[u8; 8]>,
}
