//! A TCP relay to the API server, from any network namespace: how an agent in a lab's node, or a test in the machine's
//! own namespace, gets there. And a place to break things: connections can be cut, or left hanging.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use postern_lab::netns::{self, Netns};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener as AsyncListener, TcpStream};
use tokio::sync::watch;

/// What one read moves at most.
const CHUNK: usize = 16 * 1024;

/// The relay could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// No socket.
    #[error("relay to the API server: {0}")]
    Socket(#[from] io::Error),
    /// Its kubeconfig cannot be written.
    #[error(transparent)]
    File(#[from] crate::files::Error),
}

/// What happens to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They pass.
    Pass,
    /// Nothing moves in either direction, as behind a firewall that drops: new connections are taken, and hang.
    Stall,
    /// Those that are there are closed, new ones at once.
    Cut,
    /// The relay is told to end.
    End,
}

/// A relay. Dropping it ends it, and all its connections.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    kubeconfig: PathBuf,
    mode: watch::Sender<Mode>,
    received: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Listens on a free port of the loopback of `from` (`None`: the caller's namespace), and connects to `target`
    /// inside `control`.
    pub(crate) fn start(from: Option<&Netns>, control: &Netns, target: SocketAddr) -> Result<Self, Error> {
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = match from {
            Some(netns) => netns.within(bind)??,
            None => bind()?,
        };
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mode, changes) = watch::channel(Mode::Pass);
        let received = Arc::new(AtomicU64::new(0));
        let counter = received.clone();
        let path = control.path();
        let thread = thread::spawn(move || {
            if let Err(error) = netns::enter(&path) {
                eprintln!("postern-cluster: relay: {error}");
                return;
            }
            if let Err(error) = runtime.block_on(serve(listener, target, changes, counter)) {
                eprintln!("postern-cluster: relay: {error}");
            }
        });
        Ok(Self { address, kubeconfig: PathBuf::new(), mode, received, thread: Some(thread) })
    }

    pub(crate) fn with_kubeconfig(mut self, path: PathBuf, text: &str) -> Result<Self, Error> {
        crate::files::write(&path, text)?;
        self.kubeconfig = path;
        Ok(self)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A kubeconfig of the cluster's administrator that goes through this relay. It goes with the control plane.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The API server's URL through this relay.
    #[must_use]
    pub fn server(&self) -> String {
        format!("https://{}", self.address)
    }

    /// How many bytes came from the API server so far, TLS included.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Changes what happens to connections, those that are there too.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.set(Mode::End);
        if let Some(thread) = self.thread.take() {
            // One that panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}

async fn serve(
    listener: TcpListener,
    target: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    received: Arc<AtomicU64>,
) -> io::Result<()> {
    let listener = AsyncListener::from_std(listener)?;
    let ending = mode.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = mode.wait_for(|mode| *mode == Mode::End) => return Ok(()),
        };
        // One that was gone before it was accepted is no reason to end.
        let Ok((client, _)) = accepted else { continue };
        tokio::spawn(relay(client, target, ending.clone(), received.clone()));
    }
}

/// Moves bytes both ways until either side ends, or all is cut.
async fn relay(
    client: TcpStream,
    target: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    received: Arc<AtomicU64>,
) {
    let mut cut = mode.clone();
    let work = async {
        // `wait_for` fails when the relay is gone: the same as being cut.
        if mode.wait_for(|mode| *mode == Mode::Pass).await.is_err() {
            return;
        }
        let Ok(server) = TcpStream::connect(target).await else { return };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let sent = AtomicU64::new(0);
        tokio::join!(
            pump(from_client, to_server, mode.clone(), &sent),
            pump(from_server, to_client, mode.clone(), &received)
        );
    };
    tokio::select! {
        () = work => {}
        _ = cut.wait_for(|mode| matches!(mode, Mode::Cut | Mode::End)) => {}
    }
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut mode: watch::Receiver<Mode>,
    moved: &AtomicU64,
) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk).await.unwrap_or(0);
        moved.fetch_add(read as u64, Ordering::Relaxed);
        if mode.wait_for(|mode| *mode == Mode::Pass).await.is_err() {
            return;
        }
        if read == 0 || to.write_all(&chunk[..read]).await.is_err() {
            // The other direction may still have something to say.
            let _ = to.shutdown().await;
            return;
        }
    }
}
