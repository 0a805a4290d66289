//! Postern's TC programs, for the host side of a pod's veth: `postern_from_pod` at TC ingress judges what the pod
//! sends, `postern_to_pod` at TC egress what it gets.
//!
//! Thin entry points over [`filter`], which says in what order a packet is judged. Maps are declared in [`maps`],
//! their types in `postern-common`; the agent writes the policy, the programs the flows and counters.
//!
//! Minimum kernel version: 5.11 (`bpf_ktime_get_coarse_ns`).

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the classifier macro adds a function without docs beside each entry point")]
#![expect(unsafe_code, reason = "map values and the packet are reached through pointers the verifier checks")]

mod config;
mod conntrack;
mod count;
mod family;
mod filter;
mod fragment;
mod frame;
mod maps;
mod parse;
mod steady;
mod verdict;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use postern_common::direction::{EGRESS, INGRESS};

/// TC ingress of a pod's host-side veth: what the pod sends.
#[classifier]
pub fn postern_from_pod(ctx: TcContext) -> i32 {
    filter::judge::<EGRESS>(&ctx)
}

/// TC egress of a pod's host-side veth: what the pod gets.
#[classifier]
pub fn postern_to_pod(ctx: TcContext) -> i32 {
    filter::judge::<INGRESS>(&ctx)
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
