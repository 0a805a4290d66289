//! Loads the programs, fills the maps through the real engine and writer, and runs frames.

use std::net::IpAddr;
use std::path::Path;

use aya::Ebpf;
use aya::maps::{PerCpuArray, PerCpuValues};
use aya::programs::{TestRun as _, TestRunOptions};
use postern::datapath::half_open;
use postern::datapath::maps::Maps;
use postern::datapath::object::{self, Established, GUARD, PROGRAMS, Settings};
use postern::datapath::tables::Writer;
use postern::manifests;
use postern_common::conntrack::{DENIED, Flow, Flow4, Flow6, HALF_OPEN_WAYS, IPV6, Identity, wide};
use postern_common::direction::{EGRESS, INGRESS};
use postern_common::endpoint::{Endpoint, GUARDED};
use postern_common::reason::Reason;
use postern_common::service::Crossing;
use postern_common::tunnel::{TUNNEL_WORDS, place};
use postern_policy::model::{NamespacedName, Object, ObjectRef};
use postern_policy::{Action, Engine, Scope};

use crate::frames::{End, NODE_MAC};

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
    /// The veth that frames are shown on, and what the agent says of it beside its classes.
    ifindex: u32,
    endpoint: Endpoint,
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

    /// The same with other settings.
    pub(crate) fn with_settings(pod: &str, yaml: &str, settings: Settings) -> Self {
        let mut ebpf = object::load(None, settings).expect("programs load; these tests need root");
        let mut maps = Maps::take(&mut ebpf).unwrap();
        let (writer, first) = Writer::begin(&mut maps).unwrap();
        let engine = Engine::new(Scope::Node("node-a".into()), first);
        let (namespace, name) = pod.split_once('/').unwrap();
        let pod = NamespacedName::new(namespace, name);
        let (ifindex, endpoint) = (IFINDEX, Endpoint { master_mac: NODE_MAC, ..Endpoint::default() });
        half_open::make_room(&mut maps, ifindex).unwrap();
        let mut rig = Self { ebpf, maps, writer, engine, pod, ifindex, endpoint };
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

    /// Deletes a pod (`namespace/name`), not the rig's own.
    pub(crate) fn delete_pod(&mut self, id: &str) {
        let (namespace, name) = id.split_once('/').unwrap();
        assert!(self.engine.delete(&ObjectRef::Pod(NamespacedName::new(namespace, name))));
        self.settle();
    }

    /// Which addresses are the node's own from now on.
    pub(crate) fn own_addresses(&mut self, addresses: &[&str]) {
        self.engine.set_local_addresses(addresses.iter().map(|address| address.parse().unwrap()));
        self.settle();
    }

    /// Whether somebody judges behind the choice of a Service's backend.
    pub(crate) fn judge_behind_nat(&mut self, behind_nat: bool) {
        self.writer.set_behind_nat(&mut self.maps, behind_nat).unwrap();
    }

    /// Flows are judged again.
    pub(crate) fn advance_generation(&mut self) {
        self.writer.execute(&mut self.maps, &Action::AdvanceGeneration).unwrap();
    }

    /// How many have each place for a packet at hand from now on, on each CPU.
    pub(crate) fn claim(&mut self, places: [u64; 2]) {
        let mut claims = PerCpuArray::<_, [u64; 2]>::try_from(self.ebpf.map_mut("CLAIMS").unwrap()).unwrap();
        let cpus = aya::util::nr_cpus().unwrap();
        for (index, claimed) in (0..).zip(places) {
            claims.set(index, PerCpuValues::try_from(vec![[claimed, 0]; cpus]).unwrap(), 0).unwrap();
        }
    }

    /// How many have each place, on all CPUs.
    pub(crate) fn claimed(&self) -> Vec<u64> {
        let claims = PerCpuArray::<_, [u64; 2]>::try_from(self.ebpf.map("CLAIMS").unwrap()).unwrap();
        (0..2).map(|index| claims.get(&index, 0).unwrap().iter().map(|[claimed, _]| claimed).sum()).collect()
    }

    /// What was noted of packets on their way to a backend.
    pub(crate) fn crossings(&self) -> Vec<Crossing> {
        self.maps.crossings.iter().map(Result::unwrap).collect()
    }

    /// Notes which backend a flow to a frontend has, as the programs behind the choice do.
    pub(crate) fn set_backend(&mut self, pod: End, frontend: End, protocol: u8, backend: End) {
        let bytes = |address: IpAddr| match address {
            IpAddr::V4(it) => {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&it.octets());
                bytes
            }
            IpAddr::V6(it) => it.octets(),
        };
        let words = |address: &str| wide(bytes(address.parse().unwrap()));
        let led = |flow: Flow| Flow { backend: words(backend.0), backend_port: backend.1, ..flow };
        let family = if pod.0.contains(':') { IPV6 } else { 0 };
        let identity = Identity {
            pod: words(pod.0),
            peer: words(frontend.0),
            pod_port: pod.1,
            peer_port: frontend.1,
            protocol: u32::from(protocol) | family,
        };
        let rows: Vec<_> = self.maps.half_open.iter().map(Result::unwrap).collect();
        for (key, mut row) in rows.into_iter().filter(|(key, _)| key.ifindex == self.ifindex) {
            for way in HALF_OPEN_WAYS..2 * HALF_OPEN_WAYS {
                if row.identities[way] == identity && row.flows[way].expires != 0 {
                    row.flows[way] = led(row.flows[way]);
                    self.maps.half_open.insert(key, row, 0).unwrap();
                    return;
                }
            }
        }
        let (ifindex, pod_port, peer_port, protocol) = (self.ifindex, pod.1, frontend.1, protocol.into());
        match (pod.0.parse().unwrap(), frontend.0.parse().unwrap()) {
            (IpAddr::V4(pod), IpAddr::V4(peer)) => {
                let (pod, peer) = (pod.octets(), peer.octets());
                let key = Flow4 { ifindex, pod, peer, pod_port, peer_port, protocol };
                let flow = self.maps.flows4.get(&key, 0).expect("a flow");
                self.maps.flows4.insert(key, led(flow), 0).unwrap();
            }
            (IpAddr::V6(pod), IpAddr::V6(peer)) => {
                let (pod, peer) = (pod.octets(), peer.octets());
                let key = Flow6 { ifindex, pod, peer, pod_port, peer_port, protocol };
                let flow = self.maps.flows6.get(&key, 0).expect("a flow");
                self.maps.flows6.insert(key, led(flow), 0).unwrap();
            }
            _ => panic!("two families in one flow"),
        }
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
            ..self.endpoint
        });
    }

    /// From now on, frames are shown on another veth, behind which the rig's pod is; with the id of its namespace, its
    /// sockets can be asked.
    pub(crate) fn on_veth(&mut self, ifindex: u32, netns: Option<u32>) {
        self.ifindex = ifindex;
        self.endpoint.netns = netns.map_or(0, |id| id + 1);
        half_open::make_room(&mut self.maps, ifindex).unwrap();
        self.settle();
    }

    /// From now on, the pod may send from its own addresses alone.
    pub(crate) fn guard(&mut self) {
        let pod = self.engine.local_pod(&self.pod).expect("the rig's pod is on node-a");
        for address in pod.pod.addresses.clone() {
            self.maps.add_pod_address(self.ifindex, address).unwrap();
        }
        self.endpoint.flags = GUARDED;
        self.settle();
    }

    /// From now on, the pod may send from any address.
    pub(crate) fn unguard(&mut self) {
        self.endpoint.flags = 0;
        self.settle();
    }

    /// Forgets all established flows of IPv4.
    pub(crate) fn forget_flows(&mut self) {
        let flows: Vec<_> = self.maps.flows4.keys().map(Result::unwrap).collect();
        for flow in &flows {
            self.maps.flows4.remove(flow).unwrap();
        }
    }

    /// For how many denied packets the pod's sockets were asked in the last tick that any was, or would have been.
    pub(crate) fn asked(&self) -> u64 {
        let asked = PerCpuArray::<_, [u64; 2]>::try_from(self.ebpf.map("ASKED").unwrap()).unwrap();
        asked.get(&self.ifindex, 0).unwrap().iter().map(|[_, packets]| packets).sum()
    }

    /// Marks all flows as denied, as an agent before may have left them.
    pub(crate) fn deny_flows(&mut self) {
        let maps = &mut self.maps;
        let flows: Vec<_> = maps.flows4.iter().map(Result::unwrap).collect();
        for (key, flow) in flows {
            maps.flows4.insert(key, Flow { flags: flow.flags | DENIED, ..flow }, 0).unwrap();
        }
        let flows: Vec<_> = maps.flows6.iter().map(Result::unwrap).collect();
        for (key, flow) in flows {
            maps.flows6.insert(key, Flow { flags: flow.flags | DENIED, ..flow }, 0).unwrap();
        }
        let rows: Vec<_> = maps.half_open.iter().map(Result::unwrap).collect();
        for (key, mut row) in rows {
            row.flows.iter_mut().filter(|flow| flow.expires != 0).for_each(|flow| flow.flags |= DENIED);
            maps.half_open.insert(key, row, 0).unwrap();
        }
    }

    /// From now on, the pod's veth is a port of a device, zero: of none; with this MAC address, if it is a bridge.
    pub(crate) fn port_of(&mut self, master: u32, master_mac: [u8; 6]) {
        (self.endpoint.master, self.endpoint.master_mac) = (master, master_mac);
        self.settle();
    }

    /// From now on, a tunnel device of the node receives on these UDP ports.
    pub(crate) fn tunnel_ports(&mut self, ports: &[u16]) {
        let mut words = vec![0; TUNNEL_WORDS];
        for (word, bit) in ports.iter().map(|port| place(*port)) {
            words[word as usize] |= bit;
        }
        for (index, word) in (0..).zip(words) {
            self.maps.tunnel_ports.set(index, word, 0).unwrap();
        }
    }

    /// Overrides what the endpoint map says of the pod's veth.
    pub(crate) fn set_endpoint(&mut self, endpoint: Endpoint) {
        self.maps.set_endpoint(self.ifindex, endpoint).unwrap();
    }

    /// Takes the endpoint away.
    pub(crate) fn remove_endpoint(&mut self) {
        self.maps.remove_endpoint(self.ifindex).unwrap();
    }

    /// The pod sends a frame.
    pub(crate) fn sends(&mut self, frame: &[u8]) -> Answer {
        self.run(EGRESS, PROGRAMS[usize::from(EGRESS)], frame, &context(self.ifindex, 0))
    }

    /// The pod gets a frame.
    pub(crate) fn gets(&mut self, frame: &[u8]) -> Answer {
        self.run(INGRESS, PROGRAMS[usize::from(INGRESS)], frame, &context(self.ifindex, 0))
    }

    /// The pod gets a frame that stands for several packets of this many bytes of payload.
    pub(crate) fn gets_large(&mut self, frame: &[u8], payload: u32) -> Answer {
        self.run(INGRESS, PROGRAMS[usize::from(INGRESS)], frame, &context(self.ifindex, payload))
    }

    /// The pod gets a frame that came to the node by an interface.
    pub(crate) fn gets_by(&mut self, iif: u32, frame: &[u8]) -> Answer {
        let mut context = context(self.ifindex, 0);
        // `ingress_ifindex`
        context[36..40].copy_from_slice(&iif.to_ne_bytes());
        self.run(INGRESS, PROGRAMS[usize::from(INGRESS)], frame, &context)
    }

    /// Whether a frame passes on some veth, without asking why: for millions of them.
    pub(crate) fn passes_on(&mut self, ifindex: u32, direction: u8, frame: &[u8]) -> bool {
        self.passes_times(ifindex, direction, frame, 1)
    }

    /// The same of a frame that comes so many times in a row: whether the last one passes.
    pub(crate) fn passes_times(&mut self, ifindex: u32, direction: u8, frame: &[u8], times: u32) -> bool {
        self.returned(PROGRAMS[usize::from(direction)], frame, (&context(ifindex, 0), times)) == NEXT
    }

    /// The pod sends a frame while no policy selects it: what the guard says.
    pub(crate) fn is_guarded(&mut self, frame: &[u8]) -> Answer {
        self.run(EGRESS, GUARD, frame, &context(self.ifindex, 0))
    }

    fn returned(&mut self, program: &'static str, frame: &[u8], (context, repeat): (&[u8], u32)) -> i32 {
        let program = object::program(&mut self.ebpf, program).unwrap();
        let (data_in, ctx_in) = (Some(frame), Some(context));
        let options = TestRunOptions { data_in, ctx_in, repeat, ..TestRunOptions::default() };
        program.test_run(options).unwrap().return_value.cast_signed()
    }

    fn run(&mut self, direction: u8, program: &'static str, frame: &[u8], context: &[u8]) -> Answer {
        let before = self.counters(direction);
        let returned = self.returned(program, frame, (context, 1));
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

/// The `struct __sk_buff` (`linux/bpf.h`) that a frame is shown with.
fn context(ifindex: u32, gso_size: u32) -> [u8; 192] {
    let mut context = [0; 192];
    // `ifindex`, `gso_segs` and `gso_size`.
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    context[164..168].copy_from_slice(&u32::from(gso_size != 0).to_ne_bytes());
    context[176..180].copy_from_slice(&gso_size.to_ne_bytes());
    context
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
