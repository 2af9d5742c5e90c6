//! The end of a connection: closing it with bytes unread would make the client's system discard the answer on its way.
//! So a client that goes on sending is listened to for a while, and what it sends is discarded.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// Longest silence of a client that has neither closed its side nor sent more.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// Longest time in all.
const TIME_MAX: Duration = Duration::from_secs(30);
/// Most bytes in all.
const BYTES_MAX: usize = 64 << 20;

/// Listens until the client has closed its side, or a bound is reached.
pub struct Linger {
    ends: Instant,
    timer: Pin<Box<Sleep>>,
    left: usize,
}

impl Linger {
    /// From now on. The gateway's side is closed already.
    #[must_use]
    pub fn new() -> Self {
        Self { ends: Instant::now() + TIME_MAX, timer: Box::pin(sleep(SILENCE_MAX)), left: BYTES_MAX }
    }

    /// Reads what has come; ready when the connection can be closed.
    pub fn poll(&mut self, stream: &mut TcpStream, context: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; 16 << 10];
        let mut heard = false;
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => self.left = self.left.saturating_sub(buffer.filled().len()),
            }
            if buffer.filled().is_empty() || self.left == 0 {
                return Poll::Ready(());
            }
            heard = true;
        }
        if heard {
            let silent_until = Instant::now() + SILENCE_MAX;
            self.timer.as_mut().reset(silent_until.min(self.ends));
        }
        self.timer.as_mut().poll(context)
    }
}

impl Default for Linger {
    fn default() -> Self {
        Self::new()
    }
}
