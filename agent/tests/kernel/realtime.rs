//! Kernels on which programs of one CPU interrupt each other: memory for the packet at hand is claimed, and given back whatever becomes of
//! the packet. Nothing here interrupts; who has a place already is written into the map.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use postern::datapath::object::{self, Settings};
use postern_common::reason::Reason;

use crate::frames;
use crate::rig::{Answer, Rig};

/// A pod that may be reached on TCP 80 and UDP 53, and may send to one peer.
const WORLD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{ports: [{port: 80}, {port: 53, protocol: UDP}]}]
  egress: [{to: [{ipBlock: {cidr: 10.0.0.9/32}}, {ipBlock: {cidr: "fd00::9/128"}}]}]
"#;

fn rig(realtime: bool) -> Rig {
    let mut rig = Rig::with_settings("shop/web", WORLD, Settings { realtime, ..Settings::default() });
    rig.guard();
    rig
}

const IPV4: [&str; 2] = ["10.0.0.1", "10.0.0.9"];
const IPV6: [&str; 2] = ["fd00::1", "fd00::9"];

/// Frames of every kind, and what becomes of each: sent by the pod, by a guarded pod that no policy selects, and got by it.
fn answers(rig: &mut Rig) -> Vec<[Answer; 3]> {
    let mut all = vec![frames::arp(1, "10.0.0.1", "10.0.0.9"), frames::ethernet(0x88b5)];
    for [pod, peer] in [IPV4, IPV6] {
        for port in [80, 81] {
            for flags in ["S", "SA", "A", "FA", "R"] {
                all.push(frames::tcp((pod, port), (peer, 4000), flags));
                all.push(frames::tcp((peer, 4000), (pod, port), flags));
            }
            all.push(frames::udp((pod, port), (peer, 53)));
            all.push(frames::udp((peer, 53), (pod, port)));
            all.push(frames::sctp((pod, port), (peer, 53)));
        }
        all.push(frames::udp((peer, 4000), (pod, 53)));
        all.push(frames::udp((pod, 53), (peer, 4000)));
        let whole = frames::tcp((peer, 4000), (pod, 80), "S");
        all.push(whole[..whole.len() - 14].to_vec());
        all.push(frames::echo(pod, peer, 7, false));
        all.push(frames::echo(peer, pod, 7, true));
        all.push(frames::other(peer, pod, 47));
    }
    for (identification, offset, more) in [(7, 0, true), (7, 1480, false), (8, 1480, false)] {
        all.push(frames::fragment(("10.0.0.9", 4000), ("10.0.0.1", 53), identification, offset, more));
    }
    all.push(frames::on_link("fd00::9", "fd00::1", 135, 255));
    all.iter().map(|frame| [rig.sends(frame), rig.is_guarded(frame), rig.gets(frame)]).collect()
}

#[test]
fn every_packet_is_judged_alike_and_gives_its_place_back() {
    let (mut usual, mut realtime) = (rig(false), rig(true));
    for _ in 0..3 {
        let answers = answers(&mut realtime);
        assert_eq!(answers, self::answers(&mut usual));
        assert!(answers.iter().flatten().any(|answer| answer.0 == Reason::Spoofed));
        assert_eq!(realtime.claimed(), [0; 2]);
        // As it is when policy changes, and nothing that was looked up holds any more.
        usual.advance_generation();
        realtime.advance_generation();
    }
    realtime.remove_endpoint();
    answers(&mut realtime);
    assert_eq!(realtime.claimed(), [0; 2]);
}

#[test]
fn one_place_is_enough_whichever_it_is() {
    for taken in [[1, 0], [0, 1], [3, 0]] {
        let (mut usual, mut realtime) = (rig(false), rig(true));
        realtime.claim(taken);
        assert_eq!(answers(&mut realtime), answers(&mut usual), "{taken:?}");
        realtime.claim([0; 2]);
    }
}

#[test]
fn a_packet_that_finds_both_taken_is_dropped_and_says_why() {
    let mut rig = rig(true);
    let cpus = u64::try_from(aya::util::nr_cpus().unwrap()).unwrap();
    for [pod, peer] in [IPV4, IPV6] {
        let sent = frames::tcp((pod, 4000), (peer, 80), "S");
        let got = frames::tcp((peer, 4000), (pod, 80), "S");
        for taken in [[1, 1], [2, 1]] {
            rig.claim(taken);
            assert_eq!(rig.sends(&sent), Answer(Reason::Reentered));
            assert_eq!(rig.is_guarded(&sent), Answer(Reason::Reentered));
            assert_eq!(rig.gets(&got), Answer(Reason::Reentered));
            // Nobody's place but one's own is given back.
            assert_eq!(rig.claimed(), taken.map(|it| it * cpus));
        }
        rig.claim([0; 2]);
        assert_eq!(rig.sends(&sent), Answer(Reason::AllowedByPolicy));
        assert_eq!(rig.gets(&got), Answer(Reason::AllowedByPolicy));
    }
}

#[test]
fn elsewhere_nobody_asks_who_has_a_place() {
    let mut rig = rig(false);
    rig.claim([1; 2]);
    let frame = frames::tcp(("10.0.0.9", 4000), ("10.0.0.1", 80), "S");
    assert_eq!(rig.gets(&frame), Answer(Reason::AllowedByPolicy));
}

#[test]
fn nothing_is_used_that_kernels_before_5_12_refuse() {
    let object = aya_obj::Object::parse(object::BENCH).unwrap();
    let instructions = object.functions.values().flat_map(|function| &function.instructions);
    // Class `BPF_STX`, mode `BPF_ATOMIC`; with any number but zero, it is no plain addition.
    let atomic: Vec<_> = instructions.filter(|it| it.code & 0xe7 == 0xc3).map(|it| it.imm).collect();
    assert!(!atomic.is_empty());
    assert!(atomic.iter().all(|imm| *imm == 0), "{atomic:?}");
}

#[test]
fn packets_of_both_places_have_slots_of_their_own() {
    // What the CPU counts is each CPU's own.
    let mut cpu = CpuSet::new();
    cpu.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpu).unwrap();
    let mut rig = rig(true);
    for (number, taken) in [[0, 0], [1, 0]].into_iter().enumerate() {
        rig.claim(taken);
        for port in 0..PACKETS {
            let from = 5000 + u16::try_from(number).unwrap() * PACKETS + port;
            let frame = frames::tcp(("10.0.0.1", from), ("10.0.0.9", 80), "S");
            assert_eq!(rig.sends(&frame), Answer(Reason::AllowedByPolicy));
        }
        rig.claim([0; 2]);
    }
    let noted = rig.crossings().iter().filter(|it| it.ifindex != 0).count();
    assert_eq!(noted, 2 * usize::from(PACKETS));
}

/// Packets that are sent by way of each place.
const PACKETS: u16 = 20;
