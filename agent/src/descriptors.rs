//! File descriptors: as many as the process may have, and how few of them connections may take.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{debug, warn};

/// What a process may have where nobody has said otherwise.
const USUAL: u64 = 1024;

/// Raises the limit of open files to what the process may have.
pub(crate) fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        debug!(soft, hard, "limit of open files");
        Ok(())
    });
    if let Err(error) = raised {
        warn!(%error, "raising the limit of open files failed");
    }
}

/// At the most so many, and no more than one in `share` of those that the process may have: the others are for enforcement.
pub(crate) fn at_most(many: usize, share: u64) -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(USUAL, |(soft, _)| soft);
    usize::try_from(limit / share).unwrap_or(many).clamp(2, many)
}
