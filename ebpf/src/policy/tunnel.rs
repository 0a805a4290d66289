//! Tunnels: what a pod's own node would take apart, and send on in the name of whoever stands inside.

use postern_common::IPPROTO_UDP;
use postern_common::tunnel::{TUNNEL_PROTOCOLS, place};

use crate::maps::TUNNEL_PORTS;

/// Whether a packet to the node may be of a tunnel that it takes apart.
///
/// Checked apart by the verifier.
#[inline(always)]
pub fn may_be(protocol: u8, port: u16) -> bool {
    may_be_tunnel(u32::from(protocol), u32::from(port)) != 0
}

/// [`look_up`], which the verifier checks apart: 1 where it may be.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn may_be_tunnel(protocol: u32, port: u32) -> u32 {
    u32::from(look_up(protocol as u8, port as u16))
}

/// What [`may_be`] does, without a call.
#[inline(always)]
pub fn look_up(protocol: u8, port: u16) -> bool {
    if protocol == IPPROTO_UDP { ends_at(port) } else { TUNNEL_PROTOCOLS.contains(&protocol) }
}

/// Whether a tunnel device of the node receives on a UDP port.
#[inline(always)]
fn ends_at(port: u16) -> bool {
    let (word, bit) = place(port);
    TUNNEL_PORTS.get(word).is_some_and(|word| word & bit != 0)
}
