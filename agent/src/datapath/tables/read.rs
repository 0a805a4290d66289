//! The maps back into tables.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aya::maps::MapError;
use ipnet::IpNet;
use postern_common::peer::{EPOCH_BITS, Peer};
use postern_common::service::{BEHIND_NAT, Frontend as Value};
use postern_common::verdict::{PortPage, PortPageKey};
use postern_policy::services::Frontend;
use postern_policy::{ClassId, FrontendEntry, PeerClass, PeerEntry, PortSet};

use crate::datapath::encode;
use crate::datapath::maps::Maps;

/// Frontends of one epoch, as the maps hold them.
///
/// # Errors
///
/// A map cannot be read.
pub fn read_frontends(maps: &Maps, epoch: u32) -> Result<BTreeMap<Frontend, FrontendEntry>, MapError> {
    let mut frontends = BTreeMap::new();
    let mut add = |address: IpAddr, protocol: u16, port: u16, Value { class }: Value| {
        // A protocol that we do not know is not in a map that we wrote.
        if let Some(protocol) = u8::try_from(protocol).ok().and_then(encode::protocol) {
            let entry = match class {
                BEHIND_NAT => FrontendEntry::BehindNat,
                class => FrontendEntry::Together(PeerClass(class)),
            };
            frontends.insert(Frontend { address, protocol, port }, entry);
        }
    };
    for item in &maps.frontends4 {
        let (key, value) = item?;
        if key.epoch == epoch {
            add(key.address.into(), key.protocol, key.port, value);
        }
    }
    for item in &maps.frontends6 {
        let (key, value) = item?;
        if key.epoch == epoch {
            add(key.address.into(), key.protocol, key.port, value);
        }
    }
    Ok(frontends)
}

/// Peers of one epoch, as the maps hold them.
///
/// # Errors
///
/// A map cannot be read.
pub fn read_peers(maps: &Maps, epoch: u32) -> Result<BTreeMap<IpNet, PeerEntry>, MapError> {
    let mut peers = BTreeMap::new();
    let mut add = |address: IpAddr, length: u32, peer: Peer| {
        // A length beyond the family's is not in a map that we wrote.
        if let Ok(prefix) = IpNet::new(address, u8::try_from(length).unwrap_or(u8::MAX)) {
            peers.insert(prefix, encode::peer_entry(peer));
        }
    };
    for item in &maps.peers4 {
        let (key, peer) = item?;
        if key.epoch == epoch {
            add(key.address.into(), 32, peer);
        }
    }
    for item in &maps.peers6 {
        let (key, peer) = item?;
        if key.epoch == epoch {
            add(key.address.into(), 128, peer);
        }
    }
    for item in &maps.prefixes4 {
        let (key, peer) = item?;
        if key.data().epoch == epoch.to_be_bytes() {
            add(key.data().address.into(), key.prefix_len() - EPOCH_BITS, peer);
        }
    }
    for item in &maps.prefixes6 {
        let (key, peer) = item?;
        if key.data().epoch == epoch.to_be_bytes() {
            add(key.data().address.into(), key.prefix_len() - EPOCH_BITS, peer);
        }
    }
    Ok(peers)
}

/// Verdicts, as the maps hold them.
///
/// # Errors
///
/// A map cannot be read.
pub fn read_verdicts(maps: &Maps) -> Result<BTreeMap<(ClassId, PeerClass), PortSet>, MapError> {
    let pages: BTreeMap<PortPageKey, PortPage> = maps.port_pages.iter().collect::<Result<_, _>>()?;
    let verdicts = maps.verdicts.iter().map(|item| {
        let (key, verdict) = item?;
        Ok(((ClassId(key.subject), PeerClass(key.peer)), encode::ports(&verdict, &pages)))
    });
    verdicts.collect()
}
