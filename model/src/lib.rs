//! The protocol of Milepost as a model, checked exhaustively: every order of every step, within a [`size`].
//!
//! A model proves only what it is a model of. So whatever decides is the programs' own code: the consumer's
//! [`decide`](milepost_consumer::persist::decide), [`assign`](milepost_consumer::journal::assign) and
//! [`expire`](milepost_consumer::expire), and the gateway's [`matching`](milepost_gateway::answer::matching) and [`safety`](milepost_gateway::answer::safety). What is written here is the
//! universe around it: the [`journal`], Postgres as a [`database`], a [`consumer`]'s session, the [`gateway`]s, [`phones`] with
//! their [`point`]s, all of it put together as a [`universe`]. [`protocol`] says what may happen in it, and [`property`] what must hold at every moment.
//! [`planted`] has the bugs that must be found.

pub mod consumer;
pub mod database;
pub mod gateway;
pub mod journal;
pub mod phones;
pub mod planted;
pub mod point;
pub mod property;
pub mod protocol;
pub mod size;
pub mod universe;
