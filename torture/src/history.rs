//! The history of a run: every attempt of every client, as the client saw it. What the servers say about themselves is not in
//! it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::app::App;
use crate::operation::UploadId;

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// POST of an upload.
    Post,
    /// POST of a body with a fault.
    PostMalformed,
    /// GET of an upload's status.
    Get,
    /// The same by an account that it is not of.
    GetByStranger,
    /// A point in a request of this app.
    Point(App),
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// An answer came, whole.
    Answer {
        /// HTTP status.
        status: u16,
        /// The bytes of the body.
        body: Arc<[u8]>,
        /// Whether it was marked as a replay.
        replayed: bool,
    },
    /// The client hung up before an answer, on purpose.
    HungUp {
        /// Whether it had sent the whole request.
        whole: bool,
    },
    /// No whole answer came: time-out, reset, refused. The upload may be stored or not.
    Unknown,
}

/// One request about one upload. A request of an app is as many attempts as it has points: what it ends in is said of each.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The number of the request in the run, which only the points of one have in common.
    pub request: u64,
    /// The upload it was about.
    pub upload: UploadId,
    /// What was asked for.
    pub ask: Ask,
    /// The account that asked, 0 or 1.
    pub account: usize,
    /// The gateway that was asked, 0 or 1.
    pub gateway: usize,
    /// When the request began, since the run did.
    pub began: Duration,
    /// When it ended.
    pub ended: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

impl Attempt {
    /// The status of its answer; `None` if none came.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self.outcome {
            Outcome::Answer { status, .. } => Some(status),
            Outcome::HungUp { .. } | Outcome::Unknown => None,
        }
    }

    /// Whether an upload was sent that has no fault but, at most, that it is to be set aside.
    #[must_use]
    pub fn is_upload(&self) -> bool {
        matches!(self.ask, Ask::Post | Ask::Point(_))
    }
}

/// What was expected of an operation and did not come, in the client's own judgement, as it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The upload.
    pub upload: UploadId,
    /// One sentence.
    pub text: String,
}

/// All that the clients of one run saw.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// In the order in which they ended.
    pub attempts: Vec<Attempt>,
    /// Operations begun: all indices below it.
    pub operations: u64,
    /// Operations that did not come to their end.
    pub unended: Vec<u64>,
    /// What clients complained of, such as a window that was not free when it should have been.
    pub complaints: Vec<Complaint>,
}

/// Where the clients write, from all tasks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    history: Arc<Mutex<History>>,
    begun: Instant,
}

impl Recorder {
    /// Begins an empty history, and the run's time.
    #[must_use]
    pub fn begin() -> Self {
        Self { history: Arc::default(), begun: Instant::now() }
    }

    /// The run's time.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Writes.
    pub fn write(&self, write: impl FnOnce(&mut History)) {
        write(&mut self.lock());
    }

    /// Reads.
    pub fn read<T>(&self, read: impl FnOnce(&History) -> T) -> T {
        read(&self.lock())
    }

    /// The history so far; the recorder goes on with an empty one.
    #[must_use]
    pub fn take(&self) -> History {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
