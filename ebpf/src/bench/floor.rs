//! What no program of our kind can do without.

use core::ptr::read_volatile;

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::programs::TcContext;
use postern_common::conntrack::Flow;
use postern_common::direction::INGRESS;
use postern_ebpf::context::{self, readable};
use postern_ebpf::family::Family;
use postern_ebpf::parse::{self, Frame, ethertype};

use crate::vary::VARY;

/// What to look up once the packet is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// Nothing.
    Nothing,
    /// The flow.
    Flow,
}

/// Reads a packet and looks its flow up; counts what goes wrong.
#[inline(always)]
pub fn judge(ctx: &TcContext, lookup: Lookup) -> i32 {
    let found = match parse::frame(ctx) {
        Ok(Frame { ethertype: ethertype::IPV4, payload }) => is_found::<u32>(ctx, payload, lookup),
        Ok(Frame { ethertype: ethertype::IPV6, payload }) => is_found::<[u32; 4]>(ctx, payload, lookup),
        _ => false,
    };
    if !found && let Some(vary) = VARY.get_ptr_mut(0) {
        // SAFETY: one test run at a time uses the map.
        unsafe { (*vary).failed += 1 };
    }
    TC_ACT_UNSPEC
}

/// Reads a packet and looks its flow up; one that is new is noted.
#[inline(always)]
pub fn note(ctx: &TcContext) {
    match parse::frame(ctx) {
        Ok(Frame { ethertype: ethertype::IPV4, payload }) => note_flow::<u32>(ctx, payload),
        Ok(Frame { ethertype: ethertype::IPV6, payload }) => note_flow::<[u32; 4]>(ctx, payload),
        _ => {}
    }
}

#[inline(always)]
fn note_flow<A: Family>(ctx: &TcContext, start: usize) {
    if !is_found::<A>(ctx, start, Lookup::Flow)
        && let Some(context) = context::at::<A>(0)
    {
        // SAFETY: it belongs to this CPU. What was read just now stands there.
        let key = unsafe { &raw const (*context).established.key };
        // SAFETY: the same. Where there is no room, the next packet tries again.
        let _ = A::remember(unsafe { &*key }, &Flow { expires: 1, ..Flow::default() });
    }
}

#[inline(always)]
fn is_found<A: Family>(ctx: &TcContext, start: usize, lookup: Lookup) -> bool {
    let Some(context) = context::at::<A>(0) else { return false };
    // SAFETY: it belongs to this CPU, and TC programs on one CPU do not interrupt each other.
    let context = unsafe { &mut *context };
    context.read::<INGRESS>(ctx, start);
    if context.readable != readable::YES || !context.packet.transport.flow {
        return false;
    }
    let found = match lookup {
        Lookup::Nothing => return true,
        Lookup::Flow => A::flow(&context.established.key),
    };
    // SAFETY: the element stays valid until this program ends. Volatile: whoever looks a flow up reads it.
    found.is_some_and(|flow| unsafe { read_volatile(&raw const (*flow).expires) } != 0)
}
