//! An agent goes on with an earlier one's programs where they are just those that it would load, and loads its own everywhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use postern::datapath::Datapath;
use postern::datapath::attach::{Mode, probe};
use postern::datapath::object::{self, Established, GUARD, PROGRAMS, Settings, TICKS, map_folder};
use postern::datapath::pins;
use postern::datapath::services::Services;
use postern::datapath::wanted::Wanted;
use postern_common::conntrack::Lifetimes;

use crate::features;
use crate::pins::programs_of_tests;
use crate::pod_netns::PodNetns;
use crate::removal::{Pins, on_node};

/// Starts an agent that enforces on the pods' veths; whether it goes on with an earlier one's programs.
fn agent(pins: &Path, settings: Settings, pods: &[PodNetns]) -> bool {
    let (mut datapath, _) = Datapath::start(pins, probe(), settings).unwrap();
    enforce(&mut datapath, pods, false);
    datapath.origin().reused
}

fn enforce(datapath: &mut Datapath, pods: &[PodNetns], hold: bool) {
    let wanted: BTreeMap<u32, Wanted> =
        pods.iter().map(|pod| (pod.veth.ifindex, Wanted::quarantine(pod.veth.interface.clone()))).collect();
    let errors = datapath.reconcile(&wanted, hold);
    assert!(errors.is_empty(), "{errors:?}");
}

