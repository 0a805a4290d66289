//! The programs' side: loaded once, shown one frame after the other on many veths.

use std::collections::HashMap;
use std::net::IpAddr;

use aya::Ebpf;
use aya::maps::{MapData, MapError};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use postern::datapath::half_open;
use postern::datapath::maps::Maps;
use postern::datapath::object::{self, Established, GUARD, PROGRAMS, Settings};
use postern::datapath::tables::Writer;
use postern_common::conntrack::{Flow, HALF_OPEN_ROWS, HALF_OPEN_WAYS, IPV6, Identity, Row, wide};
use postern_common::endpoint::{Endpoint, GUARDED, QUARANTINE};
use postern_common::reason::Reason;
use postern_common::tunnel::place;
use postern_policy::model::{Direction, NamespacedName, Protocol};
use postern_policy::services::Frontend;
use postern_policy::{Action, Engine, FrontendEntry, PeerClass, Scope};

use super::model::Key;
use super::sequence::{Shown, Veth};
use super::world::{
    self, BRIDGE_MAC, FRONTEND4, FRONTEND6, NODE4, NODE6, POD4, POD6, Policy, SERVICE_PORTS, Services,
    TUNNEL_PORTS,
};
use crate::rig::{NEXT, SHOT};

/// Rows of half-open flows that each veth has: enough for a sequence, and few to read for those of all veths.
const ROWS: u32 = 4;

/// Loaded programs, with maps that hold the world.
pub(super) struct Kernel {
    ebpf: Ebpf,
    maps: Maps,
    writer: Writer,
    epoch: u32,
    /// The class of all backends together.
    together: PeerClass,
    generation: u32,
    /// Ingress and egress class of each policy that has any.
    classes: HashMap<Policy, (u32, u32)>,
}

/// Packets of each reason, by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals([[u64; Reason::ALL.len()]; 2]);

