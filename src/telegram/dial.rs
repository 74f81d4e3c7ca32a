//! How a connection to Telegram is made: directly, or through the session's SOCKS5 proxy. Never directly when there is one.

use std::{net::SocketAddrV4, time::Duration};

use tokio::{net::TcpStream, time::timeout};
use tokio_socks::{Error, tcp::Socks5Stream};

use crate::proxy::Proxy;

/// Why a session's proxy gave no connection. Names neither the proxy nor what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyFault {
    #[error("the session's SOCKS5 proxy cannot be reached")]
    Unreachable,
    #[error("the session's SOCKS5 proxy does not answer in time")]
    Silent,
    #[error("the session's SOCKS5 proxy refuses its user name and password")]
    Credentials,
    #[error("the session's SOCKS5 proxy asks for a user name and a password, and it has none")]
    CredentialsNeeded,
    #[error("the session's SOCKS5 proxy does not allow connections to Telegram")]
    NotAllowed,
    #[error("the session's SOCKS5 proxy cannot connect to Telegram")]
    NoRoute,
    #[error("what the session's proxy answers is not SOCKS5")]
    NotSocks,
}

/// Why a dial gave no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialError {
    Direct,
    Proxy(ProxyFault),
}

/// Connects within `bound`.
///
/// The way through a proxy has half of that, so that its failure is told as one of the proxy before a call's own deadline
/// says that Telegram is silent.
pub async fn dial(target: SocketAddrV4, proxy: Option<&Proxy>, bound: Duration) -> Result<TcpStream, DialError> {
    match proxy {
        None => match timeout(bound, TcpStream::connect(target)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(_)) | Err(_) => Err(DialError::Direct),
        },
        Some(proxy) => match timeout(bound / 2, through(proxy, target)).await {
            Ok(dialled) => dialled.map_err(DialError::Proxy),
            Err(_) => Err(DialError::Proxy(ProxyFault::Silent)),
        },
    }
}

async fn through(proxy: &Proxy, target: SocketAddrV4) -> Result<TcpStream, ProxyFault> {
    let socket = TcpStream::connect((proxy.host(), proxy.port())).await;
    let socket = socket.map_err(|_| ProxyFault::Unreachable)?;
    // Latency matters more than the number of packets; without it it still works.
    let _ = socket.set_nodelay(true);
    let connected = match proxy.credentials() {
        None => Socks5Stream::connect_with_socket(socket, target).await,
        Some((user, word)) => Socks5Stream::connect_with_password_and_socket(socket, target, user, word).await,
    };
    connected.map(Socks5Stream::into_inner).map_err(|error| fault(&error))
}

fn fault(error: &Error) -> ProxyFault {
    match error {
        Error::PasswordAuthFailure(_) | Error::InvalidAuthValues(_) => ProxyFault::Credentials,
        Error::NoAcceptableAuthMethods | Error::AuthorizationRequired => ProxyFault::CredentialsNeeded,
        Error::ConnectionNotAllowedByRuleset => ProxyFault::NotAllowed,
        Error::GeneralSocksServerFailure
        | Error::NetworkUnreachable
        | Error::HostUnreachable
        | Error::ConnectionRefused
        | Error::TtlExpired => ProxyFault::NoRoute,
        Error::Io(_) | Error::ProxyServerUnreachable => ProxyFault::Unreachable,
        _ => ProxyFault::NotSocks,
    }
}
