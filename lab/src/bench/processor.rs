//! Where client and server run, and that nothing else does meanwhile.
//!
//! By default they share one processor: waking the other end is then a switch of threads. On two it is an interrupt from
//! one processor to the other, which in a virtual machine costs several times what the packet's way does, and hides it.

use std::io;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, gettid};
use serde::Serialize;

/// The priority among real-time threads; any is ahead of all others.
const PRIORITY: &str = "5";

/// The threads could not be given their processors.
#[derive(Debug, thiserror::Error)]
#[error("choose processors: {error}")]
pub struct Error {
    /// Why not.
    #[source]
    pub error: io::Error,
}

/// What the two threads run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Processors {
    /// The client's.
    pub client: usize,
    /// The server's.
    pub server: usize,
    /// Whether the client runs ahead of everything that is not real-time.
    pub real_time: bool,
}

impl Processors {
    /// The last processor that this process may use; for the server the first one, where the two are to be apart.
    pub(super) fn choose(apart: bool) -> Result<Self, Error> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).map_err(failed)?;
        let mut usable = (0..CpuSet::count()).filter(|number| allowed.is_set(*number).unwrap_or(false));
        let first = usable.next().ok_or(Errno::ENODEV).map_err(failed)?;
        let client = usable.next_back().unwrap_or(first);
        Ok(Self { client, server: if apart { first } else { client }, real_time: false })
    }
}

/// Binds this thread to a processor, with priority where the machine lets us: true when it does.
pub(super) fn occupy(processor: usize) -> Result<bool, Error> {
    let mut set = CpuSet::new();
    set.set(processor).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).map_err(failed)?;
    // No safe binding of sched_setscheduler(2): util-linux' program does it for a thread by its id.
    let mut chrt = Command::new("chrt");
    chrt.args(["--fifo", "--pid", PRIORITY, &gettid().to_string()]);
    let status = chrt.stdout(Stdio::null()).stderr(Stdio::null()).status();
    Ok(status.is_ok_and(|status| status.success()))
}

fn failed(errno: Errno) -> Error {
    Error { error: errno.into() }
}
