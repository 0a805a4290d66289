//! What a veth is to carry: which programs, with which endpoint and addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use postern_common::endpoint::{Endpoint, GUARDED, QUARANTINE};
use postern_policy::model::NamespacedName;
use postern_policy::{ClassId, Subject};

/// What a veth is to carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The host-side veth's name.
    pub interface: String,
    /// The pod behind it; none where nobody knows, or several claim to be.
    pub pod: Option<NamespacedName>,
    /// The pod's object is gone, its link is not: nothing that happens to a pod of that name happens to this one.
    pub departed: bool,
    /// Addresses that the pod may send from: what its object says, never what its interface shows.
    pub addresses: BTreeSet<IpAddr>,
    /// Which programs.
    pub role: Role,
}

/// Which programs a veth carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Those that enforce policy, on both hooks.
    Policy(Policy),
    /// The guard, on what the pod sends. It needs no endpoint.
    Guard,
}

/// What the programs that enforce policy are told in the veth's endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Class of what the pod gets.
    pub ingress: ClassId,
    /// Class of what the pod sends.
    pub egress: ClassId,
    /// Whether the pod may send from its own addresses alone.
    pub guarding: Guarding,
    /// The pod's network namespace, by its id in the veth's (`IFLA_LINK_NETNSID`); negative where there is none.
    pub netns: i32,
    /// Index of the device that the veth is a port of; zero where it is none's.
    pub master: u32,
    /// The MAC address of that device where it is a bridge; else zero.
    pub master_mac: [u8; 6],
}

/// For how long a pod may send from its own addresses alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guarding {
    /// It may send from any.
    #[default]
    Never,
    /// While a policy isolates it.
    WhileIsolated,
    /// Isolated or not: where policy ends, the guard takes over.
    Always,
}

impl Policy {
    /// The endpoint's value in the map.
    #[must_use]
    pub fn endpoint(self, epoch: u32) -> Endpoint {
        Endpoint {
            ingress_class: self.ingress.0,
            egress_class: self.egress.0,
            epoch,
            flags: if self.guarding == Guarding::Never { 0 } else { GUARDED },
            netns: u32::try_from(self.netns).map_or(0, |id| id + 1),
            master: self.master,
            master_mac: self.master_mac,
            reserved: 0,
        }
    }

    /// Both directions in one class, of a veth of which nothing else is known.
    fn both(class: ClassId) -> Self {
        Self::of(class, class)
    }

    /// Each direction in its class, of a veth of which nothing else is known.
    fn of(ingress: ClassId, egress: ClassId) -> Self {
        Self { ingress, egress, guarding: Guarding::Never, netns: -1, master: 0, master_mac: [0; 6] }
    }

    /// The programs pass everything: what a veth carries just before they go.
    pub(super) fn open() -> Self {
        Self::both(ClassId::NOT_ISOLATED)
    }
}

impl Wanted {
    /// What a known, isolated pod's veth is to carry.
    #[must_use]
    pub fn subject(
        interface: String,
        (pod, addresses): (NamespacedName, &[IpAddr]),
        subject: &Subject,
        guarding: Guarding,
        netns: i32,
    ) -> Self {
        let policy = Policy { guarding, netns, ..Policy::of(subject.ingress, subject.egress) };
        let addresses = addresses.iter().copied().collect();
        Self { interface, pod: Some(pod), departed: false, addresses, role: Role::Policy(policy) }
    }

    /// The same for a veth that is a port of another device, zero: of none; and that device's MAC address, if it is a bridge.
    #[must_use]
    pub fn port_of(mut self, master: u32, bridge: Option<[u8; 6]>) -> Self {
        if let Role::Policy(policy) = &mut self.role {
            (policy.master, policy.master_mac) = (master, bridge.unwrap_or_default());
        }
        self
    }

    /// What a veth is to carry whose pod no policy isolates and that may send from these addresses alone.
    #[must_use]
    pub fn guard(interface: String, pod: Option<NamespacedName>, addresses: BTreeSet<IpAddr>) -> Self {
        Self { interface, pod, departed: false, addresses, role: Role::Guard }
    }

    /// What a veth carries while nobody knows whose it is. Nothing new passes, so there is nothing to guard.
    #[must_use]
    pub fn quarantine(interface: String) -> Self {
        let role = Role::Policy(Policy::both(ClassId(QUARANTINE)));
        Self { interface, pod: None, departed: false, addresses: BTreeSet::new(), role }
    }

    /// The same, of a pod whose object is gone.
    #[must_use]
    pub fn departed(self) -> Self {
        Self { departed: true, ..self }
    }

    /// What the veth carries of a pod that is gone, and of which nothing but its addresses is known: nothing passes.
    /// The addresses stay in the maps, for the next agent to tell it from one that is merely not known yet.
    #[must_use]
    pub fn remains(interface: String, addresses: BTreeSet<IpAddr>) -> Self {
        Self { addresses, departed: true, ..Self::quarantine(interface) }
    }

    /// A veth that carries programs which pass everything.
    #[must_use]
    pub fn open(interface: String) -> Self {
        let role = Role::Policy(Policy::open());
        Self { interface, pod: None, departed: false, addresses: BTreeSet::new(), role }
    }

    /// What the endpoint says, where the veth has one.
    #[must_use]
    pub fn policy(&self) -> Option<Policy> {
        match self.role {
            Role::Policy(policy) => Some(policy),
            Role::Guard => None,
        }
    }

    /// Whether this is a quarantine.
    #[must_use]
    pub fn is_quarantine(&self) -> bool {
        self.policy().is_some_and(|policy| policy.ingress == ClassId(QUARANTINE))
    }

    /// Whether the pod may send from its own addresses alone.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.policy().is_none_or(|policy| policy.guarding != Guarding::Never)
    }
}
