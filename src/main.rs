//! The program: chooses the TLS implementation and does what the command line says.
use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Connections move between threads: the C library's allocator would leave holes of theirs in an arena for each thread.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    clawbroker::node::install_crypto();
    clawbroker::cli::run()
}
