//! Reads bodies, within a size, a time, and the memory that all of them may take together.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use bytes::Bytes;
use futures::poll;
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::outcome::Unavailable;
use crate::problem::Problem;
use crate::settings::UploadSettings;

/// What is read of a refused body, at most.
const DISCARDED_BYTES_MAX: usize = 64 << 10;
/// How long a refusal waits for that.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(500);

/// The bounds of all bodies. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bodies {
    bytes_max: usize,
    timeout: Duration,
    /// One permit for each byte held.
    memory: Arc<Semaphore>,
}

/// A body on its way.
pub struct Arriving {
    body: Body,
    /// Something was asked of it; a client that expects `100 Continue` has been told to send.
    begun: bool,
    ended: bool,
    /// It cannot be read on; nor can the connection.
    broken: bool,
}

/// A whole body. Its memory counts until this is dropped.
#[derive(Debug)]
pub struct Held {
    /// What was sent, after decompression.
    pub bytes: Vec<u8>,
    memory: OwnedSemaphorePermit,
}

impl Arriving {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(body: Body) -> Self {
        Self { ended: body.is_end_stream(), body, begun: false, broken: false }
    }

    async fn chunk(&mut self) -> Option<Result<Bytes, Problem>> {
        self.begun = true;
        while let Some(frame) = self.body.frame().await {
            match frame.map(hyper::body::Frame::into_data) {
                Ok(Ok(chunk)) => return Some(Ok(chunk)),
                Ok(Err(_trailers)) => {}
                Err(_) => {
                    self.broken = true;
                    return Some(Err(Problem::UnreadableBody));
                }
            }
        }
        self.ended = !self.broken;
        None
    }

    /// Reads what is left, if that is little and comes soon, so that the connection can go on after a
    /// refusal. False if it cannot. A client that waits to be told to send is not told.
    pub async fn discard(&mut self, expects_continue: bool) -> bool {
        if !self.ended && (self.begun || !expects_continue) {
            let discarding = async {
                let mut left = DISCARDED_BYTES_MAX;
                while let Some(Ok(chunk)) = self.chunk().await {
                    let Some(less) = left.checked_sub(chunk.len()) else { return };
                    left = less;
                }
            };
            let _ = timeout(DISCARD_TIMEOUT, discarding).await;
        }
        self.ended
    }
}

impl Bodies {
    /// Nothing is held yet.
    #[must_use]
    pub fn new(settings: &UploadSettings) -> Self {
        let kib = usize::try_from(settings.body_memory_kib).unwrap_or(usize::MAX);
        let memory = kib.saturating_mul(1024).min(Semaphore::MAX_PERMITS);
        Self {
            bytes_max: usize::try_from(settings.body_bytes_max).unwrap_or(usize::MAX),
            timeout: settings.body_timeout,
            memory: Arc::new(Semaphore::new(memory)),
        }
    }

    /// Reads a body to its end.
    ///
    /// # Errors
    /// It is too large (without being read, if its length says so), too slow or broken, or there is no memory
    /// for it.
    pub async fn read(&self, body: &mut Arriving) -> Result<Held, Problem> {
        if body.body.size_hint().lower() > self.bytes_max as u64 {
            return Err(Problem::BodyTooLarge(self.bytes_max));
        }
        let mut reading = pin!(self.read_all(body));
        // Most bodies came with their heads: those need no timer.
        match poll!(reading.as_mut()) {
            Poll::Ready(held) => held,
            Poll::Pending => timeout(self.timeout, reading).await.unwrap_or(Err(Problem::BodyTimeout)),
        }
    }

    async fn read_all(&self, body: &mut Arriving) -> Result<Held, Problem> {
        let mut held = Held { bytes: Vec::new(), memory: self.take(0)? };
        while let Some(chunk) = body.chunk().await {
            let chunk = chunk?;
            if held.bytes.len() + chunk.len() > self.bytes_max {
                return Err(Problem::BodyTooLarge(self.bytes_max));
            }
            held.memory.merge(self.take(chunk.len())?);
            held.bytes.extend_from_slice(&chunk);
        }
        Ok(held)
    }

    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let overload = Problem::Unavailable(Unavailable::Overload);
        let Ok(bytes) = u32::try_from(bytes) else { return Err(overload) };
        Arc::clone(&self.memory).try_acquire_many_owned(bytes).map_err(|_| overload)
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn bodies() -> Bodies {
        let memory = Arc::new(Semaphore::new(150));
        Bodies { bytes_max: 100, timeout: Duration::from_secs(1), memory }
    }

    async fn read(bodies: &Bodies, body: Body) -> Result<Held, Problem> {
        bodies.read(&mut Arriving::new(body)).await
    }

    fn chunks(chunks: Vec<&'static [u8]>) -> Body {
        Body::from_stream(stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>)))
    }

    #[tokio::test]
    async fn a_body_is_read_whole() {
        let held = read(&bodies(), chunks(vec![b"ab", b"", b"c"])).await.unwrap();
        assert_eq!(held.bytes, b"abc");
        assert_eq!(read(&bodies(), Body::empty()).await.unwrap().bytes, b"");
        assert_eq!(read(&bodies(), Body::from(vec![0; 100])).await.unwrap().bytes.len(), 100);
    }

    #[tokio::test]
    async fn a_body_past_the_bound_is_refused_with_and_without_a_length() {
        let refused = Err(Problem::BodyTooLarge(100));
        assert_eq!(read(&bodies(), Body::from(vec![0; 101])).await.map(drop), refused);
        assert_eq!(read(&bodies(), chunks(vec![&[0; 60], &[0; 41]])).await.map(drop), refused);
    }

    #[tokio::test]
    async fn a_broken_body_is_unreadable() {
        let broken = [Ok(&b"a"[..]), Err(std::io::Error::other("reset"))];
        let read = read(&bodies(), Body::from_stream(stream::iter(broken))).await;
        assert_eq!(read.map(drop), Err(Problem::UnreadableBody));
    }

    #[tokio::test]
    async fn bodies_together_are_bounded_and_give_their_memory_back() {
        let bodies = bodies();
        let first = read(&bodies, Body::from(vec![0; 100])).await.unwrap();
        let second = read(&bodies, Body::from(vec![0; 100])).await.map(drop);
        assert_eq!(second, Err(Problem::Unavailable(Unavailable::Overload)));
        drop(first);
        assert_eq!(read(&bodies, Body::from(vec![0; 100])).await.map(drop), Ok(()));
        assert_eq!(bodies.memory.available_permits(), 150);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_given_up_at_the_deadline() {
        let drip = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Some((Ok::<_, std::io::Error>(&b"x"[..]), ()))
        });
        let begun = tokio::time::Instant::now();
        let read = read(&bodies(), Body::from_stream(drip)).await;
        assert_eq!(read.map(drop), Err(Problem::BodyTimeout));
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_a_refused_body_is_discarded_if_it_is_little_and_comes_soon() {
        let discard = async |body, expects| Arriving::new(body).discard(expects).await;
        assert!(discard(Body::empty(), true).await);
        assert!(discard(Body::from(vec![0; 64 << 10]), false).await);
        assert!(!discard(Body::from(vec![0; (64 << 10) + 1]), false).await);
        assert!(!discard(Body::from("not sent yet"), true).await);
        let never = Body::from_stream(stream::pending::<std::io::Result<&[u8]>>());
        assert!(!discard(never, false).await);
        let mut whole = Arriving::new(chunks(vec![b"ab"]));
        bodies().read(&mut whole).await.unwrap();
        assert!(whole.discard(true).await);
    }
}
