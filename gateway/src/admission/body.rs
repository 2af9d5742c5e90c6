//! Reads bodies, within bounds of size, time, and the memory that all of them may take together.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use bytes::Bytes;
use clap::Args;
use futures::poll;
use http_body_util::BodyExt as _;
use milepost_shared::program::settings::duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::admission::problem::{BODY_TIMEOUT, UNREADABLE_BODY, body_too_large};
use crate::http::problem::{OVERLOAD, Problem};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// A body that has not arrived within this time is slow.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// All slow bodies together may take one part in so many of the memory, so that they leave room for others.
const SLOW_PART: usize = 2;

/// How far the memory counted for an upload may be off: by no more than its request and its connection take anyway.
const UNCOUNTED_MAX: usize = 4 << 10;

/// The bounds of bodies.
#[derive(Debug, Clone, Args)]
pub struct BodySettings {
    /// Largest body, bytes, also after decompression; past it 413 [1024..=2097152].
    #[arg(long, env, default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1024..=2 << 20))]
    pub body_bytes_max: u32,

    /// Memory for the bodies of all requests being served, KiB; past it 503 [4096..=67108864].
    #[arg(long, env, default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(4096..=64 << 20))]
    pub body_memory_kib: u32,

    /// Longest silence of a client that is sending a body; past it 408 [100ms..=5m].
    #[arg(long, env, default_value = "15s", value_parser = duration(100 * MS, 300 * SECOND))]
    pub body_silence: Duration,

    /// Longest wait for a whole body; past it 408 [100ms..=1h].
    #[arg(long, env, default_value = "5m", value_parser = duration(100 * MS, 3600 * SECOND))]
    pub body_timeout: Duration,
}

/// The bounds of all bodies. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bodies {
    /// Most bytes of one body, also after decompression.
    pub bytes_max: usize,
    silence: Duration,
    timeout: Duration,
    /// One permit for each byte held.
    memory: Arc<Semaphore>,
    /// One permit for each byte that slow bodies will have, in addition.
    slow_memory: Arc<Semaphore>,
}

/// How a body arrives.
struct Pace {
    /// The most bytes it can have.
    whole: usize,
    /// When it had to be waited for the first time.
    waited_since: Option<Instant>,
    /// If it is slow, its share of the slow bodies' memory until it is whole: taken all at once, so that slow bodies do not
    /// keep one another from being completed. (What has arrived counts against the memory of all bodies besides.)
    slow: Option<OwnedSemaphorePermit>,
}

/// A whole body, or what was made of it. Its memory is counted until this is dropped.
#[derive(Debug)]
pub struct Held {
    /// What was sent.
    pub bytes: Vec<u8>,
    memory: OwnedSemaphorePermit,
}

