//! `tc_index`, which anybody may write: a pod on its own interface, and other programs on the node's.

use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use etherparse::PacketBuilder;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, setsockopt, socket,
    sockopt,
};
use postern::datapath::object::Settings;
use postern_common::service::{NOTHING_NOTED, UNTAGGED, crossings_per_cpu};
use std::os::fd::AsRawFd as _;

use crate::pod_netns::PodNetns;
use crate::wire::{BACKEND, BAD, CLIENT, FRONTEND, GOOD, OTHER, PLAIN, Style, Wire, on_wire, shell};

const SERVICE: (Ipv4Addr, u16) = (PLAIN, FRONTEND);
/// An address of the node.
const NODE: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 9, 1, 1), 5353);
const STYLES: [Style; 2] = [Style::Ptp, Style::Bridge];
const TO_BOTH: &str =
    "[{to: [{podSelector: {matchExpressions: [{key: role, operator: In, values: [good, bad]}]}}]}]";
const TO_GOOD: &str = "[{to: [{podSelector: {matchLabels: {role: good}}}]}]";

/// Has everything that goes through a hook tagged: a filter without an action ends with `TC_ACT_OK`, which writes the minor number of
/// its class into `tc_index`.
fn write_tags(interface: &str, hook: &str, tag: u16) {
    shell(&format!("tc qdisc replace dev {interface} clsact"));
    shell(&format!(
        "tc filter replace dev {interface} {hook} pref 1 handle 800::1 protocol all u32 match u32 0 0 flowid 1:{tag:x}"
    ));
}

fn write_tags_inside(pod: &PodNetns, tag: u16) {
    pod.within(|| write_tags("eth0", "egress", tag));
}

/// Sends a datagram in the client's name.
fn forge(pod: &PodNetns, port: u16, to: (Ipv4Addr, u16), payload: &[u8]) {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4(CLIENT.octets(), to.0.octets(), 64).udp(port, to.1);
    builder.write(&mut packet, payload).unwrap();
    pod.within(|| {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).unwrap();
        let [a, b, c, d] = to.0.octets();
        sendto(raw.as_raw_fd(), &packet, &SockaddrIn::new(a, b, c, d, 0), MsgFlags::empty()).unwrap();
    });
}

/// A client that may reach the Service, whose backend is the good one, and that has done so.
fn with_service(wire: &mut Wire, port: u16) -> UdpSocket {
    wire.policy(Some(TO_BOTH));
    wire.service(Some(GOOD));
    wire.translate(Some(GOOD));
    let client = wire.client(port);
    for _ in 0..4 {
        assert_eq!(wire.ask(&client, SERVICE), (Some(GOOD), true));
    }
    client
}

#[test]
fn every_cpu_has_slots_of_its_own() {
    for (cpus, slots) in [(1, 65_536), (2, 32_768), (3, 16_384), (64, 1024), (65, 512), (512, 128), (513, 64)]
    {
        assert_eq!(crossings_per_cpu(cpus), slots, "{cpus}");
    }
    for cpus in [600, 1024, 8192, 100_000, u32::MAX] {
        assert!(crossings_per_cpu(cpus) >= 4, "{cpus}");
    }
    assert!((UNTAGGED, NOTHING_NOTED) == (0, 65_535));
}

#[test]
fn what_another_pod_tags_with_a_clients_slot_writes_nothing() {
    for style in STYLES {
        on_wire("forged", style, Settings::default(), |wire| {
            let client = with_service(wire, 4000);
            let (backend, forger) = ((GOOD, BACKEND), wire.pod(OTHER));
            assert_eq!(wire.backend(4000, SERVICE), Some(backend));
            let slots = wire.slots(4000, FRONTEND);
            assert!(slots.len() >= 4, "{slots:?}");
            // Of the last of them nothing came out yet: it ended on the node.
            client.send_to(b"12345678-to-the-node", NODE).unwrap();
            thread::sleep(Duration::from_millis(20));
            let unseen = wire.slots(4000, NODE.1);
            assert_eq!(unseen.len(), 1, "{unseen:?}");
            // In the client's name, it gets as far as that, where it may not be the client's own.
            forge(forger, 4000, (BAD, BACKEND), b"untagged");
            assert_eq!(wire.who_gets(b"untagged").contains(&BAD), style == Style::Ptp);
            let last = b"00000004-token";
            for slot in slots.into_iter().chain(unseen) {
                write_tags_inside(forger, u16::try_from(slot).unwrap());
                for payload in [&b"forged--------"[..], last] {
                    forge(forger, 4000, (BAD, BACKEND), payload);
                    forge(forger, 4000, (CLIENT, BACKEND), payload);
                    thread::sleep(Duration::from_millis(5));
                    assert_eq!(wire.backend(4000, SERVICE), Some(backend), "{style:?}, slot {slot}");
                    assert_eq!(wire.backend(4000, NODE), None, "{style:?}, slot {slot}");
                    assert_eq!(wire.hairpins(), 0, "{style:?}, slot {slot}");
                }
            }
            assert_eq!(wire.ask(&client, SERVICE), (Some(GOOD), true));
        });
    }
}

