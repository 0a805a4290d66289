//! Services, on the pod's side of the choice of a backend: which packets may be on their way to one, and what is noted of
//! them for [`crate::nat::postrouting`].

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::programs::TcContext;
use postern_common::conntrack::{Flow, SERVICE};
use postern_common::direction::EGRESS;
use postern_common::service::{CROSSINGS, Crossing, KEPT, NOTHING_NOTED, UNTAGGED, content_at};

use crate::context::claim::PLACES;
use crate::context::{Context, Sides};
use crate::family::Family;
use crate::parse::{Fragment, frame};
use crate::{config, maps};

/// Writes a packet's tag: whatever stood there, the pod may have written.
#[inline(always)]
pub fn tag(ctx: &TcContext, tag: u16) {
    // SAFETY: the packet of a running program is valid; the kernel lets TC programs write this field.
    unsafe { (*ctx.skb.skb).tc_index = u32::from(tag) };
}

/// The slot of the packet: the next one of this CPU and family.
#[inline(always)]
fn next_slot<A: Family>(context: &mut Context<A>) -> u32 {
    let slots = config::crossings_per_cpu();
    // SAFETY: the helper takes nothing.
    let first = unsafe { bpf_get_smp_processor_id() }.wrapping_mul(slots);
    let mut next = || {
        context.cpu.crossings = context.cpu.crossings.wrapping_add(1);
        // Each family counts for itself: one takes the even numbers, the other the odd ones. So does each place, where there are several.
        let mut number = context.cpu.crossings.wrapping_mul(2) | u32::from(A::FAMILY != 0);
        if config::realtime() {
            number = number.wrapping_mul(PLACES) | context.cpu.place;
        }
        first.wrapping_add(number & (slots - 1)) % CROSSINGS
    };
    let slot = next();
    // Two numbers are no packet's, and the next one of either is one.
    if slot == u32::from(UNTAGGED) || slot == u32::from(NOTHING_NOTED) { next() } else { slot }
}

/// What is noted beside a packet of a flow that policy was not asked about just now.
#[inline(always)]
pub fn of_known() -> u32 {
    if config::recheck() { 0 } else { KEPT }
}

/// Saves where the packet goes, and puts the number of its slot into `skb->tc_index`, for the netfilter program behind the
/// choice of a backend to match.
///
/// A function of its own, for its stack.
#[inline(never)]
pub fn cross<A: Family>(ctx: &TcContext, context: &mut Context<A>, flags: u32) {
    let slot = next_slot(context);
    let Some(crossing) = maps::CROSSINGS.get_ptr_mut(slot) else {
        // Every array has its elements.
        return;
    };
    let (ifindex, told_by) = (context.ifindex, content(ctx, context));
    let protocol = A::FAMILY | u32::from(context.packet.protocol);
    // The fast path, which calls this as well, has no need of them.
    let Sides { pod, peer } = context.take_sides::<EGRESS>();
    let noted = Crossing {
        ifindex,
        flags,
        pod: pod.0.widen(),
        peer: peer.0.widen(),
        pod_port: pod.1,
        peer_port: peer.1,
        protocol,
        content: told_by,
    };
    // SAFETY: it is an element of the map. Another CPU that reads it for an older packet finds at worst what is not of its packet, and
    // drops that.
    unsafe { crossing.write(noted) };
    tag(ctx, slot as u16);
}

/// See [`Crossing::content`]. What is put together on its way may say more there.
#[inline(always)]
fn content<A: Family>(ctx: &TcContext, context: &Context<A>) -> u64 {
    let packet = &context.packet;
    let at = packet.transport.body + content_at(packet.protocol) as usize;
    if packet.fragment != Fragment::Whole || at > MAX_CONTENT || at + size_of::<u64>() > packet.end {
        return 0;
    }
    frame::read(ctx, at & MAX_CONTENT).unwrap_or_default()
}

/// Far behind where any transport header begins.
const MAX_CONTENT: usize = 0xfff;

/// Whether a flow's packets are to be looked at behind the choice of a backend.
#[inline(always)]
pub fn crosses(flow: &Flow, direction: u8) -> bool {
    direction == EGRESS && flow.flags & SERVICE != 0
}
