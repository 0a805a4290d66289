//! What programs write goes once it has expired, or its veth is gone; all else stays.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use postern::datapath::expiry::{Expiring, Expiry, Now, Removed};
use postern::datapath::maps::Maps;
use postern::datapath::object::{self, TICKS};
use postern_common::conntrack::{
    Datagram, DirectoryRow, Flow, Flow4, HALF_OPEN_ROWS, Row, RowKey, SECOND, Slot,
};
use postern_common::endpoint::Endpoint;
use postern_common::service::{Hairpin, HairpinSlot};

use crate::programs::Programs;

const NOW: Now = Now { monotonic: 1_000 * SECOND, ticks: 5_000 * SECOND };
const CARRIED: u32 = 7;
const GONE: u32 = 8;
/// Got its programs after the agent said which veths have some.
const NEW: u32 = 9;

fn datagram(expires: u64) -> Datagram {
    Datagram { expires, ..Datagram::default() }
}

fn slot(ifindex: u32, number: u16) -> Slot {
    Slot { ifindex, number, direction: number % 2 }
}

/// Slots in use.
fn left(maps: &Maps) -> BTreeSet<Slot> {
    maps.fragments.keys().map(Result::unwrap).collect()
}

fn removed(maps: &Maps, veths: &BTreeSet<u32>) -> Removed {
    Expiring::of(maps).unwrap().remove(veths, NOW).unwrap()
}

#[test]
fn what_has_expired_or_lost_its_veth_goes_and_the_rest_stays() {
    let (_programs, mut maps) = Programs::load();
    let mut stay = BTreeSet::new();
    for number in 0..250 {
        for ifindex in [CARRIED, GONE] {
            // Every third has expired, one of these at this very moment.
            let expires = if number % 3 == 0 { NOW.monotonic - u64::from(number) } else { NOW.monotonic + 1 };
            let slot = slot(ifindex, number);
            maps.fragments.insert(slot, datagram(expires), 0).unwrap();
            if ifindex == CARRIED && expires > NOW.monotonic {
                stay.insert(slot);
            }
        }
    }
    let hairpin = HairpinSlot { ifindex: CARRIED, number: 1 };
    maps.hairpins.insert(hairpin, Hairpin { expires: NOW.monotonic, ..Hairpin::default() }, 0).unwrap();
    let veths = BTreeSet::from([CARRIED, 1]);
    assert_eq!(removed(&maps, &veths).slots, 501 - stay.len());
    assert_eq!(left(&maps), stay);
    assert_eq!(removed(&maps, &veths), Removed::default());
    assert_eq!(removed(&maps, &BTreeSet::from([1])).slots, stay.len());
    assert_eq!(left(&maps), BTreeSet::new());
}

fn flow4(ifindex: u32, port: u16) -> Flow4 {
    Flow4 { ifindex, pod_port: port, ..Flow4::default() }
}

#[test]
fn flows_go_with_their_rows() {
    let (_programs, mut maps) = Programs::load();
    maps.set_endpoint(NEW, Endpoint::default()).unwrap();
    let row = |ifindex, number| RowKey { ifindex, number };
    // A flow that is alive, one that has expired, both, and none that is still there; the last row says less than the flow does.
    let rows: [&[(u16, i64)]; 5] = [&[(1, 1)], &[(2, 0)], &[(3, 1), (4, 0)], &[], &[]];
    for ifindex in [CARRIED, GONE, NEW] {
        for (number, flows) in rows.iter().enumerate() {
            let number = u32::try_from(number).unwrap();
            let mut value = DirectoryRow { ifindex, ..DirectoryRow::<Flow4>::default() };
            for (at, (port, left)) in flows.iter().enumerate() {
                value.flows[at] = flow4(ifindex, *port);
                let expires = NOW.ticks.checked_add_signed(*left).unwrap();
                let flow = Flow { expires, directory_row: u16::try_from(number).unwrap(), ..Flow::default() };
                maps.flows4.insert(value.flows[at], flow, 0).unwrap();
            }
            value.flows[15] = flow4(ifindex, 99);
            maps.directory4.insert(row(ifindex, number), value, 0).unwrap();
        }
        let flow = Flow { expires: NOW.ticks + 1, directory_row: 4, ..Flow::default() };
        maps.flows4.insert(flow4(ifindex, 5), flow, 0).unwrap();
    }
    let veths = BTreeSet::from([CARRIED, 1]);
    let removed = removed(&maps, &veths);
    assert_eq!((removed.flows, removed.directory_rows), (2 + 5 + 2, 2 + 5 + 2));
    let flows: BTreeSet<(u32, u16)> =
        maps.flows4.keys().map(|key| key.map(|key| (key.ifindex, key.pod_port)).unwrap()).collect();
    let stay = |ifindex| [1, 3, 5].map(|port| (ifindex, port));
    assert_eq!(flows, BTreeSet::from_iter([stay(CARRIED), stay(NEW)].concat()));
    let rows: BTreeSet<RowKey> = maps.directory4.keys().map(Result::unwrap).collect();
    let stay = |ifindex| [0, 2, 4].map(|number| row(ifindex, number));
    assert_eq!(rows, BTreeSet::from_iter([stay(CARRIED), stay(NEW)].concat()));
}

