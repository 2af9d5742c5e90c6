//! The body of a request on its way to the one who serves it, and what is left of it afterwards.
//!
//! Whoever serves a request reads its body as it likes, or not at all. What was not read comes back here: a connection can
//! only go on behind the end of a body.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// What is read of a refused body, at most.
const DISCARDED_BYTES_MAX: usize = 64 << 10;
/// How long a refusal waits for that.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(500);

/// What is left of a body.
struct Left<B> {
    body: B,
    /// Something was asked of it; a client that expects `100 Continue` has been sent that.
    begun: bool,
    ended: bool,
    bytes: u64,
}

/// A body that comes back when it is dropped.
struct Arriving<B> {
    /// `None` once it has gone back.
    left: Option<(Left<B>, oneshot::Sender<Left<B>>)>,
}

/// Brings back what is left of a body.
pub struct Remainder<B>(Option<oneshot::Receiver<Left<B>>>);

/// How far a body was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadSoFar {
    /// By the one who served the request.
    pub bytes: u64,
    /// To its end, so that another request can follow on the connection.
    pub ended: bool,
}

/// Hands out a body, and what brings back the rest of it.
pub fn lend<B>(body: B) -> (Body, Remainder<B>)
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    if body.is_end_stream() {
        return (Body::empty(), Remainder(None));
    }
    let (back, rest) = oneshot::channel();
    let left = Left { body, begun: false, ended: false, bytes: 0 };
    (Body::new(Arriving { left: Some((left, back)) }), Remainder(Some(rest)))
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Arriving<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Some((left, _)) = &mut self.left else { return Poll::Ready(None) };
        left.begun = true;
        let frame = ready!(Pin::new(&mut left.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => left.bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            // Behind a broken body is nothing that could be read, on the connection neither.
            Some(Err(_)) => self.left = None,
            None => left.ended = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.left.as_ref().is_none_or(|(left, _)| left.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.left.as_ref().map_or(SizeHint::default(), |(left, _)| left.body.size_hint())
    }
}

impl<B> Drop for Arriving<B> {
    fn drop(&mut self) {
        if let Some((left, back)) = self.left.take() {
            drop(back.send(left));
        }
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> Remainder<B> {
    /// Reads what is left, if that is little and comes soon, so that the connection can go on after a refusal. A client that
    /// waits for `100 Continue` does not get it.
    pub async fn discard(self, expects_continue: bool) -> ReadSoFar {
        let Some(mut rest) = self.0 else { return ReadSoFar { bytes: 0, ended: true } };
        // Whoever still has the body may go on reading it.
        let Ok(mut left) = rest.try_recv() else { return ReadSoFar { bytes: 0, ended: false } };
        if !left.ended && (left.begun || !expects_continue) {
            // Boxed, so that other requests do not carry the room for it.
            left.ended = Box::pin(timeout(DISCARD_TIMEOUT, read_to_end(left.body))).await.unwrap_or(false);
        }
        ReadSoFar { bytes: left.bytes, ended: left.ended }
    }
}

/// Whether a body ends within the bound of bytes.
async fn read_to_end(mut body: impl HttpBody<Data = Bytes> + Unpin) -> bool {
    let mut bytes_left = DISCARDED_BYTES_MAX;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        let Some(fewer) = bytes_left.checked_sub(bytes) else { return false };
        bytes_left = fewer;
    }
    true
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt as _, stream};

    use super::*;

    async fn discard(body: Body, expects_continue: bool) -> bool {
        let (body, remainder) = lend(body);
        drop(body);
        remainder.discard(expects_continue).await.ended
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_a_body_is_discarded_if_it_is_little_and_comes_soon() {
        assert!(discard(Body::empty(), true).await);
        assert!(discard(Body::from(vec![0; 64 << 10]), false).await);
        assert!(!discard(Body::from(vec![0; (64 << 10) + 1]), false).await);
        assert!(!discard(Body::from("not sent yet"), true).await);
        let never = Body::from_stream(stream::pending::<std::io::Result<&[u8]>>());
        assert!(!discard(never, false).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_was_read_in_part_goes_on_where_that_ended() {
        let chunks = stream::iter([Ok::<_, std::io::Error>("ab"), Ok("c")]);
        let (mut body, remainder) = lend(Body::from_stream(chunks.chain(stream::empty())));
        body.frame().await.unwrap().unwrap();
        drop(body);
        assert_eq!(remainder.discard(true).await, ReadSoFar { bytes: 2, ended: true });
    }

    #[tokio::test]
    async fn behind_a_broken_body_and_one_that_is_still_read_nothing_can_follow() {
        let broken = stream::iter([Ok("a"), Err(std::io::Error::other("reset"))]);
        let (body, remainder) = lend(Body::from_stream(broken));
        assert!(body.collect().await.is_err());
        assert!(!remainder.discard(false).await.ended);
        let (_body, remainder) = lend(Body::from("ab"));
        assert!(!remainder.discard(false).await.ended);
    }
}
