//! Why a request of a phone's app is refused.

use http::StatusCode;

use crate::answer::outcome::Unavailable;
use crate::http::problem::Problem;
use crate::native::problem as native;

/// The request is of no app that sends there.
pub const NOT_THIS_PROTOCOL: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "not-this-protocol",
    "This is not what the app of this address sends.",
);

/// Why the points could not be taken.
#[must_use]
pub fn unavailable(why: Unavailable) -> Problem {
    native::unavailable(why).with_detail("The points could not be stored. Send them again.")
}
