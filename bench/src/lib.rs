//! The benchmark: Milepost against the limits of its machine, and against the plain way to do the same.
//!
//! A [`run`] starts a Kafka and a Postgres ([`setup`]) and goes through the scenarios ([`scenario`]). Each starts an
//! [`installation`] and opponents, loads both in turn ([`duel`]), and counts at the end that exactly what was answered is stored
//! ([`ledger`]). The figures ([`figure`]) are ratios within one run; [`results`] keeps them, [`table`] and [`picture`] show them.
//!
//! A [`change`] of the programs is compared with the build before it.
//!
//! - Load: [`uploads`] are made ahead, [`points`] are as phone apps send them, [`requests`] number both, [`clients`] send them,
//!   closed or at the pace of [`arrivals`], and keep a [`tally`]; [`settled`] also waits for what was not awaited by the answers.
//! - Opponents: [`noop`] and [`plain`] are processes ([`opponent`]); [`produce`] and [`copy`] are the limits of Kafka and Postgres
//!   for [`records`] of a journal, [`commit`] the least that is durable.
//! - [`cost`] and [`machine`] read what was spent and on what; [`keys`] fills tables; [`size`] says how much of everything.

pub mod arguments;
pub mod arrivals;
pub mod change;
pub mod clients;
pub mod commit;
pub mod copy;
pub mod cost;
pub mod duel;
pub mod figure;
pub mod installation;
pub mod keys;
pub mod ledger;
pub mod machine;
pub mod noop;
pub mod opponent;
pub mod picture;
pub mod plain;
pub mod points;
pub mod produce;
pub mod records;
pub mod requests;
pub mod results;
pub mod run;
pub mod scenario;
pub mod settled;
pub mod setup;
pub mod size;
pub mod table;
pub mod tally;
pub mod uploads;
pub mod warm_up;
