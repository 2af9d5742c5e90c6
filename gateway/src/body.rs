//! Reads bodies, within a size, a time, and the memory that all of them may take together.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::outcome::Unavailable;
use crate::problem::Problem;
use crate::settings::UploadSettings;

/// The bounds of all bodies. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bodies {
    bytes_max: usize,
    timeout: Duration,
    /// One permit for each byte held.
    memory: Arc<Semaphore>,
}

/// A whole body. Its memory counts until this is dropped.
#[derive(Debug)]
pub struct Held {
    /// What was sent, after decompression.
    pub bytes: Vec<u8>,
    memory: OwnedSemaphorePermit,
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
    /// It is too large (without being read, if its length says so), too slow or broken, or there is no memory for it.
    pub async fn read(&self, body: Body) -> Result<Held, Problem> {
        if body.size_hint().lower() > self.bytes_max as u64 {
            return Err(Problem::BodyTooLarge(self.bytes_max));
        }
        timeout(self.timeout, self.read_all(body)).await.unwrap_or(Err(Problem::BodyTimeout))
    }

    async fn read_all(&self, mut body: Body) -> Result<Held, Problem> {
        let mut held = Held { bytes: Vec::new(), memory: self.take(0)? };
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Problem::UnreadableBody)?;
            let Ok(chunk) = frame.into_data() else { continue };
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

    fn chunks(chunks: Vec<&'static [u8]>) -> Body {
        Body::from_stream(stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>)))
    }

    #[tokio::test]
    async fn a_body_is_read_whole() {
        let held = bodies().read(chunks(vec![b"ab", b"", b"c"])).await.unwrap();
        assert_eq!(held.bytes, b"abc");
        assert_eq!(bodies().read(Body::empty()).await.unwrap().bytes, b"");
        assert_eq!(bodies().read(Body::from(vec![0; 100])).await.unwrap().bytes.len(), 100);
    }

    #[tokio::test]
    async fn a_body_past_the_bound_is_refused_with_and_without_a_length() {
        let refused = Err(Problem::BodyTooLarge(100));
        assert_eq!(bodies().read(Body::from(vec![0; 101])).await.map(drop), refused);
        assert_eq!(bodies().read(chunks(vec![&[0; 60], &[0; 41]])).await.map(drop), refused);
    }

    #[tokio::test]
    async fn a_broken_body_is_unreadable() {
        let broken = [Ok(&b"a"[..]), Err(std::io::Error::other("reset"))];
        let read = bodies().read(Body::from_stream(stream::iter(broken))).await;
        assert_eq!(read.map(drop), Err(Problem::UnreadableBody));
    }

    #[tokio::test]
    async fn bodies_together_are_bounded_and_give_their_memory_back() {
        let bodies = bodies();
        let first = bodies.read(Body::from(vec![0; 100])).await.unwrap();
        let second = bodies.read(Body::from(vec![0; 100])).await.map(drop);
        assert_eq!(second, Err(Problem::Unavailable(Unavailable::Overload)));
        drop(first);
        assert_eq!(bodies.read(Body::from(vec![0; 100])).await.map(drop), Ok(()));
        assert_eq!(bodies.memory.available_permits(), 150);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_given_up_at_the_deadline() {
        let drip = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Some((Ok::<_, std::io::Error>(&b"x"[..]), ()))
        });
        let begun = tokio::time::Instant::now();
        let read = bodies().read(Body::from_stream(drip)).await;
        assert_eq!(read.map(drop), Err(Problem::BodyTimeout));
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
    }
}
