//! Programs of the system that read a rule set: nft, iptables, ipset; inside a namespace.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use crate::netns::{self, Netns};

/// A rule set could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// The program is not there.
    #[error("run {program}: {error} (`cargo xtask setup` installs it)")]
    Run {
        /// The program.
        program: &'static str,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// It refuses.
    #[error("{program} refuses the rules: {said}")]
    Refused {
        /// The program.
        program: &'static str,
        /// What it said.
        said: String,
    },
}

/// Runs a program inside a namespace, with a text to read.
pub(crate) fn feed(
    netns: &Netns,
    program: &'static str,
    arguments: &[&str],
    text: &str,
) -> Result<(), Error> {
    let run = || {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that refuses early closes the pipe, and says why.
            let _ = stdin.write_all(text.as_bytes());
        }
        child.wait_with_output()
    };
    let output = netns.within(run)?.map_err(|error| Error::Run { program, error })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Refused { program, said: said.lines().next().unwrap_or_default().to_owned() })
}