#[test]
fn what_an_isolated_pod_tags_itself_is_written_over() {
    for style in STYLES {
        on_wire("own", style, Settings::default(), |wire| {
            let client = with_service(wire, 4000);
            for tag in [1, 0x1234, NOTHING_NOTED, UNTAGGED] {
                write_tags_inside(wire.pod(CLIENT), tag);
                for _ in 0..3 {
                    assert_eq!(wire.ask(&client, SERVICE), (Some(GOOD), true), "{style:?}, {tag:x}");
                    // Once established, nothing is noted of it: what stood there would be all.
                    assert_eq!(wire.ask(&client, (BAD, BACKEND)), (Some(BAD), true), "{style:?}, {tag:x}");
                }
                wire.policy(Some(TO_GOOD));
                wire.translate(Some(BAD));
                let new = wire.client(5000 + (tag & 0xfff));
                for _ in 0..3 {
                    assert_eq!(wire.ask(&new, SERVICE), (None, false), "{style:?}, {tag:x}");
                }
                wire.translate(Some(GOOD));
                wire.policy(Some(TO_BOTH));
            }
            assert_eq!(wire.dropped("untraceable"), 0);
        });
    }
}

#[test]
fn what_loses_its_tag_is_dropped_of_isolated_pods_alone() {
    for style in STYLES {
        on_wire("lost", style, Settings::default(), |wire| {
            let client = with_service(wire, 4000);
            let veth = wire.pod(CLIENT).veth.interface.clone();
            // What else it would say, of multicast groups, would lose its tag, too.
            let disable = || std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
            wire.pod(CLIENT).within(disable).unwrap();
            let mut dropped = wire.dropped("untraceable");
            // Zero, no slot in use, and one that was another packet's.
            let other = u16::try_from(wire.slots(4000, FRONTEND)[0]).unwrap();
            for tag in [UNTAGGED, 0x7fff, other] {
                write_tags(&veth, "ingress", tag);
                for to in [SERVICE, (BAD, BACKEND)] {
                    assert_eq!(wire.ask(&client, to), (None, false), "{style:?}, {tag:x}, to {to:?}");
                    dropped += 1;
                    assert_eq!(wire.dropped("untraceable"), dropped, "{style:?}, {tag:x}, to {to:?}");
                }
            }
            // Nobody's business.
            wire.policy(None);
            assert_eq!(wire.ask(&client, SERVICE), (Some(GOOD), true), "{style:?}");
            wire.policy(Some(TO_BOTH));
            assert_eq!(wire.ask(&client, SERVICE), (None, false), "{style:?}");
        });
    }
}

#[test]
fn nothing_is_lost_where_policy_begins_and_ends() {
    for style in STYLES {
        on_wire("begins", style, Settings::default(), |wire| {
            let client = wire.client(4000);
            let good = wire.listen(GOOD, 9000);
            // Whoever reads may have to wait for a processor.
            setsockopt(&good, sockopt::RcvBufForce, &(16 << 20)).unwrap();
            let stop = std::sync::atomic::AtomicBool::new(false);
            let (sent, got) = thread::scope(|scope| {
                let sending = scope.spawn(|| {
                    let mut sent = 0_u64;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        client.send_to(b"12345678", (GOOD, 9000)).unwrap();
                        sent += 1;
                        thread::sleep(Duration::from_micros(100));
                    }
                    sent
                });
                let getting = scope.spawn(|| {
                    let (mut got, mut buffer) = (0_u64, [0; 64]);
                    good.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                    while good.recv(&mut buffer).is_ok() {
                        got += 1;
                    }
                    got
                });
                for _ in 0..15 {
                    wire.policy(Some(TO_BOTH));
                    thread::sleep(Duration::from_millis(10));
                    wire.policy(None);
                }
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
                (sending.join().unwrap(), getting.join().unwrap())
            });
            assert_eq!((got, wire.dropped("untraceable")), (sent, 0), "{style:?}");
        });
    }
}
