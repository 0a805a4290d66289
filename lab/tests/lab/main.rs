//! Tests with real namespaces, agents and sockets. They need root, and fail without it.
//!
//! Each brings up its own lab; none depends on another. `POSTERN_SEED` changes the random edits.
//!
//! `cfg(test)` says to clippy that helpers are test code too.

#[cfg(test)]
mod address_reuse;
#[cfg(test)]
mod clean_up;
#[cfg(test)]
mod manifests;
#[cfg(test)]
mod policy_changes;
#[cfg(test)]
mod random_edits;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod scale;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod story;
#[cfg(test)]
mod support;
#[cfg(test)]
mod topology;
