//! Functions that the verifier checks apart: once, for any packet, and not again for each way that leads to a call ("global functions",
//! `btf_check_subprog_call` in `kernel/bpf/btf.c`). What they are called with, it takes for memory of the size of its type, and what
//! they return for any number.
//!
//! Without, its work would be the product of what may become of a packet in one stage and in the next; so it is the sum.
//!
//! Minimum kernel version: 5.12, for arguments that are pointers.

use core::arch::asm;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use postern_common::conntrack::{Flow, HALF_OPEN_WAYS, Identity};
use postern_common::direction::{EGRESS, INGRESS};
use postern_common::endpoint::Endpoint;
use postern_common::verdict::VerdictKey;

use crate::context::Context;
use crate::family::Address;
use crate::filter;
use crate::flow::half_open;
use crate::flow::half_open::Destination;
use crate::nat::postrouting;
use crate::nat::tc_egress::EgressSkb;
use crate::parse;
use crate::policy::cache;
use crate::policy::query;
use crate::policy::tunnel;

/// The flows of a row of half-open ones, of both directions.
pub type Flows = [Flow; HALF_OPEN_WAYS * 2];

/// Whose they are.
pub type Identities = [Identity; HALF_OPEN_WAYS * 2];

/// The context that a function was called with, which is at this place: looked up anew, since kernels before 6.2 take no keys of maps from
/// memory that is an argument (`map_key_value_types` in `kernel/bpf/verifier.c`).
///
/// # Safety
///
/// Nobody else may use the context meanwhile.
#[inline(always)]
unsafe fn same<'a, A: Address>(mut context: *mut Context<A>, place: u32) -> Option<&'a mut Context<A>> {
    let found = A::context(place)?;
    // SAFETY: both are the same address. The compiler is to take it for the caller's, who must know that what is there changes.
    unsafe { asm!("{0} = {1}", inout(reg) context, in(reg) found, options(nostack)) };
    // SAFETY: the caller's.
    unsafe { context.as_mut() }
}

/// What is called with the packet and its context; of most, one for each direction.
#[derive(Clone, Copy)]
pub enum Stage {
    /// What policy says.
    Judge,
    /// Whether a flow is allowed that was judged before.
    JudgeAgain,
    /// Everything but packets of flows that go on.
    SlowPath(u8),
    /// An ICMP error.
    Error(u8),
    /// A TCP SYN.
    Syn(u8),
    /// Any other packet that is not of an established flow of this generation.
    Flow(u8),
}

