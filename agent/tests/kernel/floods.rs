//! Floods and full tables: one pod's cost no other pod anything, and nothing opens.

use postern::datapath::half_open;
use postern::datapath::object::Settings;
use postern_common::IPPROTO_UDP;
use postern_common::conntrack::{
    DIRECTORY_ROWS, DIRECTORY_WAYS, FRAGMENT_SLOTS, HALF_OPEN_ROWS, Lifetimes, OVERFLOW_ROWS, SECOND,
};
use postern_common::direction::{EGRESS, INGRESS};
use postern_common::endpoint::Endpoint;
use postern_common::reason::Reason::{
    AllowedByPolicy, DeniedByPolicy, Established, FlowTableFull, Related, Service,
};

use crate::frames::{self, End};
use crate::pod_netns::{self, PodNetns};
use crate::rig::{Answer, IFINDEX, Rig};

/// A pod that may send anywhere to port 443, be reached on port 80, and exchange anything with 12.0.0.0/8; and a Service.
const WORLD: &str = r"
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: names, labels: {app: names}}
spec: {nodeName: node-b, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.1.1}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: names}
spec: {clusterIPs: [10.96.0.10], selector: {app: names}, ports: [{port: 53, protocol: UDP, targetPort: 5353}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports: [{port: 80}, {port: 80, protocol: UDP}, {port: 80, protocol: SCTP}]
    - from: [{ipBlock: {cidr: 12.0.0.0/8}}]
  egress:
    - ports: [{port: 443}, {port: 443, protocol: UDP}, {port: 443, protocol: SCTP}]
    - to: [{ipBlock: {cidr: 12.0.0.0/8}}]
    - to: [{podSelector: {matchLabels: {app: names}}}]
      ports: [{port: 5353, protocol: UDP}]
";

const POD: &str = "10.0.0.1";
const SERVER: End = ("10.9.9.9", 443);
const FRONTEND: End = ("10.96.0.10", 53);
const BACKEND: End = ("10.0.1.1", 5353);

/// Flows of one flood: more than any table has room for, were it not shared out.
const FLOOD: u32 = 1_000_000;

/// A busy machine must not make anything expire.
const LIFETIMES: Lifetimes = Lifetimes {
    tcp_opening: 3600 * SECOND,
    opening: 3600 * SECOND,
    established: 3600 * SECOND,
    ..Lifetimes::DEFAULT
};

/// New flows of a flood between a question and its answer: those of 50 ms, at 100,000 a second.
const LATE: u32 = 5_000;

/// Offsets in an IPv4 frame.
const SOURCE: usize = 14 + 12;
const DESTINATION: usize = 14 + 16;
const SOURCE_PORT: usize = 14 + 20;
const ICMP_IDENTIFIER: usize = 14 + 20 + 4;
const TCP_FLAGS: usize = 14 + 20 + 13;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;

/// Who sends the first packets of a flood's flows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Inside,
    Outside,
}

impl From {
    fn direction(self) -> u8 {
        if self == Self::Inside { EGRESS } else { INGRESS }
    }

    /// Both ends of a flow that policy allows.
    fn ends(self, port: u16) -> (End, End) {
        if self == Self::Inside { ((POD, port), ("11.0.0.0", 443)) } else { (("11.0.0.0", port), (POD, 80)) }
    }

    /// The same with somebody whom no flood is from.
    fn own_ends(self, port: u16) -> (End, End) {
        if self == Self::Inside { ((POD, port), SERVER) } else { ((SERVER.0, port), (POD, 80)) }
    }
}

/// The frame that answers one of IPv4.
fn answer(frame: &[u8]) -> Vec<u8> {
    let mut answer = frame.to_vec();
    answer[26..30].copy_from_slice(&frame[30..34]);
    answer[30..34].copy_from_slice(&frame[26..30]);
    if frame[23] == 1 {
        // An echo reply.
        answer[34] = 0;
    } else {
        answer[34..36].copy_from_slice(&frame[36..38]);
        answer[36..38].copy_from_slice(&frame[34..36]);
    }
    if frame[23] == 6 {
        answer[TCP_FLAGS] = SYN_ACK;
    }
    answer
}

/// Two pods of the same class: the rig's, and one that floods through the loopback device.
fn two_pods(node: &str) -> (Rig, PodNetns) {
    pod_netns::enter_node();
    let netns = PodNetns::create(node, &[], &[]);
    let settings = Settings { lifetimes: LIFETIMES, ..Settings::default() };
    let mut rig = Rig::with_settings("shop/web", WORLD, settings);
    rig.judge_behind_nat(true);
    let flooding: Endpoint = rig.maps.endpoints.get(&IFINDEX, 0).unwrap();
    rig.on_veth(netns.veth.ifindex, None);
    assert_eq!(rig.maps.endpoints.get(&IFINDEX, 0).unwrap(), flooding);
    (rig, netns)
}

/// Has the rig's pod exchange what it may, before others flood.
fn exchange(rig: &mut Rig) {
    let web = |port| (POD, port);
    assert_eq!(rig.sends(&frames::tcp(web(5000), SERVER, "S")), Answer(AllowedByPolicy));
    assert_eq!(rig.gets(&frames::tcp(SERVER, web(5000), "SA")), Answer(Established));
    assert_eq!(rig.sends(&frames::tcp(web(5000), SERVER, "A")), Answer(Established));
    // A UDP flow that is established, and half-open ones.
    for _ in 0..2 {
        rig.sends(&frames::udp(web(5001), SERVER));
        assert_eq!(rig.gets(&frames::udp(SERVER, web(5001))), Answer(Established));
    }
    assert_eq!(rig.sends(&frames::udp(web(5002), SERVER)), Answer(AllowedByPolicy));
    assert_eq!(rig.gets(&frames::tcp((SERVER.0, 6000), web(80), "S")), Answer(AllowedByPolicy));
    // To a Service, established or not.
    for port in [5003, 5004] {
        assert_eq!(rig.sends(&frames::udp(web(port), FRONTEND)), Answer(Service));
    }
    for _ in 0..2 {
        assert_eq!(rig.gets(&frames::udp(FRONTEND, web(5003))), Answer(Established));
    }
    for port in [5003, 5004] {
        rig.set_backend(web(port), FRONTEND, IPPROTO_UDP, BACKEND);
    }
}

/// All of it is still there.
fn go_on(rig: &mut Rig) {
    let web = |port| (POD, port);
    assert_eq!(
        rig.gets(&frames::fragment((SERVER.0, 7000), web(80), 77, 8_000, false)),
        Answer(Established),
        "a late fragment"
    );
    let about = frames::tcp(web(5000), SERVER, "A");
    assert_eq!(rig.gets(&frames::icmp_error("10.9.9.1", POD, 3, 4, &about)), Answer(Related));
    assert_eq!(rig.gets(&frames::tcp(SERVER, web(5000), "A")), Answer(Established), "established");
    assert_eq!(rig.gets(&frames::udp(SERVER, web(5001))), Answer(Established), "established, UDP");
    assert_eq!(rig.gets(&frames::udp(SERVER, web(5002))), Answer(Established), "half-open");
    assert_eq!(rig.sends(&frames::tcp(web(80), (SERVER.0, 6000), "SA")), Answer(Established), "half-open");
    assert_eq!(rig.gets(&frames::tcp(SERVER, web(5005), "A")), Answer(DeniedByPolicy), "nothing opened");
    // Half-open, and once more when they are established.
    for round in 0..3 {
        rig.advance_generation();
        for port in [5003, 5004] {
            let answer = rig.gets(&frames::udp(FRONTEND, web(port)));
            assert_eq!(answer, Answer(Established), "to a backend: {port}, {round}");
        }
    }
}

/// What the flooded pod does meanwhile.
struct Own {
    from: From,
    /// Flows of the flood.
    flows: u32,
    asked: u32,
    lost: Vec<u32>,
}

impl Own {
    /// A connection that policy allows comes up.
    fn connects(&self, rig: &mut Rig, port: u16) {
        let (client, server) = self.from.own_ends(port);
        let direction = self.from.direction();
        for (direction, frame) in [
            (direction, frames::tcp(client, server, "S")),
            (1 - direction, frames::tcp(server, client, "SA")),
            (direction, frames::tcp(client, server, "A")),
            (1 - direction, frames::tcp(server, client, "A")),
            (direction, frames::tcp(client, server, "A")),
        ] {
            assert!(rig.passes_on(IFINDEX, direction, &frame), "port {port}: {frame:02x?}");
        }
    }

    fn question(&self, number: u32) -> Vec<u8> {
        let (client, server) = self.from.own_ends(u16::try_from(20_000 + number / 1_000).unwrap());
        frames::udp(client, server)
    }

    /// Once per flow of the flood: now and then the pod connects, asks, or gets the answer to what it asked a while ago.
    fn act(&mut self, rig: &mut Rig, number: u32) {
        if !number.is_multiple_of(1_000) {
            return;
        }
        if number + 100_000 == self.flows {
            // The rig's pod gets the first fragment of a datagram, of which the last one is late.
            let first = frames::fragment((SERVER.0, 7000), (POD, 80), 77, 0, true);
            assert_eq!(rig.gets(&first), Answer(AllowedByPolicy));
        }
        self.connects(rig, u16::try_from(30_000 + number / 1_000).unwrap());
        assert!(rig.passes_on(IFINDEX, self.from.direction(), &self.question(number)));
        if let Some(earlier) = number.checked_sub(LATE) {
            self.asked += 1;
            let answer = answer(&self.question(earlier));
            if !rig.passes_on(IFINDEX, 1 - self.from.direction(), &answer) {
                self.lost.push(earlier);
            }
        }
    }
}

/// Floods through another pod: `one` shows what each flow sends. The rig's pod keeps all that it has; the other one may go on as well.
fn flood(name: &str, from: From, (flows, frame): (u32, &[u8]), one: impl Fn(&mut Rig, &mut [u8])) {
    let (mut rig, _netns) = two_pods(name);
    exchange(&mut rig);
    let mut own = Own { from, flows, asked: 0, lost: Vec::new() };
    let mut frame = frame.to_vec();
    let address = if from == From::Inside { DESTINATION } else { SOURCE };
    let port = if frame[23] == 1 { ICMP_IDENTIFIER } else { SOURCE_PORT };
    let first = u32::from(frame[address]) << 24;
    for number in 0..flows {
        frame[address..][..4].copy_from_slice(&(first + number % 65_536).to_be_bytes());
        let it = u16::try_from(1024 + number / 65_536).unwrap();
        frame[port..][..2].copy_from_slice(&it.to_be_bytes());
        one(&mut rig, &mut frame);
        own.act(&mut rig, number);
    }
    go_on(&mut rig);
    is_bounded(&rig);
    assert!(own.asked > 200 && own.lost.len() <= 1, "{} answers, lost: {:?}", own.asked, own.lost);
}

/// The pod that flooded has taken its own room, and no more.
fn is_bounded(rig: &Rig) {
    let maps = &rig.maps;
    let flows = maps.flows4.keys().map(Result::unwrap).filter(|key| key.ifindex == IFINDEX).count();
    let rows = maps.directory4.keys().map(Result::unwrap).filter(|key| key.ifindex == IFINDEX).count();
    assert!(rows <= DIRECTORY_ROWS as usize && flows <= rows * DIRECTORY_WAYS, "{flows} flows, {rows} rows");
    let rows = maps.half_open.keys().map(Result::unwrap).filter(|key| key.ifindex == IFINDEX).count();
    assert!(rows <= (HALF_OPEN_ROWS + OVERFLOW_ROWS) as usize, "{rows} rows of half-open flows");
    let slots = maps.fragments.keys().map(Result::unwrap).filter(|slot| slot.ifindex == IFINDEX).count();
    assert!(slots <= usize::from(FRAGMENT_SLOTS), "{slots} datagrams");
}

/// A flood of flows of which each sends one packet.
fn of_one_packet(name: &str, from: From, frame: &[u8]) {
    flood(name, from, (FLOOD, frame), |rig, frame| {
        assert!(rig.passes_on(IFINDEX, from.direction(), frame));
    });
}

/// A flood of flows of which each sends one packet and gets an answer.
fn of_answered(name: &str, from: From, frame: &[u8]) {
    flood(name, from, (FLOOD, frame), |rig, frame| {
        assert!(rig.passes_on(IFINDEX, from.direction(), frame));
        assert!(rig.passes_on(IFINDEX, 1 - from.direction(), &answer(frame)));
    });
}

/// A flood of flows that are established, of any protocol but TCP: each sends a packet, and gets two.
fn of_established(name: &str, from: From, frame: &[u8]) {
    flood(name, from, (FLOOD, frame), |rig, frame| {
        assert!(rig.passes_on(IFINDEX, from.direction(), frame));
        assert!(rig.passes_times(IFINDEX, 1 - from.direction(), &answer(frame), 2));
    });
}

/// A flood of streams that nobody answers.
fn of_streams(name: &str, from: From, frame: &[u8]) {
    flood(name, from, (FLOOD, frame), |rig, frame| {
        assert!(rig.passes_times(IFINDEX, from.direction(), frame, 10));
    });
}

/// A flood of TCP connections.
fn of_connections(name: &str, from: From) {
    let (client, server) = from.ends(1024);
    flood(name, from, (FLOOD, &frames::tcp(client, server, "S")), |rig, frame| {
        assert!(rig.passes_on(IFINDEX, from.direction(), frame));
        assert!(rig.passes_on(IFINDEX, 1 - from.direction(), &answer(frame)));
        let syn = std::mem::replace(&mut frame[TCP_FLAGS], ACK);
        assert!(rig.passes_on(IFINDEX, from.direction(), frame));
        frame[TCP_FLAGS] = syn;
    });
}

macro_rules! floods {
    ($($name:ident: $flood:ident($frame:expr)),+ $(,)?) => {
        mod from_inside { use super::*; $(#[test] fn $name() {
            let frame: fn(From) -> Vec<u8> = $frame;
            $flood(concat!("in-", stringify!($name)), From::Inside, &frame(From::Inside));
        })+ }
        mod from_outside { use super::*; $(#[test] fn $name() {
            let frame: fn(From) -> Vec<u8> = $frame;
            $flood(concat!("out-", stringify!($name)), From::Outside, &frame(From::Outside));
        })+ }
    };
}

