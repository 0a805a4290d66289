//! What the programs say through aya-log, into the agent's own log. For development (`--debug-programs`).

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;
use tracing::warn;

/// Why the programs' log cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("reading the programs' log: {0}; run without --debug-programs")]
pub struct ProgramLogError(Box<dyn std::error::Error + Send + Sync>);

/// Reads the programs' log in a task that ends with its runtime.
///
/// # Errors
///
/// The object has no log, or it cannot be polled.
pub(super) fn follow(ebpf: &mut Ebpf) -> Result<(), ProgramLogError> {
    let logger = EbpfLogger::init(ebpf).map_err(|error| ProgramLogError(error.into()))?;
    // SAFETY: the logger keeps its ring buffer, and with it the file descriptor, for as long as it lives.
    #[expect(unsafe_code, reason = "tokio leaves it to the caller that a descriptor stays the same")]
    let logger = unsafe { AsyncFd::register(logger) };
    let mut logger = logger.map_err(|error| ProgramLogError(error.into()))?;
    tokio::spawn(async move {
        loop {
            match logger.readable_mut().await {
                Ok(mut ready) => {
                    ready.get_inner_mut().flush();
                    ready.clear_ready();
                }
                Err(error) => {
                    warn!(%error, "the programs' log ends");
                    return;
                }
            }
        }
    });
    Ok(())
}
