//! One connection of a client, from the first byte to the last.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{
    auth_keys::{KeyId, Seen},
    call::{Answer, Caller},
    clock,
    connections::{Connection, MessageKind, Outgoing, OutgoingMessage, Recipient},
    dispatcher::{self, Request},
    encryption,
    envelope::{self, Malformed, Message, Query},
    faults::{Ending, Plan, Start},
    handshake::{BadExchange, Exchange, Progress},
    random,
    server::Server,
    service_messages::{self, Handled},
    transport::{self, PacketReader, TransportError},
    writer,
};

/// The transport error for a key the server does not know.
const KEY_NOT_FOUND: i32 = 404;
/// An answer that begins with what no layer knows.
const NO_CONSTRUCTOR: [u8; 8] = [0xff; 8];
/// How long the last words to a client may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Key id, message id and length of an unencrypted packet.
const PLAIN_HEADER: usize = 8 + 8 + 4;

/// Serves a connection until either side ends it. A malformed packet ends it too, and nothing else.
pub(super) async fn serve(server: Arc<Server>, dc: i32, stream: TcpStream) {
    // Only latency suffers without it.
    let _ = stream.set_nodelay(true);
    let socket = Arc::new(stream);
    let (packets, outgoing_packets) = transport::halves(&socket);
    let (connection, queue) = server.connections.open(dc, socket.peer_addr().ok(), &server.stop);
    let _closing = Closing {
        server: &server,
        connection: &connection,
    };
    let mut writing = pin!(writer::write(outgoing_packets, &connection, queue));
    let mut reader = Reader {
        server: Arc::clone(&server),
        connection: Arc::clone(&connection),
        packets,
        socket: Arc::clone(&socket),
        exchange: Exchange::default(),
        key: None,
        disconnect_at: None,
    };
    tokio::select! {
        () = connection.ended() => {}
        () = &mut writing => {}
        end = reader.run() => {
            tracing::debug!(connection = connection.id, reason = %end, "connection ends");
            if let End::UnknownKey = end {
                connection.send(Outgoing::Status(KEY_NOT_FOUND)).await;
                // Closing with bytes unread would reset the connection, and the client might never read the error.
                let _ = timeout(FAREWELL, async { tokio::join!(writing, reader.discard_all()) }).await;
            }
        }
    }
}

/// Takes a connection off the books, also when serving it panicked. Before the socket is closed, so that a client that
/// sees it closed can come back at once.
struct Closing<'a> {
    server: &'a Server,
    connection: &'a Connection,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.connection.end();
        self.server.connections.remove(self.connection.id);
        self.server.watch.closed(self.connection.id);
    }
}

/// Why reading a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the client closed it")]
    Closed,
    #[error("the client did not ping in time")]
    NoPing,
    #[error("the server closed it")]
    Ended,
    #[error("the key is not known")]
    UnknownKey,
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Exchange(#[from] BadExchange),
}

struct Reader {
    server: Arc<Server>,
    connection: Arc<Connection>,
    packets: PacketReader,
    socket: Arc<TcpStream>,
    exchange: Exchange,
    key: Option<KeyId>,
    disconnect_at: Option<Instant>,
}

impl Reader {
    async fn run(&mut self) -> End {
        loop {
            if let Err(end) = self.read_once().await {
                return end;
            }
        }
    }

    /// Reads to the end of the stream, heeding nothing.
    async fn discard_all(&mut self) {
        self.packets.discard();
        while let Ok(true) = self.packets.fill().await {
            self.packets.discard();
        }
    }

