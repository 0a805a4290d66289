//! Tests with real namespaces, agents and sockets. They need root, and fail without it.
//!
//! Each brings up its own lab; none depends on another. `POSTERN_SEED` changes the random edits.
//!
//! `cfg(test)` says to clippy that helpers are test code too.

#[cfg(test)]
mod address_reuse;
#[cfg(test)]
mod antispoof;
#[cfg(test)]
mod before_conntrack;
#[cfg(test)]
mod broken_policies;
#[cfg(test)]
mod clean_up;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod denied_floods;
#[cfg(test)]
mod denied_then_allowed;
#[cfg(test)]
mod departed;
#[cfg(test)]
mod icmp;
#[cfg(test)]
mod inside;
#[cfg(test)]
mod manifests;
#[cfg(test)]
mod masquerade;
#[cfg(test)]
mod new_pods;
#[cfg(test)]
mod older;
#[cfg(test)]
mod own_node;
#[cfg(test)]
mod path_mtu;
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
mod services;
#[cfg(test)]
mod story;
#[cfg(test)]
mod support;
#[cfg(test)]
mod topology;
#[cfg(test)]
mod traffic;
