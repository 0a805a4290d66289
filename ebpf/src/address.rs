//! An address of either family, as a value: nothing here looks anything up.

use core::mem::transmute;

use aya_ebpf::bindings::{
    bpf_sock_tuple__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
};
use postern_common::conntrack::{IPV6, wide};

use crate::hash;

/// An address of one family, as it stands in a packet: a number that is never counted with.
pub trait Address: Copy + Default + PartialEq {
    /// Its bytes, as they stand in keys.
    type Bytes;

    /// Added to the protocol in keys that both families share.
    const FAMILY: u32;

    /// The address's bytes.
    fn bytes(self) -> Self::Bytes;

    /// The address where both families share a map.
    fn widen(self) -> [u64; 2];

    /// The reverse of [`Self::widen`].
    fn narrow(wide: [u64; 2]) -> Self;

    /// Mixes the address into a hash, as a number: its last bytes, in which neighbours differ, must be the lowest.
    fn mix(self, hash: u64) -> u64;

    /// Whether the address is that of several hosts, of which the node may be one: multicast, or the limited broadcast.
    fn is_group(self) -> bool;

    /// Whether no router passes on what goes to this address: it is a group's, or the link's alone.
    fn stays_on_link(self) -> bool;

    /// Whether nobody in particular has the address, which is unspecified, or IPv6's and link-local: it may be sent from, and is judged
    /// like any other.
    fn is_unspecified_or_link_local(self) -> bool;

    /// A remote and a local end, as the kernel's look-up of sockets takes them, and how many bytes of that are set.
    fn socket_tuple(remote: (Self, u16), local: (Self, u16)) -> (bpf_sock_tuple__bindgen_ty_1, usize);
}

impl Address for u32 {
    type Bytes = [u8; 4];

    const FAMILY: u32 = 0;

    #[inline(always)]
    fn bytes(self) -> [u8; 4] {
        self.to_ne_bytes()
    }

    #[inline(always)]
    fn widen(self) -> [u64; 2] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&self.bytes());
        wide(bytes)
    }

    #[inline(always)]
    fn narrow([first, _]: [u64; 2]) -> Self {
        let [a, b, c, d, ..] = first.to_ne_bytes();
        Self::from_ne_bytes([a, b, c, d])
    }

    #[inline(always)]
    fn mix(self, hash: u64) -> u64 {
        hash::mix(hash, u64::from(u32::from_be(self)))
    }

    #[inline(always)]
    fn is_group(self) -> bool {
        let address = u32::from_be(self);
        // RFC 5771, RFC 919.
        address >> 28 == 0xe || address == u32::MAX
    }

    #[inline(always)]
    fn stays_on_link(self) -> bool {
        self.is_group()
    }

    #[inline(always)]
    fn is_unspecified_or_link_local(self) -> bool {
        self == 0
    }

    #[inline(always)]
    fn socket_tuple(remote: (Self, u16), local: (Self, u16)) -> (bpf_sock_tuple__bindgen_ty_1, usize) {
        let ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
            saddr: remote.0,
            daddr: local.0,
            sport: remote.1.to_be(),
            dport: local.1.to_be(),
        };
        (bpf_sock_tuple__bindgen_ty_1 { ipv4 }, size_of_val(&ipv4))
    }
}

impl Address for [u32; 4] {
    type Bytes = [u8; 16];

    const FAMILY: u32 = IPV6;

    #[inline(always)]
    fn bytes(self) -> [u8; 16] {
        // SAFETY: both are sixteen plain bytes.
        unsafe { transmute(self) }
    }

    #[inline(always)]
    fn widen(self) -> [u64; 2] {
        wide(self.bytes())
    }

    #[inline(always)]
    fn narrow(wide: [u64; 2]) -> Self {
        // SAFETY: both are sixteen plain bytes.
        unsafe { transmute(wide) }
    }

    #[inline(always)]
    fn mix(self, hash: u64) -> u64 {
        let [first, second] = self.widen();
        hash::mix(hash::mix(hash, u64::from_be(first)), u64::from_be(second))
    }

    #[inline(always)]
    fn is_group(self) -> bool {
        is_multicast(&self)
    }

    #[inline(always)]
    fn stays_on_link(self) -> bool {
        self.is_group() || is_link_local(&self)
    }

    #[inline(always)]
    fn is_unspecified_or_link_local(self) -> bool {
        self == [0; 4] || is_link_local(&self)
    }

    #[inline(always)]
    fn socket_tuple(remote: (Self, u16), local: (Self, u16)) -> (bpf_sock_tuple__bindgen_ty_1, usize) {
        let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
            saddr: remote.0,
            daddr: local.0,
            sport: remote.1.to_be(),
            dport: local.1.to_be(),
        };
        (bpf_sock_tuple__bindgen_ty_1 { ipv6 }, size_of_val(&ipv6))
    }
}

/// Whether an IPv6 address is link-local (RFC 4291 2.5.6).
#[inline(always)]
pub fn is_link_local(address: &[u32; 4]) -> bool {
    u32::from_be(address[0]) >> 22 == 0xfe80 >> 6
}

/// Whether an IPv6 address is multicast (RFC 4291 2.7).
#[inline(always)]
pub fn is_multicast(address: &[u32; 4]) -> bool {
    u32::from_be(address[0]) >> 24 == 0xff
}
