//! Settings fixed at load time: the agent overrides these globals before the verifier runs, which prunes what they
//! switch off, so that an unused feature costs nothing on the packet path.

use aya_ebpf::Global;

/// 1: a flow that was allowed under an earlier policy generation is judged again (`--established=recheck`);
/// 0: it stays (`--established=keep`).
#[unsafe(no_mangle)]
static POSTERN_RECHECK: Global<u8> = Global::new(1);

/// Whether flows of earlier policy generations are judged again.
#[inline(always)]
pub fn recheck() -> bool {
    POSTERN_RECHECK.load() != 0
}
