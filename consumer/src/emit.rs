//! Out of the consumer: the [`emitter`] publishes results and facts, and then the group offset moves.

pub mod emitter;
