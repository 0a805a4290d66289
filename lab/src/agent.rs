//! A real agent on a node: the process, and the questions the lab asks it over its control socket.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use postern::control::{self, Request, Status};
use tokio::process::{Child, Command};

use crate::netns::Netns;

/// How long the agents may take to enforce a change before the lab calls it a failure.
const ENFORCE_PATIENCE: Duration = Duration::from_mins(1);
/// How often the lab asks whether a change is enforced yet.
const POLL: Duration = Duration::from_millis(10);

/// An agent failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Process or log could not be started.
    #[error("start the agent of {node} ({program}): {error}", program = .program.display())]
    Start {
        /// Its node.
        node: String,
        /// What was run.
        program: PathBuf,
        /// Why it does not run.
        #[source]
        error: io::Error,
    },
    /// It ended while it was needed.
    #[error("the agent of {node} ended ({status}); the end of its log:\n{log}")]
    Ended {
        /// Its node.
        node: String,
        /// How.
        status: String,
        /// Last lines of its log.
        log: String,
    },
    /// Its maps cannot be read back.
    #[error("dump the maps of {node}: {reason}")]
    Dump {
        /// Its node.
        node: String,
        /// Why not.
        reason: String,
    },
    /// What it pinned cannot be removed.
    #[error("remove the pins of {node} ({path}): {error}", path = .path.display())]
    Forget {
        /// Its node.
        node: String,
        /// The folder of pins.
        path: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// It did not enforce a change in time.
    #[error(
        "the agent of {node} does not enforce the change after {ENFORCE_PATIENCE:?}: {last}; the end of its log:\n{log}"
    )]
    Late {
        /// Its node.
        node: String,
        /// What it says.
        last: String,
        /// Last lines of its log.
        log: String,
    },
}

/// Where an agent's picture of the cluster comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// The API server that a kubeconfig names, as reached from the node.
    Kubeconfig(PathBuf),
}

/// Paths that an agent is given.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The `postern` binary.
    pub program: PathBuf,
    /// This lab's own binary, which starts it in its namespace.
    pub launcher: PathBuf,
    /// What it learns of the cluster from.
    pub origin: Origin,
    /// Where it pins programs and maps.
    pub bpffs: PathBuf,
    /// Its control socket.
    pub socket: PathBuf,
    /// Where its log goes.
    pub log: PathBuf,
}

/// An agent. Dropping it kills the process; what it pinned stays until the run ends.
#[derive(Debug)]
pub struct Agent {
    node: String,
    paths: Paths,
    /// What it is told beyond its paths.
    flags: Vec<String>,
    netns: PathBuf,
    child: Option<Child>,
}

impl Agent {
    /// Starts the agent of `node` in its namespace, with these flags more than its paths.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(node: &str, netns: &Netns, paths: Paths, flags: &[&str]) -> Result<Self, Error> {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let node = node.to_owned();
        let mut agent = Self { node, paths, flags, netns: netns.path(), child: None };
        agent.restart()?;
        Ok(agent)
    }

    /// Its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Kills it, and starts it again with these flags more than its paths.
    ///
    /// # Errors
    /// The process cannot be started.
    pub async fn restart_with(&mut self, flags: &[&str]) -> Result<(), Error> {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self.kill().await;
        self.restart()
    }

    /// Starts it again after [`Self::kill`].
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn restart(&mut self) -> Result<(), Error> {
        let program = self.paths.program.clone();
        let failed = |error| Error::Start { node: self.node.clone(), program, error };
        // The socket of a killed agent would refuse: make "not there yet" out of it.
        let _ = std::fs::remove_file(&self.paths.socket);
        let spawn = || {
            if !self.paths.program.exists() {
                return Err(io::ErrorKind::NotFound.into());
            }
            let log = File::options().create(true).append(true).open(&self.paths.log)?;
            let mut command = Command::new(&self.paths.launcher);
            command.arg("within").arg("--netns").arg(&self.netns).arg("--die-with-parent").arg("--");
            command.arg(&self.paths.program).arg("agent");
            match &self.paths.origin {
                Origin::Manifests(folder) => command.arg("--manifests").arg(folder),
                Origin::Kubeconfig(file) => command.arg("--kubeconfig").arg(file),
            };
            command.arg("--node").arg(&self.node).arg("--bpffs-dir").arg(&self.paths.bpffs);
            command.arg("--socket").arg(&self.paths.socket).args(["--log-format", "json"]);
            command.args(&self.flags);
            command.stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log);
            command.process_group(0).kill_on_drop(true).spawn()
        };
        self.child = Some(spawn().map_err(failed)?);
        Ok(())
    }

    /// Kills it at once (SIGKILL), as the kernel would when memory runs out.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill().await;
        }
    }

    /// Asks for its status. `None`: it does not answer (yet).
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        control::ask(&self.paths.socket, Request::Status).ok()
    }

    /// Waits until the manifests with this fingerprint are enforced on every pod of the node.
    ///
    /// # Errors
    /// It ended, or takes too long.
    pub async fn wait_for(&mut self, digest: &str) -> Result<Status, Error> {
        // What nobody can read keeps an agent from being ready, and has tests of its own.
        let enforced = |status: &Status| status.ready || (status.unread && status.settled);
        self.wait_until(|status| enforced(status) && status.digest == digest).await
    }

    /// Waits until its status is as wanted.
    ///
    /// # Errors
    /// It ended, or takes too long.
    pub async fn wait_until(&mut self, wanted: impl Fn(&Status) -> bool) -> Result<Status, Error> {
        let deadline = Instant::now() + ENFORCE_PATIENCE;
        loop {
            let status = self.status();
            if let Some(status) = &status
                && wanted(status)
            {
                return Ok(status.clone());
            }
            if let Some(Ok(Some(ended))) = self.child.as_mut().map(Child::try_wait) {
                return Err(Error::Ended {
                    node: self.node.clone(),
                    status: ended.to_string(),
                    log: self.end_of_log(),
                });
            }
            if Instant::now() > deadline {
                let last = status.map_or("it does not answer".to_owned(), |status| format!("{status:?}"));
                return Err(Error::Late { node: self.node.clone(), last, log: self.end_of_log() });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What its maps enforce, as `postern dump` prints it.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub async fn dump(&self) -> Result<serde_json::Value, Error> {
        let mut command = Command::new(&self.paths.launcher);
        command.arg("within").arg("--netns").arg(&self.netns).arg("--").arg(&self.paths.program);
        command.args(["dump", "--output", "json", "--bpffs-dir"]).arg(&self.paths.bpffs);
        let failed = |reason| Error::Dump { node: self.node.clone(), reason };
        let output = command.output().await.map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))
    }

    /// Removes everything that it pinned: its programs and maps go with that.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn forget(&self) -> Result<(), Error> {
        match std::fs::remove_dir_all(&self.paths.bpffs) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::Forget { node: self.node.clone(), path: self.paths.bpffs.clone(), error })
            }
            _ => Ok(()),
        }
    }

    /// All that it logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.paths.log).unwrap_or_default()
    }

    fn end_of_log(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}
