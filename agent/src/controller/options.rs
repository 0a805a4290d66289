//! What the agent is told, and why it cannot run.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::Antispoof;
use crate::datapath::SetupError;
use crate::datapath::attach::Mode;
use crate::datapath::object::Settings;
use crate::kube::ConnectError;
use crate::links::LinkError;

/// What the agent is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the picture of the cluster comes from.
    pub origin: Origin,
    /// The node whose pods to look after (`spec.nodeName`).
    pub node: String,
    /// Folder for pins, on a BPF file system.
    pub pins: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// Where probes and Prometheus are answered.
    pub http: Option<SocketAddr>,
    /// How programs are attached.
    pub mode: Mode,
    /// Whose senders are checked.
    pub antispoof: Antispoof,
    /// Settings of the programs.
    pub settings: Settings,
}

/// Where the picture of the cluster comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// The API server of a kubeconfig file, or the one that a pod finds in its environment.
    Kube(Option<PathBuf>),
}

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The data path.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// Links.
    #[error(transparent)]
    Links(#[from] LinkError),
    /// The folder of manifests.
    #[error("watching {}: {source}; --manifests must name a folder that exists", path.display())]
    Watch {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: notify::Error,
    },
    /// The API server.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The address for probes and Prometheus.
    #[error("listening for HTTP on {address}: {source}; --http-address names another, or off")]
    Http {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The control socket.
    #[error("control socket {}: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Signals.
    #[error("listening for signals: {0}")]
    Signal(std::io::Error),
}
