//! What the agent says of a veth, for whoever may be interrupted by TC programs on the same CPU: nothing is kept here.

use postern_common::endpoint::Endpoint;

use crate::maps::ENDPOINTS;
use crate::seqcount;

/// What the agent says of a veth. Whether there is anything. Checked apart by the verifier.
#[inline(always)]
pub fn take_endpoint(ifindex: u32, endpoint: &mut Endpoint) -> bool {
    // SAFETY: it is one.
    unsafe { read_endpoint_apart(ifindex, endpoint) != 0 }
}

/// [`read_endpoint`], which the verifier checks apart: 1 where there is one.
///
/// # Safety
///
/// There must be memory for one, or it must be null.
#[unsafe(export_name = "read_endpoint")]
#[inline(never)]
unsafe extern "C" fn read_endpoint_apart(ifindex: u32, endpoint: *mut Endpoint) -> u32 {
    // SAFETY: the caller's.
    unsafe { endpoint.as_mut() }.map_or(0, |endpoint| u32::from(read_endpoint(ifindex, endpoint)))
}

/// The device that a veth is a port of; zero where there is none. Checked apart by the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn master(ifindex: u32) -> u32 {
    let mut endpoint = Endpoint::default();
    read_endpoint(ifindex, &mut endpoint);
    endpoint.master
}

/// What [`take_endpoint`] does: no endpoint has epoch zero.
#[inline(always)]
fn read_endpoint(ifindex: u32, endpoint: &mut Endpoint) -> bool {
    *endpoint = seqcount::read_or_default(|| ENDPOINTS.get_ptr(ifindex));
    endpoint.epoch != 0
}
