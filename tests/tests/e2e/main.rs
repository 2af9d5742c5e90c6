//! The end-to-end tests: each name is a sentence about what Milepost does, on a real Kafka, a real Postgres and the real
//! programs. They are run by `make test`.

mod apps;
mod balanced;
mod clients;
mod configuration;
mod consumer;
mod devices;
mod documents;
mod emitted;
mod journal;
mod load;
mod operated;
mod operations;
mod phone;
mod phones;
mod played;
mod recorded;
mod replays;
mod secured;
mod sent;
mod started;
mod uploads;
mod waiting;
mod window;