/// Declares functions of one family that are called with the packet and its context. What stands first is returned where there is no context,
/// which cannot be: every array has its elements.
macro_rules! stages {
    (
        $suffix:literal, $address:ty:
        $( $(#[doc = $doc:literal])+ $name:ident = $without:expr, |$ctx:ident, $context:ident| $function:expr; )+
    ) => { $(
        $(#[doc = $doc])+
        ///
        /// # Safety
        ///
        /// The `skb` must be the running program's, and nobody else may use the context meanwhile, which is at this place.
        #[unsafe(export_name = concat!(stringify!($name), $suffix))]
        #[inline(never)]
        pub unsafe extern "C" fn $name(skb: *mut __sk_buff, context: *mut Context<$address>, place: u32) -> u32 {
            // SAFETY: the caller's.
            let Some($context) = (unsafe { same(context, place) }) else {
                return $without;
            };
            let $ctx = TcContext::new(skb);
            $function
        }
    )+ };
}

/// Declares the functions of one family. To the kernel, whose functions have no modules, their names end with the family's number.
macro_rules! family {
    (
        $(#[doc = $doc:literal])+
        $module:ident($address:ty): $suffix:literal
    ) => {
        $(#[doc = $doc])+
        pub mod $module {
            use aya_ebpf::bindings::__sk_buff;
            use aya_ebpf::programs::TcContext;
            use postern_common::direction::{EGRESS, INGRESS};
            use postern_common::reason::Reason;
            use postern_common::service::Crossing;

            use super::{Flows, same};
            use crate::nat::postrouting::{self, Sender, Target};
            use crate::flow::midstream::Midstream;
            use crate::context::Context;
            use crate::flow::established;
use crate::filter;
use crate::flow::half_open;
use crate::flow::midstream;
use crate::policy::cache;
use crate::policy::query;

            stages! {
                $suffix, $address:
                /// [`query::decide`]: one of [`Reason`]'s numbers.
                judge = Reason::DeniedByPolicy as u32, |ctx, context| query::decide(&ctx, context) as u32;
                /// [`filter::slow_path`] of what a pod sends: one of [`Reason`]'s numbers, as of all that follow.
                slow_path_from_pod = Reason::Malformed as u32, |ctx, context| filter::slow_path::<EGRESS, _>(&ctx, context) as u32;
                /// The same of what a pod gets.
                slow_path_to_pod = Reason::Malformed as u32, |ctx, context| filter::slow_path::<INGRESS, _>(&ctx, context) as u32;
                /// [`filter::reason_of_error`] of what a pod sends.
                error_from_pod = Reason::Malformed as u32, |ctx, context| filter::reason_of_error::<EGRESS, _>(&ctx, context) as u32;
                /// The same of what a pod gets.
                error_to_pod = Reason::Malformed as u32, |ctx, context| filter::reason_of_error::<INGRESS, _>(&ctx, context) as u32;
                /// [`filter::reason_of_syn`] of what a pod sends.
                syn_from_pod = Reason::Malformed as u32, |ctx, context| filter::reason_of_syn::<EGRESS, _>(&ctx, context) as u32;
                /// The same of what a pod gets.
                syn_to_pod = Reason::Malformed as u32, |ctx, context| filter::reason_of_syn::<INGRESS, _>(&ctx, context) as u32;
                /// [`filter::reason_of_flow`] of what a pod sends.
                flow_from_pod = Reason::Malformed as u32, |ctx, context| filter::reason_of_flow::<EGRESS, _>(&ctx, context) as u32;
                /// The same of what a pod gets.
                flow_to_pod = Reason::Malformed as u32, |ctx, context| filter::reason_of_flow::<INGRESS, _>(&ctx, context) as u32;
                /// [`established::judge_older`]: 1 where the flow is allowed.
                judge_again = 0, |ctx, context| u32::from(established::judge_older(&ctx, context));
            }

            /// [`midstream::decide`], with one of [`Reason`]'s numbers: one of [`Midstream`]'s.
            ///
            /// # Safety
            ///
            /// As above.
            #[unsafe(export_name = concat!("pick_up", $suffix))]
            #[inline(never)]
            pub unsafe extern "C" fn pick_up(
                skb: *mut __sk_buff,
                context: *mut Context<$address>,
                place: u32,
                reason: u32,
            ) -> u32 {
                // SAFETY: the caller's.
                let (context, reason) = unsafe { (same(context, place), Reason::of(reason)) };
                let ctx = TcContext::new(skb);
                context.map_or(Midstream::Unknown, |context| midstream::decide(&ctx, context, reason)) as u32
            }

            /// [`cache::look_for_pods`]: 1 where it is one.
            ///
            /// # Safety
            ///
            /// The address must be one.
            #[unsafe(export_name = concat!("is_own", $suffix))]
            #[inline(never)]
            pub unsafe extern "C" fn is_own(address: *const $address, ifindex: u32) -> u32 {
                // SAFETY: the caller's.
                unsafe { address.as_ref() }.map_or(0, |address| u32::from(cache::look_for_pods(*address, ifindex)))
            }

            /// [`filter::finish`]. Returns nothing of meaning.
            ///
            /// # Safety
            ///
            /// Nobody else may use the context meanwhile.
            #[unsafe(export_name = concat!("finish", $suffix))]
            #[inline(never)]
            pub unsafe extern "C" fn finish(context: *mut Context<$address>, place: u32) -> u32 {
                // SAFETY: the caller's.
                if let Some(context) = unsafe { same(context, place) } {
                    filter::finish(context);
                }
                0
            }

            /// [`postrouting::verdict`]: one of [`Reason`]'s numbers.
            ///
            /// # Safety
            ///
            /// Both must be what they say.
            #[unsafe(export_name = concat!("verdict", $suffix))]
            #[inline(never)]
            pub unsafe extern "C" fn verdict(sender: *const Sender, target: *const Target<$address>) -> u32 {
                // SAFETY: the caller's.
                let (Some(sender), Some(target)) = (unsafe { (sender.as_ref(), target.as_ref()) }) else {
                    return Reason::DeniedByPolicy as u32;
                };
                postrouting::verdict(sender, target) as u32
            }

            /// [`postrouting::remember`]: one of [`Reason`]'s numbers.
            ///
            /// # Safety
            ///
            /// Both must be what they say.
            #[unsafe(export_name = concat!("remember", $suffix))]
            #[inline(never)]
            pub unsafe extern "C" fn remember(
                crossing: *const Crossing,
                target: *const Target<$address>,
                reason: u32,
                believed: u32,
            ) -> u32 {
                // SAFETY: the caller's.
                let (Some(crossing), Some(target)) = (unsafe { (crossing.as_ref(), target.as_ref()) }) else {
                    return Reason::DeniedByPolicy as u32;
                };
                // SAFETY: the caller's.
                let reason = unsafe { Reason::of(reason) };
                postrouting::remember(crossing, target, reason, believed != 0) as u32
            }

            /// [`postrouting::is_allowed_already`]: 1 where there is one.
            ///
            /// # Safety
            ///
            /// Both must be what they say.
            #[unsafe(export_name = concat!("is_allowed_already", $suffix))]
            #[inline(never)]
            pub unsafe extern "C" fn is_allowed_already(
                ifindex: u32,
                source: *const $address,
                target: *const Target<$address>,
            ) -> u32 {
                // SAFETY: the caller's.
                let (Some(source), Some(target)) = (unsafe { (source.as_ref(), target.as_ref()) }) else {
                    return 0;
                };
                u32::from(postrouting::is_allowed_already(ifindex, *source, target))
            }

            /// [`half_open::probe_in`]: 1 where it is there.
            ///
            /// # Safety
            ///
            /// Nobody else may use the context meanwhile, and the flows must be a row's.
            #[unsafe(export_name = concat!("seek", $suffix))]
            #[inline(never)]
            pub unsafe extern "C" fn seek(
                context: *mut Context<$address>,
                place: u32,
                flows: *const Flows,
                initiator: u32,
            ) -> u32 {
                // SAFETY: the caller's.
                match unsafe { same(context, place) } {
                    // SAFETY: the same.
                    Some(context) if !flows.is_null() => u32::from(unsafe { half_open::probe_in(context, flows, initiator) }),
                    _ => 0,
                }
            }
        }
    };
}

family! {
    /// Those for IPv4.
    ipv4(u32): "4"
}

family! {
    /// Those for IPv6.
    ipv6([u32; 4]): "6"
}

/// [`parse::walk_options`]: one of [`parse::options`]'s numbers.
///
/// # Safety
///
/// The `skb` must be the running program's.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn walk_options(
    skb: *mut __sk_buff,
    cursor: *mut usize,
    start: u32,
    length: u32,
) -> u32 {
    if cursor.is_null() {
        return parse::options::MALFORMED;
    }
    // SAFETY: the caller's.
    unsafe { parse::walk_options(&TcContext::new(skb), cursor, start as usize, length as usize) }
}

/// [`filter::reason_of_others`] of what a pod sends: one of [`Reason`]'s numbers.
///
/// # Safety
///
/// As above.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn others_from_pod(skb: *mut __sk_buff) -> u32 {
    filter::reason_of_others::<EGRESS>(&TcContext::new(skb)) as u32
}

/// The same of what a pod gets.
///
/// # Safety
///
/// As above.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn others_to_pod(skb: *mut __sk_buff) -> u32 {
    filter::reason_of_others::<INGRESS>(&TcContext::new(skb)) as u32
}

/// [`cache::look_for_endpoint`]: 1 where there is one.
///
/// # Safety
///
/// There must be memory for one.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn recall_endpoint(ifindex: u32, endpoint: *mut Endpoint) -> u32 {
    // SAFETY: the caller's.
    unsafe { endpoint.as_mut() }.map_or(0, |endpoint| u32::from(cache::look_for_endpoint(ifindex, endpoint)))
}

/// [`postrouting::read_endpoint`]: 1 where there is one.
///
/// # Safety
///
/// There must be memory for one.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn read_endpoint(ifindex: u32, endpoint: *mut Endpoint) -> u32 {
    // SAFETY: the caller's.
    unsafe { endpoint.as_mut() }
        .map_or(0, |endpoint| u32::from(postrouting::read_endpoint(ifindex, endpoint)))
}

