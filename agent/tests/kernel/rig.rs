//! Loads the programs, fills the maps through the real engine and writer, and runs frames.

use std::net::IpAddr;
use std::path::Path;

use aya::Ebpf;
use aya::programs::{TestRun as _, TestRunOptions};
use postern::datapath::maps::Maps;
use postern::datapath::object::{self, Established, PROGRAMS, Settings};
use postern::datapath::tables::Writer;
use postern::manifests;
use postern_common::direction::{EGRESS, INGRESS};
use postern_common::endpoint::Endpoint;
use postern_common::reason::Reason;
use postern_policy::model::{NamespacedName, Object, ObjectRef};
use postern_policy::{Engine, Scope};

/// Test runs show packets on the loopback device unless told otherwise.
pub(crate) const IFINDEX: u32 = 1;
/// `TC_ACT_SHOT`
pub(crate) const SHOT: i32 = 2;
/// `TC_ACT_UNSPEC`, which is `TCX_NEXT` too.
pub(crate) const NEXT: i32 = -1;

/// Loaded programs that guard one pod.
pub(crate) struct Rig {
    ebpf: Ebpf,
    pub(crate) maps: Maps,
    writer: Writer,
    engine: Engine,
    pod: NamespacedName,
}

/// A program's answer: why, and whether TC was told so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer(pub(crate) Reason);

impl Rig {
    /// A rig for `pod` (`namespace/name`) of node `node-a`, with these manifests.
    pub(crate) fn new(pod: &str, yaml: &str) -> Self {
        Self::with_settings(pod, yaml, Settings::default())
    }

    /// The same, where established connections stay.
    pub(crate) fn keeping(pod: &str, yaml: &str) -> Self {
        Self::with_settings(pod, yaml, Settings { established: Established::Keep, ..Settings::default() })
    }

    fn with_settings(pod: &str, yaml: &str, settings: Settings) -> Self {
        let mut ebpf = object::load(None, settings).expect("programs load; these tests need root");
        let mut maps = Maps::take(&mut ebpf).unwrap();
        let (writer, first) = Writer::begin(&mut maps).unwrap();
        let engine = Engine::new(Scope::Node("node-a".into()), first);
        let (namespace, name) = pod.split_once('/').unwrap();
        let mut rig = Self { ebpf, maps, writer, engine, pod: NamespacedName::new(namespace, name) };
        rig.apply(yaml);
        rig
    }

    /// Applies more manifests.
    pub(crate) fn apply(&mut self, yaml: &str) {
        for object in objects(yaml) {
            self.engine.apply(object);
        }
        self.settle();
    }

    /// Deletes a policy (`namespace/name`).
    pub(crate) fn delete_policy(&mut self, id: &str) {
        let (namespace, name) = id.split_once('/').unwrap();
        assert!(self.engine.delete(&ObjectRef::NetworkPolicy(NamespacedName::new(namespace, name))));
        self.settle();
    }

    /// Makes an address the node's own.
    pub(crate) fn own_address(&mut self, address: IpAddr) {
        self.engine.set_local_addresses([address]);
        self.settle();
    }

    fn settle(&mut self) {
        for action in &self.engine.plan().steps {
            self.writer.execute(&mut self.maps, action).unwrap();
        }
        let subject = self.engine.local_pod(&self.pod).expect("the rig's pod is on node-a").subject;
        self.set_endpoint(Endpoint {
            ingress_class: subject.ingress.0,
            egress_class: subject.egress.0,
            epoch: self.writer.epoch(),
            ..Endpoint::default()
        });
    }

    /// Overrides what the endpoint map says of the pod's veth.
    pub(crate) fn set_endpoint(&mut self, endpoint: Endpoint) {
        self.maps.endpoints.insert(IFINDEX, endpoint, 0).unwrap();
    }

    /// Takes the endpoint away.
    pub(crate) fn remove_endpoint(&mut self) {
        self.maps.endpoints.remove(&IFINDEX).unwrap();
    }

    /// The pod sends a frame.
    pub(crate) fn sends(&mut self, frame: &[u8]) -> Answer {
        self.run(EGRESS, frame)
    }

    /// The pod gets a frame.
    pub(crate) fn gets(&mut self, frame: &[u8]) -> Answer {
        self.run(INGRESS, frame)
    }

    fn run(&mut self, direction: u8, frame: &[u8]) -> Answer {
        let before = self.counters(direction);
        let program = object::program(&mut self.ebpf, PROGRAMS[usize::from(direction)]).unwrap();
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() };
        let returned = program.test_run(options).unwrap().return_value.cast_signed();
        let after = self.counters(direction);
        let counted: Vec<Reason> = Reason::ALL
            .iter()
            .copied()
            .zip(before.iter().zip(&after))
            .filter(|(_, (before, after))| before != after)
            .map(|(reason, _)| reason)
            .collect();
        let [reason] = counted[..] else { panic!("a packet is counted once, not under {counted:?}") };
        assert_eq!(returned, if reason.drops() { SHOT } else { NEXT }, "TC's verdict for {reason:?}");
        Answer(reason)
    }

    fn counters(&self, direction: u8) -> Vec<u64> {
        let total =
            |reason: &Reason| self.maps.counters.get(&reason.counter(direction), 0).unwrap().iter().sum();
        Reason::ALL.iter().map(total).collect()
    }
}

/// Parses manifests, as the agent does.
pub(crate) fn objects(yaml: &str) -> Vec<Object> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("objects.yaml"), yaml).unwrap();
    load(folder.path())
}

fn load(folder: &Path) -> Vec<Object> {
    manifests::load(folder).unwrap_or_else(|errors| panic!("{errors:?}")).objects
}
