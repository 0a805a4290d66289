//! Which veth is to carry what: pods, as the engine knows them, meet veths, as the kernel shows them. Addresses are
//! what both know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use postern_policy::model::NamespacedName;
use postern_policy::{Engine, LocalPod};

use crate::datapath::wanted::{Guarding, Wanted};
use crate::links::Veth;

/// What each veth is to carry, and the isolated pods with an address whose veth was not found.
///
/// 1. A veth with an address of exactly one pod is that pod's: its classes, or nothing where no policy isolates it.
/// 2. With addresses of several pods, it cannot be judged: quarantine, until the objects agree again.
/// 3. With no pod's address: quarantine while an isolated pod could be behind it, that is, while one has no address
///    yet, or has one that no veth shows and the veth itself has none yet. Else, and for the node's own uplink, it is
///    no business of ours.
pub(super) fn wanted(engine: &Engine, veths: &[Veth]) -> (BTreeMap<u32, Wanted>, Vec<NamespacedName>) {
    let pods: Vec<LocalPod> = engine.local_pods().collect();
    let owners = owners(&pods);
    let isolated: Vec<&LocalPod> = pods.iter().filter(|pod| pod.subject.is_isolated()).collect();
    let seen: BTreeSet<&IpAddr> = veths.iter().flat_map(|veth| &veth.addresses).collect();
    let is_hidden = |pod: &LocalPod| !pod.pod.addresses.iter().any(|address| seen.contains(address));

    let unaddressed = isolated.iter().any(|pod| pod.pod.addresses.is_empty());
    let hidden: Vec<NamespacedName> = isolated
        .iter()
        .filter(|pod| !pod.pod.addresses.is_empty() && is_hidden(pod))
        .map(|pod| pod.pod.id.clone())
        .collect();

    let mut wanted = BTreeMap::new();
    for veth in veths {
        let behind: BTreeSet<usize> =
            veth.addresses.iter().filter_map(|address| owners.get(address)).flatten().copied().collect();
        let interface = || veth.interface.clone();
        let want = match behind.iter().collect::<Vec<_>>()[..] {
            [pod] => {
                let LocalPod { pod, subject, .. } = &pods[*pod];
                let owner = (pod.id.clone(), &pod.addresses[..]);
                subject
                    .is_isolated()
                    .then(|| Wanted::subject(interface(), owner, subject, Guarding::Never, veth.netns))
            }
            [] => {
                let may_be_ours =
                    !veth.uplink && (unaddressed || (veth.addresses.is_empty() && !hidden.is_empty()));
                may_be_ours.then(|| Wanted::quarantine(interface()))
            }
            _ => {
                let any_isolated = behind.iter().any(|pod| pods[*pod].subject.is_isolated());
                any_isolated.then(|| Wanted::quarantine(interface()))
            }
        };
        if let Some(want) = want {
            wanted.insert(veth.ifindex, want);
        }
    }
    (wanted, hidden)
}

/// Which pods claim an address.
fn owners(pods: &[LocalPod]) -> BTreeMap<IpAddr, Vec<usize>> {
    let mut owners: BTreeMap<IpAddr, Vec<usize>> = BTreeMap::new();
    for (index, pod) in pods.iter().enumerate() {
        for address in &pod.pod.addresses {
            owners.entry(*address).or_default().push(index);
        }
    }
    owners
}
