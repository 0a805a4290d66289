//! Gives each repetition of a test run a packet of its own.

use core::ptr::read_volatile;

use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::TcContext;
use postern_common::bench::{AT_RANDOM, NOTHING, Vary};

/// What to do. Written by the benchmark.
#[btf_map]
pub static VARY: Array<Vary, 1> = Array::new();

/// Offsets into the frame are below: the verifier wants to know.
const MAX_OFFSET: u32 = 63;

/// Rewrites the peer of a packet.
#[inline(always)]
pub fn vary(ctx: &TcContext) {
    let Some(vary) = VARY.get_ptr_mut(0) else { return };
    // SAFETY: one test run at a time uses the map.
    let vary = unsafe { &mut *vary };
    if vary.mode == NOTHING {
        return;
    }
    let flow = if vary.mode == AT_RANDOM { at_random(vary) } else { next(vary) };
    let (address, port) = vary.peer(flow);
    write(ctx, vary.address_offset, address.to_be());
    // Both ports in one write: a read of both right behind a write of one would have to wait.
    write(ctx, vary.ports_offset, (vary.ports | port << (vary.port_shift & 31)).to_be());
}

/// Xorshift (Marsaglia 2003), scaled.
#[inline(always)]
fn at_random(vary: &mut Vary) -> u32 {
    let mut state = vary.state;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    vary.state = state;
    (((state >> 32) * u64::from(vary.count)) >> 32) as u32
}

#[inline(always)]
fn next(vary: &mut Vary) -> u32 {
    vary.state = if vary.state >= u64::from(vary.count) { 1 } else { vary.state + 1 };
    vary.state as u32 - 1
}

#[inline(always)]
fn write(ctx: &TcContext, offset: u32, word: u32) {
    let skb = ctx.skb.skb;
    // SAFETY: the packet of a running program is valid. Volatile: see `frame::read`.
    let (data, data_end) = unsafe {
        (read_volatile(&raw const (*skb).data) as usize, read_volatile(&raw const (*skb).data_end) as usize)
    };
    let start = data + (offset & MAX_OFFSET) as usize;
    if start + size_of::<u32>() <= data_end {
        // SAFETY: the word lies before `data_end`, as checked above.
        unsafe { (start as *mut u32).write(word) };
    }
}
