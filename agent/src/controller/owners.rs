//! Which pods' addresses a veth stands for: what it shows at first, and from then on what it was found to be.
//!
//! A pod that may configure its interface shows what it likes. Were it taken at its word each time, it could take off its
//! own address to get rid of its policies, and put on another pod's to get that one's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::links::Veth;

/// The addresses of the pod that each veth was found to belong to, as its object told them then.
#[derive(Debug, Default)]
pub(super) struct Owners(BTreeMap<u32, BTreeSet<IpAddr>>);

impl Owners {
    /// Starts from what an earlier agent found out. Interface indexes do not come back.
    pub(super) fn new(found: BTreeMap<u32, BTreeSet<IpAddr>>) -> Self {
        Self(found)
    }

    /// Forgets veths that are gone.
    pub(super) fn retain(&mut self, veths: &[Veth]) {
        let present: BTreeSet<u32> = veths.iter().map(|veth| veth.ifindex).collect();
        self.0.retain(|ifindex, _| present.contains(ifindex));
    }

    /// Which of the pods a veth stands for. `claims` are the pods that say an address is theirs. Where that is one pod,
    /// it is remembered.
    pub(super) fn behind(
        &mut self,
        veth: &Veth,
        claims: &BTreeMap<IpAddr, Vec<usize>>,
        addresses: impl Fn(usize) -> BTreeSet<IpAddr>,
    ) -> BTreeSet<usize> {
        let pods = |addresses: &mut dyn Iterator<Item = &IpAddr>| -> BTreeSet<usize> {
            addresses.filter_map(|address| claims.get(address)).flatten().copied().collect()
        };
        let found = self.0.get(&veth.ifindex).map(|found| pods(&mut found.iter())).unwrap_or_default();
        let shown = pods(&mut veth.addresses.iter());
        let behind = match found.len() {
            0 => shown,
            1 => found,
            // What one pod had is several pods' now: what it shows may tell which of these it is.
            _ if found.is_disjoint(&shown) => found,
            _ => &found & &shown,
        };
        if behind.len() == 1
            && let Some(pod) = behind.first()
        {
            self.0.insert(veth.ifindex, addresses(*pod));
        }
        behind
    }
}
