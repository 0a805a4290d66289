//! A veth without room for half-open flows carries its programs all the same.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aya::EbpfLoader;
use postern::datapath::Datapath;
use postern::datapath::attach::probe;
use postern::datapath::half_open;
use postern::datapath::maps::Maps;
use postern::datapath::object::{BENCH, Settings, map_folder};
use postern::datapath::wanted::Wanted;
use postern_common::conntrack::{HALF_OPEN_ROWS, OVERFLOW_ROWS, Row, RowKey};
use postern_common::endpoint::Endpoint;

use crate::programs::Programs;
use crate::removal::{Pins, on_node, programs};

/// Pinned before the agent makes its own: so many rows.
fn pin_rows(pins: &Pins, rows: u32) {
    let folder = map_folder(&postern::datapath::pins::here(&pins.0).unwrap());
    std::fs::create_dir_all(&folder).unwrap();
    let mut loader = EbpfLoader::new();
    loader.map_max_entries("HALF_OPEN", rows);
    loader.map_pin_path("HALF_OPEN", folder.join("HALF_OPEN"));
    drop(loader.load(BENCH).unwrap());
}

#[test]
fn a_flood_gives_way_to_a_new_pod() {
    on_node(|pods| {
        let pins = Pins::new("room-flood");
        pin_rows(&pins, HALF_OPEN_ROWS * 2 + 10);
        let folder = map_folder(&postern::datapath::pins::here(&pins.0).unwrap());
        let (mut datapath, _) = Datapath::start(&pins.0, probe(), Settings::default()).unwrap();
        let mut maps = Maps::open(&folder).unwrap();
        // Two other veths have all of it.
        for (ifindex, rows) in [(1_000_001, 20), (1_000_002, HALF_OPEN_ROWS * 2 - 10)] {
            for number in 0..rows {
                let key = RowKey { ifindex, number: HALF_OPEN_ROWS + number };
                maps.half_open.insert(key, Row { ifindex, ..Row::default() }, 0).unwrap();
            }
        }
        let wanted: BTreeMap<u32, Wanted> = pods
            .iter()
            .map(|pod| (pod.veth.ifindex, Wanted::quarantine(pod.veth.interface.clone())))
            .collect();
        assert_eq!(wanted.len(), 2);
        let errors: Vec<_> = datapath.reconcile(&wanted, false).iter().map(ToString::to_string).collect();
        assert!(errors.is_empty(), "{errors:?}");
        for ifindex in wanted.keys() {
            let rows = maps.half_open.keys().map(Result::unwrap).filter(|key| key.ifindex == *ifindex);
            assert_eq!(rows.count(), HALF_OPEN_ROWS as usize);
        }
    });
}

#[test]
fn five_thousand_isolated_pods_have_room() {
    let (_programs, mut maps) = Programs::load();
    for number in 0..5_000_u32 {
        let ifindex = 10 + number;
        let [_, _, high, low] = number.to_be_bytes();
        half_open::make_room(&mut maps, ifindex).unwrap();
        maps.set_endpoint(ifindex, Endpoint::default()).unwrap();
        let addresses = [
            IpAddr::from([10, 1, high, low]),
            IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::try_from(number).unwrap()]),
        ];
        for address in addresses {
            maps.add_pod_address(ifindex, address).unwrap();
            maps.set_owner(address, Some(ifindex)).unwrap();
        }
    }
    // And some dozens of these may be flooded.
    for ifindex in 10..90 {
        for number in 0..OVERFLOW_ROWS {
            let key = RowKey { ifindex, number: HALF_OPEN_ROWS + number };
            maps.half_open.insert(key, Row { ifindex, ..Row::default() }, 0).unwrap();
        }
    }
}

#[test]
fn where_the_map_is_full_programs_are_attached_and_it_is_said() {
    on_node(|pods| {
        let pins = Pins::new("room");
        // Rows for one veth, and a few more.
        pin_rows(&pins, HALF_OPEN_ROWS + 10);
        let (mut datapath, _) = Datapath::start(&pins.0, probe(), Settings::default()).unwrap();
        let wanted: BTreeMap<u32, Wanted> = pods
            .iter()
            .map(|pod| (pod.veth.ifindex, Wanted::quarantine(pod.veth.interface.clone())))
            .collect();
        for _ in 0..2 {
            let errors: Vec<_> = datapath.reconcile(&wanted, false).iter().map(ToString::to_string).collect();
            let [error] = &errors[..] else { panic!("{errors:?}") };
            assert!(error.contains("HALF_OPEN") && error.contains("veth-"), "{error}");
            assert_eq!(programs(pods), 4);
        }
        // The other one gives its room back.
        let (ifindex, _) = wanted.first_key_value().unwrap();
        let rest: BTreeMap<u32, Wanted> =
            wanted.clone().into_iter().filter(|(it, _)| it != ifindex).collect();
        let errors = datapath.reconcile(&rest, false);
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert!(errors.len() <= 1, "{errors:?}");
        assert!(datapath.reconcile(&rest, false).is_empty());
        assert_eq!(programs(pods), 2);
    });
}
