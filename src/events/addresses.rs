//! Where webhooks may not go: to the machine itself, to its network, and to what a cloud keeps at addresses of its own. A name
//! is resolved here, every address of it is looked at, and the connection goes to those that were looked at: so a name that
//! answers otherwise a moment later brings nobody in.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

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
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        self.check(&address.to_string(), address)
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

/// Whether an address is one that anybody on the internet may have.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        // This network, carriers' own, the protocols' own, between networks under test, and the reserved with the broadcast.
        || a == 0
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19))
        || a >= 240;
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // What stands for an address of IPv4 is as public as that: mapped, translated (64:ff9b::/96), 6to4 (2002::/16).
    let last = || {
        let [.., high, low] = segments;
        Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))
    };
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    match segments {
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => is_public_v4(last()),
        [0x2002, high, low, ..] => is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))),
        // Teredo, documentation, and the rest of 2001::/23 that is not for hosts.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        // Global unicast is 2000::/3: neither ::1 nor fc00::/7 nor fe80::/10 nor ff00::/8 is of it.
        [first, ..] => (0x2000..0x4000).contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_anybody_may_have_is_public() {
        for public in [
            "8.8.8.8",
            "100.63.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ] {
            assert!(is_public(public.parse().expect("an address")), "{public}");
        }
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "198.18.0.1",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::1",
            "::7f00:1",
        ] {
            assert!(!is_public(private.parse().expect("an address")), "{private}");
        }
    }

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
