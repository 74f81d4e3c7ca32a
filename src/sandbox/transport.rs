//! The full transport over TCP: packets with a length, a counter and a checksum.

use std::{io, sync::Arc};

use grammers_crypto::DequeBuffer;
use grammers_mtproto::transport::{self, Full, Transport as _};
use tokio::net::TcpStream;

/// The largest packet taken, as on Telegram's side, with room for the envelope.
const PACKET_LIMIT: i32 = (1 << 20) + (64 << 10);

/// How much room a read finds at least.
const READ_SIZE: usize = 4 << 10;

/// Why a connection can no longer be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("a packet of {0} bytes")]
    TooLarge(i32),
    #[error("not a packet of the full transport")]
    Packet(#[source] transport::Error),
}

/// The reading half.
pub(super) struct PacketReader {
    stream: Arc<TcpStream>,
    transport: Full,
    buffer: Vec<u8>,
}

impl PacketReader {
    pub fn new(stream: Arc<TcpStream>) -> Self {
        Self {
            stream,
            transport: Full::new(),
            buffer: Vec::new(),
        }
    }

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
        if let Some(length) = self.buffer.first_chunk().copied().map(i32::from_le_bytes)
            && length > PACKET_LIMIT
        {
            return Err(TransportError::TooLarge(length));
        }
        match self.transport.unpack(&mut self.buffer) {
            Ok(found) => {
                let packet = self.buffer[found.data_range].to_vec();
                self.buffer.drain(..found.next_offset);
                Ok(Some(packet))
            }
            Err(transport::Error::MissingBytes) => Ok(None),
            Err(error) => Err(TransportError::Packet(error)),
        }
    }

    /// Throws away what was taken in.
    pub fn discard(&mut self) {
        self.buffer.clear();
    }
}

/// The writing half.
pub(super) struct PacketWriter {
    stream: Arc<TcpStream>,
    transport: Full,
}

impl PacketWriter {
    pub fn new(stream: Arc<TcpStream>) -> Self {
        Self {
            stream,
            transport: Full::new(),
        }
    }

    /// Sends one packet. Its length must be a multiple of four, as every `MTProto` packet's is.
    pub async fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        let mut buffer = DequeBuffer::with_capacity(packet.len() + 8, 8);
        buffer.extend(packet);
        self.transport.pack(&mut buffer);
        self.write(buffer.as_ref()).await
    }

    /// Sends a transport error such as 404: its negative code, outside any packet. Three times, as Telegram does on
    /// this transport: some clients read a length, a counter and a body before they look.
    pub async fn send_status(&mut self, code: i32) -> io::Result<()> {
        self.write(&(-code).to_le_bytes().repeat(3)).await
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
