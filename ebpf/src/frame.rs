//! Bounds-checked access to the bytes of a frame.

use core::ptr::read_volatile;

use aya_ebpf::programs::TcContext;

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;

/// Bytes that are made linear when a header is not: Ethernet, the longest IPv4 header and the longest TCP header.
const HEADERS: u32 = 14 + 60 + 60;

/// Why a header could not be read.
#[derive(Clone, Copy)]
pub enum Unreadable {
    /// It is not in the linear part; [`pull`] may help.
    NotLinear,
    /// It contradicts itself.
    Malformed,
}

/// Reads a `T` at a byte offset of the frame, as far as it lies in the linear part.
///
/// `T` must be valid for any bytes: integers and arrays of them.
#[inline(always)]
pub fn read<T: Copy>(ctx: &TcContext, offset: usize) -> Result<T, Unreadable> {
    let skb = ctx.skb.skb;
    // Volatile: a bound kept from an earlier read may be widened again by the compiler, which the verifier takes for
    // arithmetic on a packet pointer.
    // SAFETY: the context of a running program is valid.
    let (data, data_end) = unsafe {
        (read_volatile(&raw const (*skb).data) as usize, read_volatile(&raw const (*skb).data_end) as usize)
    };
    let start = data + offset;
    if start + size_of::<T>() > data_end {
        return Err(Unreadable::NotLinear);
    }
    // SAFETY: the whole of `T` lies before `data_end`, as checked above; alignment is not assumed.
    Ok(unsafe { (start as *const T).read_unaligned() })
}

/// Makes the headers linear, as far as the frame goes.
#[inline(always)]
pub fn pull(ctx: &TcContext) {
    let wanted = if ctx.len() < HEADERS { ctx.len() } else { HEADERS };
    // On failure the next read says that the bytes are still missing.
    let _ = ctx.pull_data(wanted);
}
