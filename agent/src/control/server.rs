//! The agent's end of the socket.

use std::fs::{DirBuilder, Permissions, remove_file, set_permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::debug;

use super::{Request, Status};
use crate::connections::{self, Busy};
use crate::descriptors;

/// No request is longer: what is, is none.
const LONGEST_REQUEST: u64 = 4096;

/// How long a client may take to ask, and how long to read the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections at once, and the share of the process's descriptors that they may take.
const CONNECTIONS: (usize, u64) = (16, 16);

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Question {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Status>,
}

/// What questions are put to.
#[derive(Clone, Debug)]
pub struct Asking(mpsc::Sender<Question>);

impl Asking {
    /// Asks, and waits for the answer. None when the agent stops.
    pub async fn ask(&self, request: Request) -> Option<Status> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Question { request, answer }).await.ok()?;
        answered.await.ok()
    }
}

/// A listening socket; its file goes when dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    asking: Asking,
    questions: mpsc::Receiver<Question>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
        // It may be gone already.
        let _ = remove_file(&self.path);
    }
}

impl Server {
    /// Listens. A file that a killed agent left is replaced; a living agent's is not.
    ///
    /// # Errors
    ///
    /// Another agent listens there, or the path cannot be used.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            let message = "another agent listens there; stop it, or choose another --socket and --bpffs-dir";
            return Err(std::io::Error::new(ErrorKind::AddrInUse, message));
        }
        match remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        set_permissions(path, Permissions::from_mode(0o600))?;
        let (sender, questions) = mpsc::channel(16);
        let asking = Asking(sender);
        let asked = asking.clone();
        let accepting = tokio::spawn(async move {
            let serve = |stream, busy| {
                let asked = asked.clone();
                async move {
                    if let Err(error) = serve(stream, asked, busy).await {
                        debug!(%error, "control connection ended");
                    }
                }
            };
            let limit = descriptors::at_most(CONNECTIONS.0, CONNECTIONS.1);
            connections::serve("control", limit, listener, serve).await;
        });
        Ok(Self { path: path.to_owned(), asking, questions, accepting })
    }

    /// Where others put their questions.
    #[must_use]
    pub fn asking(&self) -> Asking {
        self.asking.clone()
    }

    /// The next question.
    pub async fn next(&mut self) -> Question {
        match self.questions.recv().await {
            Some(question) => question,
            None => std::future::pending().await,
        }
    }
}

async fn serve(stream: UnixStream, asked: Asking, busy: Busy) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        let mut request = (&mut reader).take(LONGEST_REQUEST);
        if timeout(PATIENCE, request.read_line(&mut line)).await?? == 0 {
            return Ok(());
        }
        let mut reply = match serde_json::from_str(&line) {
            Ok(request) => {
                let Some(status) = busy.during(asked.ask(request)).await else { return Ok(()) };
                serde_json::to_string(&status)?
            }
            Err(error) => serde_json::json!({ "error": format!("not a request: {error}") }).to_string(),
        };
        reply.push('\n');
        timeout(PATIENCE, writer.write_all(reply.as_bytes())).await??;
    }
}
