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
use tokio::time::{Instant, timeout, timeout_at};

use crate::answer::outcome::Unavailable;
use crate::http::problem::Problem;
use crate::settings::UploadSettings;

/// What is read of a refused body, at most.
const DISCARDED_BYTES_MAX: usize = 64 << 10;
/// How long a refusal waits for that.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(500);
/// A body that has not arrived within this time is slow.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// Slow bodies together may have this part of the memory, so that they cannot keep others from it.
const SLOW_PART: usize = 2;

/// What of an upload's memory may count wrongly: as much as it takes anyway, with its request and its connection.
const UNCOUNTED_MAX: usize = 4 << 10;

/// The bounds of all bodies. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bodies {
    bytes_max: usize,
    silence: Duration,
    timeout: Duration,
    /// One permit for each byte held.
    memory: Arc<Semaphore>,
    /// One for each byte that the bodies that are slow will have, besides.
    slow_memory: Arc<Semaphore>,
}

/// How a body arrives.
struct Pace {
    /// How many bytes it will have at most.
    whole: usize,
    /// When it first had to be waited for.
    waited_since: Option<Instant>,
    /// If it is slow, its part of the slow bodies' memory, until it is whole: all of it from the beginning, so that no
    /// slow bodies keep one another from their ends. Others may: what has arrived counts with all bodies.
    slow: Option<OwnedSemaphorePermit>,
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

/// A whole body, or what was made of it. Its memory counts until this is dropped.
#[derive(Debug)]
pub struct Held {
    /// What was sent.
    pub bytes: Vec<u8>,
    memory: OwnedSemaphorePermit,
}

impl Held {
    /// Counts more memory, needed to make something of the body.
    ///
    /// # Errors
    /// There is no more.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), Problem> {
        self.memory.merge(take(self.memory.semaphore(), bytes)?);
        Ok(())
    }

    /// Takes more of a body that will have so many bytes at most. All the room for it counts, also what is free yet.
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

    /// Gives back the room that the body turned out not to need.
    fn fit(&mut self) {
        let free = self.bytes.capacity() - self.bytes.len();
        if free > 0 {
            self.bytes.shrink_to_fit();
            drop(self.memory.split(free));
        }
    }

    /// Drops the body for what was made of it, which takes so much memory and counts as that.
    ///
    /// # Errors
    /// There is no more memory.
    pub fn replace(&mut self, bytes: usize) -> Result<(), Problem> {
        self.bytes = Vec::new();
        let counted = self.memory.num_permits();
        if bytes > counted.saturating_add(UNCOUNTED_MAX) {
            return self.reserve(bytes - counted);
        }
        // None of it is given back at once if it is little: that would take a lock.
        if counted > bytes.saturating_add(UNCOUNTED_MAX) {
            drop(self.memory.split(counted - bytes));
        }
        Ok(())
    }
}

impl Arriving {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(body: Body) -> Self {
        Self { ended: body.is_end_stream(), body, begun: false, broken: false }
    }

    /// How many bytes it may have yet, if so many are allowed.
    fn most(&self, bytes_max: usize) -> usize {
        let upper = self.body.size_hint().upper().and_then(|upper| upper.try_into().ok());
        upper.map_or(bytes_max, |upper: usize| upper.min(bytes_max))
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
    pub async fn read(&self, body: &mut Arriving) -> Result<Held, Problem> {
        if body.body.size_hint().lower() > self.bytes_max as u64 {
            return Err(Problem::BodyTooLarge(self.bytes_max));
        }
        let mut held = Held { bytes: Vec::new(), memory: take(&self.memory, 0)? };
        let mut pace = Pace { whole: body.most(self.bytes_max), waited_since: None, slow: None };
        while let Some(chunk) = self.chunk(body, &mut pace).await {
            let chunk = chunk?;
            if held.bytes.len() + chunk.len() > self.bytes_max {
                return Err(Problem::BodyTooLarge(self.bytes_max));
            }
            held.extend(&chunk, pace.whole)?;
        }
        held.fit();
        Ok(held)
    }

    /// The next chunk of a body. Most bodies came with their heads: those need no timer.
    async fn chunk(&self, body: &mut Arriving, pace: &mut Pace) -> Option<Result<Bytes, Problem>> {
        let mut chunk = pin!(body.chunk());
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
                Err(_) if until == last => return Some(Err(Problem::BodyTimeout)),
                Err(_) => match take(&self.slow_memory, pace.whole) {
                    Ok(memory) => pace.slow = Some(memory),
                    Err(overload) => return Some(Err(overload)),
                },
            }
            until = last;
        }
    }
}

/// Memory for so many bytes, if there is any.
fn take(memory: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
    let overload = Problem::Unavailable(Unavailable::Overload);
    let Ok(bytes) = u32::try_from(bytes) else { return Err(overload) };
    Arc::clone(memory).try_acquire_many_owned(bytes).map_err(|_| overload)
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

    #[tokio::test]
    async fn all_the_room_of_a_body_in_pieces_counts_while_it_is_read_and_afterwards_it_takes_no_more_than_itself()
     {
        let memory = Arc::new(Semaphore::new(50_000));
        let bodies = Bodies { bytes_max: 3000, memory, ..bodies() };
        let counted = || 50_000 - bodies.memory.available_permits();
        for (pieces, room) in [(1, 100), (2, 200), (3, 400), (17, 3000), (30, 3000)] {
            let sent = || stream::iter(vec![&[0; 100][..]; pieces]).map(Ok::<_, std::io::Error>);
            let mut stops = Arriving::new(Body::from_stream(sent().chain(stream::pending())));
            let mut reading = Box::pin(bodies.read(&mut stops));
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
        assert_eq!(held.reserve(20_001), Err(Problem::Unavailable(Unavailable::Overload)));
        for (bytes, free) in [(5000, 45_000), (1000, 45_000), (9000, 45_000), (9001 + 4096, 50_000 - 13_097)]
        {
            held.replace(bytes).unwrap();
            assert_eq!(bodies.memory.available_permits(), free, "{bytes}");
        }
        assert_eq!(held.bytes.capacity(), 0);
        assert_eq!(held.replace(60_000), Err(Problem::Unavailable(Unavailable::Overload)));
        drop(held);
        assert_eq!(bodies.memory.available_permits(), 50_000);
    }

    /// A body of pieces so long that comes one piece after the other, each after a pause.
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
        assert_eq!(took(drip(b"x", ms(300), 1000)).await, (Err(Problem::BodyTimeout), ms(5000)));
        assert_eq!(took(drip(b"x", ms(2100), 1)).await, (Err(Problem::BodyTimeout), ms(2000)));
        let stops = stream::iter([Ok::<_, std::io::Error>(&b"x"[..])]).chain(stream::pending());
        assert_eq!(took(Body::from_stream(stops)).await, (Err(Problem::BodyTimeout), ms(2000)));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_bodies_leave_others_their_part_of_the_memory_and_end_if_they_have_theirs() {
        let bodies = bodies();
        let overload = Err(Problem::Unavailable(Unavailable::Overload));
        let slow = |body| {
            let bodies = bodies.clone();
            tokio::spawn(async move {
                let begun = Instant::now();
                (read(&bodies, body).await.map(|held| held.bytes.len()), begun.elapsed())
            })
        };
        let drips = slow(drip(&[0; 15], Duration::from_millis(600), 6));
        tokio::time::sleep(Duration::from_millis(100)).await;
        // One that goes on and one that does not: there is no part left for either.
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
