//! What the packet path is generic over: IPv4, as `u32`, or IPv6, as `[u32; 4]`.

use crate::address::Address;
use crate::parse::Headers;
use crate::tables::Tables;

/// A family: its addresses, its headers and its maps.
///
/// # Safety
///
/// Nobody else implements this: what is of either family is found by [`Address::FAMILY`].
pub unsafe trait Family: Headers + Tables {}

// SAFETY: it is one of both.
unsafe impl Family for u32 {}

// SAFETY: it is one of both.
unsafe impl Family for [u32; 4] {}

/// Whether a family is IPv4, which the compiler knows: of two ways that depend on it, one is left.
#[inline(always)]
pub const fn is_ipv4<A: Family>() -> bool {
    A::FAMILY == u32::FAMILY
}
