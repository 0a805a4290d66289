//! Fragments: later ones have no ports and follow the first.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::programs::TcContext;
use postern_common::conntrack::{Datagram, FRAGMENT_LIFETIME, FRAGMENT_SLOTS, Slot};
use postern_common::direction::EGRESS;

use crate::config;
use crate::context::Isolated;
use crate::family::Family;
use crate::hash;
use crate::maps::FRAGMENTS;
use crate::policy::addressed::sent_by_node;
use crate::seqcount;

/// Nanoseconds of `CLOCK_MONOTONIC`, which the agent goes by as well.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes nothing and only reads a clock.
    unsafe { bpf_ktime_get_coarse_ns() }
}

#[inline(always)]
fn datagram<A: Family>(ctx: &TcContext, context: &Isolated<A>) -> Datagram {
    let packet = &context.packet;
    Datagram {
        expires: now() + FRAGMENT_LIFETIME,
        source: packet.source.widen(),
        destination: packet.destination.widen(),
        identification: packet.datagram.identification,
        protocol: A::FAMILY | u32::from(packet.datagram.protocol),
        length: packet.datagram.length as u32,
        by_node: u32::from(!is_elsewhere(ctx, context)),
    }
}

/// Whether a fragment goes to somebody else than the pod's node, by its MAC address, or comes from elsewhere. Those of an IPv6 datagram that
/// the node cuts up again came in by no interface, whoever sent it (`ip6_copy_metadata` in `net/ipv6/ip6_output.c` leaves that out), but
/// carry no socket.
#[inline(always)]
fn is_elsewhere<A: Family>(ctx: &TcContext, context: &Isolated<A>) -> bool {
    if context.direction == EGRESS { context.astray() } else { !sent_by_node(ctx) }
}

#[inline(always)]
fn slot_of<A: Family>(direction: u8, context: &Isolated<A>) -> Slot {
    let packet = &context.packet;
    let word = u64::from(packet.datagram.identification) << 32 | u64::from(packet.datagram.protocol);
    let hash = hash::mix(config::seed(), word);
    hash::of(packet.destination.mix(packet.source.mix(hash)), FRAGMENT_SLOTS, context.ifindex, direction)
}

/// How a later fragment relates to what is known of its datagram.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// No first fragment was allowed.
    Orphan,
    /// It goes over bytes of the first one, which were what was judged.
    Overlaps,
    /// It follows one that went to the pod's node, or came from it, and does not itself.
    Elsewhere,
    /// It follows.
    Follows,
}

/// Notes the verdict of a first fragment. A second "first" one of the same datagram that is denied takes the leave
/// of its followers away again. A function of its own, for its stack.
#[inline(never)]
pub fn note<const DIRECTION: u8, A: Family>(ctx: &TcContext, context: &Isolated<A>, allowed: bool) {
    let slot = slot_of(DIRECTION, context);
    // A failed insert leaves the followers orphans: dropped, as they must be.
    if allowed {
        let _ = FRAGMENTS.insert(slot, datagram(ctx, context), u64::from(BPF_ANY));
    } else if relation::<DIRECTION, A>(ctx, context) != Relation::Orphan {
        let _ = FRAGMENTS.remove(slot);
    }
}

/// How a fragment relates to what is known of its datagram. A function of its own, for its stack.
#[inline(never)]
pub fn relation<const DIRECTION: u8, A: Family>(ctx: &TcContext, context: &Isolated<A>) -> Relation {
    let slot = slot_of(DIRECTION, context);
    let Some(found) = seqcount::read_twice(|| FRAGMENTS.get_ptr(slot)) else {
        return Relation::Orphan;
    };
    let Datagram { expires, length, by_node, .. } = found;
    if expires <= now() || (Datagram { expires, length, by_node, ..datagram(ctx, context) }) != found {
        Relation::Orphan
    } else if context.packet.datagram.offset < length as usize {
        Relation::Overlaps
    } else if by_node != 0 && is_elsewhere(ctx, context) {
        Relation::Elsewhere
    } else {
        Relation::Follows
    }
}
