//! Postern's packet path: what the TC programs of this package are made of.
//!
//! [`filter`] says in what order a packet is judged, and [`context`] is what is known of it meanwhile. Its way goes through the folders:
//!
//! | | |
//! |---|---|
//! | [`parse`] | what the frame says |
//! | [`flow`] | whether it belongs to something that was allowed before |
//! | [`policy`] | whether it may start something |
//! | [`nat`] | whether it may go where a Service sends it: judged once more, once that is known |
//!
//! [`antispoof`] is the filter's check of senders, and a program of its own for pods that are not isolated. [`nat::unconfirmed`] drops
//! what a pod may not get where it would be remembered as a connection on its way to the veth.
//!
//! Below: [`address`] and [`tables`] are what differs by [`family`], [`maps`] what programs share with the agent, and [`seqcount`] how
//! they read what it is replacing. Types of the maps are in `postern-common`; the agent writes the policy, the programs the flows,
//! fragments and counters. What the verifier checks by itself is declared by [`global`].
//!
//! Minimum kernel version: 5.12 (global functions with pointers, see [`global`]); 6.4 for [`nat::postrouting`] and
//! [`nat::unconfirmed`], of which [`nat::tc_egress`] stands in for the first.

#![no_std]
#![feature(asm_experimental_arch)]
#![expect(unsafe_code, reason = "map values and the packet are reached through pointers the verifier checks")]
#![expect(
    clippy::inline_always,
    reason = "whether something is a function decides what the verifier follows, and how much stack there is"
)]
#![expect(clippy::must_use_candidate, reason = "nothing outside of this package calls these")]
#![expect(clippy::missing_errors_doc, reason = "errors say what they are, in `frame::Unreadable`")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "sizes and numbers of the packet path fit where they stand in keys"
)]

pub mod address;
pub mod antispoof;
pub mod atomic;
pub mod config;
pub mod context;
pub mod count;
pub mod family;
pub mod filter;
pub mod flow;
pub mod global;
pub mod hash;
pub mod maps;
pub mod nat;
pub mod opaque;
pub mod parse;
pub mod policy;
pub mod seqcount;
pub mod tables;