fn tcp(from: From) -> Vec<u8> {
    let (client, server) = from.ends(1024);
    frames::tcp(client, server, "S")
}

fn udp(from: From) -> Vec<u8> {
    let (client, server) = from.ends(1024);
    frames::udp(client, server)
}

fn sctp(from: From) -> Vec<u8> {
    let (client, server) = from.ends(1024);
    frames::sctp(client, server)
}

fn echo(from: From) -> Vec<u8> {
    let (client, server) = if from == From::Inside { (POD, "12.0.0.0") } else { ("12.0.0.0", POD) };
    frames::echo(client, server, 1024, false)
}

// Short, as they are the names of interfaces.
floods! {
    syn: of_one_packet(tcp),
    synack: of_answered(tcp),
    udp: of_one_packet(super::udp),
    answered: of_answered(super::udp),
    streams: of_streams(super::udp),
    both: of_established(super::udp),
    sctp: of_one_packet(super::sctp),
    sctpboth: of_established(super::sctp),
    echo: of_answered(super::echo),
    echos: of_streams(super::echo),
}

#[test]
fn connections_from_inside() {
    of_connections("in-tcp", From::Inside);
}

#[test]
fn connections_from_outside() {
    of_connections("out-tcp", From::Outside);
}

#[test]
fn flows_to_a_service() {
    let frame = frames::udp(("11.0.0.0", 1024), FRONTEND);
    // What the pod sends, in others' names: nobody guards it.
    let (mut rig, _netns) = two_pods("in-service");
    exchange(&mut rig);
    let mut own = Own { from: From::Inside, flows: FLOOD, asked: 0, lost: Vec::new() };
    let mut frame = frame;
    for number in 0..FLOOD {
        frame[SOURCE..][..4].copy_from_slice(&(0x0b00_0000 + number).to_be_bytes());
        assert!(rig.passes_times(IFINDEX, EGRESS, &frame, 10));
        own.act(&mut rig, number);
    }
    go_on(&mut rig);
    is_bounded(&rig);
    assert!(own.lost.len() <= 1, "{:?}", own.lost);
}

