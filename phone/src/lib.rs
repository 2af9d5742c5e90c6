//! The reference client of Milepost: plays a GPX file the way a phone uploads it, retries included.
//!
//! The files in the order of the flow: [`source`] decodes a file, [`gpx`] finds its points, [`point`] says what is
//! read of them and which are good (pure code), [`batch`] cuts them as a phone would (pure code), [`track`] puts these
//! together, [`upload`] gives each batch its key and its bytes, [`request`] is what is sent of it, [`answer`] is what a
//! gateway says to it, [`retry`] decides what that means (pure code), [`tls`] says whom to trust, [`phone`] sends and
//! retries, [`summary`] counts. `main.rs` only composes these.
//!
//! It can also play a file as an app would that knows nothing of Milepost: [`app`] makes the requests of each app and knows
//! what the app takes for success (pure code). Sending and retrying are the same.
//!
//! What a client of Milepost must do, and this one does:
//!
//! - one idempotency key per upload, the same for all attempts, also of a later run: this client makes it from the
//!   upload, and one that makes it at random has to keep it with the upload;
//! - the same key always goes with the same bytes;
//! - 202, 408, 429, 5xx, time-outs and lost connections are tried again, after a jittered pause that is never
//!   shorter than the `Retry-After` of the answer (up to a bound); everything else is final.

pub mod answer;
pub mod app;
pub mod batch;
pub mod gpx;
pub mod phone;
pub mod point;
pub mod request;
pub mod retry;
pub mod settings;
pub mod source;
pub mod summary;
pub mod tls;
pub mod track;
pub mod upload;

pub use app::App;
pub use phone::apps::Installed;
pub use phone::{Event, Phone};
pub use settings::Settings;
pub use summary::{Failure, Outcome, Summary};
pub use upload::Upload;
