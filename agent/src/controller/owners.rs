//! Whose a veth is: what it shows at first, and from then on what it was found to be.
//!
//! A pod that may configure its interface shows what it likes. Were it taken at its word each time, it could
//! take off its own address to get rid of its policies, and put on another pod's to get that one's.
//!
//! Nor does a veth stop being a pod's when the pod's object goes: its processes end when they end. It stays
//! that pod's until the link goes or another pod is found behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use postern_policy::model::NamespacedName;
use postern_policy::{Engine, LocalPod, PodKey};

use super::age::{Ages, Moment};
use crate::links::Veth;

/// A pod that a veth was found to belong to.
#[derive(Clone, Debug)]
struct Owner {
    /// None where an earlier agent found it, of whom only the addresses are left.
    pod: Option<PodKey>,
    /// The pod's, as its object told them then.
    addresses: BTreeSet<IpAddr>,
}

/// What is behind a veth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// These pods, by their place in the list: nobody, one, or several that cannot be told apart.
    Pods(BTreeSet<usize>),
    /// A pod whose object is gone.
    Departed(PodKey),
    /// A pod that an earlier agent isolated or guarded, and that had these addresses.
    Earlier(BTreeSet<IpAddr>),
}

impl Behind {
    /// The pods with an object.
    pub(super) fn pods(&self) -> impl Iterator<Item = usize> {
        let pods = if let Self::Pods(pods) = self { Some(pods) } else { None };
        pods.into_iter().flatten().copied()
    }

    /// Whether a pod is behind it, be it one that is gone.
    pub(super) fn is_somebody(&self) -> bool {
        !matches!(self, Self::Pods(pods) if pods.is_empty())
    }
}

/// The pods that there are, in both senses.
pub(super) struct Known<'a> {
    /// Those with an object.
    pub(super) pods: &'a [LocalPod],
    /// Who says that an address is theirs.
    pub(super) claims: &'a BTreeMap<IpAddr, Vec<usize>>,
    /// Those without, of which something is still enforced.
    pub(super) departed: &'a BTreeSet<PodKey>,
}

impl Known<'_> {
    fn claim<'b>(&self, addresses: impl IntoIterator<Item = &'b IpAddr>) -> BTreeSet<usize> {
        addresses.into_iter().filter_map(|address| self.claims.get(address)).flatten().copied().collect()
    }

    fn place(&self, key: PodKey) -> Option<usize> {
        self.pods.iter().position(|pod| pod.key == key)
    }
}

/// What was found out so far.
#[derive(Debug, Default)]
pub(super) struct Owners {
    veths: BTreeMap<u32, Owner>,
    /// Veths that carried policy when this agent began.
    closed: BTreeSet<u32>,
    pub(super) ages: Ages,
}

impl Owners {
    /// Starts from what an earlier agent found out: the addresses behind veths, and the veths that carry
    /// policy. Interface indexes do not come back.
    pub(super) fn new(found: BTreeMap<u32, BTreeSet<IpAddr>>, closed: BTreeSet<u32>) -> Self {
        let owners = found.into_iter().map(|(ifindex, addresses)| (ifindex, Owner { pod: None, addresses }));
        Self { veths: owners.collect(), closed, ages: Ages::default() }
    }

    /// Takes note of which veths there are, after each look at them.
    pub(super) fn looked(&mut self, veths: &[Veth], now: Moment) {
        self.ages.looked(veths.iter().map(|veth| veth.ifindex), now);
    }

    /// Takes note of which pods there are.
    pub(super) fn heard(&mut self, engine: &Engine, now: Moment) {
        self.ages.heard(engine.local_pods().map(|pod| pod.key), now);
    }

    /// Forgets veths that are gone.
    pub(super) fn retain(&mut self, veths: &[Veth]) {
        let present: BTreeSet<u32> = veths.iter().map(|veth| veth.ifindex).collect();
        self.veths.retain(|ifindex, _| present.contains(ifindex));
        self.closed.retain(|ifindex| present.contains(ifindex));
    }

