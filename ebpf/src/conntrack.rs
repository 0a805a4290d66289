//! Established flows: how they go on, and when they are judged again.

use aya_ebpf::programs::TcContext;
use postern_common::conntrack::{DENIED, DENIED_LIFETIME, Flow, SERVICE, state};
use postern_common::direction::{EGRESS, INGRESS};
use postern_common::reason::Reason;

use crate::config;
use crate::family::Address;
use crate::parse::Transport;
use crate::scene::Scene;
use crate::service;
use crate::verdict;

/// Both bits of [`Flow::progress`].
const BOTH_FINISHED: u8 = 0b11;

/// Whether a flow needs no second thought: alive, allowed, and under the current policy generation.
#[inline(always)]
pub fn is_current(flow: &Flow, generation: u32, now: u64) -> bool {
    flow.expires > now && flow.flags & DENIED == 0 && (flow.generation == generation || !config::recheck())
}

/// Notes a packet of an established flow.
#[inline(always)]
pub fn refresh(flow: &mut Flow, direction: u8, protocol: u8, transport: Transport, now: u64) {
    if transport.finishes || transport.resets {
        end(flow, direction, transport);
    }
    let expires = now + config::lifetime(protocol, flow.state);
    // Once a tick is enough. The packets of a flow may come by several CPUs, which would take the line from each other.
    if flow.expires != expires {
        flow.expires = expires;
    }
}

#[inline(always)]
fn end(flow: &mut Flow, direction: u8, transport: Transport) {
    if transport.finishes {
        flow.progress |= 1 << direction;
    }
    if transport.resets || flow.progress == BOTH_FINISHED {
        flow.state = state::CLOSING;
    }
}

/// Whether a flow is allowed, judged again in its first direction where it was denied, or the generation moved on. Says so in the
/// flow; one that is denied stays known for a while after its last packet.
#[inline(always)]
pub fn judge_again<A: Address>(ctx: &TcContext, scene: &mut Scene<A>, flow: &mut Flow) -> bool {
    // What was denied is not of what `keep` keeps.
    if flow.flags & DENIED == 0 && (flow.generation == scene.generation || !config::recheck()) {
        return true;
    }
    scene.ask(flow.initiator);
    // An answer to what the pod sends to an address that was no Service's so far.
    let answers =
        flow.initiator == EGRESS && scene.direction == INGRESS && flow.flags & (SERVICE | DENIED) == 0;
    if flow.flags & SERVICE != 0 {
        service::ask_about_backend(scene);
    } else if answers {
        // It is one's by now, perhaps. Until the pod's next packet goes elsewhere, this is from whom packets went to.
        scene.question.resolved = verdict::is_behind_nat(scene);
    }
    let reason = verdict::judge(ctx, scene);
    // It may be from before the pod was guarded.
    let is_others = scene.is_for_another();
    if answers && (scene.question.resolved || scene.service) && !is_others && !reason.drops() {
        // The flow is told by what the pod sends next, which is judged for that.
        return true;
    }
    if flow.initiator == EGRESS && !answers {
        // There may be a Service by now. One that is gone changes nothing here: conntrack may go on translating.
        flow.flags |= scene.flow_flags();
    }
    if flow.flags & SERVICE != 0 && !is_others {
        return service::is_allowed_still(ctx, scene, flow, reason);
    }
    // What the pod sends carries its own socket, and what the node sends of its own passes by itself: neither says that the node
    // started this flow.
    let is_unsure = reason == Reason::Node
        && flow.initiator == INGRESS
        && (flow.flags & DENIED != 0 || scene.direction == EGRESS);
    if !is_unsure || is_others {
        let allowed = !reason.drops() && !is_others;
        flow.flags = flow.flags & !DENIED | if allowed { 0 } else { DENIED };
        flow.generation = scene.generation;
        if allowed {
            return true;
        }
    }
    flow.expires = scene.now + DENIED_LIFETIME;
    false
}

/// The same of an established flow. A function of its own, for the stack of whoever looks for half-open flows as well.
#[inline(never)]
pub fn judge_established_again<A: Address>(ctx: &TcContext, scene: &mut Scene<A>, flow: &mut Flow) -> bool {
    judge_again(ctx, scene, flow)
}
