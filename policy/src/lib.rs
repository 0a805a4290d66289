//! What Kubernetes `NetworkPolicy` means, and nothing else.
//!
//! Objects of the cluster, reduced to the few fields policy needs ([`model`]), flow into the [`engine`]; verdict
//! [`tables`] and [`plan`]s that change one table into another flow out. No I/O, no clock, no async, no kernel types:
//! everything here can be tested with plain values.
//!
//! | module | in | out |
//! |---|---|---|
//! | [`selector`] | labels and a selector | whether they match |
//! | [`services`] | Services, slices, pods | frontends and their backends |
//! | [`ports`] | rule ports | canonical [`PortSet`]s |
//! | [`engine`] | objects, in any order | [`Tables`], and the [`Plan`] since the last one |
//! | [`plan`] | recorded and desired tables | actions in an order that never shows a half-applied policy |
//! | [`matrix`] | objects | who reaches whom, through the engine's tables |
//! | [`reference`] | objects | the same answer straight from the API's words, for tests to compare with |
//! | `testkit` (a feature) | nothing | random clusters, dense in corner cases, and builders |

pub mod engine;
pub mod matrix;
pub mod model;
pub mod plan;
pub mod ports;
pub mod reference;
pub mod selector;
#[cfg(test)]
mod semantics;
pub mod services;
pub mod tables;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;

pub use engine::{Budget, DepartedPod, Engine, LocalPod, PodKey, Refused, Scope};
pub use plan::{Action, Plan};
pub use ports::{PortRange, PortSet};
pub use tables::{ClassId, FrontendEntry, PeerClass, PeerEntry, Subject, Tables};
