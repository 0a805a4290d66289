//! Waits until no packet is being judged by what was just replaced.

use std::time::Duration;

/// `MEMBARRIER_CMD_GLOBAL` (`linux/membarrier.h`): the kernel waits for an RCU grace period
/// (`kernel/sched/membarrier.c`). TC programs run inside RCU read-side sections.
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// Longer than any packet's way through the programs, for kernels that refuse the call (`nohz_full`).
const LONG_ENOUGH: Duration = Duration::from_millis(20);

/// Returns once every program that ran when it was called has ended.
pub(super) fn wait() {
    // SAFETY: the call takes no pointers.
    #[expect(unsafe_code, reason = "libc has no safe wrapper of membarrier(2)")]
    let refused = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } != 0;
    if refused {
        std::thread::sleep(LONG_ENOUGH);
    }
}
