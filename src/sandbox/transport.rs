//! Packets over TCP, in the framing that the client chose.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use grammers_mtproto::transport::Full;
use tokio::net::TcpStream;

use super::framing::{BadFrame, Framing};

/// How much room a read finds at least.
const READ_SIZE: usize = 4 << 10;

/// Why a connection can no longer be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] BadFrame),
}

/// The two halves of a connection.
pub(super) fn halves(stream: &Arc<TcpStream>) -> (PacketReader, PacketWriter) {
    let framing = Arc::default();
    let reader = PacketReader {
        stream: Arc::clone(stream),
        framing: Arc::clone(&framing),
        full: Full::new(),
        buffer: Vec::new(),
    };
    let writer = PacketWriter {
        stream: Arc::clone(stream),
        framing,
        full: Full::new(),
    };
    (reader, writer)
}

/// The reading half.
pub(super) struct PacketReader {
    stream: Arc<TcpStream>,
    framing: Arc<OnceLock<Framing>>,
    full: Full,
    buffer: Vec<u8>,
}

impl PacketReader {
    /// Waits for bytes and takes them in. `false` at the end of the stream. Cancel safe.
    pub async fn fill(&mut self) -> io::Result<bool> {
        loop {
            self.stream.readable().await?;
            self.buffer.reserve(READ_SIZE);
            match self.stream.try_read_buf(&mut self.buffer) {
                Ok(count) => return Ok(count > 0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next whole packet of what was taken in.
    pub fn next_packet(&mut self) -> Result<Option<Vec<u8>>, TransportError> {
        let framing = match self.framing.get() {
            Some(framing) => *framing,
            None => match Framing::detect(&mut self.buffer) {
                Some(framing) => *self.framing.get_or_init(|| framing),
                None => return Ok(None),
            },
        };
        Ok(framing.unpack(&mut self.full, &mut self.buffer)?)
    }

    /// Throws away what was taken in.
    pub fn discard(&mut self) {
        self.buffer.clear();
    }
}

/// The writing half.
pub(super) struct PacketWriter {
    stream: Arc<TcpStream>,
    framing: Arc<OnceLock<Framing>>,
    full: Full,
}

impl PacketWriter {
    /// Sends one packet. Its length must be a multiple of four, as every `MTProto` packet's is.
    pub async fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        let bytes = self.framing().pack(&mut self.full, packet);
        self.write(&bytes).await
    }

    /// Sends a transport error such as 404.
    pub async fn send_status(&mut self, code: i32) -> io::Result<()> {
        let bytes = self.framing().status(&mut self.full, code);
        self.write(&bytes).await
    }

    /// Nothing is sent before the client has spoken, and so has chosen.
    fn framing(&self) -> Framing {
        self.framing.get().copied().unwrap_or(Framing::Full)
    }

    async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