impl Held {
    /// Counts more memory, which decoding the body takes.
    ///
    /// # Errors
    /// There is none left.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), Problem> {
        self.memory.merge(take(self.memory.semaphore(), bytes)?);
        Ok(())
    }

    /// Appends to a body that will have at most `whole` bytes. All of its buffer counts, the unused part too.
    fn extend(&mut self, chunk: &[u8], whole: usize) -> Result<(), Problem> {
        let (room, needed) = (self.bytes.capacity(), self.bytes.len() + chunk.len());
        if needed > room {
            let more = room.saturating_mul(2).min(whole).max(needed);
            self.reserve(more - room)?;
            self.bytes.reserve_exact(more - self.bytes.len());
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    /// Gives back the part of the buffer that the body did not need.
    fn fit(&mut self) {
        let free = self.bytes.capacity() - self.bytes.len();
        if free > 0 {
            self.bytes.shrink_to_fit();
            drop(self.memory.split(free));
        }
    }

    /// Drops the body in favour of what was made of it, and counts the memory that this takes instead.
    ///
    /// # Errors
    /// There is no memory left.
    pub fn replace(&mut self, bytes: usize) -> Result<(), Problem> {
        self.bytes = Vec::new();
        let counted = self.memory.num_permits();
        if bytes > counted.saturating_add(UNCOUNTED_MAX) {
            return self.reserve(bytes - counted);
        }
        // A little is kept until the end: giving it back would take a lock.
        if counted > bytes.saturating_add(UNCOUNTED_MAX) {
            drop(self.memory.split(counted - bytes));
        }
        Ok(())
    }
}

impl Bodies {
    /// Nothing is held yet.
    #[must_use]
    pub fn new(settings: &BodySettings) -> Self {
        let kib = usize::try_from(settings.body_memory_kib).unwrap_or(usize::MAX);
        let memory = kib.saturating_mul(1024).min(Semaphore::MAX_PERMITS);
        Self {
            bytes_max: usize::try_from(settings.body_bytes_max).unwrap_or(usize::MAX),
            silence: settings.body_silence,
            timeout: settings.body_timeout,
            memory: Arc::new(Semaphore::new(memory)),
            slow_memory: Arc::new(Semaphore::new(memory / SLOW_PART)),
        }
    }

    /// Reads a body to its end.
    ///
    /// # Errors
    /// It is too large (without being read, if its length says so), too slow or broken, or there is no memory
    /// for it.
    pub async fn read(&self, mut body: Body) -> Result<Held, Problem> {
        if body.size_hint().lower() > self.bytes_max as u64 {
            return Err(body_too_large(self.bytes_max));
        }
        let mut held = Held { bytes: Vec::new(), memory: take(&self.memory, 0)? };
        let mut pace = Pace { whole: most(&body, self.bytes_max), waited_since: None, slow: None };
        while let Some(chunk) = self.chunk(&mut body, &mut pace).await {
            let chunk = chunk?;
            if held.bytes.len() + chunk.len() > self.bytes_max {
                return Err(body_too_large(self.bytes_max));
            }
            held.extend(&chunk, pace.whole)?;
        }
        held.fit();
        Ok(held)
    }

    /// The next chunk of a body. Most bodies arrive with their heads and need no timer.
    async fn chunk(&self, body: &mut Body, pace: &mut Pace) -> Option<Result<Bytes, Problem>> {
        let mut chunk = pin!(next_chunk(body));
        if let Poll::Ready(arrived) = poll!(chunk.as_mut()) {
            return arrived;
        }
        let now = Instant::now();
        let since = *pace.waited_since.get_or_insert(now);
        let last = (now + self.silence).min(since + self.timeout);
        let mut until = if pace.slow.is_none() { last.min(since + SLOW_AFTER) } else { last };
        loop {
            match timeout_at(until, chunk.as_mut()).await {
                Ok(arrived) => return arrived,
                Err(_) if until == last => return Some(Err(BODY_TIMEOUT)),
                Err(_) => match take(&self.slow_memory, pace.whole) {
                    Ok(memory) => pace.slow = Some(memory),
                    Err(overload) => return Some(Err(overload)),
                },
            }
            until = last;
        }
    }
}

/// The most bytes that a body can have, within what is allowed.
fn most(body: &Body, bytes_max: usize) -> usize {
    let upper = body.size_hint().upper().and_then(|upper| upper.try_into().ok());
    upper.map_or(bytes_max, |upper: usize| upper.min(bytes_max))
}

async fn next_chunk(body: &mut Body) -> Option<Result<Bytes, Problem>> {
    while let Some(frame) = body.frame().await {
        match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(chunk)) => return Some(Ok(chunk)),
            Ok(Err(_trailers)) => {}
            Err(_) => return Some(Err(UNREADABLE_BODY)),
        }
    }
    None
}

