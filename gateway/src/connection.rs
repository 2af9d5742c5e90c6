//! One TCP connection with the deadlines that hyper lacks.
//!
//! hyper has one timeout, for "idle until the next head is complete", and sets a timer for each request. Here a
//! connection may be idle for long, a head that has begun must be complete soon, and an answer must be taken; and
//! one timer serves all requests: it is set anew only when it goes off before the deadline.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

const HEAD: u8 = 0;
const BUSY: u8 = 1;
const IDLE: u8 = 2;
/// How long a client may take to close its side after the gateway has.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// What is read of it meanwhile, at most.
const LINGER_BYTES_MAX: usize = 4 << 20;

/// What a connection is doing; set by whoever serves it.
#[derive(Debug, Clone, Default)]
pub struct Phase(Arc<AtomicU8>);

impl Phase {
    /// A request's head is complete: its body and its answer have deadlines of their own.
    pub fn busy(&self) {
        self.0.store(BUSY, Ordering::Relaxed);
    }

    /// The answer is made; the next head has not begun.
    pub fn idle(&self) {
        self.0.store(IDLE, Ordering::Relaxed);
    }

    fn is(&self, phase: u8) -> bool {
        self.0.load(Ordering::Relaxed) == phase
    }
}

/// The deadlines of a connection, each counted from when there was first something to wait for.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// Between an answer and the next head.
    pub idle: Duration,
    /// Until the client takes some of its answer.
    pub write: Duration,
}

/// A stream that fails with `TimedOut` where its client is too slow.
pub struct Connection {
    stream: TcpStream,
    phase: Phase,
    timeouts: Timeouts,
    /// Of a phase in which there was something to wait for.
    deadline: Option<(u8, Instant)>,
    timer: Pin<Box<Sleep>>,
    /// Armed while a write waits.
    write: Option<Pin<Box<Sleep>>>,
    linger: Option<Linger>,
}

/// The end of a connection: closing it with bytes unread would destroy the answer on its way.
struct Linger {
    deadline: Pin<Box<Sleep>>,
    /// Bytes that are still read, and thrown away.
    left: usize,
}

impl Connection {
    /// A new connection, as if its first head had begun.
    #[must_use]
    pub fn new(stream: TcpStream, timeouts: Timeouts) -> Self {
        let timer = Box::pin(sleep(timeouts.head));
        let (phase, deadline, write, linger) = Default::default();
        Self { stream, phase, timeouts, deadline, timer, write, linger }
    }

    /// To tell what the connection is doing.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.clone()
    }

    /// Waits for the deadline of what the connection is doing, if that has one.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let phase = self.phase.0.load(Ordering::Relaxed);
        let timeout = match phase {
            HEAD => self.timeouts.head,
            IDLE => self.timeouts.idle,
            _ => return Poll::Pending,
        };
        let deadline = match self.deadline {
            Some((of, deadline)) if of == phase => deadline,
            _ => Instant::now() + timeout,
        };
        self.deadline = Some((phase, deadline));
        if deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            if deadline <= Instant::now() {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            self.timer.as_mut().reset(deadline);
        }
    }

    fn poll_written<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write = None;
            return written;
        }
        let timeout = self.timeouts.write;
        let deadline = self.write.get_or_insert_with(|| Box::pin(sleep(timeout)));
        deadline.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            if buffer.filled().len() > before && self.phase.is(IDLE) {
                self.phase.0.store(HEAD, Ordering::Relaxed);
                self.deadline = None;
            }
            return read;
        }
        self.poll_deadline(context).map(Err)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.poll_written(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.poll_written(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Says that nothing more comes, then waits until the client has closed too, within bounds.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
        }
        let linger = this.linger.get_or_insert_with(|| Linger {
            deadline: Box::pin(sleep(LINGER_TIMEOUT)),
            left: LINGER_BYTES_MAX,
        });
        let mut bytes = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut this.stream).poll_read(context, &mut buffer) {
                Poll::Pending => return linger.deadline.as_mut().poll(context).map(Ok),
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => linger.left = linger.left.saturating_sub(buffer.filled().len()),
            }
            if buffer.filled().is_empty() || linger.left == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
