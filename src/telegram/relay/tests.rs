use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{super::trust::Moment, *};

const LONG: Duration = Duration::from_mins(1);
const BOUND: Duration = Duration::from_secs(10);

struct Server {
    listener: TcpListener,
}

impl Server {
    async fn start() -> (Self, SocketAddrV4) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port());
        (Self { listener }, address)
    }

    async fn accept(&self) -> TcpStream {
        timeout(BOUND, self.listener.accept()).await.unwrap().unwrap().0
    }
}

fn trust() -> Arc<Trust> {
    Arc::new(Trust::new(Moment::now(), LONG))
}

async fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    timeout(BOUND, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    bytes
}

async fn reads_end(stream: &mut TcpStream) -> bool {
    let mut bytes = Vec::new();
    timeout(BOUND, stream.read_to_end(&mut bytes))
        .await
        .unwrap()
        .is_ok_and(|_| bytes.is_empty())
}

#[tokio::test]
async fn bytes_go_both_ways() {
    let (server, target) = Server::start().await;
    let relay = Relay::open(target, None, trust(), LONG).unwrap();
    let mut local = TcpStream::connect(relay.entrance()).await.unwrap();
    let mut remote = server.accept().await;
    local.write_all(b"ping").await.unwrap();
    assert_eq!(read(&mut remote, 4).await, b"ping");
    remote.write_all(b"pong").await.unwrap();
    assert_eq!(read(&mut local, 4).await, b"pong");
}

#[tokio::test]
async fn nothing_is_sent_once_trust_has_ended() {
    let (server, target) = Server::start().await;
    let trust = trust();
    let relay = Relay::open(target, None, trust.clone(), LONG).unwrap();
    let mut local = TcpStream::connect(relay.entrance()).await.unwrap();
    let mut remote = server.accept().await;
    // As after a pause past the lease: both are there before any task has run.
    local.write_all(b"late").await.unwrap();
    trust.end();
    assert!(reads_end(&mut remote).await, "bytes arrived after trust had ended");
    timeout(BOUND, relay.tasks.wait()).await.unwrap();
}

#[tokio::test]
async fn close_returns_when_the_socket_is_closed() {
    let (server, target) = Server::start().await;
    let relay = Relay::open(target, None, trust(), LONG).unwrap();
    let mut local = TcpStream::connect(relay.entrance()).await.unwrap();
    let mut remote = server.accept().await;
    let told = tokio::spawn(async move { reads_end(&mut remote).await });
    timeout(BOUND, relay.close()).await.unwrap();
    assert!(told.await.unwrap());
    assert!(reads_end(&mut local).await);
    assert!(
        TcpStream::connect(relay.entrance()).await.is_err(),
        "the entrance is gone"
    );
}

#[tokio::test]
async fn a_second_connection_waits_until_the_first_is_closed() {
    let (server, target) = Server::start().await;
    let relay = Relay::open(target, None, trust(), LONG).unwrap();
    let _first = TcpStream::connect(relay.entrance()).await.unwrap();
    let mut first_remote = server.accept().await;
    let _second = TcpStream::connect(relay.entrance()).await.unwrap();
    assert!(reads_end(&mut first_remote).await);
    drop(first_remote);
    let _second_remote = server.accept().await;
}

#[tokio::test]
async fn a_cut_ends_the_present_connection_alone() {
    let (server, target) = Server::start().await;
    let relay = Relay::open(target, None, trust(), LONG).unwrap();
    let mut local = TcpStream::connect(relay.entrance()).await.unwrap();
    let remote = server.accept().await;
    relay.cut();
    drop(remote);
    assert!(reads_end(&mut local).await);
    let _again = TcpStream::connect(relay.entrance()).await.unwrap();
    server.accept().await;
}

#[tokio::test]
async fn a_silent_server_is_hung_up_on() {
    let (server, target) = Server::start().await;
    let relay = Relay::open(target, None, trust(), Duration::from_millis(50)).unwrap();
    let mut local = TcpStream::connect(relay.entrance()).await.unwrap();
    let mut remote = server.accept().await;
    local.write_all(b"anyone").await.unwrap();
    assert_eq!(read(&mut remote, 6).await, b"anyone");
    // It reads and never answers: a half-open connection looks the same.
    assert!(reads_end(&mut local).await);
}

/// A server with as many connections as it takes: every other one hangs.
async fn crowded() -> (SocketAddrV4, TcpListener, Vec<TcpStream>) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port());
    let mut inside = Vec::new();
    while let Ok(Ok(stream)) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        inside.push(stream);
        assert!(inside.len() < 100, "it takes everybody");
    }
    (address, listener, inside)
}

#[tokio::test]
async fn what_was_handed_in_and_has_not_left_when_it_is_settled_never_leaves() {
    let (target, _listener, _inside) = crowded().await;
    let relay = Relay::open(target, None, trust(), LONG).unwrap();
    let mut dialling = TcpStream::connect(relay.entrance()).await.unwrap();
    dialling.write_all(b"one").await.unwrap();
    let mut waiting = TcpStream::connect(relay.entrance()).await.unwrap();
    waiting.write_all(b"two").await.unwrap();
    assert_eq!(timeout(BOUND, relay.settled()).await.unwrap(), Some(0));

    let (server, target) = Server::start().await;
    relay.set_target(target);
    let mut local = TcpStream::connect(relay.entrance()).await.unwrap();
    local.write_all(b"ping").await.unwrap();
    let mut remote = server.accept().await;
    assert_eq!(read(&mut remote, 4).await, b"ping", "nothing of before");
    assert_eq!(timeout(BOUND, relay.settled()).await.unwrap(), Some(4));
    assert!(reads_end(&mut local).await, "it hangs up");
    timeout(BOUND, relay.close()).await.unwrap();
    let after = timeout(BOUND, relay.settled()).await.unwrap();
    assert_eq!(after, Some(4), "also when it is over");
}
