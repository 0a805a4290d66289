//! Functions that the verifier checks apart: once, for any packet, and not again for each way that leads to a call ("global functions",
//! `btf_check_subprog_call` in `kernel/bpf/btf.c`). What they are called with, it takes for memory of the size of its type, and what
//! they return for any number.
//!
//! Without, its work would be the product of what may become of a packet in one stage and in the next; so it is the sum.
//!
//! Each stands beside what it calls, by one of the macros here. To the kernel, whose functions have no modules, the names of those of
//! one family end with its number.
//!
//! Minimum kernel version: 5.12, for arguments that are pointers.

use core::arch::asm;

use crate::config;
use crate::context::{self, Context};
use crate::family::Family;

/// The context that a function was called with, which is at this place: looked up anew, since kernels before 6.2 take no keys of maps from
/// memory that is an argument (`map_key_value_types` in `kernel/bpf/verifier.c`).
///
/// # Safety
///
/// Nobody else may use the context meanwhile.
#[inline(always)]
pub unsafe fn same<'a, A: Family>(mut context: *mut Context<A>, place: u32) -> Option<&'a mut Context<A>> {
    let found = context::at::<A>(place)?;
    // SAFETY: both are the same address. The compiler is to take it for the caller's, who must know that what is there changes.
    unsafe { asm!("{0} = {1}", inout(reg) context, in(reg) found, options(nostack)) };
    // SAFETY: the caller's.
    unsafe { context.as_mut() }
}

/// Which of this CPU's places a context is: a function that is called with the context is told, for [`same`].
#[inline(always)]
pub fn place_of<A: Family>(context: &Context<A>) -> u32 {
    if config::realtime() { context.cpu.place } else { 0 }
}

/// An argument of a function that is generic over the family, as that for one family takes it.
///
/// # Safety
///
/// Both types must be the same, or pointers to the same.
#[inline(always)]
pub unsafe fn of_family<T: Copy, U>(argument: T) -> U {
    const { assert!(size_of::<T>() == size_of::<U>()) };
    // SAFETY: the caller's.
    unsafe { core::mem::transmute_copy(&argument) }
}

/// Declares a function that calls one that is checked apart, one for each family: these are named as the brackets say, for IPv4 and for
/// IPv6.
///
/// The functions must be called with what their types say, as the verifier takes it.
macro_rules! by_family {
    (
        $(#[doc = $doc:literal])+
        $visibility:vis unsafe fn $name:ident[$ipv4:ident, $ipv6:ident]<$family:ident>(
            $($argument:ident: $type:ty),+ $(,)?
        ) -> u32 $body:block
    ) => {
        $(#[doc = $doc])+
        ///
        /// # Safety
        ///
        /// Pointers must be to what they say, or null.
        #[inline(always)]
        $visibility unsafe fn $name<$family: $crate::family::Family>($($argument: $type),+) -> u32 {
            #[inline(always)]
            unsafe fn body<$family: $crate::family::Family>($($argument: $type),+) -> u32 $body

            if $crate::family::is_ipv4::<$family>() {
                type $family = u32;

                #[unsafe(no_mangle)]
                #[inline(never)]
                unsafe extern "C" fn $ipv4($($argument: $type),+) -> u32 {
                    // SAFETY: the caller's.
                    unsafe { body::<$family>($($argument),+) }
                }

                // SAFETY: it is this family; and the caller's.
                unsafe { $ipv4($($crate::global::of_family($argument)),+) }
            } else {
                type $family = [u32; 4];

                #[unsafe(no_mangle)]
                #[inline(never)]
                unsafe extern "C" fn $ipv6($($argument: $type),+) -> u32 {
                    // SAFETY: the caller's.
                    unsafe { body::<$family>($($argument),+) }
                }

                // SAFETY: the same.
                unsafe { $ipv6($($crate::global::of_family($argument)),+) }
            }
        }
    };
}

/// Declares a stage of the packet path: a function that is called with the packet and its context, as far as that is filled, and says a
/// [`Reason`]: one of its own is returned where there is no context, which cannot be: every array has its elements.
///
/// [`Reason`]: postern_common::reason::Reason
macro_rules! stage {
    (
        $(#[doc = $doc:literal])+
        $visibility:vis fn $name:ident($context:ident)[$ipv4:ident, $ipv6:ident] = $without:ident, $function:expr
    ) => {
        $(#[doc = $doc])+
        #[inline(always)]
        $visibility fn $name<A: $crate::family::Family>(
            ctx: &aya_ebpf::programs::TcContext,
            context: &mut $crate::context::$context<A>,
        ) -> postern_common::reason::Reason {
            use postern_common::reason::Reason;

            $crate::global::by_family! {
                /// What is called.
                unsafe fn apart[$ipv4, $ipv6]<A>(
                    skb: *mut aya_ebpf::bindings::__sk_buff,
                    context: *mut $crate::context::Context<A>,
                    place: u32,
                ) -> u32 {
                    // SAFETY: the caller's.
                    let Some(context) = (unsafe { $crate::global::same(context, place) }) else {
                        return Reason::$without as u32;
                    };
                    let context = $crate::context::$context::of_stage(context);
                    let reason: Reason = $function(&aya_ebpf::programs::TcContext::new(skb), context);
                    reason as u32
                }
            }

            let context: &mut $crate::context::Context<A> = context;
            let place = $crate::global::place_of(context);
            // SAFETY: `ctx` is the running program's, and nobody else has the context; a reason's number comes back.
            unsafe { Reason::of(apart(ctx.skb.skb, &raw mut *context, place)) }
        }
    };
}

/// The same, one for each direction: of what a pod sends, and of what it gets.
macro_rules! stage_of_direction {
    (
        $(#[doc = $doc:literal])+
        $visibility:vis fn $name:ident($context:ident)[$from_pod4:ident, $from_pod6:ident, $to_pod4:ident, $to_pod6:ident]
            = $without:ident, $function:ident
    ) => {
        $(#[doc = $doc])+
        #[inline(always)]
        $visibility fn $name<const DIRECTION: u8, A: $crate::family::Family>(
            ctx: &aya_ebpf::programs::TcContext,
            context: &mut $crate::context::$context<A>,
        ) -> postern_common::reason::Reason {
            use postern_common::direction::{EGRESS, INGRESS};

            $crate::global::stage! {
                /// Of what a pod sends.
                fn from_pod($context)[$from_pod4, $from_pod6] = $without, $function::<EGRESS, _>
            }
            $crate::global::stage! {
                /// Of what a pod gets.
                fn to_pod($context)[$to_pod4, $to_pod6] = $without, $function::<INGRESS, _>
            }

            if DIRECTION == EGRESS { from_pod(ctx, context) } else { to_pod(ctx, context) }
        }
    };
}

pub(crate) use {by_family, stage, stage_of_direction};
