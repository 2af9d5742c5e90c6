//! What any program needs: [`settings`], [`telemetry`], its [`pages`] for operators, [`shutdown`], [`backoff`], and, for tests,
//! named [`crash`] points.

pub mod backoff;
pub mod crash;
pub mod pages;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
