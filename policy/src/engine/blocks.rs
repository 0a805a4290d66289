//! Blocks in use (`ipBlock`), and which of them hold a prefix.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::attributes::AttributeId;

/// How many prefixes there are of each length, so that look-ups try only lengths in use.
#[derive(Debug, Default)]
pub(super) struct Lengths(BTreeMap<(bool, u8), usize>);

impl Lengths {
    fn key(prefix: IpNet) -> (bool, u8) {
        (matches!(prefix, IpNet::V6(_)), prefix.prefix_len())
    }

    pub(super) fn add(&mut self, prefix: IpNet) {
        *self.0.entry(Self::key(prefix)).or_default() += 1;
    }

    pub(super) fn remove(&mut self, prefix: IpNet) {
        if let Some(count) = self.0.get_mut(&Self::key(prefix)) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&Self::key(prefix));
            }
        }
    }

    /// `prefix` and the shorter ones that hold it, longest first, of the lengths in use.
    pub(super) fn covering(&self, prefix: IpNet) -> impl Iterator<Item = IpNet> {
        let (v6, length) = Self::key(prefix);
        let lengths = self.0.range((v6, 0)..=(v6, length)).rev();
        lengths.filter_map(move |((_, length), _)| {
            IpNet::new(prefix.network(), *length).map(|net| net.trunc()).ok()
        })
    }
}

/// All blocks in use.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    by_cidr: HashMap<IpNet, Vec<(AttributeId, Vec<IpNet>)>>,
    cidrs: Lengths,
    /// Every cidr and except in use, and how many blocks name it.
    prefixes: BTreeMap<IpNet, usize>,
}

impl Blocks {
    pub(super) fn insert(&mut self, id: AttributeId, cidr: IpNet, except: &[IpNet]) {
        self.by_cidr.entry(cidr).or_default().push((id, except.to_vec()));
        self.cidrs.add(cidr);
        for prefix in std::iter::once(&cidr).chain(except) {
            *self.prefixes.entry(*prefix).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, id: AttributeId, cidr: IpNet, except: &[IpNet]) {
        let Some(blocks) = self.by_cidr.get_mut(&cidr) else { return };
        blocks.retain(|(other, _)| *other != id);
        if blocks.is_empty() {
            self.by_cidr.remove(&cidr);
        }
        self.cidrs.remove(cidr);
        for prefix in std::iter::once(&cidr).chain(except) {
            if let Some(count) = self.prefixes.get_mut(prefix) {
                *count -= 1;
                if *count == 0 {
                    self.prefixes.remove(prefix);
                }
            }
        }
    }

    /// Whether some block names this prefix.
    pub(super) fn names(&self, prefix: &IpNet) -> bool {
        self.prefixes.contains_key(prefix)
    }

    /// The prefixes in use inside `net`.
    pub(super) fn within(&self, net: IpNet) -> impl Iterator<Item = IpNet> {
        self.prefixes.keys().copied().filter(move |prefix| net.contains(prefix))
    }

    /// The blocks that hold all of `net`, sorted.
    pub(super) fn holding(&self, net: IpNet) -> Vec<AttributeId> {
        let blocks = self.cidrs.covering(net).filter_map(|cidr| self.by_cidr.get(&cidr)).flatten();
        let holding = blocks.filter(|(_, except)| !except.iter().any(|except| except.contains(&net)));
        let mut ids: Vec<_> = holding.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }
}

/// The first and last address of a prefix.
pub(super) fn bounds(net: IpNet) -> (IpAddr, IpAddr) {
    (net.network(), net.broadcast())
}
