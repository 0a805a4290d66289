//! One node's data path, for one random cluster after the other.

use std::collections::BTreeSet;
use std::net::IpAddr;

use postern::datapath::maps::Maps;
use postern::datapath::tables::{self, Writer};
use postern_common::endpoint::Endpoint;
use postern_common::reason::Reason;
use postern_policy::model::Direction;
use postern_policy::reference::Traffic;
use postern_policy::{ClassId, Engine, Plan, Scope, Subject, Tables};

use crate::frames::NODE_MAC;
use crate::programs::{Counted, Programs};
use crate::rig::IFINDEX;
use crate::traffic::{self, Place};

/// Loaded programs with their maps, and what was written into these.
pub(crate) struct Node {
    programs: Programs,
    maps: Maps,
    writer: Writer,
    /// What the maps hold.
    recorded: Tables,
    first_class: ClassId,
    identity: u16,
}

/// What tells the flows of one pass over a cluster from those of all others.
///
/// Every question of a pass is about another pair of addresses, direction, protocol or port, so that within it one
/// source port does for all. Flows of earlier passes are still in the map when the same question comes again, maybe
/// of another cluster with another answer: hence another source port for each pass. None of these is a destination
/// port of any question. Before they come back, all flows are forgotten. An echo's identifier stands for both ports,
/// so that the two directions need one each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity(u16);

impl Identity {
    const FIRST: u16 = 10_000;
    const LAST: u16 = 60_000;

    fn of(self, direction: Direction) -> u16 {
        match direction {
            Direction::Ingress => self.0,
            Direction::Egress => self.0 + 1,
        }
    }
}

impl Node {
    pub(crate) fn new() -> Self {
        let (programs, mut maps) = Programs::load();
        let (writer, first_class) = Writer::begin(&mut maps).unwrap();
        let recorded = Tables::default();
        Self { programs, maps, writer, recorded, first_class, identity: Identity::FIRST }
    }

    /// An engine without objects, for the agent of this node.
    pub(crate) fn engine(&self, name: &str) -> Engine {
        Engine::new(Scope::Node(name.into()), self.first_class)
    }

    /// What the maps hold.
    pub(crate) fn recorded(&self) -> &Tables {
        &self.recorded
    }

    /// Carries out a plan that leads to these tables.
    pub(crate) fn execute(&mut self, plan: &Plan, tables: Tables) {
        for action in &plan.steps {
            self.writer.execute(&mut self.maps, action).unwrap();
        }
        self.first_class = self.first_class.max(tables.next_class());
        self.recorded = tables;
    }

    /// The next agent comes: whatever the maps hold is not its own.
    pub(crate) fn restart(&mut self) {
        (self.writer, self.first_class) = Writer::begin(&mut self.maps).unwrap();
        self.recorded = Tables::default();
    }

    /// Removes what earlier agents left.
    pub(crate) fn sweep(&mut self) {
        let wanted = |subject, peer| self.recorded.verdicts.contains_key(&(subject, peer));
        self.writer.sweep(&mut self.maps, wanted).unwrap();
    }

    /// Reads everything back.
    pub(crate) fn read(&self) -> Tables {
        Tables {
            subjects: self.recorded.subjects.clone(),
            peers: tables::read_peers(&self.maps, self.writer.epoch()).unwrap(),
            frontends: tables::read_frontends(&self.maps, self.writer.epoch()).unwrap(),
            verdicts: tables::read_verdicts(&self.maps).unwrap(),
        }
    }

    /// Puts a pod behind the veth that frames are shown on.
    pub(crate) fn guard(&mut self, subject: &Subject) {
        let endpoint = Endpoint {
            ingress_class: subject.ingress.0,
            egress_class: subject.egress.0,
            epoch: self.writer.epoch(),
            master_mac: NODE_MAC,
            ..Endpoint::default()
        };
        self.maps.set_endpoint(IFINDEX, endpoint).unwrap();
    }

    /// Begins another pass.
    pub(crate) fn identity(&mut self) -> Identity {
        self.identity += 2;
        if self.identity >= Identity::LAST {
            self.identity = Identity::FIRST;
            self.forget_flows();
        }
        Identity(self.identity)
    }

    fn forget_flows(&mut self) {
        let flows: Vec<_> = self.maps.flows4.keys().map(Result::unwrap).collect();
        for flow in flows {
            self.maps.flows4.remove(&flow).unwrap();
        }
        let flows: Vec<_> = self.maps.flows6.keys().map(Result::unwrap).collect();
        for flow in flows {
            self.maps.flows6.remove(&flow).unwrap();
        }
    }

    /// Whether traffic of the guarded pod passes: `None` where frames of the same traffic do not agree.
    pub(crate) fn passes(
        &self,
        direction: Direction,
        (own, remote): (IpAddr, IpAddr),
        traffic: Traffic,
        identity: Identity,
        place: Place,
    ) -> Option<bool> {
        let (source, destination) = match direction {
            Direction::Ingress => (remote, own),
            Direction::Egress => (own, remote),
        };
        let frames = traffic::frames(source, destination, traffic, identity.of(direction), place);
        let passed: BTreeSet<bool> =
            frames.iter().map(|frame| self.programs.run(direction, frame, 1)).collect();
        match passed.into_iter().collect::<Vec<_>>()[..] {
            [all] => Some(all),
            _ => None,
        }
    }

    /// How many frames were judged so far.
    pub(crate) fn judged(&self) -> u64 {
        self.programs.counted().sum()
    }

    /// What was counted so far.
    pub(crate) fn counted(&self) -> Counted {
        self.programs.counted()
    }
}

/// Reasons for which traffic that starts is judged, and by nothing else than policy.
pub(crate) fn is_policy(reason: Reason) -> bool {
    matches!(reason, Reason::NotIsolated | Reason::AllowedByPolicy | Reason::Node | Reason::DeniedByPolicy)
}
