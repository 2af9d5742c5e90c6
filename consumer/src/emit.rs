//! Out of the consumer: the [`emitter`] publishes results and facts, each by a [`producer`], and moves the group offset.

pub mod emitter;
pub mod producer;
