//! The `postern` binary.

use std::process::ExitCode;

use postern::cli::Cli;

fn main() -> ExitCode {
    match Cli::read().and_then(Cli::run) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("postern: {}", explain(&error));
            ExitCode::FAILURE
        }
    }
}

/// The causes of an error, outermost first. Our own errors name their cause already; it is not said twice.
fn explain(error: &anyhow::Error) -> String {
    let mut explained = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !explained.contains(&cause) {
            explained.push_str(if explained.is_empty() { "" } else { ": " });
            explained.push_str(&cause);
        }
    }
    explained
}
