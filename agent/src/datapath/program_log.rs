//! What the programs say through aya-log, into the agent's own log. For development (`--debug-programs`).

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;
use tracing::warn;

/// Why the programs' log cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("reading the programs' log: {0}; run without --debug-programs")]
pub struct ProgramLogError(Box<dyn std::error::Error + Send + Sync>);

/// Reads the programs' log until the returned task is dropped with its runtime.
///
/// # Errors
///
/// The object has no log, or it cannot be polled.
pub fn follow(ebpf: &mut Ebpf) -> Result<tokio::task::JoinHandle<()>, ProgramLogError> {
    let logger = EbpfLogger::init(ebpf).map_err(|error| ProgramLogError(error.into()))?;
    let mut logger = AsyncFd::new(logger).map_err(|error| ProgramLogError(error.into()))?;
    Ok(tokio::spawn(async move {
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
    }))
}
