//! One loaded object with one policy set, filled by the real engine and writer.

use std::io::ErrorKind;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, MapData};
use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use postern::datapath::half_open;
use postern::datapath::maps::Maps;
use postern::datapath::object;
use postern::datapath::tables::Writer;
use postern_common::IPPROTO_TCP;
use postern_common::bench::Vary;
use postern_common::conntrack::{
    Flow, Flow4, Flow6, HALF_OPEN_ROWS, HALF_OPEN_WAYS, OVERFLOW_ROWS, Row, SERVICE, state,
};
use postern_common::direction::{EGRESS, INGRESS};
use postern_common::endpoint::{Endpoint, GUARDED};
use postern_common::reason::Reason;
use postern_policy::model::{NamespacedName, Object};
use postern_policy::{Engine, Scope};

use super::cells::{Cell, FLOW_PORT, Packet, Packets, Table};
use super::frames::Family;
use super::netns;
use super::sets::{POD, Set, ipv4, ipv6};

/// Test runs show packets on the loopback device.
const IFINDEX: u32 = 1;
/// Any time that does not come.
const NEVER: u64 = u64::MAX / 2;
/// Of so many packets, one may end under another reason: what else happens on the machine must not stop a benchmark.
const TOLERANCE: u64 = 1_000;

/// Programs that judge a packet, by direction, and what they are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    Empty,
    Vary,
    Parse,
    Flow,
    ToPod,
    FromPod,
}

impl Program {
    const ALL: [Self; 6] = [Self::Empty, Self::Vary, Self::Parse, Self::Flow, Self::ToPod, Self::FromPod];

    /// What judges packets of a direction.
    pub(super) const fn of(direction: u8) -> Self {
        if direction == EGRESS { Self::FromPod } else { Self::ToPod }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Empty => "bench_empty",
            Self::Vary => "bench_vary",
            Self::Parse => "bench_parse",
            Self::Flow => "bench_parse_flow",
            Self::ToPod => "bench_to_pod",
            Self::FromPod => "bench_from_pod",
        }
    }
}

/// A loaded object that guards one pod.
pub(super) struct Rig {
    ebpf: Ebpf,
    maps: Maps,
    vary: Array<MapData, Vary>,
    /// What the pod's veth has while it is isolated.
    isolated: Endpoint,
    /// Whether all room for half-open flows is taken, by direction.
    full: [bool; 2],
    /// Where varying goes on, by mode: no run repeats the packets of the one before.
    states: [u64; 3],
}

