//! A veth without room for half-open flows carries its programs all the same.

use std::collections::BTreeMap;

use aya::EbpfLoader;
use postern::datapath::Datapath;
use postern::datapath::attach::Mode;
use postern::datapath::object::{BENCH, Settings, map_folder};
use postern::datapath::wanted::Wanted;
use postern_common::conntrack::HALF_OPEN_ROWS;

use crate::removal::{Pins, on_node, programs};

#[test]
fn where_the_map_is_full_programs_are_attached_and_it_is_said() {
    on_node(|pods| {
        let pins = Pins::new("room");
        let folder = map_folder(&postern::datapath::pins::here(&pins.0).unwrap());
        std::fs::create_dir_all(&folder).unwrap();
        // Pinned before the agent makes its own: rows for one veth, and a few more.
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("HALF_OPEN", HALF_OPEN_ROWS + 10);
        loader.map_pin_path("HALF_OPEN", folder.join("HALF_OPEN"));
        drop(loader.load(BENCH).unwrap());
        let (mut datapath, _) = Datapath::start(&pins.0, Mode::Tcx, Settings::default()).unwrap();
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
