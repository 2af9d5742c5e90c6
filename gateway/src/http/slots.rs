//! How many requests are served at once.

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::http::problem::{OVERLOAD, Problem};

/// One slot for each request being served.
#[derive(Debug)]
pub struct Slots(Semaphore);

impl Slots {
    /// So many, all free.
    #[must_use]
    pub fn new(requests_max: u32) -> Self {
        Self(Semaphore::new(usize::try_from(requests_max).unwrap_or(usize::MAX)))
    }

    /// Nothing more can be served at the moment.
    #[must_use]
    pub fn are_taken(&self) -> bool {
        self.0.available_permits() == 0
    }

    /// Takes a slot until the permit is dropped. Not before a request's body is there: a phone on a slow network would
    /// keep others from it.
    ///
    /// # Errors
    /// [`OVERLOAD`]: none is free.
    pub fn take(&self) -> Result<SemaphorePermit<'_>, Problem> {
        self.0.try_acquire().map_err(|_| OVERLOAD)
    }
}
