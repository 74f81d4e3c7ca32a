//! A connection to the API that costs little: HTTP/1.1 with keep-alive, requests as ready-made bytes, one at a time. It
//! understands what the API answers and no more.

use std::{io, net::SocketAddr};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A header longer than this is not the API's.
const MOST_HEADER: usize = 64 * 1024;

/// An open connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer, as long as the connection is not used again.
pub struct Reply<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

impl Client {
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(16 * 1024),
        })
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(&mut self, request: &[u8]) -> anyhow::Result<Reply<'_>> {
        self.stream
            .write_all(request)
            .await
            .context("the API's connection broke")?;
        self.buffer.clear();
        let head_end = loop {
            if let Some(at) = head_end(&self.buffer) {
                break at;
            }
            if self.buffer.len() > MOST_HEADER {
                bail!("the API answered something that is not HTTP");
            }
            self.read_more().await?;
        };
        let (status, length) = parse_head(&self.buffer[..head_end])?;
        let end = head_end + length;
        while self.buffer.len() < end {
            self.read_more().await?;
        }
        Ok(Reply {
            status,
            body: &self.buffer[head_end..end],
        })
    }

    async fn read_more(&mut self) -> anyhow::Result<()> {
        let read = self.stream.read_buf(&mut self.buffer).await;
        if read.context("the API's connection broke")? == 0 {
            bail!("the API closed a connection in the middle of an answer");
        }
        Ok(())
    }
}

/// A request's bytes. The key belongs to the bench's own schema, and goes with it.
pub fn request(method: &str, target: &str, key: &str, body: Option<&str>) -> Vec<u8> {
    let head = format!("{method} {target} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n");
    match body {
        None => format!("{head}\r\n"),
        Some(body) => format!(
            "{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    }
    .into_bytes()
}

/// Where the body begins.
fn head_end(bytes: &[u8]) -> Option<usize> {
    let mark = b"\r\n\r\n";
    bytes
        .windows(mark.len())
        .position(|part| part == mark)
        .map(|at| at + mark.len())
}

/// The status, and how long the body is.
fn parse_head(head: &[u8]) -> anyhow::Result<(u16, usize)> {
    let head = std::str::from_utf8(head).context("the API answered something that is not HTTP")?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .context("the API answered without a status")?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .context("the API answered without Content-Length")?;
    Ok((status, length))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_head_says_status_and_length() {
        let head = b"HTTP/1.1 202 Accepted\r\nx: y\r\ncontent-LENGTH: 17\r\n\r\n";
        assert_eq!(parse_head(head).expect("HTTP"), (202, 17));
        assert_eq!(head_end(head), Some(head.len()));
        assert_eq!(head_end(&head[..head.len() - 1]), None);
        parse_head(b"HTTP/1.1 200 OK\r\n\r\n").expect_err("no length");
        parse_head(b"hello\r\n\r\n").expect_err("not HTTP");
    }

    #[tokio::test]
    async fn answers_come_whole_however_they_are_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            for parts in [
                ["HTTP/1.1 200 OK\r\ncontent-le", "ngth: 5\r\n\r\nhe", "llo"],
                ["HTTP/1.1 404 No\r\nContent-Length: 0\r\n", "\r", "\n"],
            ] {
                let mut request = [0; 1024];
                assert!(socket.read(&mut request).await.expect("a request") > 0);
                for part in parts {
                    socket.write_all(part.as_bytes()).await.expect("sent");
                    socket.flush().await.expect("sent");
                    tokio::task::yield_now().await;
                }
            }
        });
        let mut client = Client::connect(address).await.expect("connected");
        let asked = request("GET", "/x", "k", None);
        let reply = client.send(&asked).await.expect("an answer");
        assert_eq!((reply.status, reply.body), (200, &b"hello"[..]));
        assert_eq!(client.send(&asked).await.expect("an answer").status, 404);
        assert!(client.send(&asked).await.is_err(), "it is closed");
    }
}
