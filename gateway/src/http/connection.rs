//! One TCP connection as hyper sees it: one request after the other, each with a head that was judged before
//! ([`ambiguity`]), and with the deadlines that hyper lacks.
//!
//! hyper has one timeout, for "idle until the next head is complete", and sets a timer for each request. Here a
//! connection may be idle for long, a head that has begun must be complete soon, and an answer must be taken; and
//! one timer serves all requests: it is set again only when it goes off before the deadline.
//!
//! hyper gets no byte behind a request until it asks for the next one, so what a client has sent ahead is known
//! here. It never sees a head that is refused: for hyper the connection ends there, so that it answers what came
//! before, and the refusal is written when it closes.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use crate::http::ambiguity::{self, HEAD_BYTES_MAX, Head, RefusedHead};
use crate::http::framing::Framing;
use crate::http::linger::Linger;
use crate::http::refuser::Refuser;

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
    refuser: Arc<Refuser>,
    timeouts: Timeouts,
    /// What was read and not handed on: a head that is not whole, or what follows a request.
    ahead: BytesMut,
    /// How many bytes of it have been judged: they are handed on next.
    due: usize,
    /// How many bytes of it are known not to be a whole head.
    partial: usize,
    /// The rest of the body that is being read; between requests there is none.
    framing: Option<Framing>,
    /// Some of a head has come, and hyper knows nothing of it yet.
    has_begun: Arc<AtomicBool>,
    /// No head has come yet: even the silence before the first one has a head's deadline.
    is_new: bool,
    /// Of a head, or of the silence before one.
    deadline: Option<(Waiting, Instant)>,
    timer: Pin<Box<Sleep>>,
    /// The deadline has passed.
    is_late: bool,
    /// Armed while a write waits.
    write: Option<Pin<Box<Sleep>>>,
    /// The answer to a head that was refused, as far as it is not written. Nothing is read after it.
    refusal: Option<Bytes>,
    linger: Option<Linger>,
    /// The client has closed its side too, or was waited for long enough.
    is_over: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Head,
    Idle,
}

impl Connection {
    /// A new connection, as if its first head had begun.
    #[must_use]
    pub fn new(stream: TcpStream, refuser: Arc<Refuser>, timeouts: Timeouts) -> Self {
        Self {
            stream,
            refuser,
            timeouts,
            ahead: BytesMut::new(),
            due: 0,
            partial: 0,
            framing: None,
            has_begun: Arc::default(),
            is_new: true,
            deadline: None,
            timer: Box::pin(sleep(timeouts.head)),
            is_late: false,
            write: None,
            refusal: None,
            linger: None,
            is_over: false,
        }
    }