    /// The pods that veths belong to, those whose objects are gone among them.
    pub(super) fn pods(&self) -> BTreeSet<PodKey> {
        self.veths.values().filter_map(|owner| owner.pod).collect()
    }

    /// What is behind each of the veths. Where that is one pod with an object, it is remembered.
    pub(super) fn behind(&mut self, veths: &[Veth], known: &Known<'_>) -> Vec<Behind> {
        let homes = self.homes(veths, known);
        let behind: Vec<Behind> = veths.iter().map(|veth| self.find(veth, known, &homes)).collect();
        for (veth, behind) in veths.iter().zip(&behind) {
            if let Behind::Pods(pods) = behind
                && pods.len() == 1
                && let Some(pod) = pods.first().map(|pod| &known.pods[*pod])
            {
                let addresses = pod.pod.addresses.iter().copied().collect();
                self.veths.insert(veth.ifindex, Owner { pod: Some(pod.key), addresses });
            }
        }
        behind
    }

    fn find(&self, veth: &Veth, known: &Known<'_>, homes: &BTreeMap<usize, BTreeSet<u32>>) -> Behind {
        let shown = known.claim(&veth.addresses);
        let Some(owner) = self.veths.get(&veth.ifindex) else { return Behind::Pods(shown) };
        let mut found = known.claim(&owner.addresses);
        match owner.pod.map(|key| (key, known.place(key))) {
            // Whatever addresses its object tells now.
            Some((_, Some(pod))) => {
                found.insert(pod);
            }
            Some((key, None)) if known.departed.contains(&key) => {
                // Who has its address now may have a veth of its own, which the last look was too early for.
                found.retain(|pod| {
                    let is_at_home = |homes: &BTreeSet<u32>| homes.iter().any(|it| *it != veth.ifindex);
                    shown.contains(pod)
                        && !homes.get(pod).is_some_and(is_at_home)
                        && self.ages.was_looked_for(known.pods[*pod].key)
                });
                if found.is_empty() {
                    return Behind::Departed(key);
                }
            }
            None if found.is_empty() && (shown.is_empty() || self.was_closed(veth.ifindex)) => {
                return Behind::Earlier(owner.addresses.clone());
            }
            Some(_) | None => {}
        }
        Behind::Pods(match found.len() {
            0 => shown,
            1 => found,
            // What one pod had is several pods' now: what it shows may tell which of these it is.
            _ if found.is_disjoint(&shown) => found,
            _ => &found & &shown,
        })
    }

    /// The veths of each pod with an object: those that were found to be its own, and those that show its
    /// address and were nobody's so far.
    fn homes(&self, veths: &[Veth], known: &Known<'_>) -> BTreeMap<usize, BTreeSet<u32>> {
        let mut homes: BTreeMap<usize, BTreeSet<u32>> = BTreeMap::new();
        for veth in veths {
            let pods = match self.veths.get(&veth.ifindex) {
                None => known.claim(&veth.addresses),
                Some(owner) => owner.pod.and_then(|key| known.place(key)).into_iter().collect(),
            };
            for pod in pods {
                homes.entry(pod).or_default().insert(veth.ifindex);
            }
        }
        homes
    }

    /// Whether an earlier agent left a veth with policy.
    pub(super) fn was_closed(&self, ifindex: u32) -> bool {
        self.closed.contains(&ifindex)
    }

    /// Isolated pods without an address that were there before this agent: whatever veths it does not know
    /// may be theirs.
    pub(super) fn unaddressed(&self, engine: &Engine) -> Vec<NamespacedName> {
        let pods = engine.local_pods().filter(|pod| {
            pod.subject.is_isolated() && pod.pod.addresses.is_empty() && self.ages.is_from_before(pod.key)
        });
        pods.map(|pod| pod.pod.id.clone()).collect()
    }
}
