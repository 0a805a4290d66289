//! The asking end of the socket.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Request, Status};

/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent answers at {}; is it running? --socket names another place", .0.display())]
    NoAgent(PathBuf),
    /// The connection.
    #[error("asking the agent: {0}")]
    Io(#[from] std::io::Error),
    /// Not what this version understands.
    #[error("the agent's answer is not understood ({0}); is it another version?")]
    Answer(#[from] serde_json::Error),
}

/// Asks the agent at a socket.
///
/// # Errors
///
/// See [`ClientError`].
pub fn ask(socket: &Path, request: Request) -> Result<Status, ClientError> {
    let mut stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::NoAgent(socket.to_owned()),
        _ => ClientError::Io(error),
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{}\n", serde_json::to_string(&request)?).as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}
