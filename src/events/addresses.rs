//! Where webhooks may not go: to the machine itself, to its network, and to what a cloud keeps at addresses of its own. A name
//! is resolved here, every address of it is looked at, and the connection goes to those that were looked at: so a name that
//! answers otherwise a moment later brings nobody in.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Url;

use crate::addresses::{is_public, literal};

/// Resolves names, and refuses what may not be reached.
#[derive(Debug, Clone, Copy)]
pub struct Guard {
    pub allows_private: bool,
}

/// Why a webhook is not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not an address on the public internet, and WIREROOM_WEBHOOK_ALLOW_PRIVATE is off")]
pub struct PrivateAddress(pub String);

impl Guard {
    /// Refuses a URL whose host is an address that may not be reached: no name of it is ever resolved.
    pub fn check_literal(self, url: &Url) -> Result<(), PrivateAddress> {
        match literal(url) {
            Some(address) => self.check(&address.to_string(), address),
            None => Ok(()),
        }
    }

    fn check(self, name: &str, address: IpAddr) -> Result<(), PrivateAddress> {
        if self.allows_private || is_public(address) {
            return Ok(());
        }
        Err(PrivateAddress(name.to_owned()))
    }

    /// Every address of a name, if each of them may be reached.
    async fn resolve(self, name: &str) -> Result<Vec<SocketAddr>, Box<dyn std::error::Error + Send + Sync>> {
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name, 0)).await?.collect();
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into());
        }
        for address in &addresses {
            self.check(name, address.ip())?;
        }
        Ok(addresses)
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = *self;
        Box::pin(async move {
            let addresses = guard.resolve(name.as_str()).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_with_an_address_of_the_own_machine_is_refused() {
        let strict = Guard { allows_private: false };
        let refused = strict.resolve("localhost").await.expect_err("refused");
        assert!(refused.to_string().contains("localhost"), "{refused}");
        let open = Guard { allows_private: true };
        assert!(open.resolve("localhost").await.is_ok());
        for url in [
            "http://127.0.0.1/",
            "https://[::1]/x",
            "https://2130706433/",
            "http://0x7f.1/",
        ] {
            let url = Url::parse(url).expect("a URL");
            assert!(strict.check_literal(&url).is_err(), "{url}");
            assert_eq!(open.check_literal(&url), Ok(()));
        }
        assert_eq!(
            strict.check_literal(&Url::parse("https://example.com/").expect("a URL")),
            Ok(())
        );
    }
}
