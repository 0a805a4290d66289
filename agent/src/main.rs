//! The `postern` binary.

use std::process::ExitCode;

use postern::causes::in_one_line;
use postern::cli::Cli;
use postern::logging::say;

fn main() -> ExitCode {
    match Cli::read().and_then(Cli::run) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("postern: {}", in_one_line(&*error)));
            ExitCode::FAILURE
        }
    }
}
