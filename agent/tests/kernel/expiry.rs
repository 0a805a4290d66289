//! Fragments that have expired are removed; all others stay.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use postern::datapath::expiry::{Expiry, remove_expired};
use postern::datapath::maps::Maps;
use postern_common::conntrack::{Datagram, SECOND, Slot};

use crate::programs::Programs;

const NOW: u64 = 1_000 * SECOND;
const CARRIED: u32 = 7;
const GONE: u32 = 8;

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

#[test]
fn what_has_expired_or_lost_its_veth_goes_and_the_rest_stays() {
    let (_programs, mut maps) = Programs::load();
    let mut stay = BTreeSet::new();
    for number in 0..500 {
        for ifindex in [CARRIED, GONE] {
            // Every third has expired, one of these at this very moment.
            let expires = if number % 3 == 0 { NOW - u64::from(number) } else { NOW + 1 };
            let slot = slot(ifindex, number);
            maps.fragments.insert(slot, datagram(expires), 0).unwrap();
            if ifindex == CARRIED && expires > NOW {
                stay.insert(slot);
            }
        }
    }
    let veths = BTreeSet::from([CARRIED]);
    assert_eq!(remove_expired(&mut maps.fragments, &veths, NOW).unwrap(), 1000 - stay.len());
    assert_eq!(left(&maps), stay);
    assert_eq!(remove_expired(&mut maps.fragments, &veths, NOW).unwrap(), 0);
    assert_eq!(remove_expired(&mut maps.fragments, &BTreeSet::new(), NOW).unwrap(), stay.len());
    assert_eq!(left(&maps), BTreeSet::new());
}

#[test]
fn the_thread_goes_by_the_clock_of_the_programs() {
    let (_programs, mut maps) = Programs::load();
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    let now = u64::try_from(now.tv_sec()).unwrap() * SECOND;
    maps.fragments.insert(slot(CARRIED, 1), datagram(now.saturating_sub(SECOND)), 0).unwrap();
    maps.fragments.insert(slot(CARRIED, 2), datagram(now + 3600 * SECOND), 0).unwrap();
    let expiry = Expiry::start(&maps).unwrap();
    let stay = BTreeSet::from([slot(CARRIED, 2)]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while left(&maps) != stay {
        assert!(Instant::now() < deadline, "left: {:?}", left(&maps));
        expiry.remove_expired(BTreeSet::from([CARRIED]));
        std::thread::sleep(Duration::from_millis(5));
    }
}
