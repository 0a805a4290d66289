//! Tests with real namespaces, agents and sockets. They need root, and fail without it.
//!
//! Each brings up its own lab; none depends on another. `POSTERN_LONG=1` and `POSTERN_SEED` change how the random ones run.

mod address_reuse;
mod clean_up;
mod manifests;
mod policy_changes;
mod random_edits;
mod restart;
mod scale;
mod story;
mod support;
mod topology;
