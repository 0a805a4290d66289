//! What is shown to the programs and to the model: frames of one veth, and changes of its pod's policy in between.

use std::fmt::{self, Write as _};

use postern_policy::model::Direction;

use super::world::{Policy, Services};

/// What the endpoint map says of a veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Veth {
    /// How its pod is isolated.
    pub(super) policy: Policy,
    /// Whether its pod's sources are checked.
    pub(super) guarded: bool,
    /// Whether it is a port of a bridge.
    pub(super) bridged: bool,
}

/// One thing that happens on a veth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The pod gets or sends a frame.
    Frame(Shown),
    /// The veth is flipped. With `advance`, the policy generation goes up after it, as it does once a plan is through.
    Flip {
        /// What it is from now on.
        veth: Veth,
        /// Whether flows are judged again.
        advance: bool,
    },
    /// The Service comes, goes, or is another one.
    Services(Services),
}

/// A frame, and how the programs see it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Shown {
    /// Whether the pod gets or sends it.
    pub(super) direction: Direction,
    /// From the Ethernet header on; not shorter than [`shortest`].
    pub(super) bytes: Vec<u8>,
    /// Whether it stands for several packets of a flow.
    pub(super) gso: bool,
    /// Of what the pod gets: whether it came in by another interface, and so is not from the node itself.
    pub(super) forwarded: bool,
}

/// All that happens on a veth, from its first packet on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    /// What the veth is at first.
    pub(super) veth: Veth,
    /// What the Service is at first.
    pub(super) services: Services,
    /// What happens then.
    pub(super) steps: Vec<Step>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gso = if self.gso { " (GSO)" } else { "" };
        let forwarded = if self.forwarded { " (forwarded)" } else { "" };
        write!(formatter, "{:?}{gso}{forwarded} {}", self.direction, hex(&self.bytes))
    }
}

/// The fewest bytes of a frame that `BPF_PROG_TEST_RUN` takes: it refuses those that lack an Ethernet header, or the
/// IP header that their first ethertype promises. Behind a VLAN tag there may be less.
pub(super) fn shortest(bytes: &[u8]) -> usize {
    match bytes.get(12..14) {
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => 14,
    }
}

/// Bytes to paste elsewhere.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The reverse of [`hex`], for frames in tests.
pub(super) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let digits = std::str::from_utf8(&digits).unwrap();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
