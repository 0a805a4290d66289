//! What packets were counted under, by the programs.

use aya::maps::MapError;
use postern_common::direction::{BEHIND_NAT, EGRESS, INGRESS};
use postern_common::reason::Reason;
use serde::{Deserialize, Serialize};

use super::maps::Maps;

/// Packets of one direction under one reason, since the maps were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// As the pods see it: `ingress` is what they get. `behind-nat`: what they send, once more, where it is known which backend of a
    /// Service it goes to.
    pub direction: String,
    /// See docs/packet-path.md.
    pub reason: String,
    /// Whether they were dropped.
    pub dropped: bool,
    /// How many.
    pub packets: u64,
}

/// All reasons that there were packets for.
///
/// # Errors
///
/// The map cannot be read.
pub fn read(maps: &Maps) -> Result<Vec<Counted>, MapError> {
    let mut counted = Vec::new();
    for (name, direction) in [("ingress", INGRESS), ("egress", EGRESS), ("behind-nat", BEHIND_NAT)] {
        for reason in Reason::ALL {
            let packets = maps.counters.get(&reason.counter(direction), 0)?.iter().sum();
            if packets != 0 {
                counted.push(Counted {
                    direction: name.to_owned(),
                    reason: reason.name().to_owned(),
                    dropped: reason.drops(),
                    packets,
                });
            }
        }
    }
    Ok(counted)
}
