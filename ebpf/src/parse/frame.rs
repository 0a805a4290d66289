//! Bounds-checked access to the bytes of a frame.

use core::ptr::read_volatile;

use aya_ebpf::programs::TcContext;

/// Why a header could not be read.
#[derive(Clone, Copy)]
pub enum Unreadable {
    /// It is not in the linear part; [`pull`] may help.
    NotLinear,
    /// It contradicts itself.
    Malformed,
    /// It names routers to go through (RFC 791 3.1, RFC 8200 4.4).
    SourceRouted,
}

/// Length of the frame in bytes, with what is not linear.
#[inline(always)]
pub fn length(ctx: &TcContext) -> usize {
    ctx.len() as usize
}

/// Whether the frame stands for several packets, which the device cuts it into.
#[inline(always)]
pub fn is_gso(ctx: &TcContext) -> bool {
    // SAFETY: the packet of a running program is valid.
    unsafe { (*ctx.skb.skb).gso_size != 0 }
}

/// Reads a `T` at a byte offset of the frame, as far as it lies in the linear part.
///
/// `T` must be valid for any bytes: integers, arrays and `repr(C)` structs of them.
#[inline(always)]
pub fn read<T: Copy>(ctx: &TcContext, offset: usize) -> Result<T, Unreadable> {
    let skb = ctx.skb.skb;
    // Volatile: a bound kept from an earlier read may be widened again by the compiler, which the verifier takes for
    // arithmetic on a packet pointer.
    // SAFETY: the packet of a running program is valid.
    let (data, data_end) = unsafe {
        (read_volatile(&raw const (*skb).data) as usize, read_volatile(&raw const (*skb).data_end) as usize)
    };
    let start = data + offset;
    if start + size_of::<T>() > data_end {
        return Err(Unreadable::NotLinear);
    }
    // SAFETY: the whole of `T` lies before `data_end`, as checked above. It need not be aligned for `T`: BPF loads words from any
    // address where the machine does, and the verifier refuses the program elsewhere. `read_unaligned` would
    // have every word put together from bytes.
    Ok(unsafe { (start as *const T).read() })
}

/// Makes the first bytes of the frame linear, as far as it goes.
#[inline(always)]
pub fn pull(ctx: &TcContext, bytes: u32) {
    let wanted = if ctx.len() < bytes { ctx.len() } else { bytes };
    // On failure the next read says that the bytes are still missing.
    let _ = ctx.pull_data(wanted);
}
