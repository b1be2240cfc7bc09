//! Load tools: they start the real release binary, drive it from the same machine, and print figures together with the
//! limits that were measured beside them in the same run.
//!
//! `cargo bench --bench load` runs all of them, `cargo bench --bench load -- fanout delta` some. What they found, where
//! and when, stands in `docs/performance.md`.
#![cfg(test)]

mod agents;
mod broker;
mod cycle;
mod database;
mod delta;
mod fanout;
mod figures;
mod gateway;
mod http;
mod idle;
mod naive;
mod polls;
mod registered;
mod start;
mod wire;
mod writer;

use std::path::Path;

use figures::say;

/// Every tool by name, with what it shows.
const TOOLS: [(&str, &str); 8] = [
    ("writer", "rows that 64 writers bring to the disk"),
    ("idle", "memory of an idle browser socket"),
    ("fanout", "one stream to 1,000 browsers"),
    ("delta", "a delta's way through the broker"),
    ("cycle", "messages between agents: sent, polled, reported on"),
    ("polls", "thousands of polls that wait, and how soon they hear"),
    ("agents", "100,000 registered agents: memory and time to ready"),
    ("start", "time to ready, and a page of history, with many messages"),
];

fn main() {
    // `cargo bench` adds `--bench`.
    let names: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    if names.first().is_some_and(|name| naive::ALL.contains(&name.as_str())) {
        naive::serve(&names[0]);
        return;
    }
    if let Some(unknown) = names.iter().find(|name| TOOLS.iter().all(|(tool, _)| tool != *name)) {
        let tools: Vec<String> = TOOLS.iter().map(|(tool, what)| format!("  {tool:8} {what}")).collect();
        panic!("there is no tool `{unknown}`; there are\n{}", tools.join("\n"));
    }
    raise_open_files();
    figures::machine();
    for (tool, what) in TOOLS {
        if !names.is_empty() && names.iter().all(|name| name != tool) {
            continue;
        }
        say(&format!("\n{tool}: {what} (cargo bench --bench load -- {tool})"));
        actix::System::new().block_on(async {
            match tool {
                "writer" => writer::run().await,
                "idle" => idle::run().await,
                "fanout" => fanout::run().await,
                "delta" => delta::run().await,
                "cycle" => cycle::run().await,
                "polls" => polls::run().await,
                "agents" => registered::run().await,
                _ => start::run().await,
            }
        });
    }
}

/// Thousands of sockets need as many files.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .expect("up to the hard limit it is allowed");
}

/// A directory for the data of one run, on the disk that the target directory is on: `/tmp` may be memory.
fn data_dir() -> tempfile::TempDir {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tempfile::Builder::new().prefix("load-").tempdir_in(target).expect("a directory for the data")
}