/// [`query::decide_by_classes`]: one of [`Reason`]'s numbers.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn of_classes(subject: u32, peer: u32, protocol: u32, port: u32) -> u32 {
    query::decide_by_classes(VerdictKey { subject, peer }, protocol as u8, port as u16) as u32
}

/// The device that a veth is a port of; zero where there is none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn master(ifindex: u32) -> u32 {
    let mut endpoint = Endpoint::default();
    postrouting::read_endpoint(ifindex, &mut endpoint);
    endpoint.master
}

/// [`postrouting::judge`] of an IPv4 packet about to leave by a device.
///
/// # Safety
///
/// The `skb` must be the running program's.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn post_nat4(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the caller's.
    postrouting::judge::<u32>(unsafe { EgressSkb::of(skb) })
}

/// The same of an IPv6 packet.
///
/// # Safety
///
/// As above.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn post_nat6(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the caller's.
    postrouting::judge::<[u32; 4]>(unsafe { EgressSkb::of(skb) })
}

/// [`half_open::holds_among`]: 1 where there is one.
///
/// # Safety
///
/// The flows must be a row's.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn holds(flows: *const Flows, hash: u64) -> u32 {
    // SAFETY: the caller's.
    if flows.is_null() { 0 } else { u32::from(unsafe { half_open::holds_among(flows, hash) }) }
}

/// [`half_open::allows_among`]: 1 where there is one.
///
/// # Safety
///
/// Flows and identities must be a row's.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn allows(
    flows: *const Flows,
    identities: *const Identities,
    identity: *const Identity,
    hash: u64,
    generation: u32,
) -> u32 {
    // SAFETY: the caller's.
    match unsafe { identity.as_ref() } {
        Some(identity) if !flows.is_null() && !identities.is_null() => {
            // SAFETY: the caller's.
            u32::from(unsafe { half_open::allows_among(flows, identities, identity, hash, generation) })
        }
        _ => 0,
    }
}

/// [`half_open::goes_to_among`]: 1 where there is one.
///
/// # Safety
///
/// The flows must be a row's.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn goes_to(flows: *const Flows, flow: *const Destination) -> u32 {
    // SAFETY: the caller's.
    match unsafe { flow.as_ref() } {
        // SAFETY: the caller's.
        Some(flow) if !flows.is_null() => u32::from(unsafe { half_open::goes_to_among(flows, flow) }),
        _ => 0,
    }
}

/// [`tunnel::look_up`]: 1 where it may be.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn may_be_tunnel(protocol: u32, port: u32) -> u32 {
    u32::from(tunnel::look_up(protocol as u8, port as u16))
}
