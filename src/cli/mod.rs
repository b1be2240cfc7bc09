//! The commands. One file each; what they share stands in the files without a command's name.
//!
//! A command that changes something while a server runs asks that server (`client`); only when none runs it opens the
//! database itself, under the same lock (`offline`). What people read goes to standard output, the log to standard
//! error. A failure is one sentence that says what to do, and exit status 1; a wrong command line is exit status 2.
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{Config, Loaded, Overrides, Sources};
use crate::domain::secret::Secret;

mod agent;
mod agent_key;
mod backup;
mod channel;
mod channel_change;
mod client;
mod demo;
mod doctor;
mod failure;
mod gateway;
mod logging;
mod mail;
mod member;
mod migrate;
mod named;
mod offline;
mod output;
mod relation;
mod restore;
mod running;
mod secrets;
mod sender;
mod serve;
mod server_file;
mod token;

use failure::Failure;

/// Message broker between people, AI agents and OpenClaw gateways.
#[derive(Debug, Parser)]
#[command(name = "clawbroker", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    serve: Listening,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What every command takes.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Settings")]
struct Common {
    /// Config file [default: config/clawbroker.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of database, key and admin token [default: data]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Database; better set DATABASE_URL, which nobody else can read [default: SQLite in the data directory]
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,clawbroker::actors=debug`
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

/// What a server takes besides.
#[derive(Debug, Default, Args)]
struct Listening {
    /// Address to listen on; may be given several times [default: 127.0.0.1:8000]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Vec<String>,
    /// Take clients on this machine for the user `admin`, without a token
    #[arg(long)]
    trust_local: bool,
}

/// How a command answers.
#[derive(Debug, Default, Args)]
struct Format {
    /// Answer in JSON, for scripts
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker (what happens without a command, too)
    Serve(Listening),
    /// Run a broker with a built-in sample gateway, to see a chat within a minute
    Demo(demo::Demo),
    /// Bring the database to the newest schema, while no server runs
    Migrate(migrate::Migrate),
    /// Explain the settings and look for what is wrong; exit status 1 if something is
    Doctor(doctor::Doctor),
    /// Copy the database to a file, also while a server runs
    Backup(backup::Backup),
    /// Put a backup in the place of the database, while no server runs
    Restore(restore::Restore),
    /// Register upstream gateways, and see how they are
    #[command(subcommand)]
    Gateway(gateway::Action),
    /// Register agents, make and end their keys, say whom they know; poll and report as one of them
    #[command(subcommand)]
    Agent(agent::Action),
    /// Write to an agent or a person, as an agent
    Send(Box<mail::Outgoing>),
    /// Set channels to people up, see how they are, and say who may write on them
    #[command(subcommand)]
    Channel(channel::Action),
    /// Keep people who are reached on channels
    #[command(subcommand)]
    Member(member::Action),
    /// Make, list and revoke tokens
    #[command(subcommand)]
    Token(token::Action),
}

impl Common {
    fn overrides(&self) -> Overrides {
        Overrides {
            config: self.config.clone(),
            data_dir: self.data_dir.clone(),
            database_url: self.database_url.as_ref().map(Secret::new),
            log_level: self.log_level.clone(),
            ..Overrides::default()
        }
    }

    /// Loads the configuration for a short command, and starts a log that speaks up only when something fails.
    fn load_quietly(&self) -> Result<Config, Failure> {
        Ok(self.load_quietly_for(&Listening::default())?.config)
    }

    /// The same for a short command that takes what a server takes.
    fn load_quietly_for(&self, listening: &Listening) -> Result<Loaded, Failure> {
        let loaded = self.load_for(listening)?;
        let quiet = "error".parse().map_err(Failure::new)?;
        logging::start(if self.log_level.is_some() { &loaded.config.log.level } else { &quiet });
        Ok(loaded)
    }

    /// Loads the configuration for a command that listens.
    fn load_for(&self, listening: &Listening) -> Result<Loaded, Failure> {
        let overrides =
            Overrides { listen: listening.listen.clone(), trust_local: listening.trust_local, ..self.overrides() };
        Ok(Config::load(&overrides, &Sources::from_process()?)?)
    }
}

/// Reads the command line, does what it says, and returns the exit status.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    keep_files_private();
    match cli.execute().and_then(|()| output::printed()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

impl Cli {
    fn execute(self) -> Result<(), Failure> {
        let Self { common, serve, command } = self;
        let before_command = !serve.listen.is_empty() || serve.trust_local;
        match command {
            Some(_) if before_command => {
                let text = "--listen and --trust-local go behind the command; `serve`, `demo` and `doctor` take them";
                Cli::command().error(clap::error::ErrorKind::ArgumentConflict, text).exit()
            }
            None => serve::run(&common, &serve),
            Some(Command::Serve(listening)) => serve::run(&common, &listening),
            Some(Command::Demo(demo)) => demo::run(&common, &demo),
            Some(Command::Migrate(migrate)) => block_on(migrate::run(&common, &migrate)),
            Some(Command::Doctor(doctor)) => block_on(doctor::run(&common, &doctor)),
            Some(Command::Backup(backup)) => block_on(backup::run(&common, &backup)),
            Some(Command::Restore(restore)) => block_on(restore::run(&common, &restore)),
            Some(Command::Gateway(action)) => block_on(gateway::run(&common, action)),
            Some(Command::Agent(action)) => block_on(agent::run(&common, action)),
            Some(Command::Send(send)) => block_on(mail::send(&common, &send)),
            Some(Command::Channel(action)) => block_on(channel::run(&common, action)),
            Some(Command::Member(action)) => block_on(member::run(&common, action)),
            Some(Command::Token(action)) => block_on(token::run(&common, action)),
        }
    }
}

/// Has every file that this process makes readable for its own user only: database, logs, copies.
fn keep_files_private() {
    #[cfg(unix)]
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// Runs a command's asynchronous part.
fn block_on<F: Future>(work: F) -> F::Output {
    // Never torn down: that would wait for blocking work, however long it takes, and the process ends anyway.
    let system = std::mem::ManuallyDrop::new(actix_rt::System::new());
    system.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_argument_says_what_it_is() {
        let mut commands = vec![Cli::command()];
        while let Some(command) = commands.pop() {
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            commands.extend(command.get_subcommands().cloned());
        }
    }
}
