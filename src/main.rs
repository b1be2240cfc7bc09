//! The program: chooses the TLS implementation and does what the command line says.
use std::process::ExitCode;

fn main() -> ExitCode {
    clawbroker::node::install_crypto();
    clawbroker::cli::run()
}
