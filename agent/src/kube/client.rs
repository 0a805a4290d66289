//! Whom to ask, as whom.

use std::path::{Path, PathBuf};

use kube::Config;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};

/// Why nobody can be asked.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not in a pod.
    #[error(
        "no API server to watch: {0}; run the agent as a pod (deploy/), or name a cluster with --kubeconfig FILE, or a \
         folder with --manifests DIR"
    )]
    NotInCluster(#[from] InClusterError),
    /// The file.
    #[error("kubeconfig {}: {source}; check the file, and that its current context names a cluster and a user", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KubeconfigError,
    },
    /// TLS or credentials.
    #[error(
        "API server {url}: {message}; check the certificates and credentials of the kubeconfig or the ServiceAccount"
    )]
    Client {
        /// The server.
        url: String,
        /// What the library said.
        message: String,
    },
}

/// Finds the API server: by a kubeconfig file, else as a pod does, by its environment and its service account's token.
///
/// # Errors
///
/// There is neither, or it cannot be read. A server that does not answer is no error.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Config, ConnectError> {
    let mut config = match kubeconfig {
        None => Config::incluster()?,
        Some(path) => {
            let error = |source| ConnectError::Kubeconfig { path: path.to_owned(), source };
            let file = Kubeconfig::read_from(path).map_err(error)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(error)?
        }
    };
    // The client would ask again by itself, for a quarter of an hour and without a word: the watches do that, and say so.
    config.default_retry = false;
    Ok(config)
}
