//! Tests with a real Kubernetes: `cargo xtask test --cluster`. They need root and what `cargo xtask cluster build` builds,
//! and fail without.
//!
//! `cfg(test)` says to clippy that helpers are test code too.

#[cfg(test)]
mod agent;
#[cfg(test)]
mod bench;
#[cfg(test)]
mod control_plane;
#[cfg(test)]
mod daemonset;
#[cfg(test)]
mod departed;
#[cfg(test)]
mod deploy;
#[cfg(test)]
mod e2e;
#[cfg(test)]
mod killed;
#[cfg(test)]
mod nodes;
#[cfg(test)]
mod services;
#[cfg(test)]
mod site;
#[cfg(test)]
mod support;
