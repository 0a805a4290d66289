//! Services, behind the choice of a backend, on kernels without netfilter programs: TC egress of the devices that packets leave by. What
//! [`crate::nat::postrouting`] says of the packet counts here, too.
//!
//! Source NAT is behind the packet by then, nothing tells what conntrack says of it, and it may be in fragments, so that:
//!
//! 1. what shows its node's address is known by its tag and content alone, if it came in where that was noted; what shows yet another one,
//!    by both;
//! 2. what was judged by the address that stands on it, of which nothing was noted, passes: a flow that is older than the Service that its
//!    address has become goes on until the agent knows of that;
//! 3. later fragments pass where the first one is judged.
//!
//! A packet may leave by several devices, one behind the other (a bridge, then its port): each asks, and the first remembers.
//!
//! Minimum kernel version: 4.18 (`bpf_skb_load_bytes_relative`).

use core::ffi::c_void;
use core::hint::black_box;

use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::bpf_skb_load_bytes_relative;
use aya_ebpf::programs::TcContext;
use postern_common::service::{NOTHING_NOTED, UNTAGGED};

use super::postrouting::{self, DROP};
use crate::parse::ethertype;
use crate::parse::skb::Routed;

/// Judges one packet.
#[inline(always)]
pub fn judge(ctx: &TcContext) -> i32 {
    let skb = EgressSkb(ctx.skb.skb);
    // Most of what leaves: the node's own, what comes from elsewhere, and what was judged before.
    let tag = skb.tc_index();
    if tag == NOTHING_NOTED || tag == UNTAGGED && skb.iif() == 0 {
        return TC_ACT_UNSPEC;
    }
    // SAFETY: `ctx` is the running program's.
    let verdict = unsafe {
        match (u16::from_be((*skb.0).protocol as u16), skb.version()) {
            (ethertype::IPV4, _) | (ethertype::VLAN | ethertype::SERVICE_VLAN, 4) => post_nat4(skb.0),
            (ethertype::IPV6, _) | (ethertype::VLAN | ethertype::SERVICE_VLAN, 6) => post_nat6(skb.0),
            _ => return TC_ACT_UNSPEC,
        }
    };
    if verdict == DROP { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

/// [`postrouting::judge`] of an IPv4 packet, which the verifier checks apart.
///
/// # Safety
///
/// The `skb` must be the running program's.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn post_nat4(skb: *mut __sk_buff) -> u32 {
    postrouting::judge::<u32>(EgressSkb(skb))
}

/// The same of an IPv6 packet.
///
/// # Safety
///
/// As above.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn post_nat6(skb: *mut __sk_buff) -> u32 {
    postrouting::judge::<[u32; 4]>(EgressSkb(skb))
}

/// A packet about to leave by a device.
#[derive(Clone, Copy)]
struct EgressSkb(*mut __sk_buff);

impl EgressSkb {
    /// The version that the IP header says, if there is one.
    #[inline(always)]
    fn version(self) -> u8 {
        self.read::<u8>(0).unwrap_or_default() >> 4
    }
}

impl Routed for EgressSkb {
    const IS_TRANSLATED: bool = true;

    #[inline(always)]
    fn tc_index(self) -> u16 {
        // SAFETY: the packet of a running program is valid.
        unsafe { (*self.0).tc_index as u16 }
    }

    #[inline(always)]
    fn iif(self) -> u32 {
        // SAFETY: the same.
        unsafe { (*self.0).ingress_ifindex }
    }

    #[inline(always)]
    fn is_new(self) -> bool {
        false
    }

    #[inline(always)]
    fn forget(self, number: u32) -> u32 {
        // SAFETY: the same.
        let unknown = unsafe { (*self.0).len };
        black_box(number ^ unknown) ^ unknown
    }

    /// As its IP header says: what is in front of that is counted here, and differs from device to device.
    #[inline(always)]
    fn length(self, offset: u32) -> u32 {
        let total = if self.version() == 4 {
            u32::from(u16::from_be(self.read(2).unwrap_or_default()))
        } else {
            u32::from(u16::from_be(self.read(4).unwrap_or_default())) + IPV6_HEADER
        };
        total.wrapping_sub(offset)
    }

    #[inline(always)]
    fn read<T: Copy + Default>(self, offset: u32) -> Option<T> {
        let mut value = T::default();
        let (to, size) = ((&raw mut value).cast::<c_void>(), size_of::<T>() as u32);
        // SAFETY: `ctx` is the running program's, and the helper writes a `T`, which is valid for any bytes.
        let read = unsafe { bpf_skb_load_bytes_relative(self.0.cast(), offset, to, size, BPF_HDR_START_NET) };
        (read == 0).then_some(value)
    }
}

/// Bytes of the fixed header (RFC 8200 3), which the payload's length does not count.
const IPV6_HEADER: u32 = 40;
