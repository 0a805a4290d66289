//! `postern-cluster`: see the library's documentation, and `postern-cluster --help`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
