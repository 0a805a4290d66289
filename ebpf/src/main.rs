//! Postern's TC programs, for the host side of a pod's veth: thin entry points over the library of this package.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the classifier macro adds a function without docs beside each entry point")]
#![expect(unsafe_code, reason = "the kernel finds programs and the license by the names of their sections")]
#![expect(clippy::needless_pass_by_value, reason = "the classifier macro calls so")]
#![expect(clippy::cast_possible_truncation, reason = "half of the kernel's ticks is what is asked for")]

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use postern_common::direction::{EGRESS, INGRESS};
use postern_ebpf::nat::{postrouting, tc_egress, unconfirmed};
use postern_ebpf::parse::skb::{NetfilterContext, Skb};
use postern_ebpf::{antispoof, config, filter};

/// TC ingress of an isolated pod's host-side veth: what the pod sends.
#[classifier]
pub fn postern_from_pod(ctx: TcContext) -> i32 {
    filter::judge::<EGRESS>(&ctx)
}

/// TC egress of an isolated pod's host-side veth: what the pod gets.
#[classifier]
pub fn postern_to_pod(ctx: TcContext) -> i32 {
    filter::judge::<INGRESS>(&ctx)
}

/// TC ingress of any other pod's host-side veth, with `--antispoof=all`: whether what the pod sends is its own.
#[classifier]
pub fn postern_guard(ctx: TcContext) -> i32 {
    antispoof::judge(&ctx)
}

/// TC egress of the devices that packets leave by, where there are no netfilter programs: packets of isolated pods, once it is known where
/// they go.
#[classifier]
pub fn postern_postnat(ctx: TcContext) -> i32 {
    tc_egress::judge(&ctx)
}

/// On no interface: tells the agent the kernel's ticks, of which this is the lower half (`BPF_PROG_TEST_RUN`).
#[classifier]
pub fn postern_ticks(_ctx: TcContext) -> i32 {
    config::ticks() as i32
}

/// `NF_INET_POST_ROUTING` for IPv4, before source NAT: packets of isolated pods, once it is known where they go.
///
/// In the section of TC programs, whose instructions do not tell what they are for: the loader that is used knows no
/// netfilter programs, and the agent loads this one by itself.
///
/// # Safety
///
/// The `skb` must be the running program's.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
pub unsafe extern "C" fn postern_behind_nat4(context: *const NetfilterContext) -> u32 {
    // SAFETY: the caller, which is the kernel.
    postrouting::judge::<u32>(unsafe { Skb::of(context) })
}

/// The same for IPv6.
///
/// # Safety
///
/// As above.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
pub unsafe extern "C" fn postern_behind_nat6(context: *const NetfilterContext) -> u32 {
    // SAFETY: the caller, which is the kernel.
    postrouting::judge::<[u32; 4]>(unsafe { Skb::of(context) })
}

/// `NF_INET_POST_ROUTING` for IPv4, the last before conntrack confirms connections: whether the pod that a new one goes to may get it.
///
/// # Safety
///
/// As above.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
pub unsafe extern "C" fn postern_unconfirmed4(context: *const NetfilterContext) -> u32 {
    // SAFETY: the caller, which is the kernel.
    unsafe { unconfirmed::judge::<u32>(context) }
}

/// The same for IPv6.
///
/// # Safety
///
/// As above.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
pub unsafe extern "C" fn postern_unconfirmed6(context: *const NetfilterContext) -> u32 {
    // SAFETY: the caller, which is the kernel.
    unsafe { unconfirmed::judge::<[u32; 4]>(context) }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that this is never reached.
    loop {}
}

// Helpers that only GPL-compatible programs may call ask for this; the crate is licensed accordingly.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
