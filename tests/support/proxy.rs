//! A TCP proxy on the loopback address that fails on demand: between a worker and Postgres, or a client and the sandbox.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::Url;

/// What happens to bytes and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Bytes pass after so long; each chunk waits for the one before it.
    Pass(Duration),
    /// Connections stay open, and new ones are accepted, but nothing passes, not even the end of one: a half-open
    /// connection.
    Blackhole,
    /// Connections are closed, new ones as soon as they are accepted.
    Cut,
}

#[derive(Debug, Clone, Copy)]
struct State {
    mode: Mode,
    /// Raised when all connections that are open must go.
    era: u64,
}

/// Forwards connections from an address of its own to a target. It ends, with its connections, when it is dropped.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    open: Arc<AtomicUsize>,
    acceptor: JoinHandle<()>,
}

impl TcpProxy {
    /// A proxy before `target`, which need not listen yet.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (state, seen) = watch::channel(State {
            mode: Mode::Pass(Duration::ZERO),
            era: 0,
        });
        let open = Arc::new(AtomicUsize::new(0));
        let acceptor = tokio::spawn(accept(listener, target, seen, Arc::clone(&open)));
        Self {
            address,
            state,
            open,
            acceptor,
        }
    }

    /// A proxy before the server that `url` names by a loopback address and a port.
    pub async fn to_url(url: &str) -> Self {
        let url = Url::parse(url).expect("a URL");
        let host = url.host_str().and_then(|host| host.parse().ok()).expect("an address");
        Self::to(SocketAddr::new(host, url.port().expect("a port"))).await
    }

    /// Ends it; returns when everything is closed, and whoever connects is refused.
    pub async fn end(self) {
        let open = Arc::clone(&self.open);
        drop(self);
        while open.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `url` with this proxy in place of the server.
    pub fn rewrite(&self, url: &str) -> String {
        let mut url = Url::parse(url).expect("a URL");
        url.set_ip_host(self.address.ip()).expect("the URL has a host");
        url.set_port(Some(self.address.port())).expect("the URL has a port");
        url.into()
    }

    /// How many connections are open through it.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Closes what is open, and every new connection at once, until [`resume`](Self::resume).
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            *state = State {
                mode: Mode::Cut,
                era: state.era + 1,
            }
        });
    }

    /// Closes what is open, once. New connections pass.
    pub fn disconnect(&self) {
        self.state.send_modify(|state| state.era += 1);
    }

    /// Keeps everything open and forwards nothing, until [`resume`](Self::resume) sends what has come in meanwhile.
    pub fn blackhole(&self) {
        self.state.send_modify(|state| state.mode = Mode::Blackhole);
    }

    /// Lets every chunk wait for `delay` on its way, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.mode = Mode::Pass(delay));
    }

    /// Forwards again.
    pub fn resume(&self) {
        self.delay(Duration::ZERO);
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        // The connections end with the state that they watch.
        self.acceptor.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, state: watch::Receiver<State>, open: Arc<AtomicUsize>) {
    while let Ok((client, _)) = listener.accept().await {
        let now = *state.borrow();
        if now.mode == Mode::Cut {
            continue;
        }
        let (state, open) = (state.clone(), Arc::clone(&open));
        tokio::spawn(async move {
            open.fetch_add(1, Ordering::SeqCst);
            let mut ended = state.clone();
            tokio::select! {
                // An error: the proxy is gone.
                _ = ended.wait_for(|later| later.era != now.era) => {}
                () = connect(client, target, state) => {}
            }
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn connect(client: TcpStream, target: SocketAddr, state: watch::Receiver<State>) {
    // A target that is down closes the client, as the kernel would.
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("an open socket");
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(
        pump(from_client, to_server, state.clone()),
        pump(from_server, to_client, state)
    );
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        let Ok(passing) = state
            .wait_for(|state| state.mode != Mode::Blackhole)
            .await
            .map(|state| state.mode)
        else {
            return;
        };
        if let Mode::Pass(delay) = passing
            && !delay.is_zero()
        {
            tokio::time::sleep(delay).await;
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            // The other side learns of the end; a side that is gone already does not need to.
            let _ = to.shutdown().await;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::support::wait::{INTERVAL, eventually};

    const BOUND: Duration = Duration::from_secs(10);

    /// A server that sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    /// Sends one byte and reads the answer; `None` when the connection ended.
    async fn ping(stream: &mut TcpStream, byte: u8) -> Option<u8> {
        stream.write_all(&[byte]).await.ok()?;
        stream.read_u8().await.ok()
    }

    async fn client(proxy: &TcpProxy) -> TcpStream {
        let mut stream = TcpStream::connect(proxy.address()).await.expect("it listens");
        assert_eq!(timeout(BOUND, ping(&mut stream, 1)).await.expect("in time"), Some(1));
        stream
    }

    #[tokio::test]
    async fn a_cut_closes_what_is_open_and_what_comes() {
        let proxy = TcpProxy::to(echo().await).await;
        let mut before = client(&proxy).await;
        assert_eq!(proxy.connections(), 1);
        proxy.cut();
        assert_eq!(
            timeout(BOUND, ping(&mut before, 2)).await.expect("closed in time"),
            None
        );
        let mut during = TcpStream::connect(proxy.address()).await.expect("it listens");
        assert_eq!(
            timeout(BOUND, ping(&mut during, 3)).await.expect("closed in time"),
            None
        );
        proxy.resume();
        client(&proxy).await;
    }

    #[tokio::test]
    async fn a_disconnect_closes_what_is_open_alone() {
        let proxy = TcpProxy::to(echo().await).await;
        let mut before = client(&proxy).await;
        proxy.disconnect();
        assert_eq!(
            timeout(BOUND, ping(&mut before, 2)).await.expect("closed in time"),
            None
        );
        let after = client(&proxy).await;
        eventually(BOUND, || async {
            if proxy.connections() == 1 {
                Ok(())
            } else {
                Err(proxy.connections())
            }
        })
        .await;
        drop(after);
        eventually(BOUND, || async {
            if proxy.connections() == 0 {
                Ok(())
            } else {
                Err(proxy.connections())
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_blackhole_keeps_connections_open_and_loses_nothing() {
        let proxy = TcpProxy::to(echo().await).await;
        let mut stream = client(&proxy).await;
        proxy.blackhole();
        stream.write_all(&[7]).await.expect("the kernel takes it");
        timeout(INTERVAL * 5, stream.read_u8())
            .await
            .expect_err("nothing passes, and nothing ends");
        let mut late = timeout(BOUND, TcpStream::connect(proxy.address()))
            .await
            .expect("accepted")
            .expect("open");
        timeout(INTERVAL * 5, ping(&mut late, 8))
            .await
            .expect_err("nothing passes here either");
        proxy.resume();
        assert_eq!(
            timeout(BOUND, stream.read_u8()).await.expect("in time").expect("open"),
            7
        );
        assert_eq!(timeout(BOUND, late.read_u8()).await.expect("in time").expect("open"), 8);
    }

    #[tokio::test]
    async fn a_delay_counts_in_both_directions() {
        let proxy = TcpProxy::to(echo().await).await;
        let mut stream = client(&proxy).await;
        proxy.delay(Duration::from_millis(50));
        let begin = Instant::now();
        assert_eq!(ping(&mut stream, 9).await, Some(9));
        assert!(begin.elapsed() >= Duration::from_millis(100), "{:?}", begin.elapsed());
    }

    #[tokio::test]
    async fn a_proxy_that_is_dropped_closes_everything() {
        let proxy = TcpProxy::to(echo().await).await;
        let mut stream = client(&proxy).await;
        let address = proxy.address();
        drop(proxy);
        assert_eq!(
            timeout(BOUND, ping(&mut stream, 2)).await.expect("closed in time"),
            None
        );
        let refused = || async {
            match TcpStream::connect(address).await {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
                other => Err(other),
            }
        };
        eventually(BOUND, refused).await;
    }

    #[tokio::test]
    async fn a_url_keeps_all_but_its_server() {
        let proxy = TcpProxy::to_url("postgres://role:word@127.0.0.1:1/name").await;
        let expected = format!("postgres://role:word@{}/name?a=b", proxy.address());
        assert_eq!(proxy.rewrite("postgres://role:word@127.0.0.1:1/name?a=b"), expected);
    }
}
