//! `milepost-admin`: what an operator does by hand. `--help` is the reference.

mod account;
mod apps;
mod arguments;
mod database;
mod dead_letters;
mod device;
mod journal;
mod key;
mod locations;
mod migrate;
mod progress;
mod qr;
mod secret;
mod table;
mod topics;

use std::process::ExitCode;

use milepost_shared::program::settings;

use crate::arguments::{AccountCommand, Arguments, Command, DeadLettersCommand, JournalCommand, KeyCommand};
use crate::arguments::{DeviceCommand, LocationsCommand, ProgressCommand, TopicsCommand};

// Kafka's metadata is read by a blocking call, which only a runtime with several threads allows.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments: Arguments = settings::read();
    match run(arguments.command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in sentence(&error).lines() {
                eprintln!("error: {line}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Migrate(command) => migrate::migrate(&command).await,
        Command::Topics(TopicsCommand::Create(command)) => topics::create(&command).await,
        Command::Topics(TopicsCommand::Check { kafka }) => topics::check(&kafka).await,
        Command::Account(AccountCommand::Create(command)) => account::create(&command).await,
        Command::Account(AccountCommand::List { database }) => account::list(&database).await,
        Command::Key(KeyCommand::Create(command)) => key::create(&command).await,
        Command::Key(KeyCommand::List(command)) => key::list(&command).await,
        Command::Key(KeyCommand::Revoke(command)) => key::revoke(&command).await,
        Command::Device(DeviceCommand::Create(command)) => device::create(&command).await,
        Command::Device(DeviceCommand::List(command)) => device::list(&command).await,
        Command::Device(DeviceCommand::Revoke(command)) => device::revoke(&command).await,
        Command::Progress(ProgressCommand::List(command)) => progress::list(&command).await,
        Command::Progress(ProgressCommand::Set(command)) => progress::set(&command).await,
        Command::Locations(LocationsCommand::Count { database }) => locations::count(&database).await,
        Command::Journal(JournalCommand::Show(command)) => {
            tokio::task::block_in_place(|| journal::show(&command))
        }
        Command::DeadLetters(DeadLettersCommand::List(command)) => dead_letters::list(&command).await,
        Command::DeadLetters(DeadLettersCommand::Show(command)) => dead_letters::show(&command).await,
    }
}

/// The error with its causes. Libraries often repeat a cause in their own text: that is left out.
fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !sentence.contains(&cause) {
            sentence = format!("{sentence}: {cause}");
        }
    }
    sentence
}
