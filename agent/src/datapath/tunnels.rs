//! UDP ports where tunnels of the node end, in map `TUNNEL_PORTS`. Written here alone.

use std::collections::BTreeSet;

use aya::maps::MapError;
use postern_common::tunnel::{TUNNEL_WORDS, place};

use super::maps::Maps;

/// What the map is to hold, and what it holds.
#[derive(Debug)]
pub struct TunnelPorts {
    wanted: Vec<u64>,
    held: Vec<u64>,
}

impl TunnelPorts {
    /// Reads what is there: it stays until something else is known.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn read(maps: &Maps) -> Result<Self, MapError> {
        let held: Vec<u64> = maps.tunnel_ports.iter().collect::<Result<_, _>>()?;
        Ok(Self { wanted: held.clone(), held })
    }

    /// Says which ports these are.
    pub fn set(&mut self, ports: &BTreeSet<u16>) {
        self.wanted = vec![0; TUNNEL_WORDS];
        for port in ports {
            let (word, bit) = place(*port);
            self.wanted[word as usize] |= bit;
        }
    }

    /// Writes what differs. Whether anything did.
    ///
    /// # Errors
    ///
    /// The kernel refused a write: the rest is left for the next time.
    pub fn write(&mut self, maps: &mut Maps) -> Result<bool, MapError> {
        let mut changed = false;
        for (index, (wanted, held)) in (0..).zip(self.wanted.iter().zip(&mut self.held)) {
            if wanted != held {
                maps.write(|maps| maps.tunnel_ports.set(index, *wanted, 0))?;
                *held = *wanted;
                changed = true;
            }
        }
        Ok(changed)
    }
}
