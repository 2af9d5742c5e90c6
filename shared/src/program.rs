//! What any program needs: [`settings`], the body of [`main`] with [`telemetry`], [`pages`] for operators and [`shutdown`], what is
//! checked at the [`start`], [`backoff`], and, for tests, named [`crash`] points.

pub mod backoff;
pub mod crash;
pub mod main;
pub mod pages;
pub mod settings;
pub mod shutdown;
pub mod start;
pub mod telemetry;
