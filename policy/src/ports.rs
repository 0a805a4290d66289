//! Port sets: what one subject allows one peer, after every rule is added up.
//!
//! Rules' ports flow in, canonical sets flow out: sorted, merged, without overlap, so that sets that allow the same
//! packets compare equal and can be shared.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use crate::model::Protocol;

/// Ports `first` to `last` of one protocol, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// `NetworkPolicyPort.protocol`
    pub protocol: Protocol,
    /// `NetworkPolicyPort.port`
    pub first: u16,
    /// `NetworkPolicyPort.endPort`, or `first` again.
    pub last: u16,
}

impl PortRange {
    /// Every port of a protocol (`NetworkPolicyPort.port` unset).
    #[must_use]
    pub const fn all_of(protocol: Protocol) -> Self {
        Self { protocol, first: 0, last: u16::MAX }
    }

    /// Whether this is every port of its protocol.
    #[must_use]
    pub const fn is_all(&self) -> bool {
        self.first == 0 && self.last == u16::MAX
    }
}

/// What a subject allows a peer: nothing, everything, or ranges of ports.
///
/// "Every port of TCP, UDP and SCTP" is not "everything": ICMP and other protocols without ports need a rule without
/// ports (`NetworkPolicyIngressRule.ports` empty).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortSet {
    /// These ports alone: sorted, merged. Empty: nothing.
    Ports(Arc<[PortRange]>),
    /// Every port of every protocol, those without ports included.
    Everything,
}

impl Default for PortSet {
    fn default() -> Self {
        Self::nothing()
    }
}

impl PortSet {
    /// Allows nothing.
    #[must_use]
    pub fn nothing() -> Self {
        // Shared, not allocated: most pairs of classes allow nothing.
        Self::Ports(Arc::default())
    }

    /// One port.
    #[must_use]
    pub fn port(protocol: Protocol, port: u16) -> Self {
        Self::Ports(Arc::new([PortRange { protocol, first: port, last: port }]))
    }

    /// Every port of a protocol.
    #[must_use]
    pub fn all_of(protocol: Protocol) -> Self {
        Self::Ports(Arc::new([PortRange::all_of(protocol)]))
    }

    /// The canonical set of these ranges; ranges whose last port is below their first hold nothing.
    #[must_use]
    pub fn from_ranges(ranges: impl IntoIterator<Item = PortRange>) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|range| range.first <= range.last).collect();
        ranges.sort_unstable();
        ranges.dedup_by(|next, kept| {
            // Adjacent ranges merge too: 80-81 and 82 are 80-82. `last` is u16::MAX only when nothing can follow.
            let joins = next.protocol == kept.protocol && next.first <= kept.last.saturating_add(1);
            if joins {
                kept.last = kept.last.max(next.last);
            }
            joins
        });
        Self::Ports(ranges.into())
    }

    /// Whether no packet at all is allowed.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.ranges().is_some_and(<[_]>::is_empty)
    }

    /// Whether every packet is allowed.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        matches!(self, Self::Everything)
    }

    /// The ranges, sorted and merged; `None` for everything.
    #[must_use]
    pub fn ranges(&self) -> Option<&[PortRange]> {
        match self {
            Self::Ports(ranges) => Some(ranges),
            Self::Everything => None,
        }
    }

    /// What either set allows.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Everything, _) | (_, Self::Everything) => Self::Everything,
            (Self::Ports(left), Self::Ports(right)) => {
                if left.is_empty() {
                    other.clone()
                } else if right.is_empty() || left == right {
                    self.clone()
                } else {
                    Self::from_ranges(left.iter().chain(right.iter()).copied())
                }
            }
        }
    }

    /// Whether this set allows all that `other` allows.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Everything, _) => true,
            (Self::Ports(_), Self::Everything) => false,
            // Merged ranges: one range of `other` can only lie within a single range of ours.
            (Self::Ports(ours), Self::Ports(theirs)) => theirs.iter().all(|their| {
                ours.iter().any(|our| {
                    our.protocol == their.protocol && our.first <= their.first && their.last <= our.last
                })
            }),
        }
    }

    /// Whether a packet to this port passes.
    #[must_use]
    pub fn allows(&self, protocol: Protocol, port: u16) -> bool {
        match self {
            Self::Everything => true,
            Self::Ports(ranges) => ranges
                .iter()
                .any(|range| range.protocol == protocol && range.first <= port && port <= range.last),
        }
    }

    /// Whether ICMP and other protocols without ports pass: rules with ports never allow them.
    #[must_use]
    pub fn allows_portless(&self) -> bool {
        self.is_everything()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, first, last } = self;
        if self.is_all() {
            write!(f, "{protocol}/*")
        } else if first == last {
            write!(f, "{protocol}/{first}")
        } else {
            write!(f, "{protocol}/{first}-{last}")
        }
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("everything"),
            Self::Ports(ranges) if ranges.is_empty() => f.write_str("nothing"),
            Self::Ports(ranges) => {
                for (index, range) in ranges.iter().enumerate() {
                    let separator = if index == 0 { "" } else { " " };
                    write!(f, "{separator}{range}")?;
                }
                Ok(())
            }
        }
    }
}
