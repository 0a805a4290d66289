//! The first process of a node: it lays out the node's own mounts, starts the node's programs, starts again those that
//! end, and reaps whatever is left to it.
//!
//! It is process 1 of a process namespace, so all that a node runs, pods too, dies with it; and it has a mount namespace,
//! so all that a node mounts goes too. The machine sees neither. Run as `postern-cluster node --spec FILE`, by
//! [`crate::node`].

mod mounts;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use serde::{Deserialize, Serialize};

use crate::files;

/// How long a program waits for the one before it.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often that is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Before a program that ended is started again.
const BREATH: Duration = Duration::from_millis(500);

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its description.
    #[error("{path}: {error}", path = .path.display())]
    Spec {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        error: serde_json::Error,
    },
    /// A mount.
    #[error("{step} {path}: {errno}", path = .path.display())]
    Mount {
        /// What was tried.
        step: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        errno: Errno,
    },
    /// The kernel refuses the host name.
    #[error("set the host name: {0}")]
    HostName(#[source] Errno),
    /// It is not the first process of a process namespace.
    #[error("this is process {0}, not the first of a namespace: only `up` runs it")]
    NotFirst(u32),
    /// Files.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// All that the first process needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// Host name.
    pub name: String,
    /// Folders of the machine that the node has its own of, and what takes their place.
    pub own: BTreeMap<PathBuf, PathBuf>,
    /// What stays visible below those.
    pub keep: Vec<PathBuf>,
    /// A folder for files that take the place of kernel settings.
    pub settings: PathBuf,
    /// What to run.
    pub programs: Vec<Program>,
}

/// A program of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Program {
    /// The binary.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where what it says goes.
    pub log: PathBuf,
    /// A socket that has to be there before it starts.
    pub after: Option<PathBuf>,
}

/// Runs a node until it is killed.
///
/// # Errors
/// It cannot start.
pub fn run(spec: &Path) -> Result<(), Error> {
    if std::process::id() != 1 {
        return Err(Error::NotFirst(std::process::id()));
    }
    let text = fs::read(spec).map_err(files::Error::on("read", spec))?;
    let failed = |error| Error::Spec { path: spec.to_owned(), error };
    let spec: Spec = serde_json::from_slice(&text).map_err(failed)?;
    nix::unistd::sethostname(&spec.name).map_err(Error::HostName)?;
    mounts::lay_out(&spec)?;
    let mut running = BTreeMap::new();
    for program in &spec.programs {
        running.insert(start(program)?, program);
    }
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => {
                // Most are orphans that containers left.
                let Some(program) = running.remove(&pid.as_raw().unsigned_abs()) else { continue };
                eprintln!("{} ended; starting it again", program.path.display());
                thread::sleep(BREATH);
                running.insert(start(program)?, program);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            // Not to be: the programs are our children.
            Err(errno) => {
                return Err(Error::Mount { step: "wait for", path: PathBuf::from("programs"), errno });
            }
        }
    }
}

/// Starts a program, and returns its process id. Nobody else may wait for it.
fn start(program: &Program) -> Result<u32, Error> {
    if let Some(socket) = &program.after {
        let deadline = Instant::now() + PATIENCE;
        // Without it the program fails, is started again, and says why.
        while UnixStream::connect(socket).is_err() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
    }
    let open = || fs::OpenOptions::new().create(true).append(true).open(&program.log);
    let log = open().map_err(files::Error::on("open", &program.log))?;
    let errors = log.try_clone().map_err(files::Error::on("open", &program.log))?;
    let mut command = Command::new(&program.path);
    command.args(&program.arguments).stdin(Stdio::null()).stdout(log).stderr(errors);
    let child = command.spawn().map_err(files::Error::on("start", &program.path))?;
    Ok(child.id())
}
