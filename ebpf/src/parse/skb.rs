//! A packet that has been routed, as the hooks there have it: in netfilter's, the kernel's own `struct sk_buff`, whose fields are where
//! this kernel's BTF says; see [`crate::nat::tc_egress`] for TC's.
//!
//! Minimum kernel version: 6.4 for those of netfilter (`BPF_PROG_TYPE_NETFILTER`).

use core::hint::black_box;

use aya_ebpf::helpers::bpf_probe_read_kernel;

use crate::config;

/// `struct bpf_nf_ctx` (`include/linux/bpf.h`), what a netfilter program is called with.
#[repr(C)]
pub struct NetfilterContext {
    state: *const u8,
    skb: *const u8,
}

/// Interface index of the device that a hook's packet is about to leave by; zero where there is none.
///
/// # Safety
///
/// The `skb` must be the running program's.
#[expect(clippy::cast_ptr_alignment, reason = "the kernel's own structs, by its own offsets")]
#[inline(always)]
pub unsafe fn out(context: *const NetfilterContext) -> u32 {
    let layout = config::skb();
    // SAFETY: the caller's; and of what is behind the pointers, as in `Skb::field`. The verifier has the kernel check the addresses.
    unsafe {
        let state = (&raw const (*context).state).read_volatile();
        let device = state.add(layout.out as usize).cast::<*const u8>().read_volatile();
        if device.is_null() {
            return 0;
        }
        device.add(layout.ifindex as usize).cast::<u32>().read_volatile()
    }
}

/// A packet behind the choice of a backend.
pub trait Routed: Copy {
    /// Source NAT may be behind it already: what it shows as its source may be its node's address.
    const IS_TRANSLATED: bool;

    /// `tc_index`, which TC programs may set, and nothing else does on a packet's way.
    fn tc_index(self) -> u16;

    /// Interface index of the device by which the packet came to whoever forwards it (`skb_iif`): the one that took it in last, so the
    /// bridge where it came in by a port of one. Zero: it came in by none.
    fn iif(self) -> u32;

    /// Whether conntrack says that the packet is of a connection nobody has answered (`IP_CT_NEW`); no, where it is not known.
    fn is_new(self) -> bool;

    /// Makes the verifier forget how it came by a number: it would follow each number of extension headers through the whole program.
    fn forget(self, number: u32) -> u32;

    /// Bytes of the packet from a byte offset behind its IP header's beginning to its end.
    fn length(self, offset: u32) -> u32;

    /// Reads a `T` at a byte offset behind the IP header's beginning, as far as that can be had.
    fn read<T: Copy + Default>(self, offset: u32) -> Option<T>;
}

/// `IP_CT_NEW` (`linux/netfilter/nf_conntrack_common.h`): the first packets of a connection, until one is answered. With the first of
/// them conntrack settles where all go.
const NEW: u32 = 2;

/// A packet in a netfilter hook.
#[derive(Clone, Copy)]
pub struct Skb(*const u8);

impl Skb {
    /// The hook's packet.
    ///
    /// # Safety
    ///
    /// The `skb` must be the running program's.
    #[inline(always)]
    pub unsafe fn of(context: *const NetfilterContext) -> Self {
        // SAFETY: the caller's.
        Self(unsafe { (&raw const (*context).skb).read_volatile() })
    }

    /// Reads a field at an offset of [`config::skb`].
    #[inline(always)]
    fn field<T: Copy>(self, offset: u32) -> T {
        // SAFETY: the agent takes offsets from the kernel's own description of the struct, and the verifier checks them.
        unsafe { self.0.add(offset as usize).cast::<T>().read_volatile() }
    }

    /// What conntrack says of the packet (`enum ip_conntrack_info`); zero for what it does not track, too.
    #[inline(always)]
    fn connection(self) -> u32 {
        let offset = config::skb().nfct;
        // Its lowest bits, of an address otherwise (`NFCT_INFOMASK`).
        if offset == 0 { 0 } else { self.field::<u64>(offset) as u32 & 7 }
    }

    /// Whether a process of the node sent the packet: it carries a socket, and came in by no interface.
    #[inline(always)]
    pub fn is_sent_here(self) -> bool {
        !self.field::<*const u8>(config::skb().sk).is_null() && self.iif() == 0
    }
}

impl Routed for Skb {
    const IS_TRANSLATED: bool = false;

    #[inline(always)]
    fn tc_index(self) -> u16 {
        self.field(config::skb().tc_index)
    }

    #[inline(always)]
    fn iif(self) -> u32 {
        self.field(config::skb().skb_iif)
    }

    #[inline(always)]
    fn is_new(self) -> bool {
        self.connection() == NEW
    }

    /// Opaque to the compiler, which knows what two exclusive ors come to; the verifier does not, of a number that it does not know.
    #[inline(always)]
    fn forget(self, number: u32) -> u32 {
        let unknown: u32 = self.field(config::skb().len);
        black_box(number ^ unknown) ^ unknown
    }

    #[inline(always)]
    fn length(self, offset: u32) -> u32 {
        // In netfilter's hooks, what is in front of the IP header is not counted.
        self.field::<u32>(config::skb().len).wrapping_sub(offset)
    }

    /// As far as it lies in the linear part.
    #[inline(always)]
    fn read<T: Copy + Default>(self, offset: u32) -> Option<T> {
        let layout = config::skb();
        let linear = self.field::<u32>(layout.len).wrapping_sub(self.field::<u32>(layout.data_len));
        if offset + size_of::<T>() as u32 > linear {
            return None;
        }
        let head: u64 = self.field(layout.head);
        let network: u16 = self.field(layout.network_header);
        let at = head + u64::from(network) + u64::from(offset);
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel(at as *const T) }.ok()
    }
}
