//! Postern's packet path: what the TC programs of this package are made of.
//!
//! [`filter`] says in what order a packet is judged; [`guard`] checks senders alone. Maps are declared in [`maps`], their
//! types in `postern-common`; the agent writes the policy, the programs the flows, fragments and counters.
//!
//! What may be on its way to a Service's backend is judged once more, behind the choice of the backend: [`service`] is the near side
//! of that, [`behind_nat`] the far one. What a pod may not get is dropped by [`unconfirmed`] already, where it would be remembered
//! as a connection on its way to the veth.
//!
//! What the verifier checks by itself is declared in [`apart`].
//!
//! Minimum kernel version: 5.12 (global functions with pointers, see [`apart`]); 6.4 for [`behind_nat`] and [`unconfirmed`].

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

pub mod addressed;
pub mod apart;
pub mod atomic;
pub mod behind_nat;
pub mod claim;
pub mod config;
pub mod conntrack;
pub mod count;
pub mod directory;
pub mod family;
pub mod filter;
pub mod fragment;
pub mod frame;
pub mod guard;
pub mod half_open;
pub mod maps;
pub mod opaque;
pub mod parse;
pub mod pick_up;
pub mod post_nat;
pub mod recall;
pub mod scene;
pub mod service;
pub mod skb;
pub mod slot;
pub mod sockets;
pub mod steady;
pub mod tunnel;
pub mod unconfirmed;
pub mod verdict;
