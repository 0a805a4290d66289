//! Whom a frame that a pod sends is for, by its Ethernet header, and whether what a pod gets comes from its node: IP addresses say where
//! a packet is to end, and where it is to have begun; a MAC address who gets it next, an interface who had it before. They need not agree.

use aya_ebpf::programs::TcContext;
use postern_common::conntrack::{FROM_NODE, NODE, SERVICE};
use postern_common::direction::EGRESS;
use postern_common::endpoint::{Endpoint, GUARDED, NOT_ISOLATED};

use super::cache;
use crate::context::{Context, Isolated};
use crate::family::Family;
use crate::parse::{Fragment, frame};

/// `PACKET_HOST` (`linux/if_packet.h`): to the address of the device that it came in by, which is the veth's own.
const HOST: u32 = 0;

/// Whether a frame is addressed to the node: to the veth itself, or to the bridge that it is a port of.
#[inline(always)]
pub fn is_to_node(ctx: &TcContext, endpoint: &Endpoint) -> bool {
    is_to_veth(ctx) || is_to_bridge(ctx, endpoint) == Some(true)
}

/// Whether a frame is addressed to somebody else than the node. Neither is known where the veth is a port of what is no bridge.
#[inline(always)]
pub fn is_to_another(ctx: &TcContext, endpoint: &Endpoint) -> bool {
    !is_to_veth(ctx) && is_to_bridge(ctx, endpoint).map_or(endpoint.master == 0, |is_to_bridge| !is_to_bridge)
}

/// Whether what an isolated pod sends is addressed to somebody else than its node, so that it passes neither as the node's nor as a
/// Service's.
#[inline(always)]
pub fn strays(ctx: &TcContext, endpoint: &Endpoint, direction: u8) -> bool {
    direction == EGRESS && endpoint.egress_class != NOT_ISOLATED && is_to_another(ctx, endpoint)
}

/// Whether a packet came in by an interface, so that no process of the node sent it.
#[inline(always)]
fn came_in(ctx: &TcContext) -> bool {
    // SAFETY: the packet of a running program is valid.
    unsafe { (*ctx.skb.skb).ingress_ifindex != 0 }
}

/// Whether a packet that belongs to a flow by its addresses and ports is none of it: the flow is with the node or a Service, and the
/// packet is addressed to somebody else, or a process of the node started the flow, and the packet comes from elsewhere.
#[inline(always)]
pub fn is_astray<A: Family>(ctx: &TcContext, context: &Isolated<A>, flags: u8, direction: u8) -> bool {
    if direction == EGRESS {
        return context.astray() && flags & (SERVICE | NODE) != 0;
    }
    flags & FROM_NODE != 0
        && if context.packet.fragment == Fragment::Whole { came_in(ctx) } else { !sent_by_node(ctx) }
}

/// The same, for flows that need not be judged, of which nothing else is known.
#[inline(always)]
pub fn leaves_flow<A: Family>(ctx: &TcContext, context: &mut Context<A>, flags: u8, direction: u8) -> bool {
    if direction == EGRESS {
        return flags & (SERVICE | NODE) != 0 && !is_to_veth(ctx) && strays_from_veth(ctx, context);
    }
    // No fragment gets here.
    flags & FROM_NODE != 0 && came_in(ctx)
}

/// The same of any packet that is not to the veth's own address. A function of its own: it is hardly ever asked.
#[inline(never)]
fn strays_from_veth<A: Family>(ctx: &TcContext, context: &mut Context<A>) -> bool {
    // Without an endpoint, nothing passes.
    let ifindex = context.ifindex;
    let endpoint = cache::endpoint(ifindex, context.endpoint_to_fill());
    endpoint.is_none_or(|endpoint| strays(ctx, endpoint, EGRESS))
}

/// Whether one of the node's own processes sent what a pod gets: the packet still carries the socket that sent it, and came in by no
/// interface. What a bridge passes on from another pod carries that pod's socket.
#[inline(always)]
pub fn sent_by_node(ctx: &TcContext) -> bool {
    // SAFETY: the packet of a running program is valid.
    unsafe { !(*ctx.skb.skb).__bindgen_anon_2.sk.is_null() && !came_in(ctx) }
}

/// Whether the pod's side is not an address of the pod, which is guarded: a bridge floods what is for others, and their answers do not
/// come from here.
#[inline(always)]
pub fn is_for_another<A: Family>(context: &Isolated<A>) -> bool {
    context.endpoint().flags & GUARDED != 0
        && !context.pod().0.is_unspecified_or_link_local()
        && !cache::is_own(context.pod().0, context.ifindex)
}

#[inline(always)]
fn is_to_veth(ctx: &TcContext) -> bool {
    // SAFETY: the packet of a running program is valid.
    unsafe { (*ctx.skb.skb).pkt_type == HOST }
}

/// Whether a frame is addressed to the bridge that the veth is a port of, where it is one of any.
#[expect(clippy::cast_ptr_alignment, reason = "they begin at an even offset")]
#[inline(always)]
fn is_to_bridge(ctx: &TcContext, endpoint: &Endpoint) -> Option<bool> {
    let mac = (&raw const endpoint.master_mac).cast::<u16>();
    // SAFETY: these are its six bytes, which begin at an even offset of the endpoint. Volatile: the compiler would copy the endpoint.
    let [a, b, c] = unsafe { [mac.read_volatile(), mac.add(1).read_volatile(), mac.add(2).read_volatile()] };
    if a | b | c == 0 {
        return None;
    }
    // A frame without an Ethernet header is for nobody.
    Some(frame::read::<[u16; 3]>(ctx, 0).is_ok_and(|[d, e, f]| (a ^ d) | (b ^ e) | (c ^ f) == 0))
}
