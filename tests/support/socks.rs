//! A SOCKS5 server on the loopback address: microsocks, as it is packaged, in a process of its own.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::Duration,
};

use tokio::net::TcpStream;

use super::{process::Process, wait::eventually};

const START_BOUND: Duration = Duration::from_secs(10);
/// What the tests' proxies ask for.
pub const USER: &str = "proxy-user";
pub const PASSWORD: &str = "Pr0xy:p@ss/word";
/// The same in a URL.
pub const PASSWORD_IN_URL: &str = "Pr0xy%3Ap%40ss%2Fword";

/// A running server. It ends, with its connections, when it is dropped.
pub struct Socks {
    process: Process,
    address: SocketAddr,
    with_credentials: bool,
}

impl Socks {
    /// One that lets everybody in and connects to others from the loopback address `from`, by which they know it.
    pub async fn open(from: Ipv4Addr) -> Self {
        Self::start(from, false).await
    }

    /// The same for who gives [`USER`] and [`PASSWORD`].
    pub async fn with_credentials(from: Ipv4Addr) -> Self {
        Self::start(from, true).await
    }

    async fn start(from: Ipv4Addr, with_credentials: bool) -> Self {
        // It takes no port 0: a port that the system gave a moment ago is given to nobody else so soon.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let (port, from) = (address.port().to_string(), from.to_string());
        let mut arguments = vec!["-i", "127.0.0.1", "-p", &port, "-b", &from];
        if with_credentials {
            arguments.extend(["-u", USER, "-P", PASSWORD]);
        }
        // Where it is missing: the package `microsocks`.
        let process = Process::start("microsocks", &arguments, &[]);
        eventually(START_BOUND, || TcpStream::connect(address)).await;
        Self {
            process,
            address,
            with_credentials,
        }
    }

    /// As a session is given it.
    pub fn url(&self) -> String {
        if self.with_credentials {
            format!("socks5://{USER}:{PASSWORD_IN_URL}@{}", self.address)
        } else {
            format!("socks5://{}", self.address)
        }
    }

    /// The same, with a password that is not the one.
    pub fn url_with_wrong_password(&self) -> String {
        format!("socks5://{USER}:wrong@{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has made so far.
    pub fn connections(&self) -> usize {
        let said = self.process.output();
        said.lines().filter(|line| line.contains(": connected to ")).count()
    }

    /// Ends it as a crash does, with every connection through it.
    pub async fn kill(mut self) {
        self.process.kill();
        self.process.wait_for_end(START_BOUND).await;
    }
}
