//! Which veth is to carry what: pods, as the engine knows them, meet veths, as the kernel shows them.
//! Addresses are what both know.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use postern_policy::model::{NamespacedName, Pod};
use postern_policy::{DepartedPod, Engine, LocalPod, PodKey};
use serde::{Deserialize, Serialize};

use super::owners::{Behind, Known, Owners};
use crate::datapath::wanted::{Guarding, Wanted};
use crate::links::Veth;

/// Whose senders are checked: a pod may send from its own addresses alone. One that its annotation exempts
/// may send from any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Antispoof {
    /// Isolated pods', and those of pods whose veth is a port of a bridge, where nothing else is in between: a small program goes on
    /// the veths of those that no policy isolates
    #[default]
    Bridged,
    /// Isolated pods' alone. Others carry no program
    Isolated,
    /// Those of every pod of this node
    All,
    /// Nobody's
    Off,
}

impl fmt::Display for Antispoof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridged => "bridged",
            Self::Isolated => "isolated",
            Self::All => "all",
            Self::Off => "off",
        })
    }
}

impl Antispoof {
    fn guarding(self, pod: &Pod, veth: &Veth) -> Guarding {
        match self {
            _ if pod.unguarded => Guarding::Never,
            Self::Off => Guarding::Never,
            _ if self.names(veth) => Guarding::Always,
            _ => Guarding::WhileIsolated,
        }
    }

    /// Whether what comes from behind a veth is checked though no policy isolates it.
    fn names(self, veth: &Veth) -> bool {
        match self {
            Self::All => true,
            Self::Bridged => veth.bridge.is_some(),
            Self::Isolated | Self::Off => false,
        }
    }

    /// Whether a pod's senders may be checked though no policy isolates it.
    fn may_name(self, pod: &Pod) -> bool {
        !pod.unguarded && matches!(self, Self::All | Self::Bridged)
    }
}

