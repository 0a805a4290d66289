//! What Kubernetes `NetworkPolicy` means, and nothing else.
//!
//! Objects of the cluster, reduced to the few fields policy needs ([`model`]), flow in; verdict tables and plans
//! that change one table into another flow out. No I/O, no clock, no async, no kernel types: everything here can be
//! tested with plain values.

pub mod model;