/// Memory for so many bytes, if there is any.
fn take(memory: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
    let Ok(bytes) = u32::try_from(bytes) else { return Err(OVERLOAD) };
    Arc::clone(memory).try_acquire_many_owned(bytes).map_err(|_| OVERLOAD)
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt as _, stream};

    use super::*;

    fn bodies() -> Bodies {
        let (memory, slow_memory) = (Arc::new(Semaphore::new(150)), Arc::new(Semaphore::new(100)));
        let (silence, timeout) = (Duration::from_secs(2), Duration::from_secs(5));
        Bodies { bytes_max: 100, silence, timeout, memory, slow_memory }
    }

    async fn read(bodies: &Bodies, body: Body) -> Result<Held, Problem> {
        bodies.read(body).await
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
        let refused = Err(body_too_large(100));
        assert_eq!(read(&bodies(), Body::from(vec![0; 101])).await.map(drop), refused);
        assert_eq!(read(&bodies(), chunks(vec![&[0; 60], &[0; 41]])).await.map(drop), refused);
    }

    #[tokio::test]
    async fn a_broken_body_is_unreadable() {
        let broken = [Ok(&b"a"[..]), Err(std::io::Error::other("reset"))];
        let read = read(&bodies(), Body::from_stream(stream::iter(broken))).await;
        assert_eq!(read.map(drop), Err(UNREADABLE_BODY));
    }

    #[tokio::test]
    async fn bodies_together_are_bounded_and_give_their_memory_back() {
        let bodies = bodies();
        let first = read(&bodies, Body::from(vec![0; 100])).await.unwrap();
        let second = read(&bodies, Body::from(vec![0; 100])).await.map(drop);
        assert_eq!(second, Err(OVERLOAD));
        drop(first);
        assert_eq!(read(&bodies, Body::from(vec![0; 100])).await.map(drop), Ok(()));
        assert_eq!(bodies.memory.available_permits(), 150);
    }

    #[tokio::test]
    async fn all_the_room_of_a_body_in_pieces_counts_while_it_is_read_and_afterwards_it_takes_no_more_than_itself()
     {
        let memory = Arc::new(Semaphore::new(50_000));
        let bodies = Bodies { bytes_max: 3000, memory, ..bodies() };
        let counted = || 50_000 - bodies.memory.available_permits();
        for (pieces, room) in [(1, 100), (2, 200), (3, 400), (17, 3000), (30, 3000)] {
            let sent = || stream::iter(vec![&[0; 100][..]; pieces]).map(Ok::<_, std::io::Error>);
            let stops = Body::from_stream(sent().chain(stream::pending()));
            let mut reading = Box::pin(bodies.read(stops));
            assert!(poll!(&mut reading).is_pending());
            assert_eq!(counted(), room, "{pieces}");
            drop(reading);
            let held = read(&bodies, Body::from_stream(sent())).await.unwrap();
            assert_eq!((held.bytes.capacity(), counted()), (pieces * 100, pieces * 100));
        }
        let known = http_body_util::Limited::new(chunks(vec![&[0; 100]; 9]), 900);
        let held = read(&bodies, Body::new(known)).await.unwrap();
        assert_eq!((held.bytes.capacity(), counted()), (900, 900));
        drop(held);
        assert_eq!(counted(), 0);
    }

    #[tokio::test]
    async fn what_is_made_of_a_body_counts_instead_of_it() {
        let memory = Arc::new(Semaphore::new(50_000));
        let bodies = Bodies { bytes_max: 30_000, memory, ..bodies() };
        let mut held = read(&bodies, Body::from(vec![0; 20_000])).await.unwrap();
        held.reserve(10_000).unwrap();
        assert_eq!(held.reserve(20_001), Err(OVERLOAD));
        for (bytes, free) in [(5000, 45_000), (1000, 45_000), (9000, 45_000), (9001 + 4096, 50_000 - 13_097)]
        {
            held.replace(bytes).unwrap();
            assert_eq!(bodies.memory.available_permits(), free, "{bytes}");
        }
        assert_eq!(held.bytes.capacity(), 0);
        assert_eq!(held.replace(60_000), Err(OVERLOAD));
        drop(held);
        assert_eq!(bodies.memory.available_permits(), 50_000);
    }

    /// A body that comes piece by piece, each after a pause.
    fn drip(piece: &'static [u8], pause: Duration, pieces: usize) -> Body {
        Body::from_stream(stream::unfold(0, move |sent| async move {
            tokio::time::sleep(pause).await;
            (sent < pieces).then_some((Ok::<_, std::io::Error>(piece), sent + 1))
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_take_until_the_deadline_if_it_is_never_silent_for_long() {
        let took = async |body| {
            let begun = Instant::now();
            let read = read(&bodies(), body).await.map(|held| held.bytes.len());
            (read, begun.elapsed())
        };
        let ms = Duration::from_millis;
        assert_eq!(took(drip(b"x", ms(1900), 1)).await, (Ok(1), ms(3800)));
        assert_eq!(took(drip(b"x", ms(300), 15)).await, (Ok(15), ms(4800)));
        assert_eq!(took(drip(b"x", ms(300), 1000)).await, (Err(BODY_TIMEOUT), ms(5000)));
        assert_eq!(took(drip(b"x", ms(2100), 1)).await, (Err(BODY_TIMEOUT), ms(2000)));
        let stops = stream::iter([Ok::<_, std::io::Error>(&b"x"[..])]).chain(stream::pending());
        assert_eq!(took(Body::from_stream(stops)).await, (Err(BODY_TIMEOUT), ms(2000)));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_bodies_leave_others_their_part_of_the_memory_and_end_if_they_have_theirs() {
        let bodies = bodies();
        let overload = Err(OVERLOAD);
        let slow = |body| {
            let bodies = bodies.clone();
            tokio::spawn(async move {
                let begun = Instant::now();
                (read(&bodies, body).await.map(|held| held.bytes.len()), begun.elapsed())
            })
        };
        let drips = slow(drip(&[0; 15], Duration::from_millis(600), 6));
        tokio::time::sleep(Duration::from_millis(100)).await;
        // One that goes on and one that does not: there is no share left for either.
        let stops = stream::iter([Ok::<_, std::io::Error>(&b"x"[..])]).chain(stream::pending());
        let refused = [slow(drip(&[0; 15], Duration::from_millis(600), 6)), slow(Body::from_stream(stops))];
        for refused in refused {
            assert_eq!(refused.await.unwrap(), (overload.clone(), SLOW_AFTER));
        }
        assert_eq!(bodies.slow_memory.available_permits(), 0);
        assert_eq!(read(&bodies, Body::from(vec![0; 100])).await.map(drop), Ok(()));
        assert_eq!(drips.await.unwrap(), (Ok(90), Duration::from_millis(4200)));
        assert_eq!((bodies.memory.available_permits(), bodies.slow_memory.available_permits()), (150, 100));
    }
}
