//! A connection to the gateway on which anything may be sent, even what no HTTP library would send.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::{Answer, Post};

/// A TCP connection, and the bytes received on it that were not read as an answer yet.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Raw {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(gateway: SocketAddr) -> anyhow::Result<Self> {
        let stream = timeout(Duration::from_secs(5), TcpStream::connect(gateway)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// The bytes of an upload as HTTP/1.1, the body in chunks of `chunk` bytes, or whole.
    #[must_use]
    pub fn request(post: &Post, secret: &str, chunk: Option<usize>) -> Vec<u8> {
        let mut head = format!("POST {} HTTP/1.1\r\nHost: milepost\r\nX-API-Key: {secret}\r\n", post.path);
        for (name, value) in &post.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let Some(size) = chunk else {
            head += &format!("Content-Length: {}\r\n\r\n", post.body.len());
            return [head.as_bytes(), &post.body].concat();
        };
        let mut bytes = (head + "Transfer-Encoding: chunked\r\n\r\n").into_bytes();
        for chunk in post.body.chunks(size) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(timeout(Duration::from_secs(10), self.stream.write_all(bytes)).await??)
    }

    /// Reads the next answer, whose length must be given.
    ///
    /// # Errors
    /// There is none within `deadline`, or the connection is closed.
    pub async fn answer(&mut self, deadline: Duration) -> anyhow::Result<Answer> {
        timeout(deadline, async {
            loop {
                if let Some(answer) = self.parse()? {
                    return Ok(answer);
                }
                let read = self.stream.read_buf(&mut self.received).await?;
                ensure!(read > 0, "the connection was closed");
            }
        })
        .await
        .with_context(|| format!("no answer within {deadline:?}"))?
    }

    fn parse(&mut self) -> anyhow::Result<Option<Answer>> {
        let Some(end) = self.received.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = std::str::from_utf8(&self.received[..end])?;
        let mut lines = head.split("\r\n");
        let status =
            lines.next().and_then(|line| line.split(' ').nth(1)).context("no status line")?.parse()?;
        let mut headers = HeaderMap::new();
        for line in lines {
            let Some((name, value)) = line.split_once(':') else { bail!("no header: {line}") };
            headers.append(name.parse::<HeaderName>()?, HeaderValue::from_str(value.trim())?);
        }
        let length: usize = headers.get("content-length").context("no length")?.to_str()?.parse()?;
        if self.received.len() < end + 4 + length {
            return Ok(None);
        }
        let body = self.received[end + 4..end + 4 + length].to_vec();
        self.received.drain(..end + 4 + length);
        Ok(Some(Answer { status, headers, body }))
    }

    /// Waits until the other side closes, whatever it sends before that.
    ///
    /// # Errors
    /// It has not within `deadline`.
    pub async fn closed(&mut self, deadline: Duration) -> anyhow::Result<()> {
        let read = timeout(deadline, async {
            while matches!(self.stream.read_buf(&mut self.received).await, Ok(1..)) {}
        });
        read.await.with_context(|| format!("the connection is still open after {deadline:?}"))
    }

    /// Sends one byte of `bytes` after the other, ten a second, until the other side closes.
    ///
    /// # Errors
    /// It has not within `deadline`.
    pub async fn drip(&mut self, bytes: &[u8], deadline: Duration) -> anyhow::Result<()> {
        let (mut reader, mut writer) = self.stream.split();
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        let drip = async {
            for byte in bytes.iter().cycle() {
                pace.tick().await;
                if writer.write_all(&[*byte]).await.is_err() {
                    break;
                }
            }
        };
        let closed = async { while matches!(reader.read_buf(&mut self.received).await, Ok(1..)) {} };
        let end = async {
            tokio::select! { () = drip => {}, () = closed => {} }
        };
        timeout(deadline, end).await.with_context(|| format!("still open after {deadline:?} of dripping"))
    }
}
