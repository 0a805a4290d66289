//! Postern's TC programs, for the host side of a pod's veth: thin entry points over the library of this package.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the classifier macro adds a function without docs beside each entry point")]
#![expect(unsafe_code, reason = "the kernel finds programs and the license by the names of their sections")]

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use postern_common::direction::{EGRESS, INGRESS};
use postern_ebpf::{filter, guard};

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
    guard::judge(&ctx)
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
