//! Flows: which packets belong to one that was allowed.

use postern_common::IPPROTO_TCP;
use postern_common::conntrack::{Flow, lifetime, state};

use crate::family::Address;
use crate::parse::Transport;

/// Notes a packet of a flow that goes on under a policy generation.
#[inline(always)]
pub fn refresh(
    flow: &mut Flow,
    packet_direction: u8,
    protocol: u8,
    transport: Transport,
    generation: u32,
    now: u64,
) {
    if flow.generation != generation {
        flow.generation = generation;
    }
    let state = if transport.ends {
        state::CLOSING
    } else if flow.state == state::OPENING && packet_direction != flow.initiator {
        state::ESTABLISHED
    } else {
        flow.state
    };
    if flow.state != state {
        flow.state = state;
    }
    flow.expires = now + lifetime_of(protocol, state);
}

/// Remembers a flow that its first packet started. Where that fails (no memory for the entry), the packet passes all
/// the same: its direction was allowed, and the replies are judged on their own.
#[inline(always)]
pub fn open<A: Address>(key: &A::FlowKey, initiator: u8, protocol: u8, generation: u32, now: u64) {
    let expires = now + lifetime_of(protocol, state::OPENING);
    let _ = A::remember(key, &Flow { expires, generation, initiator, state: state::OPENING, reserved: 0 });
}

#[inline(always)]
fn lifetime_of(protocol: u8, state: u8) -> u64 {
    match (protocol, state) {
        (IPPROTO_TCP, state::OPENING) => lifetime::TCP_OPENING,
        (IPPROTO_TCP, state::ESTABLISHED) => lifetime::TCP_ESTABLISHED,
        (IPPROTO_TCP, _) => lifetime::TCP_CLOSING,
        (_, state::OPENING) => lifetime::OPENING,
        _ => lifetime::ESTABLISHED,
    }
}
