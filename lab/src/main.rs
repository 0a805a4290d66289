//! `postern-lab`: see the library's documentation, and `postern-lab --help`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
