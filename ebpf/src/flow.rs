//! Flows: what is remembered of packets that were allowed, so that those that follow are not judged anew.
//!
//! | | |
//! |---|---|
//! | [`known`] | what is known of a packet's flow, and what the packet does to it |
//! | [`established`], [`directory`] | flows that both sides want, and which of them a veth has |
//! | [`half_open`], [`row`], [`peek`] | flows before that, how they stand in memory, and for whoever only asks |
//! | [`opening`] | whether there can be any that only one side was heard of |
//! | [`recheck`] | flows that are judged again |
//! | [`midstream`], [`sockets`] | connections that are older than the programs: the pod's sockets know them |
//! | [`fragment`] | datagrams of which the first fragment was allowed |
//! | [`backend`] | to which backend packets of a flow go |
//! | [`cursor`] | what the context of a packet has of all that |

pub mod backend;
pub mod cursor;
pub mod directory;
pub mod established;
pub mod fragment;
pub mod half_open;
pub mod known;
pub mod midstream;
pub mod opening;
pub mod peek;
pub mod recheck;
pub mod row;
pub mod sockets;
