//! A cluster in network namespaces: nodes, pods and hosts outside, with real agents and real sockets.
//!
//! A scenario (a directory of Kubernetes YAML) flows in; wires, processes and the connectivity matrix that real
//! connections observe flow out. [`topology`] lays the wires, [`prober`] is the helper inside each namespace,
//! [`observe`] asks all helpers at once; [`services`] has nodes translate to backends; [`lab`] holds it all together. [`bench`] measures what enforcement costs.

pub mod agent;
pub mod bench;
pub mod feed;
pub mod helper;
pub mod kept;
pub mod lab;
pub mod matrix;
pub mod netlink;
pub mod netns;
pub mod observe;
pub mod party;
pub mod prober;
pub mod process;
pub mod run;
pub mod scenario;
pub mod services;
pub mod story;
pub mod sysctl;
pub mod table;
pub mod topology;
pub mod wire;
pub mod working_copy;
