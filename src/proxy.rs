//! SOCKS5 proxies as people write them and as they are sealed: the API reads and seals them, the workers open and use them.

use std::fmt;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use url::{Host, Url};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Most bytes of a URL that is looked at.
const MAX_URL: usize = 2048;
/// SOCKS5 writes the length of each of them in one byte.
const MAX_BYTES: usize = 255;

/// A SOCKS5 proxy. Wiped when it is dropped; `Debug` shows neither user name nor password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Proxy {
    /// A name or an address, IPv6 without brackets.
    host: String,
    port: u16,
    /// User name and password.
    credentials: Option<(String, String)>,
}

/// Why a text is no proxy. Says nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    #[error("must be a URL such as socks5://proxy.example.com:1080, or socks5://user:password@proxy.example.com:1080")]
    Url,
    #[error("must begin with socks5:// (names are always resolved by the proxy): no other kind of proxy is known")]
    Scheme,
    #[error("must name a host and a port, such as socks5://proxy.example.com:1080")]
    Address,
    #[error("must end with the port, such as socks5://proxy.example.com:1080")]
    More,
    #[error(
        "must have a user name and a password or neither, each of 1 to 255 bytes; characters such as @ : / # % are written \
         percent-encoded"
    )]
    Credentials,
}

impl Proxy {
    /// Reads `socks5://[user:password@]host:port`.
    pub fn parse(text: &str) -> Result<Self, ProxyError> {
        let text = text.trim();
        if text.len() > MAX_URL {
            return Err(ProxyError::Url);
        }
        let url = Url::parse(text).map_err(|error| match error {
            url::ParseError::EmptyHost | url::ParseError::InvalidPort => ProxyError::Address,
            _ => ProxyError::Url,
        })?;
        if !matches!(url.scheme(), "socks5" | "socks5h") {
            return Err(ProxyError::Scheme);
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(ProxyError::More);
        }
        let host = match url.host().ok_or(ProxyError::Address)? {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let port = url.port().filter(|port| *port > 0).ok_or(ProxyError::Address)?;
        if !(1..=MAX_BYTES).contains(&host.len()) {
            return Err(ProxyError::Address);
        }
        Ok(Self {
            host,
            port,
            credentials: credentials(&url)?,
        })
    }

    /// A name or an address, IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// User name and password, for the proxy alone.
    pub fn credentials(&self) -> Option<(&str, &str)> {
        self.credentials
            .as_ref()
            .map(|(user, word)| (user.as_str(), word.as_str()))
    }

    /// What is sealed.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // A struct of strings and numbers always serializes.
        Zeroizing::new(serde_json::to_vec(self).unwrap_or_default())
    }

    /// What was sealed; `None`: it is not of this version.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// What a session's sealed proxy belongs to.
    pub fn owner(session: impl fmt::Display) -> String {
        format!("session:{session}:proxy")
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("has_credentials", &self.credentials.is_some())
            .finish_non_exhaustive()
    }
}

fn credentials(url: &Url) -> Result<Option<(String, String)>, ProxyError> {
    let decoded = |text: &str| {
        let text = percent_decode_str(text)
            .decode_utf8()
            .map_err(|_| ProxyError::Credentials)?;
        if (1..=MAX_BYTES).contains(&text.len()) {
            Ok(text.into_owned())
        } else {
            Err(ProxyError::Credentials)
        }
    };
    match (url.username(), url.password()) {
        ("", None) => Ok(None),
        (user, word) => Ok(Some((decoded(user)?, decoded(word.unwrap_or_default())?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read() {
        let plain = Proxy::parse("socks5://proxy.example.com:1080").unwrap();
        assert_eq!(
            (plain.host(), plain.port(), plain.credentials()),
            ("proxy.example.com", 1080, None)
        );
        let full = Proxy::parse(" socks5h://us%40er:p%3Aw%2F@127.0.0.1:9/ ").unwrap();
        assert_eq!(full.credentials(), Some(("us@er", "p:w/")));
        assert_eq!(Proxy::parse("socks5://[::1]:1080").unwrap().host(), "::1");
        let again = Proxy::from_bytes(&full.to_bytes()).unwrap();
        assert!(again == full && again != plain);
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_a_word_of_it() {
        use ProxyError as E;
        for (text, error) in [
            ("", E::Url),
            ("hunter2", E::Url),
            ("http://proxy.example.com:1080", E::Scheme),
            ("socks4://proxy.example.com:1080", E::Scheme),
            ("socks5://proxy.example.com", E::Address),
            ("socks5://proxy.example.com:0", E::Address),
            ("socks5://proxy.example.com:99999", E::Address),
            ("socks5://:1080", E::Address),
            ("socks5:proxy.example.com:1080", E::More),
            ("socks5://proxy.example.com:1080/hunter2", E::More),
            ("socks5://proxy.example.com:1080?hunter2", E::More),
            ("socks5://hunter2@proxy.example.com:1080", E::Credentials),
            ("socks5://:hunter2@proxy.example.com:1080", E::Credentials),
        ] {
            let refused = Proxy::parse(text).unwrap_err();
            assert_eq!(refused, error, "{text}");
            assert!(!refused.to_string().contains("hunter2"), "{text}");
        }
        let long = format!("socks5://user:{}@proxy.example.com:1080", "x".repeat(256));
        assert_eq!(Proxy::parse(&long).unwrap_err(), E::Credentials);
    }

    #[test]
    fn a_secret_is_not_printed() {
        let proxy = Proxy::parse("socks5://user:hunter2@proxy.example.com:1080").unwrap();
        let shown = format!("{proxy:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("user"), "{shown}");
    }
}
