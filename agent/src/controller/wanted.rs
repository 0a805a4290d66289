//! Which veth is to carry what: pods, as the engine knows them, meet veths, as the kernel shows them. Addresses are
//! what both know.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use postern_policy::model::{NamespacedName, Pod};
use postern_policy::{Engine, LocalPod};
use serde::{Deserialize, Serialize};

use super::owners::Owners;
use crate::datapath::wanted::{Guarding, Wanted};
use crate::links::Veth;

/// Whose senders are checked: a pod may send from its own addresses alone. One that its annotation exempts may send from
/// any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Antispoof {
    /// Isolated pods'. Others carry no program
    #[default]
    Isolated,
    /// Those of every pod of this node: a small program goes on the veths of pods that no policy isolates
    All,
    /// Nobody's
    Off,
}

impl fmt::Display for Antispoof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Isolated => "isolated",
            Self::All => "all",
            Self::Off => "off",
        })
    }
}

impl Antispoof {
    fn guarding(self, pod: &Pod) -> Guarding {
        match self {
            _ if pod.unguarded => Guarding::Never,
            Self::Isolated => Guarding::WhileIsolated,
            Self::All => Guarding::Always,
            Self::Off => Guarding::Never,
        }
    }
}

/// What each veth is to carry, and the isolated pods with an address whose veth was not found.
///
/// 1. A veth of exactly one pod is that pod's: its classes; where no policy isolates it, the guard if all pods are to have
///    it, else nothing.
/// 2. One of several pods cannot be judged: quarantine, until the objects agree again. Where none of them is isolated,
///    the guard if all of them are to have it, with the addresses of all.
/// 3. One of no pod: quarantine while an isolated pod could be behind it, that is, while one has no address yet, or has
///    one that no veth shows and the veth itself has none yet. Else, and for the node's own uplink, it is no business
///    of ours.
pub(super) fn wanted(
    engine: &Engine,
    veths: &[Veth],
    owners: &mut Owners,
    antispoof: Antispoof,
) -> (BTreeMap<u32, Wanted>, Vec<NamespacedName>) {
    let pods: Vec<LocalPod> = engine.local_pods().collect();
    let claims = claims(&pods);
    let addresses = |pod: usize| pods[pod].pod.addresses.iter().copied().collect::<BTreeSet<IpAddr>>();
    owners.retain(veths);
    let behind: Vec<BTreeSet<usize>> =
        veths.iter().map(|veth| owners.behind(veth, &claims, addresses)).collect();

    let found: BTreeSet<usize> = behind.iter().flatten().copied().collect();
    let isolated = || pods.iter().enumerate().filter(|(_, pod)| pod.subject.is_isolated());
    let unaddressed = isolated().any(|(_, pod)| pod.pod.addresses.is_empty());
    let hidden: Vec<NamespacedName> = isolated()
        .filter(|(index, pod)| !pod.pod.addresses.is_empty() && !found.contains(index))
        .map(|(_, pod)| pod.pod.id.clone())
        .collect();

    let mut wanted = BTreeMap::new();
    for (veth, behind) in veths.iter().zip(&behind) {
        let interface = || veth.interface.clone();
        let behind: Vec<&LocalPod> = behind.iter().map(|pod| &pods[*pod]).collect();
        let is_guarded = |pod: &LocalPod| antispoof.guarding(&pod.pod) == Guarding::Always;
        let want = match behind[..] {
            [] => {
                let may_be_ours =
                    !veth.uplink && (unaddressed || (veth.addresses.is_empty() && !hidden.is_empty()));
                may_be_ours.then(|| Wanted::quarantine(interface()))
            }
            [LocalPod { pod, subject, .. }] if subject.is_isolated() => {
                let guarding = antispoof.guarding(pod);
                let pod = (pod.id.clone(), &pod.addresses[..]);
                Some(Wanted::subject(interface(), pod, subject, guarding, veth.netns).port_of(veth.master))
            }
            [_, _, ..] if behind.iter().any(|pod| pod.subject.is_isolated()) => {
                Some(Wanted::quarantine(interface()))
            }
            _ => behind.iter().all(|pod| is_guarded(pod)).then(|| {
                let addresses = behind.iter().flat_map(|pod| &pod.pod.addresses).copied().collect();
                let pod = if let [pod] = behind[..] { Some(pod.pod.id.clone()) } else { None };
                Wanted::guard(interface(), pod, addresses)
            }),
        };
        if let Some(want) = want {
            wanted.insert(veth.ifindex, want);
        }
    }
    (wanted, hidden)
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