impl Kernel {
    pub(super) fn load(established: Established, veths: &[u32]) -> Self {
        let settings = Settings { established, rows: ROWS, ..Settings::default() };
        let mut ebpf = object::load(None, settings).expect("programs load; these tests need root");
        let mut maps = Maps::take(&mut ebpf).unwrap();
        let (mut writer, first) = Writer::begin(&mut maps).unwrap();
        let mut engine = Engine::new(Scope::Node("node-a".into()), first);
        engine.set_local_addresses([NODE4.into(), NODE6.into()]);
        for object in world::objects() {
            engine.apply(object);
        }
        for action in &engine.plan().steps {
            writer.execute(&mut maps, action).unwrap();
        }
        for ifindex in veths.iter().copied() {
            half_open::make_rows(&mut maps, ifindex, ROWS).unwrap();
            maps.add_pod_address(ifindex, POD4.into()).unwrap();
            maps.add_pod_address(ifindex, POD6.into()).unwrap();
        }
        for (word, bit) in TUNNEL_PORTS.map(place) {
            let before = maps.tunnel_ports.get(&word, 0).unwrap();
            maps.tunnel_ports.set(word, before | bit, 0).unwrap();
        }
        let class = |name: &'static str| {
            let pod = engine.local_pod(&NamespacedName::new("shop", name)).expect("a pod of this node");
            (pod.subject.ingress.0, pod.subject.egress.0)
        };
        let mut classes: HashMap<Policy, (u32, u32)> =
            Policy::ALL.into_iter().filter_map(|policy| Some((policy, class(policy.name()?)))).collect();
        classes.insert(Policy::Open, (0, 0));
        classes.insert(Policy::Bare, (0, 0));
        classes.insert(Policy::Quarantine, (QUARANTINE, QUARANTINE));
        writer.set_behind_nat(&mut maps, true).unwrap();
        let tables = engine.tables();
        let together =
            tables.peers.iter().find(|(peer, _)| peer.to_string().starts_with(&world::TOGETHER.to_string()));
        let together = together.expect("the database is a peer").1.class;
        let (epoch, generation) = (writer.epoch(), writer.generation());
        Self { ebpf, maps, writer, epoch, together, generation, classes }
    }

    /// The policy generation.
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// What the endpoint map says of a veth.
    pub(super) fn flip(&mut self, ifindex: u32, veth: Veth) {
        let Some((ingress_class, egress_class)) = self.classes.get(&veth.policy).copied() else {
            match self.maps.remove_endpoint(ifindex) {
                Ok(()) | Err(MapError::KeyNotFound) => return,
                Err(MapError::SyscallError(call)) if call.io_error.raw_os_error() == Some(libc::ENOENT) => {
                    return;
                }
                Err(error) => panic!("{error}"),
            }
        };
        let flags = if veth.guarded { GUARDED } else { 0 };
        // The bridge itself is none that anything could come from.
        let master_mac = if veth.bridged { BRIDGE_MAC } else { [0; 6] };
        let epoch = self.epoch;
        let endpoint =
            Endpoint { ingress_class, egress_class, epoch, flags, master_mac, ..Endpoint::default() };
        self.maps.set_endpoint(ifindex, endpoint).unwrap();
    }

    /// The Service comes, goes, or is another one.
    pub(super) fn serve(&mut self, services: Services) {
        let entry = match services {
            Services::None => None,
            Services::BehindNat => Some(FrontendEntry::BehindNat),
            Services::Together => Some(FrontendEntry::Together(self.together)),
        };
        for address in [IpAddr::V4(FRONTEND4), IpAddr::V6(FRONTEND6)] {
            for (protocol, port) in
                Protocol::ALL.into_iter().flat_map(|it| SERVICE_PORTS.map(|port| (it, port)))
            {
                let frontend = Frontend { address, protocol, port };
                let action = match entry {
                    Some(entry) => Action::SetFrontend { frontend, entry },
                    None => Action::RemoveFrontend { frontend },
                };
                self.writer.execute(&mut self.maps, &action).unwrap();
            }
        }
    }

    /// The policy generation goes up.
    pub(super) fn advance(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.maps.set_state(|state| state.generation = self.generation).unwrap();
    }

    /// Shows a frame, on a veth that carries what this policy has it carry; whether it passes.
    pub(super) fn show(&self, ifindex: u32, policy: Policy, shown: &Shown) -> bool {
        let name = match (policy, shown.direction) {
            (Policy::Bare, Direction::Egress) => GUARD,
            (_, direction) => PROGRAMS[index(direction)],
        };
        let program = self.ebpf.program(name).unwrap();
        let program: &SchedClassifier = program.try_into().unwrap();
        let context = context(ifindex, shown);
        let options = TestRunOptions {
            data_in: Some(&shown.bytes),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let answer = program.test_run(options).unwrap_or_else(|error| panic!("{error:?}: {shown:?}"));
        match answer.return_value.cast_signed() {
            NEXT => true,
            SHOT => false,
            other => panic!("TC was told {other} about {shown:?}"),
        }
    }

    /// What was counted so far.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for (direction, totals) in totals.0.iter_mut().enumerate() {
            for (reason, total) in Reason::ALL.iter().zip(totals) {
                let key = reason.counter(u8::try_from(direction).unwrap());
                *total = self.maps.counters.get(&key, 0).unwrap().iter().sum();
            }
        }
        totals
    }

    /// Whether a flow that this direction started is in a row of its veth.
    pub(super) fn remembers(&self, ifindex: u32, flow: &Key, initiator: Direction) -> bool {
        let family = if flow.pod.is_ipv6() { IPV6 } else { 0 };
        let protocol = u32::from(flow.protocol) + family;
        let (pod, peer) = (words(flow.pod), words(flow.peer));
        let (pod_port, peer_port) = (flow.pod_port, flow.peer_port);
        let identity = Identity { pod, peer, pod_port, peer_port, protocol };
        let of_direction = |row: &Row| {
            row.flows
                .into_iter()
                .zip(row.identities)
                .skip(index(initiator) * HALF_OPEN_WAYS)
                .take(HALF_OPEN_WAYS)
        };
        let rows = self.maps.half_open.iter().map(Result::unwrap).filter(|(key, _)| key.ifindex == ifindex);
        rows.map(|(_, row)| row)
            .any(|row| of_direction(&row).any(|(flow, other)| flow.expires != 0 && other == identity))
    }

    /// Forgets all flows and datagrams of all veths.
    pub(super) fn forget(&mut self) {
        empty(&mut self.maps.flows4);
        empty(&mut self.maps.flows6);
        empty(&mut self.maps.directory4);
        empty(&mut self.maps.directory6);
        let rows = self.maps.half_open.iter().map(Result::unwrap);
        let taken: Vec<_> =
            rows.filter(|(_, row)| row.flows != <[Flow; 2 * HALF_OPEN_WAYS]>::default()).collect();
        for (key, row) in taken {
            if key.number >= HALF_OPEN_ROWS {
                self.maps.half_open.remove(&key).unwrap();
                continue;
            }
            let empty = Row { ifindex: row.ifindex, ..Row::default() };
            self.maps.half_open.insert(key, empty, 0).unwrap();
        }
        empty(&mut self.maps.fragments);
    }
}

