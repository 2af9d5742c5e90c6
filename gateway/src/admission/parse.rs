//! Has a whole body parsed, whatever it holds, once its compression is taken off: a short one right away, a long one on a
//! thread that may be held up.

use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::admission::body::Held;
use crate::admission::coding::{Codings, Undecoded};
use crate::admission::problem::{UNREADABLE_BODY, body_too_large};
use crate::http::problem::{INTERNAL, OVERLOAD, Problem};

/// Bytes that are parsed right away, on the request's own thread: about 250 microseconds. Longer bodies go to a blocking
/// thread, so that they hold up nobody else.
const SHORT: usize = 64 << 10;
/// The same for compressed bytes: many empty members take a while too.
const SHORT_COMPRESSED: usize = 8 << 10;
/// Longest wait for such a thread. There are as many as cores.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);
/// The most memory that parsing an upload may take per byte, besides the body itself (`shared/tests/memory.rs`).
pub const MEMORY_PER_BYTE: usize = 7;

/// The bounds of parsing. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Parsers {
    bytes_max: usize,
    /// What parsing may take per byte, besides the body itself.
    memory_per_byte: usize,
    /// One permit for each long body that may be parsed at the same time.
    turns: Arc<Semaphore>,
}

impl Parsers {
    /// For bodies that have no more bytes than this after decompression.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let turns = Arc::new(Semaphore::new(available_parallelism().map_or(1, NonZero::get)));
        Self { bytes_max, memory_per_byte: MEMORY_PER_BYTE, turns }
    }

    /// The same threads, for bodies that take more memory.
    #[must_use]
    pub fn with_memory(&self, memory_per_byte: usize) -> Self {
        Self { memory_per_byte, ..self.clone() }
    }

    /// Takes the compression off a body and has it parsed.
    ///
    /// # Errors
    /// `parse` says so; the body is not compressed as said, or is too large, or there is no memory or no thread for it.
    pub async fn parse<T: Send + 'static>(
        &self,
        held: Held,
        codings: Codings,
        parse: impl Fn(&[u8]) -> Result<T, Problem> + Send + 'static,
    ) -> Result<(T, Held), Problem> {
        match self.parse_short(&held.bytes, &codings, &parse) {
            Some(parsed) => parsed.map(|parsed| (parsed, held)),
            // Boxed, so that short bodies do not carry the room for it.
            None => Box::pin(self.parse_long(held, codings, parse)).await,
        }
    }

    /// Parses a body that is short, also after decompression; `None` if it is not.
    fn parse_short<T>(
        &self,
        sent: &[u8],
        codings: &Codings,
        parse: impl Fn(&[u8]) -> Result<T, Problem>,
    ) -> Option<Result<T, Problem>> {
        if sent.len() > if codings.is_none() { SHORT } else { SHORT_COMPRESSED } {
            return None;
        }
        if codings.is_none() {
            return Some(parse(sent));
        }
        match codings.take_off(sent, SHORT.min(self.bytes_max)) {
            Err(Undecoded::TooLarge) => None,
            Err(Undecoded::Broken) => Some(Err(UNREADABLE_BODY)),
            Ok(body) => Some(parse(&body)),
        }
    }

    /// Parses a body on a blocking thread. Its memory counts until that has finished, even if the client hangs up.
    async fn parse_long<T: Send + 'static>(
        &self,
        mut held: Held,
        codings: Codings,
        parse: impl Fn(&[u8]) -> Result<T, Problem> + Send + 'static,
    ) -> Result<(T, Held), Problem> {
        let turn = timeout(TURN_TIMEOUT, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(OVERLOAD) };
        let bytes_max = self.bytes_max;
        let body_bytes = if codings.is_none() { held.bytes.len() } else { bytes_max };
        held.reserve(body_bytes.saturating_mul(1 + self.memory_per_byte).saturating_sub(held.bytes.len()))?;
        let parsing = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            if !codings.is_none() {
                held.bytes =
                    codings.take_off(&held.bytes, bytes_max).map_err(|undecoded| match undecoded {
                        Undecoded::Broken => UNREADABLE_BODY,
                        Undecoded::TooLarge => body_too_large(bytes_max),
                    })?;
            }
            parse(&held.bytes).map(|parsed| (parsed, held))
        });
        match parsing.await {
            Ok(parsed) => parsed,
            Err(failed) => {
                failed.try_into_panic().map_or(Err(INTERNAL), |panic| std::panic::resume_unwind(panic))
            }
        }
    }
}
