//! The sending side of a connection: numbers messages, puts waiting ones together, encrypts.

use std::{
    io,
    sync::atomic::{AtomicI64, Ordering},
};

use grammers_tl_types::Serializable as _;
use tokio::sync::mpsc;

use super::{
    clock,
    connections::{Connection, MessageKind, Outgoing, OutgoingMessage},
    encryption,
    envelope::{self, Message},
    transport::PacketWriter,
};

/// The most messages in one container, and the most bytes.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 256 << 10;

/// Sends what is queued, in its order, until the connection ends or breaks.
pub(super) async fn write(mut packets: PacketWriter, connection: &Connection, mut queue: mpsc::Receiver<Outgoing>) {
    let mut numbering = Numbering::default();
    let mut waiting = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut waiting, BATCH).await > 0 {
        match send_all(&mut packets, connection, &mut numbering, &mut waiting).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::debug!(connection = connection.id, %error, "could not write");
                return;
            }
        }
    }
}

/// Sends all of `waiting`. Whether the connection goes on.
async fn send_all(
    packets: &mut PacketWriter,
    connection: &Connection,
    numbering: &mut Numbering,
    waiting: &mut Vec<Outgoing>,
) -> io::Result<bool> {
    let mut batch = Batch::default();
    for outgoing in waiting.drain(..) {
        if connection.is_silent() {
            return Ok(true);
        }
        match outgoing {
            Outgoing::Message(message) => {
                if !batch.has_room_for(&message) {
                    batch.send(packets, numbering).await?;
                }
                batch.0.push(message);
            }
            Outgoing::Plain(body) => {
                batch.send(packets, numbering).await?;
                packets.send(&plain_packet(&body)).await?;
            }
            Outgoing::Status(code) => {
                batch.send(packets, numbering).await?;
                packets.send_status(code).await?;
                return Ok(false);
            }
        }
    }
    batch.send(packets, numbering).await?;
    Ok(true)
}

/// Messages for the same session that go in one packet.
#[derive(Default)]
struct Batch(Vec<OutgoingMessage>);

impl Batch {
    fn has_room_for(&self, next: &OutgoingMessage) -> bool {
        let bytes: usize = self.0.iter().map(|message| message.body.len()).sum();
        self.0.first().is_none_or(|first| {
            first.to.session_id == next.to.session_id
                && first.to.key_id == next.to.key_id
                && bytes + next.body.len() <= BATCH_BYTES
        })
    }

    async fn send(&mut self, packets: &mut PacketWriter, numbering: &mut Numbering) -> io::Result<()> {
        let Some(first) = self.0.first() else { return Ok(()) };
        let to = std::sync::Arc::clone(&first.to);
        let mut messages: Vec<_> = self
            .0
            .drain(..)
            .map(|message| numbering.number(message.kind, message.body))
            .collect();
        let message = if messages.len() == 1 {
            messages.remove(0)
        } else {
            numbering.number(MessageKind::Service, envelope::container(&messages))
        };
        let salt = to.known.salts.current(clock::unix_seconds());
        packets
            .send(&encryption::seal(&to.known.key, salt, to.session_id, &message))
            .await
    }
}

/// Gives messages their ids and sequence numbers.
#[derive(Default)]
struct Numbering {
    content_related: i32,
}

impl Numbering {
    fn number(&mut self, kind: MessageKind, body: Vec<u8>) -> Message {
        let seq_no = match kind {
            MessageKind::Service => 2 * self.content_related,
            MessageKind::Result | MessageKind::Notice => {
                self.content_related = self.content_related.wrapping_add(1) & (i32::MAX >> 1);
                2 * self.content_related - 1
            }
        };
        Message {
            msg_id: new_message_id(kind != MessageKind::Notice),
            seq_no,
            body,
        }
    }
}

/// A message id that follows the clock, grows, and tells answers (1 modulo 4) from notices (3 modulo 4).
fn new_message_id(is_answer: bool) -> i64 {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = clock::unix_time();
    let by_clock = i64::from(clock::unix_seconds()) << 32 | i64::from(now.subsec_nanos()) << 2;
    let step = |last: i64| by_clock.max(last + 4);
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(step(last)));
    let base = last.map_or(by_clock, step) & !3;
    base + if is_answer { 1 } else { 3 }
}

fn plain_packet(body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 8];
    new_message_id(true).serialize(&mut packet);
    i32::try_from(body.len())
        .expect("messages of an exchange are short")
        .serialize(&mut packet);
    packet.extend(body);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids_grow_and_carry_their_kind() {
        let mut last = 0;
        for number in 0..1_000 {
            let is_answer = number % 2 == 0;
            let id = new_message_id(is_answer);
            assert!(id > last && id % 4 == if is_answer { 1 } else { 3 });
            last = id;
        }
    }

    #[test]
    fn only_content_related_messages_are_counted() {
        let mut numbering = Numbering::default();
        let mut next = |kind| numbering.number(kind, Vec::new()).seq_no;
        assert_eq!(next(MessageKind::Service), 0);
        assert_eq!(next(MessageKind::Result), 1);
        assert_eq!(next(MessageKind::Service), 2);
        assert_eq!(next(MessageKind::Notice), 3);
    }
}
