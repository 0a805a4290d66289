//! Half-open flows: those that have not shown yet that both sides want them.
//!
//! A flow may take one of two slots of its veth and direction. Where both are taken, the one that was heard of longer ago goes:
//! under a flood through one pod, that pod's half-open flows live as long as its slots last, and nobody else's are
//! touched.

use core::ptr::read_volatile;

use aya_ebpf::bindings::{BPF_ANY, BPF_EXIST};
use postern_common::IPPROTO_TCP;
use postern_common::conntrack::{Flow, HALF_OPEN_SLOTS, HalfOpen, STREAM, Slot, state};

use crate::config;
use crate::family::Address;
use crate::maps::HALF_OPEN;
use crate::scene::Scene;
use crate::slot;

/// Tells the scene's flow from others: to be called before anything else here.
#[inline(always)]
pub fn identify<A: Address>(scene: &mut Scene<A>) {
    let protocol = A::FAMILY | u32::from(scene.packet.protocol);
    scene.half_open.pod = scene.pod.0.widen();
    scene.half_open.peer = scene.peer.0.widen();
    scene.half_open.pod_port = scene.pod.1;
    scene.half_open.peer_port = scene.peer.1;
    scene.half_open.protocol = protocol;
    let ports = u64::from(scene.pod.1) << 16 | u64::from(scene.peer.1);
    let hash = slot::mix(ports, u64::from(protocol));
    scene.hash = scene.pod.0.mix(scene.peer.0.mix(hash));
}

/// The two slots that the scene's flow may take in a direction.
#[inline(always)]
fn slots<A: Address>(scene: &Scene<A>, direction: u8) -> [Slot; 2] {
    let [first, mut second] =
        [scene.hash, scene.hash >> 32].map(|hash| slot::of(hash, HALF_OPEN_SLOTS, scene.ifindex, direction));
    if second.number == first.number {
        // Two of them, whatever the hash.
        second.number ^= 1;
    }
    [first, second]
}

/// Looks for the scene's flow as started in a direction; the scene says then how far it got and where it is, or else
/// which slot it may take.
#[inline(never)]
pub fn find<A: Address>(scene: &mut Scene<A>, direction: u8) -> bool {
    let mut oldest = u64::MAX;
    for slot in slots(scene, direction) {
        let Some(found) = HALF_OPEN.get_ptr(&slot) else {
            if oldest != 0 {
                oldest = 0;
                scene.slot = slot;
            }
            continue;
        };
        // SAFETY: until this program ends, the memory stays an element of this map, if not this one.
        let is_ours = unsafe { is_flow(&scene.half_open, found) };
        // SAFETY: the same.
        let flow = unsafe { read_volatile(&raw const (*found).flow) };
        if flow.expires < oldest {
            oldest = flow.expires;
            scene.slot = slot;
        }
        // Found once more, it was this flow for as long as it was being read (see `steady`).
        if is_ours && flow.expires > scene.now && HALF_OPEN.get_ptr(&slot) == Some(found) {
            scene.slot = slot;
            scene.half_open.flow = flow;
            return true;
        }
    }
    false
}

/// Finds a slot for the scene's flow, which begins anew. Where its first slot is free, the second need not be looked at, which is far
/// from it in memory: what is left of the same flow there, from before, is not found as long as the first one is there, and lives no
/// longer than anything that nobody answers.
#[inline(always)]
pub fn claim<A: Address>(scene: &mut Scene<A>, direction: u8) {
    let [first, _] = slots(scene, direction);
    if HALF_OPEN.get_ptr(first).is_none() {
        scene.slot = first;
    } else {
        find(scene, direction);
    }
}

/// Whether an element is of this flow.
///
/// # Safety
///
/// The pointer must be readable.
#[inline(always)]
unsafe fn is_flow(flow: &HalfOpen, element: *const HalfOpen) -> bool {
    // SAFETY: the caller's. Volatile: another CPU may be writing another flow there.
    unsafe {
        flow.peer == read_volatile(&raw const (*element).peer)
            && flow.pod == read_volatile(&raw const (*element).pod)
            && flow.pod_port == read_volatile(&raw const (*element).pod_port)
            && flow.peer_port == read_volatile(&raw const (*element).peer_port)
            && flow.protocol == read_volatile(&raw const (*element).protocol)
    }
}

/// Writes what became of the half-open flow that was found.
#[inline(always)]
pub fn update<A: Address>(scene: &Scene<A>) {
    // One that went in between is gone: the next packet starts over.
    let _ = HALF_OPEN.insert(scene.slot, &scene.half_open, u64::from(BPF_EXIST));
}

/// Writes how far the half-open flow that was found got, in place. Where another flow took the slot just now, that one gets a little longer to
/// live, or is taken for answered: neither opens anything.
#[inline(always)]
pub fn touch<A: Address>(scene: &Scene<A>) {
    if let Some(found) = HALF_OPEN.get_ptr_mut(scene.slot) {
        let Flow { expires, state, progress, .. } = scene.half_open.flow;
        // SAFETY: until this program ends, the memory stays an element of this map; volatile, since other CPUs write there.
        unsafe {
            (&raw mut (*found).flow.expires).write_volatile(expires);
            (&raw mut (*found).flow.state).write_volatile(state);
            (&raw mut (*found).flow.progress).write_volatile(progress);
        }
    }
}

/// Forgets the half-open flow that was found.
#[inline(always)]
pub fn forget<A: Address>(scene: &Scene<A>) {
    let _ = HALF_OPEN.remove(scene.slot);
}

/// Remembers a flow that its first packet started, right after it was looked for. Says whether it could.
#[inline(always)]
pub fn open<A: Address>(scene: &mut Scene<A>, direction: u8) -> bool {
    scene.half_open.flow = Flow {
        expires: scene.now + config::lifetime(scene.packet.protocol, state::OPENING),
        generation: scene.generation,
        initiator: direction,
        state: state::OPENING,
        progress: 0,
        flags: scene.flow_flags(),
    };
    HALF_OPEN.insert(scene.slot, &scene.half_open, u64::from(BPF_ANY)).is_ok()
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
