//! Functions that the verifier checks apart: once, for any packet, and not again for each way that leads to a call ("global functions",
//! `btf_check_subprog_call` in `kernel/bpf/btf.c`). What they are called with, it takes for memory of the size of its type, and what
//! they return for any number.
//!
//! Without, the verifier goes through policy's tables once for each place that asks them, and gives up at a million instructions.
//!
//! Minimum kernel version: 5.6.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use postern_common::reason::Reason;

use crate::scene::Scene;
use crate::verdict;

macro_rules! apart {
    ($( $(#[doc = $doc:literal])+ $name:ident($scene:ty) = $function:path; )+) => { $(
        $(#[doc = $doc])+
        ///
        /// # Safety
        ///
        /// The context must be that of the running program, and nobody else may use the scene meanwhile.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub unsafe extern "C" fn $name(skb: *mut __sk_buff, scene: *mut $scene) -> u32 {
            // SAFETY: the caller's.
            let Some(scene) = (unsafe { scene.as_mut() }) else {
                // Nobody calls so, but the verifier cannot know.
                return Reason::DeniedByPolicy as u32;
            };
            $function(&TcContext::new(skb), scene) as u32
        }
    )+ };
}

apart! {
    /// [`verdict::decide`] for IPv4.
    judge4(Scene<u32>) = verdict::decide;
    /// The same for IPv6.
    judge6(Scene<[u32; 4]>) = verdict::decide;
}