fn empty<K: aya::Pod, V: aya::Pod>(map: &mut aya::maps::HashMap<MapData, K, V>) {
    // Collected first: removing while iterating makes the kernel's iteration start over.
    let keys: Vec<K> = map.keys().map(Result::unwrap).collect();
    for key in keys {
        map.remove(&key).unwrap();
    }
}

/// `struct __sk_buff`, as far as `BPF_PROG_TEST_RUN` takes it.
fn context(ifindex: u32, shown: &Shown) -> [u8; 192] {
    let mut context = [0; 192];
    // What a pod sends came in by its veth.
    let came_by = if shown.direction == Direction::Egress { ifindex } else { u32::from(shown.forwarded) };
    context[36..40].copy_from_slice(&came_by.to_ne_bytes());
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    if shown.gso {
        // gso_segs, gso_size
        context[164..168].copy_from_slice(&2_u32.to_ne_bytes());
        context[176..180].copy_from_slice(&1400_u32.to_ne_bytes());
    }
    context
}

/// An address as slots have it.
fn words(address: IpAddr) -> [u64; 2] {
    let mut octets = [0; 16];
    match address {
        IpAddr::V4(address) => octets[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => octets = address.octets(),
    }
    wide(octets)
}

fn index(direction: Direction) -> usize {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}

impl Totals {
    pub(super) fn add(&mut self, direction: Direction, reason: Reason) {
        let at = Reason::ALL.iter().position(|other| *other == reason).unwrap();
        self.0[index(direction)][at] += 1;
    }

    pub(super) fn get(&self, direction: Direction, reason: Reason) -> u64 {
        let at = Reason::ALL.iter().position(|other| *other == reason).unwrap();
        self.0[index(direction)][at]
    }

    /// Adds what was counted elsewhere.
    pub(super) fn sum(&mut self, other: &Self) {
        for (total, other) in self.0.iter_mut().flatten().zip(other.0.iter().flatten()) {
            *total += other;
        }
    }

    pub(super) fn since(&self, earlier: &Self) -> Self {
        let mut grown = *self;
        for (grown, earlier) in grown.0.iter_mut().flatten().zip(earlier.0.iter().flatten()) {
            *grown -= earlier;
        }
        grown
    }

    /// The one reason that was counted, if exactly one was, once.
    pub(super) fn only(&self, direction: Direction) -> Option<Reason> {
        let sum: u64 = self.0.iter().flatten().sum();
        let reason = Reason::ALL.iter().copied().find(|reason| self.get(direction, *reason) == 1)?;
        (sum == 1).then_some(reason)
    }
}
