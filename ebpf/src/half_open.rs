//! Half-open flows: those that have not shown yet that both sides want them.
//!
//! A flow has a row of its veth, with room for a few of each direction. Where all of it is taken, the flow that expires first goes:
//! under a flood through one pod, that pod's half-open flows live as long as its rows last, and nobody else's are
//! touched.
//!
//! Rows are written in place, under their locks. Whoever looks for a flow takes the lock only where it seems to be there.

use core::ptr::{NonNull, read_volatile};

use aya_ebpf::helpers::generated::{bpf_spin_lock, bpf_spin_unlock};
use postern_common::IPPROTO_TCP;
use postern_common::conntrack::{Flow, HALF_OPEN_WAYS, Identity, Row, RowKey, STREAM, state};

use crate::config;
use crate::family::Address;
use crate::maps::HALF_OPEN;
use crate::scene::Scene;
use crate::{conntrack, slot};

/// Tells the scene's flow from others: to be called before anything else here.
#[inline(always)]
pub fn identify<A: Address>(scene: &mut Scene<A>) {
    (scene.identity, scene.hash) = identity(scene.pod, scene.peer, scene.packet.protocol);
}

/// What tells a flow between a pod and a peer from others, and the hash of that.
#[inline(always)]
pub fn identity<A: Address>(pod: (A, u16), peer: (A, u16), protocol: u8) -> (Identity, u64) {
    let protocol = A::FAMILY | u32::from(protocol);
    let identity =
        Identity { pod: pod.0.widen(), peer: peer.0.widen(), pod_port: pod.1, peer_port: peer.1, protocol };
    let ports = u64::from(pod.1) << 16 | u64::from(peer.1);
    let hash = slot::mix(ports, u64::from(protocol));
    (identity, pod.0.mix(peer.0.mix(hash)))
}