#[test]
fn fragments() {
    let (mut rig, _netns) = two_pods("out-frags");
    exchange(&mut rig);
    let mut own = Own { from: From::Outside, flows: FLOOD, asked: 0, lost: Vec::new() };
    let mut frame = frames::fragment(("11.0.0.0", 1024), (POD, 80), 1, 0, true);
    for number in 0..FLOOD {
        frame[SOURCE..][..4].copy_from_slice(&(0x0b00_0000 + number).to_be_bytes());
        assert!(rig.passes_on(IFINDEX, INGRESS, &frame));
        own.act(&mut rig, number);
    }
    go_on(&mut rig);
    is_bounded(&rig);
    assert!(own.lost.len() <= 1, "{:?}", own.lost);
}

#[test]
fn a_flood_from_outside_leaves_the_pods_own_connections_alone() {
    let mut rig = Rig::new("shop/web", WORLD);
    assert_eq!(rig.sends(&frames::tcp((POD, 5000), SERVER, "S")), Answer(AllowedByPolicy));
    let mut syn = frames::tcp(("11.0.0.0", 1024), (POD, 80), "S");
    for number in 0..100_000_u32 {
        syn[26..30].copy_from_slice(&(0x0b00_0000 + number).to_be_bytes());
        assert!(rig.passes_on(IFINDEX, INGRESS, &syn));
    }
    assert_eq!(rig.gets(&frames::tcp(SERVER, (POD, 5000), "SA")), Answer(Established));
}

