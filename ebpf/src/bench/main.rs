//! The programs of `cargo xtask bench packet` and `traffic`: ours, and floors to compare them with. Not shipped.
//!
//! For `packet`, each varies its packet first (see [`vary`]), and the floors count what they do not find: so the benchmark knows that it
//! measures what it says.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the classifier macro adds a function without docs beside each entry point")]
#![expect(unsafe_code, reason = "the kernel finds programs and the license by the names of their sections")]
#![expect(clippy::needless_pass_by_value, reason = "the classifier macro calls so")]
#![expect(clippy::inline_always, reason = "a call would be measured, too")]
#![expect(clippy::cast_possible_truncation, reason = "half of a random number is one")]

mod floor;
mod vary;

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use postern_common::direction::{EGRESS, INGRESS};
use postern_ebpf::filter;

/// What a program costs that does nothing.
#[classifier]
pub fn bench_empty(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// What varying costs: every other figure is net of it.
#[classifier]
pub fn bench_vary(ctx: TcContext) -> i32 {
    vary::vary(&ctx);
    TC_ACT_UNSPEC
}

/// Reading the packet.
#[classifier]
pub fn bench_parse(ctx: TcContext) -> i32 {
    vary::vary(&ctx);
    floor::judge(&ctx, floor::Lookup::Nothing)
}

/// Reading the packet, and one look-up of its flow.
#[classifier]
pub fn bench_parse_flow(ctx: TcContext) -> i32 {
    vary::vary(&ctx);
    floor::judge(&ctx, floor::Lookup::Flow)
}

/// Reading the packet, and one look-up of its flow, which is noted when it is new: for packets on the wire.
#[classifier]
pub fn bench_flow(ctx: TcContext) -> i32 {
    floor::note(&ctx);
    TC_ACT_UNSPEC
}

/// What judges packets that the pod gets.
#[classifier]
pub fn bench_to_pod(ctx: TcContext) -> i32 {
    vary::vary(&ctx);
    filter::judge::<INGRESS>(&ctx)
}

/// What judges packets that the pod sends.
#[classifier]
pub fn bench_from_pod(ctx: TcContext) -> i32 {
    vary::vary(&ctx);
    filter::judge::<EGRESS>(&ctx)
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
