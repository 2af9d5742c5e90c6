//! Milepost under torture: real gateways, consumers, Kafka and Postgres under load and faults, and checkers that say from the
//! outside whether an invariant broke (those of ARCHITECTURE.md).
//!
//! In the order of a run: a [`plan`] and a seed give a [`schedule`] of [`fault`]s and a stream of [`operation`]s, both pure. The
//! [`system`] runs behind the links of a [`proxy`]. [`drive`] sends the operations' uploads, those of phone apps as the [`app`]
//! writes them, and writes the [`history`], while
//! [`inject`] breaks and heals things and [`observe`] watches from the side. When all is healed and quiet, the [`evidence`]
//! is read from journal, topics and tables, and every [`check`] compares it with the history. The [`report`] says what came
//! of it. [`mutants`] shows that the checkers catch what they are for, and [`mixed`] that one build can be rolled over another.

pub mod app;
pub mod check;
pub mod drive;
pub mod evidence;
pub mod fault;
pub mod gather;
pub mod history;
pub mod inject;
pub mod mixed;
pub mod mutants;
pub mod observe;
pub mod operation;
pub mod original;
pub mod plan;
pub mod proxy;
pub mod record;
pub mod report;
pub mod run;
pub mod schedule;
pub mod system;
pub mod tour;
