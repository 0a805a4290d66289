//! Ethernet II (IEEE 802.3) with VLAN tags (IEEE 802.1Q, 802.1ad).

use core::hint::black_box;

use aya_ebpf::programs::TcContext;

use super::frame::{self, Unreadable};

/// Ethertypes (`linux/if_ether.h`).
pub mod ethertype {
    /// `ETH_P_IP`
    pub const IPV4: u16 = 0x0800;
    /// `ETH_P_ARP`
    pub const ARP: u16 = 0x0806;
    /// `ETH_P_IPV6`
    pub const IPV6: u16 = 0x86dd;
    /// `ETH_P_8021Q`
    pub const VLAN: u16 = 0x8100;
    /// `ETH_P_8021AD`
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// Offset of the ethertype behind the two addresses.
const ETHERTYPE: usize = 12;
/// Length of a VLAN tag.
const TAG: usize = 4;

/// What a frame carries, and where.
#[derive(Clone, Copy)]
pub struct Frame {
    /// The ethertype behind all tags.
    pub ethertype: u16,
    /// Offset of what follows the ethertype.
    pub payload: usize,
}

/// Reads the Ethernet header and up to two VLAN tags. Tags that the device took off (`skb->vlan_tci`) are not in the
/// frame.
#[inline(always)]
pub fn frame(ctx: &TcContext) -> Result<Frame, Unreadable> {
    let ethertype = ethertype_behind(ctx, 0)?;
    if !matches!(ethertype, ethertype::VLAN | ethertype::SERVICE_VLAN) {
        return Ok(Frame { ethertype, payload: payload_behind(0) });
    }
    let tags = 1 + is_tag(ethertype_behind(ctx, 1)?);
    Ok(Frame { ethertype: ethertype_behind(ctx, tags)?, payload: payload_behind(tags) })
}

#[inline(always)]
const fn payload_behind(tags: usize) -> usize {
    ETHERTYPE + size_of::<u16>() + tags * TAG
}

#[inline(always)]
fn ethertype_behind(ctx: &TcContext, tags: usize) -> Result<u16, Unreadable> {
    Ok(u16::from_be(frame::read(ctx, ETHERTYPE + tags * TAG)?))
}

/// 1 for the ethertype of a VLAN tag, else 0.
///
/// Arithmetic, not a branch: the verifier would follow each number of tags through the whole program. Opaque to the compiler,
/// which would make it a branch.
#[inline(always)]
fn is_tag(ethertype: u16) -> usize {
    let is = |tag: u16| black_box(u32::from(ethertype ^ tag)).wrapping_sub(1) >> 31;
    ((is(ethertype::VLAN) | is(ethertype::SERVICE_VLAN)) & 1) as usize
}
