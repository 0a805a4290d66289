//! The kernel refuses a write, any of them: nothing that a packet can reach is ever anything else than what was enforced before or what
//! is to be enforced, and once the kernel takes writes again, all is as it should be, without a rest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use postern::datapath::maps::{Maps, Refusal};
use postern::datapath::tables::{self, WriteError, Writer};
use postern_common::endpoint::Endpoint;
use postern_common::verdict::{MAX_PORT_PAGES, PortPage, PortPageKey};
use postern_policy::model::{Direction, NamespacedName, Object, ObjectRef, Protocol};
use postern_policy::testkit::build::{block, namespace, pod, policy, range, rule};
use postern_policy::{Action, ClassId, Engine, PeerClass, PortSet, Scope, Subject, Tables};

use crate::frames::NODE_MAC;
use crate::programs::Programs;
use crate::replacing::states::{self, Dice};
use crate::traffic::{Place, with_ports};

/// The veth of the first pod of the node; the others follow.
const FIRST_VETH: u32 = crate::rig::IFINDEX;

/// What a pod and an address may exchange, each way.
type Reachable = BTreeMap<(NamespacedName, Direction, IpAddr), PortSet>;

/// An agent whose writes may be refused.
struct Agent {
    maps: Maps,
    writer: Writer,
    engine: Engine,
    objects: BTreeMap<ObjectRef, Object>,
    pods: Vec<NamespacedName>,
    remotes: Vec<IpAddr>,
    /// What this agent put on veths.
    subjects: BTreeMap<NamespacedName, Subject>,
    broken_off: bool,
}

impl Agent {
    fn new(mut maps: Maps, objects: Vec<Object>, remotes: &[&str]) -> Self {
        let pods = objects.iter().filter_map(|object| match object {
            Object::Pod(pod) if pod.node.as_deref() == Some("node-a") => Some(pod.id.clone()),
            _ => None,
        });
        let pods = pods.collect();
        let addresses = objects.iter().filter_map(|object| match object {
            Object::Pod(pod) => Some(pod.addresses.clone()),
            _ => None,
        });
        let others = remotes.iter().map(|address| address.parse().unwrap());
        let remotes = addresses.flatten().chain(others).collect();
        let (writer, engine) = begin(&mut maps);
        let (subjects, known) = (BTreeMap::new(), BTreeMap::new());
        let mut agent =
            Self { maps, writer, engine, objects: known, pods, remotes, subjects, broken_off: false };
        agent.become_known(objects.into_iter().map(|object| (object.reference(), object)).collect());
        agent
    }

    /// Takes notice of other objects, all at once.
    fn become_known(&mut self, next: BTreeMap<ObjectRef, Object>) {
        for reference in self.objects.keys().filter(|reference| !next.contains_key(reference)) {
            self.engine.delete(reference);
        }
        for object in next.values() {
            self.engine.apply(object.clone());
        }
        self.objects = next;
    }

    /// The next agent comes. What this one put on veths stays until it puts others there.
    fn restart(&mut self) {
        (self.writer, self.engine) = begin(&mut self.maps);
        self.subjects.clear();
        self.broken_off = false;
        for object in self.objects.values() {
            self.engine.apply(object.clone());
        }
    }

    /// Carries out what is to be done, as the agent does.
    fn settle(&mut self) -> Result<(), WriteError> {
        let plan = if self.broken_off {
            let recorded = self.recorded();
            self.engine.recover(&recorded)
        } else {
            self.engine.plan()
        };
        self.broken_off = true;
        for action in &plan.steps {
            match action {
                Action::SetSubject { pod, subject } => self.set_endpoint(pod, Some(subject))?,
                Action::RemoveSubject { pod } => self.set_endpoint(pod, None)?,
                other => self.writer.execute(&mut self.maps, other)?,
            }
        }
        // What an earlier agent put on the veths of pods that nothing isolates any more.
        for pod in self.pods.clone() {
            let veth = self.veth(&pod);
            let carried = self.maps.endpoints.get(&veth, 0).unwrap_or_default();
            if !self.subjects.contains_key(&pod) && carried.ingress_class | carried.egress_class != 0 {
                self.set_endpoint(&pod, None)?;
            }
        }
        self.broken_off = false;
        Ok(())
    }

    fn set_endpoint(&mut self, pod: &NamespacedName, subject: Option<&Subject>) -> Result<(), WriteError> {
        let classes = subject.cloned().unwrap_or_default();
        let endpoint = Endpoint {
            ingress_class: classes.ingress.0,
            egress_class: classes.egress.0,
            epoch: self.writer.epoch(),
            master_mac: NODE_MAC,
            ..Endpoint::default()
        };
        let ifindex = self.veth(pod);
        self.maps.set_endpoint(ifindex, endpoint).map_err(WriteError::endpoints)?;
        match subject {
            Some(subject) => self.subjects.insert(pod.clone(), subject.clone()),
            None => self.subjects.remove(pod),
        };
        Ok(())
    }

