//! Talking to the API server, from whatever namespace has a way there.

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use postern_lab::netns::{self, Netns};

/// How long a question may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// No client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be read.
    #[error("kubeconfig: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// A client cannot be made, or the API server refuses.
    #[error("Kubernetes API: {0}")]
    Api(#[from] kube::Error),
}

/// A client for a kubeconfig file. Its connections come from the network namespace of the thread that drives it.
///
/// # Errors
/// The file cannot be read.
pub async fn client(kubeconfig: &Path) -> Result<kube::Client, Error> {
    let mut config = kube::Config::from_custom_kubeconfig(
        Kubeconfig::read_from(kubeconfig)?,
        &KubeConfigOptions::default(),
    )
    .await?;
    // A machine's own settings are for the world outside.
    config.proxy_url = None;
    Ok(kube::Client::try_from(config)?)
}

/// Runs `work` to its end inside `netns`, on a thread and a runtime of its own, and returns what it returns.
///
/// # Errors
/// The namespace cannot be entered, or `work` panicked.
pub fn within<T, F>(netns: &Netns, work: impl FnOnce() -> F + Send) -> Result<T, netns::Error>
where
    T: Send,
    F: Future<Output = T>,
{
    netns.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let failed =
            |error| netns::Error { name: netns.name().to_owned(), step: "start a runtime in", error };
        Ok(runtime.map_err(failed)?.block_on(work()))
    })?
}

/// Whether the API server, asked inside `netns`, says that it is ready.
pub(crate) fn is_ready(netns: &Netns, kubeconfig: &Path) -> bool {
    let answer = within(netns, || async {
        let request = http::Request::get("/readyz").body(Vec::new()).ok()?;
        let answer = async { client(kubeconfig).await.ok()?.request_text(request).await.ok() };
        tokio::time::timeout(TIMEOUT, answer).await.ok()?
    });
    answer.ok().flatten().is_some_and(|answer| answer == "ok")
}
