//! The agent's log. Writing it never stops the agent: a thread of its own writes to standard error, and what that cannot
//! take (a full disk, a reader that is gone or does not read) is counted and lost.

mod filter;
mod panics;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tracing::warn;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

pub(crate) use self::filter::check as check_filter;

/// Lines that wait to be written. A burst is that long; what comes after it is lost.
const WAITING: usize = 4096;

/// How long the end of the process waits for its last lines to be written.
const PATIENCE: Duration = Duration::from_secs(2);

/// Lines that did not find room among those that wait.
static WITHOUT_ROOM: OnceLock<ErrorCounter> = OnceLock::new();
/// Lines that standard error did not take.
static REFUSED: AtomicU64 = AtomicU64::new(0);
/// What writes until the end.
static WRITING: Mutex<Option<WorkerGuard>> = Mutex::new(None);
/// The process ends: whatever happens to its last lines is nobody's concern.
static ENDING: AtomicBool = AtomicBool::new(false);

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Begins the log of this process. From now on a panic of any thread or task is logged and ends the process: without one of
/// its tasks an agent would go on half-dead, while a new one finds everything enforced as it was.
///
/// # Errors
///
/// Standard error cannot be duplicated.
pub(crate) fn begin(filter: &str, format: Format) -> io::Result<()> {
    // The client logs every failed request; we say once what is wrong. Who asks for its log by name gets it.
    let filter = EnvFilter::new(format!("kube_client=off,kube_runtime=off,notify=error,{filter}"));
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // A descriptor of its own: the library's `stderr` is locked while somebody writes there, for as long as that takes.
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let queue = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING).thread_name("log");
    let (writer, writing) = queue.finish(Counting { stderr, said: 0 });
    // Once in a process.
    let _ = WITHOUT_ROOM.set(writer.error_counter());
    *WRITING.lock().unwrap_or_else(PoisonError::into_inner) = Some(writing);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colour);
    // What goes wrong with the log is not said on the log.
    let log = log.log_internal_errors(false);
    match format {
        Format::Text => log.init(),
        Format::Json => log.json().init(),
    }
    panics::end_the_process();
    Ok(())
}

/// Lines that were lost so far.
#[must_use]
pub(crate) fn lost() -> u64 {
    let without_room = WITHOUT_ROOM.get().map_or(0, ErrorCounter::dropped_lines);
    REFUSED.load(Ordering::Relaxed) + u64::try_from(without_room).unwrap_or(u64::MAX)
}

/// Ends the log: writes what waits, for as long as that can be waited for.
pub(crate) fn end() {
    ENDING.store(true, Ordering::Relaxed);
    let writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner).take();
    // In a thread of its own: the library complains on standard output, which may block, or be gone, too.
    within_patience(move || drop(writing));
}

/// Says something on standard error, if that takes it.
pub fn say(line: &str) {
    let line = format!("{line}\n");
    within_patience(move || {
        // Nobody is left to tell.
        let _ = io::stderr().write_all(line.as_bytes());
    });
}

fn within_patience(work: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel::<()>();
    let thread = thread::Builder::new().spawn(move || {
        work();
        drop(done);
    });
    if thread.is_ok() {
        // It ends by being dropped, or with the patience.
        let _ = wait.recv_timeout(PATIENCE);
    }
}

/// Standard error, which says what it could not take as soon as it takes something.
struct Counting {
    stderr: File,
    /// How many lost lines were said.
    said: u64,
}

impl Write for Counting {
    /// Writes one line, as the queue hands them over.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.stderr.write_all(line).is_err() {
            REFUSED.fetch_add(1, Ordering::Relaxed);
            return Ok(line.len());
        }
        let lost = lost();
        if lost > self.said {
            self.said = lost;
            // Into the queue like any other.
            warn!(lines = lost, "log lines were lost: standard error did not take them");
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
