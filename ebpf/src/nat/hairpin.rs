//! Hairpins: what a pod sends to a Service, and its node sends back to the pod itself.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::TcContext;
use postern_common::endpoint::Endpoint;
use postern_common::service::{HAIRPIN_SLOTS, Hairpin, HairpinSlot};
use postern_common::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP};

use crate::context::Isolated;
use crate::family::Family;
use crate::{config, hash, maps, seqcount};

/// Whether a packet that policy, asked just now, does not let in is the pod's own: its node sends on, in its own name, what the pod
/// sent to a Service a moment ago. It came to the node by the pod's own veth, or by the bridge that this is a port of; what a bridge
/// passes on of another pod, which may know what to write into it, came by that pod's.
#[inline(always)]
pub fn is_hairpin<A: Family>(ctx: &TcContext, context: &Isolated<A>) -> bool {
    // SAFETY: the packet of a running program is valid.
    let iif = unsafe { (*ctx.skb.skb).ingress_ifindex };
    context.query.outcome.is_peer_node
        && is_way_back(iif, context.ifindex, context.endpoint())
        && was_sent(ctx, context)
}

/// Whether a packet that came to the node by an interface may be one that comes back to the pod of a veth.
#[inline(always)]
pub fn is_way_back(iif: u32, veth: u32, endpoint: &Endpoint) -> bool {
    iif == veth || iif != 0 && iif == endpoint.master
}

/// Whether the pod sent the packet to a Service just now.
#[inline(never)]
fn was_sent<A: Family>(ctx: &TcContext, context: &Isolated<A>) -> bool {
    let protocol = context.packet.protocol;
    let at = context.packet.transport.body;
    let end = context.packet.end;
    let digest =
        digest(protocol, end.wrapping_sub(at) as u32, |offset| ctx.load::<u32>(at + offset as usize).ok());
    let Some(digest) = digest else { return false };
    is_noted(context.ifindex, digest, context.pod().1, A::FAMILY as u16 | u16::from(protocol))
}

/// Whether a packet on its way back to who sent it was noted a moment ago.
#[inline(always)]
pub fn is_noted(ifindex: u32, digest: u32, port: u16, protocol: u16) -> bool {
    let sought = Hairpin { expires: 0, digest, port, protocol };
    let slot = hairpin_slot(ifindex, &sought);
    let Some(noted) = seqcount::read_twice(|| maps::HAIRPINS.get_ptr(slot)) else { return false };
    // SAFETY: the helper takes nothing and only reads a clock, that of `postrouting`.
    let now = unsafe { bpf_ktime_get_ns() };
    noted.expires > now && Hairpin { expires: 0, ..noted } == sought
}

/// Where a packet is noted that comes back: one of a few slots of its veth.
#[inline(always)]
pub fn hairpin_slot(ifindex: u32, hairpin: &Hairpin) -> HairpinSlot {
    let word = u64::from(hairpin.digest) << 32 | u64::from(hairpin.port) << 16 | u64::from(hairpin.protocol);
    HairpinSlot { ifindex, number: hash::mix(config::seed(), word) as u32 & (HAIRPIN_SLOTS - 1) }
}

/// Words of a payload that are looked at.
const WORDS: u32 = 8;

/// What tells a packet from others, and no NAT changes: TCP's sequence number; for others the length and first bytes of what follows
/// the header. `length` counts from the transport header, from which `word` reads.
#[inline(always)]
pub fn digest(protocol: u8, length: u32, word: impl Fn(u32) -> Option<u32>) -> Option<u32> {
    let start = match protocol {
        IPPROTO_TCP => return word(4),
        IPPROTO_UDP => 8,
        // The checksum covers the ports.
        IPPROTO_SCTP => 12,
        _ => return None,
    };
    let mut digest = u64::from(length);
    let mut index = 0;
    while index < WORDS {
        let offset = start + index * 4;
        if offset + 4 <= length {
            digest = hash::mix(digest, u64::from(word(offset)?));
        }
        index += 1;
    }
    Some(digest as u32)
}
