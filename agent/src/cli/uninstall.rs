//! `postern uninstall`

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::control;
use crate::datapath::removal;

/// Takes everything off this node: programs, pinned maps and links, the control socket. Nothing is enforced after that.
///
/// Stop the agent first; in a cluster, delete its DaemonSet. Run it in the node's network namespace.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  postern uninstall
  postern uninstall --bpffs-dir /sys/fs/bpf/postern-b

Exit codes: 0 nothing is left; 1 something is, or an agent runs; 2 bad usage.")]
pub(super) struct Uninstall {
    /// Folder of the agent's pins
    #[arg(long, value_name = "DIR", env = "POSTERN_BPFFS_DIR", default_value = super::dump::PINS)]
    bpffs_dir: PathBuf,

    /// The agent's control socket
    #[arg(long, value_name = "PATH", env = "POSTERN_SOCKET", default_value = control::SOCKET)]
    socket: PathBuf,

    /// Stay until told to stop (SIGTERM, SIGINT) once everything is off: for a DaemonSet
    #[arg(long)]
    wait: bool,
}

impl Uninstall {
    pub(super) fn run(self) -> Result<ExitCode> {
        // Of any version: whoever takes the connection is alive.
        if UnixStream::connect(&self.socket).is_ok() {
            bail!(
                "an agent runs here ({} answers) and would put everything back; stop it first. In a cluster: \
                 kubectl --namespace postern delete daemonset postern",
                self.socket.display()
            );
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("starting the async runtime")?;
        let removed = runtime.block_on(removal::remove(&self.bpffs_dir))?;
        remove_socket(&self.socket)?;
        out!(
            "took off {} links, {} clsact filters, {} empty clsact qdiscs, and the pins of {} programs and {} maps; nothing is left",
            removed.links,
            removed.filters,
            removed.qdiscs,
            removed.programs,
            removed.maps
        );
        if self.wait {
            runtime.block_on(told_to_stop()).context("listening for signals")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn told_to_stop() -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Removes what a killed agent left of its socket, and its folder where nothing else is in it.
fn remove_socket(socket: &Path) -> Result<()> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", socket.display()));
        }
        _ => {}
    }
    if let Some(folder) = socket.parent().filter(|_| socket == Path::new(control::SOCKET)) {
        // A mount point in a container, or somebody else's too: both may stay.
        let _ = std::fs::remove_dir(folder);
    }
    Ok(())
}