#[test]
fn overflow_rows_go_when_all_in_them_has_expired() {
    let (_programs, mut maps) = Programs::load();
    let mut put = |ifindex, number, expires| {
        let mut row = Row { ifindex, ..Row::default() };
        row.flows[3].expires = expires;
        maps.half_open.insert(RowKey { ifindex, number }, row, 0).unwrap();
    };
    for ifindex in [CARRIED, GONE] {
        put(ifindex, 0, NOW.ticks - 1);
        put(ifindex, HALF_OPEN_ROWS, NOW.ticks);
        put(ifindex, HALF_OPEN_ROWS + 1, NOW.ticks + 1);
    }
    assert_eq!(removed(&maps, &BTreeSet::from([CARRIED, 1])).rows, 4);
    let rows = maps.half_open.keys().map(Result::unwrap).filter(|key| key.ifindex != 1);
    let stay = [0, HALF_OPEN_ROWS + 1].map(|number| RowKey { ifindex: CARRIED, number });
    assert_eq!(rows.collect::<BTreeSet<_>>(), BTreeSet::from(stay));
}

#[test]
fn half_a_million_flows_are_read_in_no_time() {
    let (_programs, mut maps) = Programs::load();
    for number in 0..500_000_u32 {
        let key = Flow4 { ifindex: CARRIED, peer: number.to_be_bytes(), ..Flow4::default() };
        // One of a hundred has expired.
        let expires = if number % 100 == 0 { 1 } else { u64::MAX };
        let flow = Flow { expires, directory_row: u16::try_from(number % 512).unwrap(), ..Flow::default() };
        maps.flows4.insert(key, flow, 0).unwrap();
    }
    let begun = Instant::now();
    assert_eq!(removed(&maps, &BTreeSet::from([CARRIED, 1])).flows, 5_000);
    let took = begun.elapsed();
    println!("{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn the_thread_goes_by_the_clocks_of_the_programs() {
    let (mut programs, mut maps) = Programs::load();
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    let now = u64::try_from(now.tv_sec()).unwrap() * SECOND;
    maps.fragments.insert(slot(CARRIED, 1), datagram(now.saturating_sub(SECOND)), 0).unwrap();
    maps.fragments.insert(slot(CARRIED, 2), datagram(now + 3600 * SECOND), 0).unwrap();
    let ticks = programs.ticks();
    for (port, expires) in [(1, ticks - SECOND), (2, ticks + 60 * SECOND)] {
        maps.flows4.insert(flow4(CARRIED, port), Flow { expires, ..Flow::default() }, 0).unwrap();
    }
    let expiry = Expiry::start(object::program(programs.ebpf(), TICKS).unwrap(), &maps).unwrap();
    let stay = BTreeSet::from([slot(CARRIED, 2)]);
    let deadline = Instant::now() + Duration::from_secs(10);
    let flows = |maps: &Maps| maps.flows4.keys().map(|key| key.unwrap().pod_port).collect::<Vec<_>>();
    while left(&maps) != stay || flows(&maps) != [2] {
        assert!(Instant::now() < deadline, "left: {:?}, {:?}", left(&maps), flows(&maps));
        expiry.remove_expired(BTreeSet::from([CARRIED]));
        std::thread::sleep(Duration::from_millis(5));
    }
}
