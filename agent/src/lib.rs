//! Postern's agent as a library: what the `postern` binary, the lab and the tests share.
//!
//! Data flows one way: [`manifests`] (or, later, the API server) through [`convert`] into the policy engine, whose
//! plans [`datapath`] executes on the veths that [`links`] finds. [`controller`] is the loop that ties them together;
//! [`control`] answers questions about it.

pub mod cli;
pub mod control;
pub mod controller;
pub mod convert;
pub mod datapath;
mod debounce;
pub mod links;
pub mod manifests;
