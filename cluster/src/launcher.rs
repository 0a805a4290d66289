//! A thread that lives in a network namespace and starts processes there.
//!
//! The kernel ties "die with your parent" (`PR_SET_PDEATHSIG`) to the thread that started a process, so it has to be one
//! that stays: whoever calls may be a test's thread. The processes die when the [`Launcher`] is dropped, and when this
//! process ends in whatever way.

use std::ffi::OsStr;
use std::io;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use postern_lab::netns::{self, Netns};

/// What to start, and where to say how that went.
type Request = (Command, mpsc::SyncSender<io::Result<Child>>);

/// The thread.
#[derive(Debug)]
pub struct Launcher {
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Launcher {
    /// Starts the thread inside `netns`.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn inside(netns: &Netns) -> Result<Self, netns::Error> {
        let (requests, inbox) = mpsc::channel::<Request>();
        let (entered, answer) = mpsc::sync_channel(1);
        let path = netns.path();
        let thread = thread::spawn(move || {
            let result = netns::enter(&path);
            let inside = result.is_ok();
            // Whoever asked waits for this.
            let _ = entered.send(result);
            if inside {
                for (mut command, reply) in inbox {
                    let _ = reply.send(command.spawn());
                }
            }
        });
        let ended = |_| netns::Error {
            name: netns.name().to_owned(),
            step: "start a thread in",
            error: io::ErrorKind::BrokenPipe.into(),
        };
        answer.recv().map_err(ended)??;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    /// Starts `command`, which [`mortal`] made.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&self, command: Command) -> io::Result<Child> {
        let (reply, answer) = mpsc::sync_channel(1);
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let requests = self.requests.as_ref().ok_or_else(gone)?;
        requests.send((command, reply)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}

/// A command that dies with the thread that starts it.
#[must_use]
pub fn mortal(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}