impl Rig {
    /// Loads the programs, and enforces a policy set with so many established flows of each family.
    pub(super) fn new(code: &[u8], set: Set, flows: u32) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        // As shipped: without it, the programs would hold code that logs drops.
        loader.override_global("AYA_LOG_LEVEL", &0_u8, true);
        let tick = object::tick();
        loader.override_global("POSTERN_TICK", &tick, true);
        let mut ebpf = loader.load(code).context("loading the object")?;
        for program in Program::ALL {
            object::load_program(&mut ebpf, program.name())?;
        }
        let mut maps = Maps::take(&mut ebpf)?;
        let vary = ebpf.take_map("VARY").context("no map VARY")?.try_into()?;
        let isolated = enforce(&mut maps, set.objects()?)?;
        maps.add_pod_address(IFINDEX, ipv4(POD).into())?;
        maps.add_pod_address(IFINDEX, ipv6(POD).into())?;
        half_open::make_room(&mut maps, IFINDEX)?;
        let mut rig = Self { ebpf, maps, vary, isolated, full: [false; 2], states: [1; 3] };
        rig.establish(flows)?;
        Ok(rig)
    }

    /// Puts flows into the tables of established ones.
    fn establish(&mut self, flows: u32) -> Result<()> {
        let cell = Cell { packet: Packet::Established(flows), family: Family::V4, direction: INGRESS };
        let generation = self.maps.state.get(&0, 0)?.generation;
        let flow = Flow {
            expires: NEVER,
            generation,
            initiator: INGRESS,
            state: state::ESTABLISHED,
            ..Flow::default()
        };
        let vary = cell.packets(Set::smallest())?.vary;
        for number in 0..flows {
            let (peer, port) = vary.peer(number);
            let peer_port = u16::try_from(port)?;
            let (pod_port, protocol) = (FLOW_PORT, u32::from(IPPROTO_TCP));
            let (pod, address) = (ipv4(POD).octets(), ipv4(peer).octets());
            let key4 = Flow4 { ifindex: IFINDEX, pod, peer: address, pod_port, peer_port, protocol };
            let (pod, address) = (ipv6(POD).octets(), ipv6(peer).octets());
            let key6 = Flow6 { ifindex: IFINDEX, pod, peer: address, pod_port, peer_port, protocol };
            self.maps.flows4.insert(key4, flow, 0)?;
            self.maps.flows6.insert(key6, flow, 0)?;
        }
        Ok(())
    }

    /// Puts the flow of these packets, which the pod sends to a Service, into the table of established ones.
    fn establish_to_service(&mut self, packets: &Packets) -> Result<()> {
        let (peer, pod_port) = packets.vary.peer(0);
        let peer_port = packets.vary.ports;
        let key = Flow4 {
            ifindex: IFINDEX,
            pod: ipv4(POD).octets(),
            peer: ipv4(peer).octets(),
            pod_port: u16::try_from(pod_port)?,
            peer_port: u16::try_from(peer_port)?,
            protocol: u32::from(IPPROTO_TCP),
        };
        let flow = Flow {
            expires: NEVER,
            generation: self.maps.state.get(&0, 0)?.generation,
            initiator: EGRESS,
            state: state::ESTABLISHED,
            flags: SERVICE,
            ..Flow::default()
        };
        self.maps.flows4.insert(key, flow, 0)?;
        Ok(())
    }

    /// Makes the maps what a cell is about.
    pub(super) fn prepare(&mut self, cell: Cell, packets: &Packets) -> Result<()> {
        let endpoint = match cell.packet {
            Packet::NotIsolated => Endpoint { ingress_class: 0, egress_class: 0, ..self.isolated },
            // As all pods' veths: one more than the namespace's id.
            Packet::DeniedAck | Packet::DeniedAckOfPods => Endpoint { netns: netns::ID + 1, ..self.isolated },
            _ => self.isolated,
        };
        self.maps.set_endpoint(IFINDEX, endpoint)?;
        self.opened(if cell.packet == Packet::DeniedSynToClient { NEVER } else { 0 })?;
        let table = match cell.packet {
            Packet::New(_, table, _) => table,
            // Of what the pod just started, it would be an answer.
            Packet::NewToService | Packet::DeniedAck | Packet::DeniedAckOfPods => Table::Room,
            Packet::EstablishedToService => return self.establish_to_service(packets),
            _ => return Ok(()),
        };
        match table {
            Table::Room | Table::Growing => {
                half_open::give_back(&mut self.maps, IFINDEX)?;
                half_open::make_room(&mut self.maps, IFINDEX)?;
                self.full = [false; 2];
            }
            Table::Overflow => {
                self.fill(cell, packets)?;
                self.empty_overflow_rows()?;
            }
            Table::Full => self.fill(cell, packets)?,
        }
        Ok(())
    }

    /// When the pod is taken to have opened connections last, either way. Objects of older trees do not ask.
    fn opened(&mut self, tick: u64) -> Result<()> {
        if let Some(map) = self.ebpf.map_mut("OPENED") {
            Array::<_, [u64; 2]>::try_from(map)?.set(IFINDEX, [tick; 2], 0)?;
        }
        Ok(())
    }

    /// Takes all room for half-open flows, which makes every overflow row.
    fn fill(&mut self, cell: Cell, packets: &Packets) -> Result<()> {
        let direction = usize::from(cell.direction);
        if self.full[direction] {
            return Ok(());
        }
        let room = (HALF_OPEN_ROWS + OVERFLOW_ROWS) as usize * HALF_OPEN_WAYS;
        self.run(Program::of(cell.direction), packets, u32::try_from(room * 7)?)?;
        let rows = self.maps.half_open.iter().collect::<Result<Vec<_>, _>>()?;
        let of_direction = |row: &Row| row.flows.as_chunks::<HALF_OPEN_WAYS>().0[direction];
        let flows = rows.iter().flat_map(|(_, row)| of_direction(row));
        let taken = flows.filter(|flow| flow.expires != 0).count();
        ensure!(taken > room - room / 100, "there are only {taken} of {room} half-open flows");
        self.full[direction] = true;
        Ok(())
    }

    /// Leaves the rows beyond those that the agent sets aside without flows.
    fn empty_overflow_rows(&mut self) -> Result<()> {
        let keys = self.maps.half_open.keys().collect::<Result<Vec<_>, _>>()?;
        for key in keys.into_iter().filter(|key| key.number >= HALF_OPEN_ROWS) {
            self.maps.half_open.insert(key, Row { ifindex: key.ifindex, ..Row::default() }, 0)?;
        }
        self.full = [false; 2];
        Ok(())
    }

    /// Shows a program so many packets in a row; returns nanoseconds per packet.
    pub(super) fn run(&mut self, program: Program, packets: &Packets, repeat: u32) -> Result<f64> {
        let mode = usize::try_from(packets.vary.mode)?;
        let name = program.name();
        let (counted, duration) = loop {
            self.vary.set(0, Vary { state: self.states[mode], ..packets.vary }, 0)?;
            let counted = self.counted(program, packets.reason)?;
            let loaded: &SchedClassifier =
                self.ebpf.program(name).with_context(|| format!("no program {name}"))?.try_into()?;
            let options =
                TestRunOptions { data_in: Some(&packets.frame), repeat, ..TestRunOptions::default() };
            match loaded.test_run(options) {
                // By a signal, a debugger, or who freezes processes.
                Err(ProgramError::SyscallError(error)) if error.io_error.kind() == ErrorKind::Interrupted => {
                }
                run => break (counted, run.with_context(|| format!("running {name}"))?.duration),
            }
        };
        let Vary { state, failed, .. } = self.vary.get(&0, 0)?;
        self.states[mode] = state;
        let repeat = u64::from(repeat);
        let (failed, what) = match counted.zip(self.counted(program, packets.reason)?) {
            Some((before, after)) => (repeat - (after - before).min(repeat), packets.reason.name()),
            None => (failed, "found"),
        };
        ensure!(
            failed <= repeat / TOLERANCE,
            "{name}: of {repeat} packets, {failed} did not end as {what}: this would have measured something else"
        );
        Ok(duration.as_secs_f64() * 1e9)
    }

    /// Packets that ended under a reason so far, where the program counts them.
    fn counted(&self, program: Program, reason: Reason) -> Result<Option<u64>> {
        let direction = match program {
            Program::ToPod => INGRESS,
            Program::FromPod => EGRESS,
            _ => return Ok(None),
        };
        Ok(Some(self.maps.counters.get(&reason.counter(direction), 0)?.iter().sum()))
    }
}

/// Compiles a cluster and writes what is to be enforced; returns what the pod's veth is to have.
fn enforce(maps: &mut Maps, objects: Vec<Object>) -> Result<Endpoint> {
    let (mut writer, first) = Writer::begin(maps)?;
    let mut engine = Engine::new(Scope::Node("node-a".into()), first);
    for object in objects {
        engine.apply(object);
    }
    for action in &engine.plan().steps {
        writer.execute(maps, action)?;
    }
    // As where somebody judges behind the choice of a backend.
    writer.set_behind_nat(maps, true)?;
    let pod = engine.local_pod(&NamespacedName::new("here", "pod")).context("no pod to isolate")?;
    Ok(Endpoint {
        ingress_class: pod.subject.ingress.0,
        egress_class: pod.subject.egress.0,
        epoch: writer.epoch(),
        flags: GUARDED,
        netns: 0,
        // A port of a bridge, which all frames are addressed to.
        master: 1,
        master_mac: [2, 0, 0, 0, 0, 2],
        reserved: 0,
    })
}
