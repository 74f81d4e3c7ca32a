//! The three codes nearly every refusal comes with.

use crate::sandbox::call::RpcError;

/// 400: the request is wrong for this account now.
pub fn bad(name: &str) -> RpcError {
    RpcError::new(400, name)
}

/// 403: the account lacks the right.
pub fn forbidden(name: &str) -> RpcError {
    RpcError::new(403, name)
}

/// 420: wait `seconds` before trying again; the name ends with them.
pub fn wait(name: &str, seconds: i32) -> RpcError {
    RpcError::new(420, format!("{name}_{seconds}"))
}