/// The folders with pins of programs.
fn folders(pins: &Path) -> Vec<PathBuf> {
    entries(&pins::here(pins).unwrap().join("programs"))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// The only one of them.
fn folder(pins: &Path) -> PathBuf {
    let [folder] = &folders(pins)[..] else { panic!("one folder of programs: {:?}", folders(pins)) };
    folder.clone()
}

/// Ids of the pinned programs, by name.
fn pinned(pins: &Path) -> BTreeMap<String, u32> {
    let id = |pin: PathBuf| {
        let name = pin.file_name().unwrap().to_str().unwrap().to_owned();
        (name, ProgramInfo::from_pin(&pin).unwrap().id())
    };
    entries(&folder(pins)).into_iter().map(id).collect()
}

/// What an agent with these settings pins.
fn names(settings: Settings) -> BTreeSet<String> {
    let classifiers = [PROGRAMS[0], PROGRAMS[1], GUARD, TICKS];
    let behind_nat = ["postern_behind_nat4", "postern_behind_nat6"];
    let mut names: Vec<&str> = classifiers.to_vec();
    if features::netfilter() {
        names.extend(["postern_unconfirmed4", "postern_unconfirmed6"]);
        names.extend(behind_nat.iter().filter(|_| settings.services == Services::Auto));
    }
    names.into_iter().map(str::to_owned).collect()
}

/// Each veth's hooks have the pinned programs, and nothing else.
fn is_attached(pins: &Path, pods: &[PodNetns]) {
    if !features::tcx() {
        return;
    }
    let pinned = pinned(pins);
    let hooks = [(TcAttachType::Egress, PROGRAMS[0]), (TcAttachType::Ingress, PROGRAMS[1])];
    for (hook, name) in hooks {
        for pod in pods {
            let (_, found) = SchedClassifier::query_tcx(&pod.veth.interface, hook).unwrap();
            let found: Vec<u32> = found.iter().map(ProgramInfo::id).collect();
            assert_eq!(found, [pinned[name]], "{name} on {}", pod.veth.interface);
        }
    }
}

#[test]
fn an_agent_that_starts_again_loads_nothing() {
    on_node(|pods| {
        let (pins, settings) = (Pins::new("again"), Settings::default());
        assert!(!agent(&pins.0, settings, pods), "there is nothing to go on with");
        let first = pinned(&pins.0);
        assert_eq!(first.keys().cloned().collect::<BTreeSet<_>>(), names(settings));
        is_attached(&pins.0, pods);
        for _ in 0..2 {
            assert!(agent(&pins.0, settings, pods));
            assert_eq!(pinned(&pins.0), first);
            is_attached(&pins.0, pods);
        }
        // By the other way onto the veths, too.
        let (mut datapath, _) = Datapath::start(&pins.0, Mode::Clsact, settings).unwrap();
        enforce(&mut datapath, pods, false);
        assert!(datapath.origin().reused);
        assert_eq!(crate::removal::programs(pods), 4);
    });
}

#[test]
fn whatever_is_set_otherwise_makes_other_programs() {
    let default = Settings::default;
    let lifetimes = Lifetimes { tcp_closing: 1, ..Lifetimes::DEFAULT };
    let others = [
        ("established", Settings { established: Established::Keep, ..default() }),
        ("lifetimes", Settings { lifetimes, ..default() }),
        ("services", Settings { services: Services::Together, ..default() }),
        ("rows", Settings { rows: 2 * default().rows, ..default() }),
        ("realtime", Settings { realtime: true, ..default() }),
        ("asked", Settings { asked: 1, ..default() }),
    ];
    on_node(|pods| {
        let pins = Pins::new("otherwise");
        agent(&pins.0, default(), pods);
        for (what, settings) in others {
            let before = pinned(&pins.0);
            assert!(!agent(&pins.0, settings, pods), "{what}");
            let after = pinned(&pins.0);
            assert!(
                before.values().all(|id| !after.values().any(|it| it == id)),
                "{what}: {before:?} {after:?}"
            );
            assert_eq!(after.keys().cloned().collect::<BTreeSet<_>>(), names(settings), "{what}");
            is_attached(&pins.0, pods);
            assert!(agent(&pins.0, settings, pods), "{what}: the second time");
        }
        // The log of programs comes with those that an agent loads itself: they are nobody else's.
        for _ in 0..2 {
            assert!(!agent(&pins.0, Settings { debug: true, ..default() }, pods));
            assert_eq!(folders(&pins.0), <[PathBuf; 0]>::default());
        }
    });
}

#[test]
fn earlier_programs_stay_pinned_until_no_veth_needs_them() {
    on_node(|pods| {
        let pins = Pins::new("earlier");
        agent(&pins.0, Settings::default(), pods);
        let earlier = folder(&pins.0);
        let keep = Settings { established: Established::Keep, ..Settings::default() };
        let (mut datapath, _) = Datapath::start(&pins.0, probe(), keep).unwrap();
        assert_eq!(folders(&pins.0).len(), 2);
        enforce(&mut datapath, pods, true);
        assert!(folders(&pins.0).len() == 2 && earlier.exists(), "nothing is known yet");
        drop(datapath);
        // That one was killed before it attached anything.
        assert!(agent(&pins.0, Settings::default(), pods));
        assert_eq!(folder(&pins.0), earlier);
    });
}

#[test]
fn programs_of_other_maps_are_not_used() {
    on_node(|pods| {
        let pins = Pins::new("other-maps");
        agent(&pins.0, Settings::default(), pods);
        let counters = map_folder(&pins::here(&pins.0).unwrap()).join("COUNTERS");
        std::fs::remove_file(&counters).unwrap();
        assert!(!agent(&pins.0, Settings::default(), pods), "its map is not there");
        is_attached(&pins.0, pods);
        // One of the same shape in its place: the programs count elsewhere.
        std::fs::remove_file(&counters).unwrap();
        programs_of_tests().map_mut("COUNTERS").unwrap().pin(&counters).unwrap();
        assert!(!agent(&pins.0, Settings::default(), pods), "its map is another one");
        is_attached(&pins.0, pods);
        let id = MapData::from_pin(&counters).unwrap().info().unwrap().id();
        let info = ProgramInfo::from_pin(folder(&pins.0).join(PROGRAMS[0])).unwrap();
        assert!(info.map_ids().unwrap().is_none_or(|ids| ids.contains(&id)));
    });
}

#[test]
fn pins_that_are_not_as_an_agent_left_them_are_not_believed() {
    type Change = fn(&Path);
    let mut changes: Vec<(&str, Change)> = vec![
        ("another of its programs under its name", |folder| {
            std::fs::rename(folder.join(GUARD), folder.join(PROGRAMS[1])).unwrap();
            object::program(&mut programs_of_tests(), GUARD).unwrap().pin(folder.join(GUARD)).unwrap();
        }),
        ("the same program, loaded by somebody else", |folder| {
            std::fs::remove_file(folder.join(GUARD)).unwrap();
            object::program(&mut programs_of_tests(), GUARD).unwrap().pin(folder.join(GUARD)).unwrap();
        }),
        ("a map under its name", |folder| {
            std::fs::remove_file(folder.join(TICKS)).unwrap();
            programs_of_tests().map_mut("COUNTERS").unwrap().pin(folder.join(TICKS)).unwrap();
        }),
        ("one is missing", |folder| std::fs::remove_file(folder.join(TICKS)).unwrap()),
        ("not finished", |folder| std::fs::rename(folder, folder.parent().unwrap().join("new")).unwrap()),
        ("called otherwise", |folder| {
            std::fs::rename(folder, folder.with_file_name("0".repeat(64))).unwrap();
        }),
    ];
    if features::netfilter() {
        changes.push(("netfilter's, exchanged", |folder| {
            let [first, second] =
                ["postern_unconfirmed4", "postern_unconfirmed6"].map(|name| folder.join(name));
            let third = folder.join("third");
            std::fs::rename(&first, &third).unwrap();
            std::fs::rename(&second, &first).unwrap();
            std::fs::rename(&third, &second).unwrap();
        }));
    }
    on_node(|pods| {
        let (pins, settings) = (Pins::new("tampered"), Settings::default());
        agent(&pins.0, settings, pods);
        for (what, change) in changes {
            change(&folder(&pins.0));
            assert!(!agent(&pins.0, settings, pods), "{what}");
            let pinned = pinned(&pins.0);
            assert_eq!(pinned.into_keys().collect::<BTreeSet<_>>(), names(settings), "{what}");
            is_attached(&pins.0, pods);
        }
        assert!(agent(&pins.0, settings, pods), "nobody touched these");
    });
}
