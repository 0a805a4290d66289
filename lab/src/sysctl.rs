//! Kernel settings of a namespace. `/proc/sys/net` shows the settings of the namespace that the calling thread is in.

use std::fs;
use std::io;

use crate::netns::{self, Netns};

/// Addresses are usable at once, and nothing is learnt from routers.
pub const HOST: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
];

/// A node forwards for its pods, over whatever path, and does not tell them of shorter ones.
pub const NODE: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
];

/// A node whose pods share a bridge translates what they say to each other too, as Kubernetes asks of nodes: else replies
/// take the short way past conntrack, and show the backend's address.
pub const SERVICES: &[(&str, &str)] =
    &[("net/bridge/bridge-nf-call-iptables", "1"), ("net/bridge/bridge-nf-call-ip6tables", "1")];

/// A setting could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// The kernel refuses the setting.
    #[error("set {key} to {value} in {netns}: {error}")]
    Write {
        /// Where.
        netns: String,
        /// Path below `/proc/sys`.
        key: &'static str,
        /// The value.
        value: &'static str,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// Writes settings inside `netns`. One that this kernel lacks (no IPv6) is skipped.
///
/// # Errors
/// The namespace cannot be entered, or the kernel refuses a setting.
pub fn apply(netns: &Netns, settings: &[(&'static str, &'static str)]) -> Result<(), Error> {
    netns.within(|| {
        for &(key, value) in settings {
            match fs::write(format!("/proc/sys/{key}"), value) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::Write { netns: netns.name().to_owned(), key, value, error });
                }
                _ => {}
            }
        }
        Ok(())
    })?
}
