//! Requests from several connections at once: as fast as answers come (closed loop), or at a rate that does not care how
//! fast they come (open loop). In the open loop a latency begins when the request was due, not when it could be sent: a
//! stall of the API is felt by all requests that fall into it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use super::client::Client;
use crate::cli::bench::now_us;

/// An open loop that is this far behind will not catch up.
const TOO_LATE: i64 = 20_000_000;

/// Numbers of requests, and when they are due; at once, without a time.
type Due = (u64, Option<i64>);

/// Makes the n-th request's bytes.
pub type Requests = Arc<dyn Fn(u64) -> Vec<u8> + Send + Sync>;

/// What is sent, and what answer is a good one.
#[derive(Clone)]
pub struct Load {
    pub address: SocketAddr,
    pub connections: u32,
    pub requests: Requests,
    pub wanted: u16,
}

/// How it went.
#[derive(Debug, Default)]
pub struct Took {
    /// From the first request to the last answer, in microseconds.
    pub micros: i64,
    /// Of each request, in microseconds.
    pub latencies: Vec<i64>,
}

impl Load {
    /// Sends `count` requests, on each connection the next when the last is answered.
    pub async fn closed(&self, count: u64) -> anyhow::Result<Took> {
        let (sender, receiver) = mpsc::unbounded_channel();
        for nth in 0..count {
            sender.send((nth, None)).context("the requests have nowhere to go")?;
        }
        drop(sender);
        self.send_all(receiver).await
    }

    /// Sends `per_second` requests for `secs` seconds, the first with the number `from`.
    pub async fn open(&self, per_second: f64, secs: f64, from: u64) -> anyhow::Result<Took> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let pacer = std::thread::spawn(move || pace(&sender, per_second, secs, from));
        let took = self.send_all(receiver).await;
        if pacer.join().is_err() {
            bail!("the pacer panicked");
        }
        took
    }

    async fn send_all(&self, due: mpsc::UnboundedReceiver<Due>) -> anyhow::Result<Took> {
        let due = Arc::new(Mutex::new(due));
        let mut clients = Vec::new();
        for _ in 0..self.connections {
            clients.push(
                Client::connect(self.address)
                    .await
                    .context("the API takes no connection")?,
            );
        }
        let begun = now_us();
        let mut senders = JoinSet::new();
        for client in clients {
            senders.spawn(send_due(client, self.clone(), Arc::clone(&due)));
        }
        let mut latencies = Vec::new();
        while let Some(ended) = senders.join_next().await {
            latencies.extend(ended.context("a client panicked")??);
        }
        Ok(Took {
            micros: now_us() - begun,
            latencies,
        })
    }
}

/// One connection: takes the next request that is due until there is none.
async fn send_due(
    mut client: Client,
    load: Load,
    due: Arc<Mutex<mpsc::UnboundedReceiver<Due>>>,
) -> anyhow::Result<Vec<i64>> {
    let mut latencies = Vec::new();
    loop {
        let next = due.lock().await.recv().await;
        let Some((nth, due_at)) = next else {
            return Ok(latencies);
        };
        let request = (load.requests)(nth);
        let begun = due_at.unwrap_or_else(now_us);
        let reply = client.send(&request).await?;
        if reply.status != load.wanted {
            bail!(
                "the API answered {} instead of {}: {}",
                reply.status,
                load.wanted,
                String::from_utf8_lossy(reply.body)
            );
        }
        let latency = now_us() - begun;
        if latency > TOO_LATE {
            bail!("the API is {} s behind the rate asked for", latency / 1_000_000);
        }
        latencies.push(latency);
    }
}

/// Says when requests are due. On a thread of its own: the runtime's timers are a millisecond coarse.
#[expect(clippy::disallowed_methods, reason = "this thread is not the runtime's")]
fn pace(due: &mpsc::UnboundedSender<Due>, per_second: f64, secs: f64, from: u64) {
    let begun = now_us();
    let end = begun + micros(secs);
    for nth in 0_u32.. {
        let at = begun + micros(f64::from(nth) / per_second);
        if at >= end {
            return;
        }
        if let Ok(ahead) = u64::try_from(at - now_us()) {
            std::thread::sleep(Duration::from_micros(ahead));
        }
        if due.send((from + u64::from(nth), Some(at))).is_err() {
            return;
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a run's microseconds are far below 2^52")]
fn micros(secs: f64) -> i64 {
    (secs * 1e6) as i64
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A server that answers each request after `pause`, with `status`.
    async fn server(pause: Duration, status: u16) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    while socket.read(&mut request).await.is_ok_and(|read| read > 0) {
                        tokio::time::sleep(pause).await;
                        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
                        if socket.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    fn load(address: SocketAddr, connections: u32) -> Load {
        Load {
            address,
            connections,
            requests: Arc::new(|_| b"GET / HTTP/1.1\r\n\r\n".to_vec()),
            wanted: 200,
        }
    }

    #[tokio::test]
    async fn a_closed_loop_sends_each_request_once() {
        let address = server(Duration::ZERO, 200).await;
        let took = load(address, 3).closed(50).await.expect("answered");
        assert_eq!(took.latencies.len(), 50);
    }

    #[tokio::test]
    async fn a_stall_is_felt_by_all_that_were_due_meanwhile() {
        // One connection, 20 ms an answer, a request due each 10 ms: the tenth waits for nine before it.
        let address = server(Duration::from_millis(20), 200).await;
        let took = load(address, 1).open(100.0, 0.1, 0).await.expect("answered");
        assert_eq!(took.latencies.len(), 10);
        let worst = took.latencies.iter().max().expect("ten");
        assert!(*worst >= 100_000, "{:?}", took.latencies);
    }

    #[tokio::test]
    async fn another_answer_than_the_one_wanted_fails_the_run() {
        let address = server(Duration::ZERO, 500).await;
        let error = load(address, 1).closed(1).await.expect_err("it answers 500");
        assert!(error.to_string().contains("500 instead of 200"), "{error}");
    }
}