    fn veth(&self, pod: &NamespacedName) -> u32 {
        let index = self.pods.iter().position(|other| other == pod).unwrap();
        FIRST_VETH + u32::try_from(index).unwrap()
    }

    fn recorded(&self) -> Tables {
        Tables { subjects: self.subjects.clone(), ..self.writer.recorded(&self.maps).unwrap() }
    }

    /// What packets find in the maps now, whoever wrote it.
    fn reachable(&self) -> Reachable {
        let verdicts = tables::read_verdicts(&self.maps).unwrap();
        let mut peers = BTreeMap::new();
        let mut reachable = Reachable::new();
        for pod in &self.pods {
            let endpoint = self.maps.endpoints.get(&self.veth(pod), 0).unwrap_or_default();
            let peers = peers
                .entry(endpoint.epoch)
                .or_insert_with(|| tables::read_peers(&self.maps, endpoint.epoch).unwrap());
            let (ingress, egress) = (ClassId(endpoint.ingress_class), ClassId(endpoint.egress_class));
            let subject = Subject { ingress, egress, addresses: Vec::new() };
            let tables = Tables {
                subjects: [(pod.clone(), subject)].into(),
                peers: std::mem::take(peers),
                verdicts: verdicts.clone(),
                ..Tables::default()
            };
            self.ask(&tables, pod, &mut reachable);
            *peers = tables.peers;
        }
        reachable
    }

    /// What packets are to find.
    fn wanted(&mut self) -> Reachable {
        let tables = self.engine.tables();
        let mut wanted = Reachable::new();
        for pod in &self.pods {
            self.ask(&tables, pod, &mut wanted);
        }
        wanted
    }

    fn ask(&self, tables: &Tables, pod: &NamespacedName, answers: &mut Reachable) {
        let own: BTreeSet<IpAddr> = match &self.objects[&ObjectRef::Pod(pod.clone())] {
            Object::Pod(pod) => pod.addresses.iter().copied().collect(),
            _ => unreachable!("asked for by its reference"),
        };
        for remote in self.remotes.iter().filter(|remote| !own.contains(remote)) {
            for direction in [Direction::Ingress, Direction::Egress] {
                let ports = tables.ports(pod, direction, *remote);
                answers.insert((pod.clone(), direction, *remote), ports);
            }
        }
    }

    /// Whether the maps hold what the engine wants, and nothing else.
    fn check_rest(&mut self) {
        let wanted = self.engine.tables();
        assert_eq!(tables::read_peers(&self.maps, self.writer.epoch()).unwrap(), wanted.peers);
        assert_eq!(tables::read_verdicts(&self.maps).unwrap(), wanted.verdicts);
        let verdicts = self.maps.verdicts.iter().map(|item| item.unwrap().1.port_set);
        let used: BTreeSet<u32> = verdicts.filter(|number| *number != 0).collect();
        let paged: BTreeSet<u32> = self.maps.port_pages.keys().map(|key| key.unwrap().port_set).collect();
        assert_eq!(paged, used, "port sets in the maps, and those that verdicts name");
    }
}

fn begin(maps: &mut Maps) -> (Writer, Engine) {
    let (writer, first_class) = Writer::begin(maps).unwrap();
    let mut engine = Engine::new(Scope::Node("node-a".into()), first_class);
    engine.number_transitional_from(writer.first_transitional());
    (writer, engine)
}

/// What established flows rest on: what was allowed at any time since the generation was last advanced.
struct Flows {
    generation: u32,
    allowed: Reachable,
}

impl Flows {
    fn note(&mut self, agent: &Agent) {
        let generation = agent.maps.state.get(&0, 0).unwrap().generation;
        if generation != self.generation {
            self.allowed.clear();
            self.generation = generation;
        }
        for (question, ports) in agent.reachable() {
            let allowed = self.allowed.entry(question).or_default();
            *allowed = allowed.union(&ports);
        }
    }

    /// Whether none rests on what is not allowed any more.
    fn check(&self, now: &Reachable) {
        for (question, allowed) in &self.allowed {
            assert!(
                now[question].covers(allowed),
                "{question:?}: flows of {allowed} go on where {} is allowed",
                now[question]
            );
        }
    }
}

const STRANGERS: [&str; 6] =
    ["192.0.2.10", "192.0.2.200", "203.0.113.9", "2001:db8::10", "2001:db8:8000::1", "2001:dba::9"];

/// More than the writes of any plan here, but a few.
const WRITES: usize = 260;