#[test]
fn without_room_nothing_opens() {
    let mut rig = Rig::new("shop/web", WORLD);
    let (client, web) = ((SERVER.0, 7000), (POD, 80));
    for _ in 0..2 {
        rig.gets(&frames::udp(client, web));
        assert_eq!(rig.sends(&frames::udp(web, client)), Answer(Established));
    }
    half_open::give_back(&mut rig.maps, IFINDEX).unwrap();
    assert_eq!(rig.sends(&frames::tcp((POD, 5000), SERVER, "S")), Answer(FlowTableFull));
    assert_eq!(rig.gets(&frames::tcp(SERVER, (POD, 5000), "SA")), Answer(DeniedByPolicy));
    assert_eq!(rig.sends(&frames::udp((POD, 5000), SERVER)), Answer(FlowTableFull));
    assert_eq!(rig.gets(&frames::udp(SERVER, (POD, 5000))), Answer(DeniedByPolicy));
    assert_eq!(rig.sends(&frames::tcp((POD, 5000), ("10.9.9.9", 444), "S")), Answer(DeniedByPolicy));
    // What is established goes on, and errors about it pass.
    for _ in 0..2 {
        let about = frames::udp(web, client);
        assert_eq!(rig.gets(&frames::icmp_error("10.9.9.1", POD, 3, 3, &about)), Answer(Related));
        assert_eq!(rig.sends(&about), Answer(Established));
        rig.advance_generation();
    }
}