    async fn read_once(&mut self) -> Result<(), End> {
        let disconnect_at = self.disconnect_at;
        let no_ping = async {
            match disconnect_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            filled = self.packets.fill() => if !filled.map_err(TransportError::Io)? { return Err(End::Closed) },
            () = no_ping => return Err(End::NoPing),
        }
        if let Some(key) = self.key {
            self.note_bytes(key);
        }
        // A silent connection is still read: bytes that a key sends on it count, and its end must be seen.
        if self.connection.is_silent() {
            self.packets.discard();
            return Ok(());
        }
        while let Some(packet) = self.packets.next_packet()? {
            self.packet(&packet).await?;
            if self.connection.is_ending() {
                return Err(End::Ended);
            }
            if self.connection.is_silent() {
                break;
            }
        }
        Ok(())
    }

    fn note_bytes(&self, key: KeyId) {
        let account = self.server.keys.account(key);
        self.server
            .watch
            .bytes_came(self.connection.id, key, account, &self.socket);
    }

    async fn packet(&mut self, packet: &[u8]) -> Result<(), End> {
        let key_id = encryption::key_id_of(packet).ok_or(Malformed("short packet"))?;
        if key_id == [0; 8] {
            return self.plain_packet(packet).await;
        }
        let known = self
            .server
            .keys
            .find(key_id, self.connection.dc)
            .ok_or(End::UnknownKey)?;
        if self.key != Some(key_id) {
            self.key = Some(key_id);
            self.note_bytes(key_id);
        }
        let inbound = encryption::open(packet, &known.key)?;
        let from = Arc::new(Recipient {
            key_id,
            known,
            session_id: inbound.session_id,
        });
        if let Some(code) = service_messages::fault_of_id(inbound.message.msg_id) {
            let body = service_messages::bad_message(&inbound.message, code);
            self.send(&from, MessageKind::Service, body).await;
            return Ok(());
        }
        let now = clock::unix_seconds();
        let salts = from.known.salts;
        if !salts.is_valid(inbound.salt, now) {
            let body = service_messages::bad_salt(&inbound.message, salts.current(now));
            self.send(&from, MessageKind::Service, body).await;
            return Ok(());
        }
        let messages = envelope::unpack(inbound.message)?;
        self.connection.set_recipient(&from);
        if self.server.keys.open_session(key_id, from.session_id) {
            let first = messages.first().map_or(0, |message| message.msg_id);
            let body = service_messages::new_session(first, random::number(), salts.current(now));
            self.send(&from, MessageKind::Notice, body).await;
        }
        for message in messages {
            self.message(&from, message).await?;
            if self.connection.is_ending() || self.connection.is_silent() {
                break;
            }
        }
        Ok(())
    }

    async fn plain_packet(&mut self, packet: &[u8]) -> Result<(), End> {
        let length = packet
            .get(16..PLAIN_HEADER)
            .and_then(|bytes| bytes.first_chunk().copied());
        let length = length
            .map(i32::from_le_bytes)
            .and_then(|length| usize::try_from(length).ok());
        let body = length.and_then(|length| packet[PLAIN_HEADER..].get(..length));
        let body = body.ok_or(Malformed("length of an unencrypted message"))?;
        match self.exchange.handle(body, &self.server.rsa_key)? {
            Progress::Nothing => {}
            Progress::Reply(reply) => self.connection.send(Outgoing::Plain(reply)).await,
            Progress::Done {
                reply,
                auth_key,
                first_salt,
            } => {
                self.server.keys.add(*auth_key, first_salt, self.connection.dc);
                self.connection.send(Outgoing::Plain(reply)).await;
            }
        }
        Ok(())
    }

    async fn message(&mut self, from: &Arc<Recipient>, message: Message) -> Result<(), End> {
        match self.server.keys.receive(from.key_id, from.session_id, message.msg_id) {
            Seen::New => {}
            Seen::Before => {
                if message.is_content_related() {
                    self.acknowledge(from, &message).await;
                }
                return Ok(());
            }
            Seen::Unknown => {
                let body = service_messages::bad_message(&message, service_messages::ID_TOO_OLD);
                self.send(from, MessageKind::Service, body).await;
                return Ok(());
            }
        }
        match service_messages::handle(&self.server.keys, from, &message)? {
            Handled::Not => self.call(from, &message).await?,
            Handled::Silently => {}
            Handled::Reply(kind, body) => self.send(from, kind, body).await,
            Handled::ReplyAndStay(body, delay) => {
                self.disconnect_at = Some(Instant::now() + delay);
                self.send(from, MessageKind::Service, body).await;
            }
        }
        Ok(())
    }

