//! The command line as a person or a script uses it: the real binary, with a server running and with none.
mod agents;
mod channels;
mod copies;
mod gateways;
mod node;
mod people;
mod servers;
mod tokens;

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use clawbroker::store::Location;
use serde_json::Value;

use crate::harness::Database;

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Reads the answer of a command that was run with `--json`.
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    fn fine(self) -> Self {
        assert_eq!(self.status, Some(0), "{self:?}");
        self
    }

    /// Checks that the command failed with one sentence, and returns it.
    #[track_caller]
    fn refused(self, status: i32) -> String {
        assert_eq!((self.status, self.out.as_str()), (Some(status), ""), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        self.err.strip_prefix("clawbroker: ").unwrap_or(&self.err).trim_end().to_owned()
    }
}

/// Returns the command with nothing of this process's environment but the settings of the database.
fn command(database: &Database, args: &[&str]) -> Command {
    let url = match database.location() {
        Location::Sqlite(path) => format!("sqlite:////{}", path.to_string_lossy().trim_start_matches('/')),
        Location::Postgres(url) => url.reveal().to_owned(),
    };
    let mut command = bare(database.data_dir(), args);
    command.env("DATABASE_URL", url).env("CLAWBROKER_DATA_DIR", database.data_dir());
    command
}

fn bare(working_dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clawbroker"));
    command.args(args).current_dir(working_dir).env_clear().stdin(Stdio::null());
    command
}

fn finish(mut command: Command) -> Ran {
    let output = command.output().expect("the binary starts");
    Ran {
        status: output.status.code(),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

fn run(database: &Database, args: &[&str]) -> Ran {
    finish(command(database, args))
}

/// Runs a command that reads `input`.
fn run_with(database: &Database, args: &[&str], input: &str) -> Ran {
    let mut command = command(database, args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    Ran {
        status: output.status.code(),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// A process that is killed with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