/// Whether a veth has, or had, a half-open flow, whichever side started it: for whoever only asks. One that another replaces at this
/// moment may be missed.
#[inline(always)]
pub fn knows(ifindex: u32, identity: &Identity, hash: u64) -> bool {
    let number = hash as u32 & (config::rows() - 1);
    let Some(row) = HALF_OPEN.get_ptr(RowKey { ifindex, number }) else {
        return false;
    };
    let mut at = 0;
    while at < HALF_OPEN_WAYS * 2 {
        // SAFETY: until this program ends, the memory stays a row.
        if unsafe { expires(row, at) != 0 && is_flow(identity, row, at) } {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether a veth has a half-open flow that is allowed, whichever side started it: for whoever only asks, as above.
#[inline(never)]
pub fn allows(ifindex: u32, identity: &Identity, hash: u64, generation: u32) -> bool {
    let number = hash as u32 & (config::rows() - 1);
    let Some(row) = HALF_OPEN.get_ptr(RowKey { ifindex, number }) else {
        return false;
    };
    let now = config::now();
    let mut at = 0;
    while at < HALF_OPEN_WAYS * 2 {
        // SAFETY: until this program ends, the memory stays a row. Volatile: another CPU may be writing.
        let is_current = unsafe {
            is_flow(identity, row, at)
                && conntrack::is_current(&read_volatile(&raw const (*row).flows[at]), generation, now)
        };
        if is_current {
            return true;
        }
        at += 1;
    }
    false
}

/// The row of the scene's flow. None: its veth has no room, or carries no programs any more.
#[inline(always)]
pub fn row<A: Address>(scene: &Scene<A>) -> Option<NonNull<Row>> {
    let number = scene.hash as u32 & (config::rows() - 1);
    HALF_OPEN.get_ptr_mut(RowKey { ifindex: scene.ifindex, number }).and_then(NonNull::new)
}

/// Looks for the scene's flow as started in a direction; the scene says then where it is, or else which way it may take.
#[inline(never)]
pub fn seek<A: Address>(scene: &mut Scene<A>, row: NonNull<Row>, initiator: u8) -> bool {
    let row = row.as_ptr();
    let mut first = u64::MAX;
    let mut way = 0;
    while way < HALF_OPEN_WAYS {
        let at = place(initiator, way);
        // SAFETY: until this program ends, the memory stays a row.
        let expires = unsafe { expires(row, at) };
        // SAFETY: the same.
        if expires > scene.now && unsafe { is_flow(&scene.identity, row, at) } {
            scene.way = way as u32;
            return true;
        }
        if expires < first {
            first = expires;
            scene.way = way as u32;
        }
        way += 1;
    }
    false
}

/// Looks for the scene's flow as started in a direction; the scene says then how far it got, or else which way it may take.
#[inline(always)]
pub fn find<A: Address>(scene: &mut Scene<A>, row: NonNull<Row>, initiator: u8) -> bool {
    // Before the lock, which waits for memory.
    seek(scene, row, initiator) && read(scene, row, initiator)
}

/// Reads the flow that was sought and found, unless another one took its place just now.
#[inline(never)]
fn read<A: Address>(scene: &mut Scene<A>, row: NonNull<Row>, initiator: u8) -> bool {
    let row = row.as_ptr();
    let at = place(initiator, scene.way as usize);
    // SAFETY: until this program ends, the memory stays a row; nothing is called while the lock is held.
    let is_ours = unsafe {
        bpf_spin_lock((&raw mut (*row).lock).cast());
        let is_ours = is_in(scene, row) && is_flow(&scene.identity, row, at);
        scene.flow = read_volatile(&raw const (*row).flows[at]);
        bpf_spin_unlock((&raw mut (*row).lock).cast());
        is_ours
    };
    is_ours && scene.flow.expires > scene.now
}

/// Writes what became of the half-open flow that was found. One that another flow has replaced in between is gone: the next packet
/// starts over.
#[inline(never)]
pub fn update<A: Address>(scene: &Scene<A>, row: NonNull<Row>) {
    let row = row.as_ptr();
    let flow = scene.flow;
    let at = place(flow.initiator, scene.way as usize);
    // SAFETY: until this program ends, the memory stays a row; nothing is called while the lock is held.
    unsafe {
        bpf_spin_lock((&raw mut (*row).lock).cast());
        // One that another CPU has forgotten meanwhile stays forgotten.
        if is_in(scene, row) && is_flow(&scene.identity, row, at) && expires(row, at) != 0 {
            (&raw mut (*row).flows[at]).write_volatile(flow);
        }
        bpf_spin_unlock((&raw mut (*row).lock).cast());
    }
}

/// Forgets the half-open flow that was found.
#[inline(always)]
pub fn forget<A: Address>(scene: &mut Scene<A>, row: NonNull<Row>) {
    scene.flow.expires = 0;
    update(scene, row);
}

/// Remembers a flow that its first packet started, right after it was sought: in place of what is there. Says whether it could.
#[inline(never)]
pub fn open<A: Address>(scene: &mut Scene<A>, row: NonNull<Row>, direction: u8) -> bool {
    let row = row.as_ptr();
    let flow = Flow {
        expires: scene.now + config::lifetime(scene.packet.protocol, state::OPENING),
        generation: scene.generation,
        initiator: direction,
        state: state::OPENING,
        progress: 0,
        flags: scene.flow_flags(),
    };
    let at = place(direction, scene.way as usize);
    // SAFETY: until this program ends, the memory stays a row; nothing is called while the lock is held.
    unsafe {
        bpf_spin_lock((&raw mut (*row).lock).cast());
        let is_in = is_in(scene, row);
        if is_in {
            (&raw mut (*row).identities[at]).write_volatile(scene.identity);
            (&raw mut (*row).flows[at]).write_volatile(flow);
        }
        bpf_spin_unlock((&raw mut (*row).lock).cast());
        is_in
    }
}

/// Index of a way of a direction in a row.
#[inline(always)]
fn place(direction: u8, way: usize) -> usize {
    usize::from(direction & 1) * HALF_OPEN_WAYS + (way & (HALF_OPEN_WAYS - 1))
}

/// Whether a row is of the scene's veth.
///
/// # Safety
///
/// The pointer must be readable.
#[inline(always)]
unsafe fn is_in<A: Address>(scene: &Scene<A>, row: *const Row) -> bool {
    // SAFETY: the caller's.
    unsafe { read_volatile(&raw const (*row).ifindex) == scene.ifindex }
}

/// When a flow of a row expires.
///
/// # Safety
///
/// The pointer must be readable.
#[inline(always)]
unsafe fn expires(row: *const Row, at: usize) -> u64 {
    // SAFETY: the caller's. Volatile: another CPU may be writing.
    unsafe { read_volatile(&raw const (*row).flows[at].expires) }
}

/// Whether a flow of a row has this identity.
///
/// # Safety
///
/// The pointer must be readable.
#[inline(always)]
unsafe fn is_flow(identity: &Identity, row: *const Row, at: usize) -> bool {
    // SAFETY: the caller's. Volatile: another CPU may be writing.
    unsafe {
        let other = &raw const (*row).identities[at];
        let ports = u32::from(identity.pod_port ^ read_volatile(&raw const (*other).pod_port))
            | u32::from(identity.peer_port ^ read_volatile(&raw const (*other).peer_port))
            | (identity.protocol ^ read_volatile(&raw const (*other).protocol));
        // One branch in all, where each would double what the verifier has to follow.
        let difference = (identity.peer[0] ^ read_volatile(&raw const (*other).peer[0]))
            | (identity.peer[1] ^ read_volatile(&raw const (*other).peer[1]))
            | (identity.pod[0] ^ read_volatile(&raw const (*other).pod[0]))
            | (identity.pod[1] ^ read_volatile(&raw const (*other).pod[1]))
            | u64::from(ports);
        difference == 0
    }
}

/// Notes one more packet of a half-open flow that is allowed. Says whether the flow is established by it: both sides were
/// heard, and this is one more packet; for TCP one of the side that started it, since a kernel repeats its SYN-ACK to
/// whoever may have sent a SYN. Other protocols have streams that nobody answers.
#[inline(always)]
pub fn advance(flow: &mut Flow, direction: u8, protocol: u8, now: u64) -> bool {
    let is_first = direction == flow.initiator;
    let is_tcp = protocol == IPPROTO_TCP;
    if !is_tcp && is_first {
        flow.progress += 1;
    }
    let is_stream = !is_tcp && flow.progress >= STREAM;
    if is_stream || flow.state == state::ANSWERED && (!is_tcp || is_first) {
        flow.state = state::ESTABLISHED;
        flow.progress = 0;
        return true;
    }
    if !is_first {
        flow.state = state::ANSWERED;
    }
    flow.expires = now + config::lifetime(protocol, flow.state);
    false
}
