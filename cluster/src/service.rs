//! A program that runs as long as the cluster does, and that a test may stop, kill, freeze and start again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::files;
use crate::launcher::{Launcher, mortal};

/// How long a program may take to end when asked.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const POLL: Duration = Duration::from_millis(10);
/// Lines of its log in an error message.
const SHOWN_LINES: usize = 25;

/// A program failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not start.
    #[error("start {name}: {error}")]
    Start {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It cannot be signalled or waited for.
    #[error("stop {name}: {error}")]
    Stop {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It is not ready in time, or it ended.
    #[error("{name} {what}; the end of its log ({log}):\n{tail}", log = .log.display())]
    NotReady {
        /// Its name.
        name: String,
        /// What is wrong.
        what: String,
        /// Its log.
        log: PathBuf,
        /// Last lines of it.
        tail: String,
    },
    /// Its log cannot be made.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// A program. Dropping it kills it.
#[derive(Debug)]
pub struct Service {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    launcher: Arc<Launcher>,
    child: Option<Child>,
}

impl Service {
    /// Describes a program that is not started yet. `logs` is the folder where its log goes.
    #[must_use]
    pub fn new(name: &str, program: PathBuf, launcher: Arc<Launcher>, logs: &Path) -> Self {
        let log = logs.join(format!("{name}.log"));
        let (arguments, environment) = (Vec::new(), Vec::new());
        Self { name: name.to_owned(), program, arguments, environment, log, launcher, child: None }
    }

    /// Adds arguments, for the next start.
    #[must_use]
    pub fn args<A: Into<String>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of its environment, for the next start.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Its arguments, as the next start will give them: change them, and restart.
    pub fn arguments_mut(&mut self) -> &mut Vec<String> {
        &mut self.arguments
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    /// Where it writes what it has to say.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Starts it, when it does not run. That it runs does not mean that it is ready.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&mut self) -> Result<(), Error> {
        if self.is_running() {
            return Ok(());
        }
        if let Some(folder) = self.log.parent() {
            files::create_folder(folder)?;
        }
        let open = || fs::OpenOptions::new().create(true).append(true).open(&self.log);
        let log: File = open().map_err(files::Error::on("open", &self.log))?;
        let mut command = mortal(&self.program);
        command.args(&self.arguments).envs(self.environment.iter().cloned());
        let failed = |error| Error::Start { name: self.name.clone(), error };
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log);
        self.child = Some(self.launcher.spawn(command).map_err(failed)?);
        Ok(())
    }

    /// Asks it to end, and waits; kills it when it does not.
    ///
    /// # Errors
    /// It cannot be signalled.
    pub fn stop(&mut self) -> Result<(), Error> {
        // A frozen one could not hear.
        self.signal(Signal::SIGCONT)?;
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while self.is_running() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        self.kill()
    }

    /// Kills it, as a crash does.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self) -> Result<(), Error> {
        self.signal(Signal::SIGKILL)?;
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.wait().map_err(|error| Error::Stop { name: self.name.clone(), error })?;
        Ok(())
    }

    /// Freezes it: connections stay, answers do not come.
    ///
    /// # Errors
    /// It cannot be signalled.
    pub fn freeze(&mut self) -> Result<(), Error> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on after [`Self::freeze`].
    ///
    /// # Errors
    /// It cannot be signalled.
    pub fn thaw(&mut self) -> Result<(), Error> {
        self.signal(Signal::SIGCONT)
    }

    /// Whether the process is there.
    pub fn is_running(&mut self) -> bool {
        let running = self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        if !running {
            self.child = None;
        }
        running
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    /// It ended, or the time is over. The error shows the end of its log.
    pub fn wait_until(&mut self, patience: Duration, mut ready: impl FnMut() -> bool) -> Result<(), Error> {
        let deadline = Instant::now() + patience;
        while !ready() {
            if !self.is_running() {
                return Err(self.not_ready("ended".to_owned()));
            }
            if Instant::now() > deadline {
                return Err(self.not_ready(format!("is not ready after {} s", patience.as_secs())));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn not_ready(&self, what: String) -> Error {
        let tail = files::tail(&self.log, SHOWN_LINES);
        Error::NotReady { name: self.name.clone(), what, log: self.log.clone(), tail }
    }

    fn signal(&mut self, signal: Signal) -> Result<(), Error> {
        if !self.is_running() {
            return Ok(());
        }
        let Some(pid) = self.pid() else { return Ok(()) };
        let sent = kill(Pid::from_raw(pid), signal);
        sent.map_err(|errno| Error::Stop { name: self.name.clone(), error: errno.into() })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Gone already, or it goes with its launcher.
        let _ = self.kill();
    }
}
