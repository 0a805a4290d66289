//! Postern's packet path: what the TC programs of this package are made of.
//!
//! [`filter`] says in what order a packet is judged; [`antispoof`] checks senders alone. Maps are declared in [`maps`], their
//! types in `postern-common`; the agent writes the policy, the programs the flows, fragments and counters.
//!
//! What may be on its way to a Service's backend is judged once more, behind the choice of the backend: [`tag`] is the near side
//! of that, [`postrouting`] the far one. What a pod may not get is dropped by [`unconfirmed`] already, where it would be remembered
//! as a connection on its way to the veth.
//!
//! What the verifier checks by itself is declared in [`global`].
//!
//! Minimum kernel version: 5.12 (global functions with pointers, see [`global`]); 6.4 for [`postrouting`] and [`unconfirmed`].

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
