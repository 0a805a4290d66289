//! Who enforces the policy: one scenario of the benchmark each.

use std::fmt;

/// How many rules the policy has in every scenario that is not about their number.
pub(super) const RULES: u32 = 10_000;

/// Who enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Enforcer {
    /// Nobody: what all others are compared with. Twice, so that the difference between equals is known.
    Nobody(u8),
    /// Nobody, with a program on each hook of each veth nevertheless (TCX where there is one).
    Floor(Floor),
    /// A real agent.
    Postern(Attach),
    /// A rule set of nft.
    Nftables(Shape),
    /// A rule set of iptables, and ipset.
    Iptables(Shape),
}

/// What the least program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Floor {
    /// Nothing.
    Empty,
    /// Reads the packet, and looks its flow up in a table of its own.
    Flow,
}

/// How Postern's programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attach {
    /// TCX (kernel 6.6 and later).
    Tcx,
    /// Filters of the clsact qdisc.
    Clsact,
}

/// How a rule set is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One rule after the other; the one for the measured traffic is the last.
    Linear(u32),
    /// One rule that looks into a set.
    Set,
}

impl Enforcer {
    /// Every scenario.
    pub(super) fn all() -> Vec<Self> {
        let shapes = [Shape::Linear(10), Shape::Linear(1_000), Shape::Linear(10_000), Shape::Set];
        let mut all = vec![Self::Nobody(1), Self::Nobody(2)];
        all.extend([Floor::Empty, Floor::Flow].map(Self::Floor));
        all.extend([Attach::Tcx, Attach::Clsact].map(Self::Postern));
        all.extend(shapes.map(Self::Nftables));
        all.extend(shapes.map(Self::Iptables));
        all
    }

    /// Whether everything passes.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Self::Nobody(_) | Self::Floor(_))
    }

    /// Whether nothing is done to packets.
    pub(super) fn is_nobody(self) -> bool {
        matches!(self, Self::Nobody(_))
    }

    /// Whether it rests on the kernel's conntrack.
    pub(super) fn tracks_connections(self) -> bool {
        matches!(self, Self::Nftables(_) | Self::Iptables(_))
    }

    /// How many (from, to, protocol, port) its policy allows.
    pub(super) fn rules(self) -> u32 {
        match self {
            Self::Nobody(_) | Self::Floor(_) => 0,
            Self::Nftables(Shape::Linear(rules)) | Self::Iptables(Shape::Linear(rules)) => rules,
            _ => RULES,
        }
    }
}

/// The scenario's name: in namespaces, in tables, on the command line.
impl fmt::Display for Enforcer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody(number) => write!(f, "none-{number}"),
            Self::Floor(Floor::Empty) => f.write_str("floor-empty"),
            Self::Floor(Floor::Flow) => f.write_str("floor-flow"),
            Self::Postern(attach) => write!(f, "postern-{}", attach.name()),
            Self::Nftables(shape) => write!(f, "nftables-{shape}"),
            Self::Iptables(shape) => write!(f, "iptables-{shape}"),
        }
    }
}

impl Attach {
    /// As the agent's `--attach` has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linear(rules) => write!(f, "{rules}"),
            Self::Set => f.write_str("set"),
        }
    }
}
