//! The lab's end of a helper process (see [`crate::prober`]).

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::netns::Netns;
use crate::prober::{Listen, Reply, Request};

/// No request takes longer than this, however busy the machine: what does is a bug, and must not hang the lab.
const REPLY_PATIENCE: Duration = Duration::from_mins(2);

/// A helper failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process could not be started.
    #[error("start the helper of {party}: {error}")]
    Start {
        /// Whose helper.
        party: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Its pipe broke.
    #[error("the helper of {party} ended: {error}")]
    Pipe {
        /// Whose helper.
        party: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It did not answer in time.
    #[error("the helper of {party} did not answer in {REPLY_PATIENCE:?}")]
    Silent {
        /// Whose helper.
        party: String,
    },
    /// It could not do what it was asked.
    #[error("{message}")]
    Request {
        /// What it says.
        message: String,
    },
}

/// A running helper. Dropping it ends the process.
#[derive(Debug)]
pub struct Helper {
    party: String,
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Helper {
    /// Starts `executable prober` in `netns`, in the name of `party`, without waiting for it.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(executable: &Path, netns: &Netns, party: &str) -> Result<Self, Error> {
        let failed = |error| Error::Start { party: party.to_owned(), error };
        let mut command = Command::new(executable);
        command.arg("prober").arg("--netns").arg(netns.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        // A Ctrl-C at the terminal is for the lab, which then ends its helpers.
        command.process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (stdin, stdout) = pipes.ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        Ok(Self { party: party.to_owned(), child, stdin, stdout: BufReader::new(stdout).lines() })
    }

    /// Has it serve the party's ports.
    ///
    /// # Errors
    /// A port cannot be opened.
    pub async fn serve(&mut self, ports: Vec<Listen>) -> Result<(), Error> {
        let name = self.party.clone();
        self.request(&Request::Serve { name, ports }).await.map(drop)
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The helper is gone, silent, or says that it failed.
    pub async fn request(&mut self, request: &Request) -> Result<Reply, Error> {
        let exchange = timeout(REPLY_PATIENCE, exchange(&mut self.stdin, &mut self.stdout, request));
        match exchange.await {
            Ok(Ok(Reply::Failed(message))) => Err(Error::Request { message }),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(Error::Pipe { party: self.party.clone(), error }),
            Err(_) => Err(Error::Silent { party: self.party.clone() }),
        }
    }

    /// Ends the process, and waits until its sockets are gone.
    pub async fn end(mut self) {
        // It may have ended by itself.
        let _ = self.child.kill().await;
    }
}

async fn exchange(
    stdin: &mut ChildStdin,
    stdout: &mut Lines<BufReader<ChildStdout>>,
    request: &Request,
) -> io::Result<Reply> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stdin.write_all(&line).await?;
    let reply = stdout.next_line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(serde_json::from_str(&reply)?)
}