    async fn call(&mut self, from: &Arc<Recipient>, message: &Message) -> Result<(), End> {
        let query = Query::unwrap(&message.body)?;
        let layer = self.server.keys.layer(from.key_id, query.layer);
        if let Some(api_id) = query.api_id {
            self.server.keys.named_application(from.key_id, api_id);
        }
        let account = self.server.keys.account(from.key_id);
        let caller = Caller {
            key_id: from.key_id,
            account,
            dc: self.connection.dc,
            layer: layer.unwrap_or(dispatcher::NEWEST_LAYER),
        };
        let Some(request) = Request::new(caller, query.body) else {
            return Err(Malformed("a call without a constructor").into());
        };
        if query.wants_updates {
            self.connection.set_wants_updates();
        }
        let plan = dispatcher::plan(&self.server, &request);
        let call = CallInProgress {
            server: Arc::clone(&self.server),
            connection: Arc::clone(&self.connection),
            from: Arc::clone(from),
            msg_id: message.msg_id,
            request,
        };
        if plan.start == Start::AtOnce {
            call.finish(plan).await;
        } else {
            self.acknowledge(from, message).await;
            self.server.tasks.spawn(async move { call.finish_later(plan).await });
        }
        Ok(())
    }

    async fn acknowledge(&self, from: &Arc<Recipient>, message: &Message) {
        self.send(
            from,
            MessageKind::Service,
            service_messages::acknowledgement(message.msg_id),
        )
        .await;
    }

    async fn send(&self, to: &Arc<Recipient>, kind: MessageKind, body: Vec<u8>) {
        self.connection
            .send(Outgoing::Message(OutgoingMessage {
                to: Arc::clone(to),
                kind,
                body,
            }))
            .await;
    }
}

/// A call that is to be run and answered.
struct CallInProgress {
    server: Arc<Server>,
    connection: Arc<Connection>,
    from: Arc<Recipient>,
    msg_id: i64,
    request: Request,
}

impl CallInProgress {
    async fn finish_later(self, plan: Plan) {
        let started = async {
            match plan.start {
                Start::AtOnce => {}
                Start::After(delay) => tokio::time::sleep(delay).await,
                Start::Removed(fault) => self.server.faults.removed(fault).await,
            }
        };
        tokio::select! {
            // Whoever has hung up is not served, even if the fault is removed in the same moment.
            biased;
            () = self.connection.ended() => {}
            () = started => self.finish(plan).await,
        }
    }

    /// Runs the call as the plan says. The answer is queued before anything else can happen in the world, so that it
    /// comes before the updates of later calls.
    async fn finish(self, plan: Plan) {
        let Some(room) = self.connection.reserve().await else {
            return;
        };
        let answer = |answer: Answer<Vec<u8>>| {
            let result = answer.unwrap_or_else(|error| dispatcher::error_bytes(&error));
            let body = envelope::rpc_result(self.msg_id, &result);
            let message = OutgoingMessage {
                to: Arc::clone(&self.from),
                kind: MessageKind::Result,
                body,
            };
            room.send(Outgoing::Message(message));
        };
        let end = |result: Answer<Vec<u8>>| match plan.ending {
            Ending::Answer => answer(result),
            Ending::Error(error) => answer(Err(error)),
            Ending::Unreadable => answer(Ok(NO_CONSTRUCTOR.to_vec())),
            Ending::Silence => {}
            Ending::Drop => self.connection.end(),
            Ending::Blackhole => self.connection.fall_silent(),
        };
        if plan.run {
            dispatcher::run(&self.server, &self.request, end);
        } else {
            end(Ok(Vec::new()));
        }
    }
}