    /// Whether part of a head has come that hyper does not know of.
    #[must_use]
    pub fn has_begun(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.has_begun)
    }

    /// Hands on what has been judged, as far as there is room for it.
    fn hand_on(&mut self, buffer: &mut ReadBuf<'_>) {
        let bytes = self.due.min(buffer.remaining());
        buffer.put_slice(&self.ahead[..bytes]);
        self.ahead.advance(bytes);
        self.due -= bytes;
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
    }

    /// Judges the head at the beginning of what was read ahead. True if that is decided.
    fn judge_ahead(&mut self) -> bool {
        let may_be = self.partial == 0
            || self.ahead.len() >= HEAD_BYTES_MAX
            || ambiguity::may_be_whole(&self.ahead, self.partial);
        let head = if may_be { ambiguity::read(&self.ahead) } else { Ok(None) };
        match head {
            Ok(None) => {
                self.partial = self.ahead.len();
                return false;
            }
            Ok(Some(head)) => {
                let mut framing = head.body;
                self.due = head.bytes + framing.pass(&self.ahead[head.bytes..]);
                self.begin(framing);
            }
            Err(refused) => self.refuse(&refused),
        }
        true
    }

    /// Judges a head in place, in hyper's own buffer, which holds all that was read. What is not part of
    /// the request is taken out of it.
    fn judge_read(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let bytes = &buffer.filled()[before..];
        let mut handed_on = 0;
        match ambiguity::read(bytes) {
            Ok(None) => self.partial = bytes.len(),
            Ok(Some(Head { bytes: length, body: mut framing })) => {
                handed_on = length + framing.pass(&bytes[length..]);
                self.begin(framing);
            }
            Err(refused) => self.refuse(&refused),
        }
        self.keep(buffer, before + handed_on);
    }

    /// Takes what follows out of the buffer.
    fn keep(&mut self, buffer: &mut ReadBuf<'_>, from: usize) {
        self.ahead.extend_from_slice(&buffer.filled()[from..]);
        buffer.set_filled(from);
    }

    /// A head is whole. Its body and its answer have deadlines of their own.
    fn begin(&mut self, framing: Framing) {
        self.framing = Some(framing).filter(|framing| !framing.is_over());
        (self.is_new, self.deadline, self.partial) = (false, None, 0);
    }

    fn refuse(&mut self, refused: &RefusedHead) {
        self.refusal = Some(self.refuser.head(refused));
    }

    /// Reads from the stream: more of the body that is on its way, or of the next head.
    fn poll_more(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_pending() {
            return self.poll_deadline(context).map(Err);
        }
        ready!(read)?;
        let read = buffer.filled().len() - before;
        if let Some(framing) = &mut self.framing {
            let passed = framing.pass(&buffer.filled()[before..]);
            if framing.is_over() {
                self.framing = None;
            }
            self.keep(buffer, before + passed);
        } else if self.ahead.is_empty() {
            self.judge_read(buffer, before);
        } else {
            self.keep(buffer, before);
        }
        Poll::Ready(Ok(read))
    }

    /// Waits for the deadline of what the connection is doing, if that has one.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if self.framing.is_some() {
            return Poll::Pending;
        }
        let (waiting, timeout) = if self.is_new || !self.ahead.is_empty() {
            (Waiting::Head, self.timeouts.head)
        } else {
            (Waiting::Idle, self.timeouts.idle)
        };
        let deadline = match self.deadline {
            Some((of, deadline)) if of == waiting => deadline,
            _ => Instant::now() + timeout,
        };
        self.deadline = Some((waiting, deadline));
        if deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            if deadline <= Instant::now() {
                self.is_late = true;
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

    /// Writes the refusal, if there is one, behind all that hyper has written.
    fn poll_refused(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(mut rest) = self.refusal.take().filter(|rest| !rest.is_empty()) {
            let written = Pin::new(&mut *self).poll_write(context, &rest);
            if let Poll::Ready(Ok(bytes)) = written {
                rest.advance(bytes);
            }
            self.refusal = Some(rest);
            ready!(written)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads some of one request, and nothing of the next.
    fn poll_request(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            if self.due > 0 {
                self.hand_on(buffer);
            }
            if buffer.filled().len() > before || self.refusal.is_some() {
                return Poll::Ready(Ok(()));
            }
            if self.framing.is_some_and(Framing::is_broken) {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            let is_judged = self.framing.is_none() && self.ahead.len() > self.partial && self.judge_ahead();
            if !is_judged && ready!(self.poll_more(context, buffer))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.poll_request(context, buffer);
        let has_begun = read.is_pending() && self.framing.is_none() && !self.ahead.is_empty();
        self.has_begun.store(has_begun, Ordering::Relaxed);
        read
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

    /// Says that nothing more comes, then waits until the client has closed too, within bounds. Not for one that
    /// was too slow: its answers have arrived long ago. May be asked again after the end.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(Ok(()));
        }
        if this.linger.is_none() {
            ready!(this.poll_refused(context))?;
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
        }
        if !this.is_late {
            let linger = this.linger.get_or_insert_default();
            ready!(linger.poll(&mut this.stream, context));
        }
        this.is_over = true;
        Poll::Ready(Ok(()))
    }
}
