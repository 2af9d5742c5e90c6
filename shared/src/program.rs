//! What any program needs: [`settings`], the body of [`main`] with [`telemetry`], [`open_files`], [`pages`] for operators, which
//! [`healthcheck`] asks, and [`shutdown`], what is checked at the [`start`], [`backoff`], and, for tests, named [`crash`] points.

pub mod backoff;
pub mod crash;
pub mod healthcheck;
pub mod main;
pub mod open_files;
pub mod pages;
pub mod settings;
pub mod shutdown;
pub mod start;
pub mod telemetry;