/// What each veth is to carry, and the isolated pods with an address whose veth was not found.
///
/// 1. A veth of exactly one pod is that pod's: its classes; where no policy isolates it, the guard if it is to have it, else nothing.
/// 2. One of several pods cannot be judged: quarantine, until the objects agree again. Where none of them is
///    isolated, the guard if all of them are to have it, with the addresses of all.
/// 3. One of a pod whose object is gone keeps what it had. Where an earlier agent had isolated the pod,
///    nobody knows its rules any more: nothing passes.
/// 4. One of no pod: quarantine while an isolated pod could be behind it. That is one that has no address
///    yet, or one whose address no veth shows while this one shows none; but a pod is not behind a veth that
///    is older than it, nor behind one of a network namespace that is known to be another pod's.
/// 5. Else, and for the node's own uplink, it is no business of ours.
pub(super) fn wanted(
    engine: &Engine,
    veths: &[Veth],
    owners: &mut Owners,
    antispoof: Antispoof,
) -> (BTreeMap<u32, Wanted>, Vec<NamespacedName>) {
    let pods: Vec<LocalPod> = engine.local_pods().collect();
    let claims = claims(&pods);
    let departed: BTreeMap<PodKey, &DepartedPod> = engine
        .departed_pods()
        .filter(|it| it.subject.is_isolated() || antispoof.may_name(&it.pod))
        .map(|it| (it.key, it))
        .collect();
    owners.retain(veths);
    let keys = departed.keys().copied().collect();
    let behind = owners.behind(veths, &Known { pods: &pods, claims: &claims, departed: &keys });

    let found: BTreeSet<usize> = behind.iter().flat_map(Behind::pods).collect();
    // The kernel says -1 of each namespace that it has no id for (`NETNSA_NSID_NOT_ASSIGNED`): that makes none of them the same.
    let of_somebody = veths.iter().zip(&behind).filter(|(veth, it)| it.is_somebody() && veth.netns >= 0);
    let occupied: BTreeSet<i32> = of_somebody.map(|(veth, _)| veth.netns).collect();
    let isolated = || pods.iter().enumerate().filter(|(_, pod)| pod.subject.is_isolated());
    let hidden: Vec<&LocalPod> = isolated()
        .filter(|(index, pod)| !pod.pod.addresses.is_empty() && !found.contains(index))
        .map(|(_, pod)| pod)
        .collect();
    let may_be_of = |veth: &Veth, pod: &LocalPod| {
        (pod.pod.addresses.is_empty() || veth.addresses.is_empty())
            && !owners.ages.is_older(veth.ifindex, pod.key, &pod.pod)
    };
    let unaddressed = isolated().map(|(_, pod)| pod).filter(|pod| pod.pod.addresses.is_empty());
    let unknown: Vec<&LocalPod> = unaddressed.chain(hidden.iter().copied()).collect();

    let mut wanted = BTreeMap::new();
    for (veth, behind) in veths.iter().zip(behind) {
        let interface = || veth.interface.clone();
        let is_guarded = |pod: &LocalPod| antispoof.guarding(&pod.pod, veth) == Guarding::Always;
        let want = match behind {
            Behind::Departed(key) => departed.get(&key).and_then(|it| {
                let (guarding, id) = (antispoof.guarding(&it.pod, veth), it.pod.id.clone());
                let addresses = &it.pod.addresses[..];
                let want = if it.subject.is_isolated() {
                    Wanted::subject(interface(), (id, addresses), &it.subject, guarding, veth.netns)
                } else if guarding == Guarding::Always {
                    Wanted::guard(interface(), Some(id), addresses.iter().copied().collect())
                } else {
                    return None;
                };
                Some(want.departed())
            }),
            Behind::Earlier(addresses) if owners.was_closed(veth.ifindex) => {
                Some(Wanted::remains(interface(), addresses))
            }
            Behind::Earlier(addresses) => {
                antispoof.names(veth).then(|| Wanted::guard(interface(), None, addresses).departed())
            }
            Behind::Pods(behind) => {
                let behind: Vec<&LocalPod> = behind.iter().map(|pod| &pods[*pod]).collect();
                match behind[..] {
                    [] => {
                        let may_be_ours = !veth.uplink
                            && !occupied.contains(&veth.netns)
                            && unknown.iter().any(|pod| may_be_of(veth, pod));
                        may_be_ours.then(|| Wanted::quarantine(interface()))
                    }
                    [LocalPod { pod, subject, .. }] if subject.is_isolated() => {
                        let guarding = antispoof.guarding(pod, veth);
                        let pod = (pod.id.clone(), &pod.addresses[..]);
                        Some(Wanted::subject(interface(), pod, subject, guarding, veth.netns))
                    }
                    [_, _, ..] if behind.iter().any(|pod| pod.subject.is_isolated()) => {
                        Some(Wanted::quarantine(interface()))
                    }
                    _ => behind.iter().all(|pod| is_guarded(pod)).then(|| {
                        let addresses = behind.iter().flat_map(|pod| &pod.pod.addresses).copied().collect();
                        let pod = if let [pod] = behind[..] { Some(pod.pod.id.clone()) } else { None };
                        Wanted::guard(interface(), pod, addresses)
                    }),
                }
            }
        };
        if let Some(want) = want {
            wanted.insert(veth.ifindex, want.port_of(veth.master, veth.bridge));
        }
    }
    (wanted, hidden.into_iter().map(|pod| pod.pod.id.clone()).collect())
}

/// Which pods claim an address.
fn claims(pods: &[LocalPod]) -> BTreeMap<IpAddr, Vec<usize>> {
    let mut claims: BTreeMap<IpAddr, Vec<usize>> = BTreeMap::new();
    for (index, pod) in pods.iter().enumerate() {
        for address in &pod.pod.addresses {
            claims.entry(*address).or_default().push(index);
        }
    }
    claims
}