#[test]
fn a_refused_write_leaves_nothing_behind() {
    let (_programs, maps) = Programs::load();
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let mut agent = Agent::new(maps, states::state(&mut dice).into_values().collect(), &STRANGERS);
    agent.settle().unwrap();
    let mut flows = Flows { generation: 0, allowed: Reachable::new() };
    let mut refused = 0;
    // Every index in turn; of each second round, all writes from there on are refused, those that clean up included.
    for round in 0..2 * WRITES {
        let restarts = dice.below(8) == 0;
        flows.note(&agent);
        agent.become_known(states::state(&mut dice));
        if restarts {
            agent.restart();
        }
        let before = agent.reachable();
        let after = agent.wanted();
        let count = if round % 2 == 0 { 1 } else { usize::MAX };
        agent.maps.refuse(Some(Refusal { after: round / 2, count }));
        let result = agent.settle();
        agent.maps.refuse(None);
        flows.note(&agent);
        if let Err(error) = result {
            refused += 1;
            for (question, ports) in agent.reachable() {
                assert!(
                    ports == before[&question] || ports == after[&question],
                    "round {round}, {error}: {question:?} is {ports}, was {}, is to be {}",
                    before[&question],
                    after[&question]
                );
            }
            // Now and then the world has moved on when the kernel takes writes again.
            if dice.below(3) == 0 {
                agent.become_known(states::state(&mut dice));
            }
            agent.settle().unwrap();
        }
        let now = agent.reachable();
        assert_eq!(now, agent.wanted(), "round {round}");
        flows.note(&agent);
        flows.check(&now);
        if restarts {
            let wanted = agent.engine.tables().verdicts;
            let is_wanted = |subject, peer| wanted.contains_key(&(subject, peer));
            agent.writer.sweep(&mut agent.maps, is_wanted).unwrap();
        }
        // As the agent does whenever it looks.
        agent.writer.remove_unused(&mut agent.maps);
        agent.check_rest();
    }
    assert!(refused > WRITES / 4, "hardly a write was refused: {refused}");
}

/// A pod, and who may reach which of its TCP ports.
fn web_with_ports(ports: impl Iterator<Item = (u16, u16)>) -> Vec<Object> {
    let ports = ports.map(|(first, last)| range(Protocol::Tcp, first, last));
    let rule = rule([block("10.0.0.0/8", &[])], ports.collect::<Vec<_>>());
    vec![
        namespace("shop", &[]),
        Object::Pod(pod("shop", "web", "10.0.0.1")),
        Object::NetworkPolicy(policy("shop", "ports").ingress([rule])),
    ]
}

#[test]
fn a_port_set_that_did_not_fit_gives_nothing_to_the_next() {
    let (programs, maps) = Programs::load();
    let mut agent = Agent::new(maps, web_with_ports(std::iter::empty()), &["10.0.0.2"]);
    agent.settle().unwrap();
    // All of the map but a few pages is another's.
    let filler = |number: usize| PortPageKey {
        port_set: u32::MAX - u32::try_from(number).unwrap(),
        ..PortPageKey::default()
    };
    for number in 0..MAX_PORT_PAGES - 40 {
        agent.maps.port_pages.insert(filler(number), PortPage::default(), 0).unwrap();
    }
    // Two pages for each of these ranges.
    let many = (0..100).map(|number| (number * 600 + 100, number * 600 + 500));
    agent.become_known(by_reference(web_with_ports(many)));
    agent.settle().unwrap_err();
    agent.become_known(by_reference(web_with_ports([1, 3, 5, 7, 9].map(|port| (port, port)).into_iter())));
    agent.settle().unwrap();
    let before = programs.counted();
    for port in 1..2_000 {
        let (source, destination) = ("10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap());
        let frame = with_ports(Protocol::Tcp, (source, 30_000), (destination, port), Place::First);
        let passed = programs.run(Direction::Ingress, &frame, 1);
        assert_eq!(passed, [1, 3, 5, 7, 9].contains(&port), "TCP {port}");
    }
    assert!(programs.counted().sum() > before.sum());
    let pages = agent.maps.port_pages.keys().map(|key| key.unwrap().port_set);
    assert_eq!(pages.filter(|set| *set < u32::MAX / 2).count(), 1, "pages of sets that nobody uses");
}

#[test]
fn a_port_set_that_comes_twice_stays_whole() {
    let (_programs, mut maps) = Programs::load();
    let (mut writer, _) = Writer::begin(&mut maps).unwrap();
    let many = |count: u16| {
        let ports = (0..count).map(|number| PortSet::port(Protocol::Tcp, 1 + 300 * number));
        ports.fold(PortSet::nothing(), |all, port| all.union(&port))
    };
    let (subject, peer) = (ClassId(1), PeerClass(2));
    for ports in [many(20), many(20), many(2), many(30), PortSet::Everything] {
        let action = Action::InstallVerdict { subject, peer, ports: ports.clone() };
        writer.execute(&mut maps, &action).unwrap();
        assert_eq!(tables::read_verdicts(&maps).unwrap()[&(subject, peer)], ports);
    }
    writer.execute(&mut maps, &Action::RemoveVerdict { subject, peer }).unwrap();
    assert_eq!(maps.port_pages.keys().count(), 0);
}

fn by_reference(objects: Vec<Object>) -> BTreeMap<ObjectRef, Object> {
    objects.into_iter().map(|object| (object.reference(), object)).collect()
}
