//! Postern's agent as a library: what the `postern` binary, the lab and the tests share.
//!
//! Data flows one way: the API server ([`kube`]) or a folder ([`manifests`]) through [`convert`] and [`feed`] into the
//! policy engine, whose plans [`datapath`] executes on the veths that [`links`] finds. [`controller`] is the loop that
//! ties them together; [`control`] answers questions about it, [`http`] those of probes and of Prometheus.

pub mod causes;
pub mod cli;
mod connections;
pub mod control;
pub mod controller;
pub mod convert;
pub mod datapath;
mod debounce;
mod descriptors;
pub mod feed;
pub mod http;
pub mod kube;
pub mod links;
pub mod logging;
pub mod manifests;
pub mod metrics;
pub mod privileges;
