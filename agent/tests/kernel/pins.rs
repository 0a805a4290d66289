//! What an agent finds of earlier ones, and may not believe: links that are dead, another interface's, or somebody else's. Whatever
//! it is, the next agent enforces.

pub(crate) mod by_hand;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{SchedClassifier, TcAttachType};
use postern::datapath::attach::{self, AttachError, Layer, Mode, PRIORITY, Spot};
use postern::datapath::object::{self, GUARD, Settings};
use postern::datapath::pins;
use rtnetlink::Handle;

use crate::features;
use crate::pod_netns::{PodNetns, enter_netns, enter_node, run};
use crate::removal::{Pins, on_node, programs};

/// The programs, loaded once for all tests: that takes longer than all else.
static PROGRAMS: LazyLock<Mutex<Ebpf>> =
    LazyLock::new(|| Mutex::new(object::load(None, Settings::default()).unwrap()));

/// What an agent does when it takes over: it puts its programs on the pods' veths, and its links into a folder.
pub(crate) fn agent(pins: &Path, mode: Mode, pods: &[PodNetns]) {
    let errors = failing_agent(pins, mode, pods);
    assert!(errors.is_empty(), "{errors:?}");
}

/// The same, where it may fail.
fn failing_agent(pins: &Path, mode: Mode, pods: &[PodNetns]) -> Vec<String> {
    let links = pins.join("links");
    std::fs::create_dir_all(&links).unwrap();
    let mut ebpf = programs_of_tests();
    let mut errors = Vec::new();
    for pod in pods {
        for (hook, name) in HOOKS {
            let spot =
                Spot { ifindex: pod.veth.ifindex, interface: &pod.veth.interface, hook, layer: Layer::Pod };
            let program = object::program(&mut ebpf, name).unwrap();
            errors.extend(attach::attach(program, mode, &links, spot).err());
        }
    }
    errors.iter().map(ToString::to_string).collect()
}

pub(crate) fn programs_of_tests() -> MutexGuard<'static, Ebpf> {
    PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The hooks, and whose they are.
const HOOKS: [(TcAttachType, &str); 2] =
    [(TcAttachType::Egress, object::PROGRAMS[0]), (TcAttachType::Ingress, object::PROGRAMS[1])];

/// All pins of links below a folder, with these words in their paths.
pub(crate) fn links(folder: &Path, words: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(links(&path, words));
        } else if path.parent().is_some_and(|it| it.ends_with("links"))
            && words.iter().all(|word| path.to_str().unwrap().contains(word))
        {
            found.push(path);
        }
    }
    found
}

/// The pin of a pod's veth.
fn pin(pins: &Path, pod: &PodNetns, hook: &str) -> PathBuf {
    let name = format!("/{}-{hook}", pod.veth.ifindex);
    let [pin] = &links(pins, &[&name])[..] else { panic!("one pin {name} below {}", pins.display()) };
    pin.clone()
}

/// Nothing but the programs that enforce policy is on the pods' veths, and each stays without an agent.
fn is_enforced(pods: &[PodNetns]) {
    for (hook, name) in HOOKS {
        for pod in pods {
            let (_, found) = SchedClassifier::query_tcx(&pod.veth.interface, hook).unwrap();
            let names: Vec<_> = found.iter().map(|it| it.name_as_str().unwrap().to_owned()).collect();
            assert!(
                matches!(&names[..], [one] if name.starts_with(one.as_str())),
                "{} carries {names:?}, not {name}",
                pod.veth.interface
            );
        }
    }
}

#[test]
fn a_link_that_was_detached_by_hand_is_attached_anew() {
    if !features::tcx() {
        return;
    }
    for hook in ["ingress", "egress"] {
        on_node(|pods| {
            let pins = Pins::new(&format!("by-hand-{hook}"));
            agent(&pins.0, Mode::Tcx, pods);
            by_hand::detach(&pin(&pins.0, &pods[0], hook));
            assert_eq!(programs(pods), 3);
            agent(&pins.0, Mode::Tcx, pods);
            is_enforced(pods);
            // The new one is pinned as the old one was, and is swapped in place.
            assert_eq!(links(&pins.0, &["gress"]).len(), 4);
            agent(&pins.0, Mode::Tcx, pods);
            is_enforced(pods);
        });
    }
}

#[test]
fn a_pin_of_another_interface_is_not_believed() {
    if !features::tcx() {
        return;
    }
    on_node(|pods| {
        let pins = Pins::new("elsewhere");
        agent(&pins.0, Mode::Tcx, pods);
        // One pod's link under the other one's name.
        std::fs::rename(pin(&pins.0, &pods[0], "ingress"), pin(&pins.0, &pods[1], "ingress")).unwrap();
        // No program can be on a hook twice, as this one is until the second pod's turn. An agent that is started has others.
        by_hand::wait_for(|| failing_agent(&pins.0, Mode::Tcx, pods).is_empty());
        is_enforced(pods);
        // And as it is when an index comes back: the link died with its veth, and the pin stayed.
        let old = pods[1].veth.ifindex;
        run(async |handle: Handle| handle.link().del(old).execute().await.unwrap());
        crate::pod_netns::add_veth(old);
        let interface = format!("veth{old}");
        let mut ebpf = programs_of_tests();
        for (hook, name) in HOOKS {
            let spot = Spot { ifindex: old, interface: &interface, hook, layer: Layer::Pod };
            let program = object::program(&mut ebpf, name).unwrap();
            attach::attach(program, Mode::Tcx, &pins.0.join("links"), spot).unwrap();
            assert_eq!(SchedClassifier::query_tcx(&interface, hook).unwrap().1.len(), 1);
        }
        // One that has its name, but not its index, is another one.
        let spot =
            Spot { ifindex: old + 1, interface: &interface, hook: TcAttachType::Ingress, layer: Layer::Pod };
        let program = object::program(&mut ebpf, GUARD).unwrap();
        let error = attach::attach(program, Mode::Tcx, &pins.0.join("links"), spot).unwrap_err();
        assert!(matches!(error, AttachError::Gone(_)), "{error}");
    });
}

#[test]
fn what_is_no_link_of_ours_gives_way() {
    if !features::tcx() {
        return;
    }
    on_node(|pods| {
        let pins = Pins::new("foreign");
        agent(&pins.0, Mode::Tcx, pods);
        // Another program in a link of the veth.
        let ingress = pin(&pins.0, &pods[0], "ingress");
        std::fs::remove_file(&ingress).unwrap();
        let mut others = programs_of_tests();
        let program = object::program(&mut others, GUARD).unwrap();
        let id = program.attach(&pods[0].veth.interface, TcAttachType::Ingress).unwrap();
        let link: FdLink = program.take_link(id).unwrap().try_into().unwrap();
        drop(link.pin(&ingress).unwrap());
        // What is no link at all: a map, and a program.
        let egress = pin(&pins.0, &pods[0], "egress");
        std::fs::remove_file(&egress).unwrap();
        others.map_mut("COUNTERS").unwrap().pin(&egress).unwrap();
        let ingress = pin(&pins.0, &pods[1], "ingress");
        std::fs::remove_file(&ingress).unwrap();
        object::program(&mut others, GUARD).unwrap().pin(&ingress).unwrap();
        drop(others);
        // The kernel lets go of a link some time after its pin went.
        by_hand::wait_for(|| programs(pods) == 2);

        agent(&pins.0, Mode::Tcx, pods);
        is_enforced(pods);
        agent(&pins.0, Mode::Tcx, pods);
        is_enforced(pods);
    });
}

#[test]
fn a_filter_that_was_deleted_by_hand_is_attached_anew() {
    on_node(|pods| {
        let pins = Pins::new("filter");
        agent(&pins.0, Mode::Clsact, pods);
        by_hand::delete_filters(&pods[0].veth);
        assert_eq!(programs(pods), 3);
        // Somebody else's, of a priority in front of ours.
        by_hand::attach_filter(&mut programs_of_tests(), &pods[0].veth.interface, 7);
        agent(&pins.0, Mode::Clsact, pods);
        assert_eq!(programs(pods), 5);
        agent(&pins.0, Mode::Clsact, pods);
        assert_eq!(programs(pods), 5);
    });
}

#[test]
fn what_stands_in_a_filters_place_is_named_with_the_way_out() {
    on_node(|pods| {
        let pins = Pins::new("in-the-way");
        by_hand::add_other_kind(&pods[0].veth, PRIORITY);
        let errors = failing_agent(&pins.0, Mode::Clsact, pods);
        let [error] = &errors[..] else { panic!("{errors:?}") };
        for word in ["veth-1", "ingress", "os error 22", "tc filter del dev veth-1 ingress pref 28752"] {
            assert!(error.contains(word), "{word}: {error}");
        }
    });
}

#[test]
fn pins_of_another_namespace_are_not_believed_and_go_when_nothing_uses_them() {
    if !features::tcx() {
        return;
    }
    let pins = Pins::new("namespaces");
    // As the data path does when it starts.
    let start = |root: &Path, pods: &[PodNetns]| {
        let here = pins::here(root).unwrap();
        pins::remove_unused(root, &here);
        agent(&here, Mode::Tcx, pods);
        is_enforced(pods);
    };
    let (pins, node) = (&pins.0, |test: &mut dyn FnMut(&[PodNetns])| {
        enter_netns();
        let address = |last: u8| IpAddr::from([10, 9, 1, last]);
        test(&[PodNetns::create("veth-1", &[address(2)], &[address(1)])]);
    });
    let (to_other, mine) = std::sync::mpsc::channel::<u32>();
    let (to_me, other) = std::sync::mpsc::channel();
    let both = move || {
        // One BPF file system for both.
        enter_node();
        thread::scope(|scope| {
            let first = scope.spawn(move || {
                node(&mut |pods| {
                    start(pins, pods);
                    to_me.send(pods[0].veth.ifindex).unwrap();
                    let _ = mine.recv();
                    // Nobody touched what is in use.
                    is_enforced(pods);
                    let ifindex = pods[0].veth.ifindex;
                    run(async |handle: Handle| handle.link().del(ifindex).execute().await.unwrap());
                    to_me.send(0).unwrap();
                    let _ = mine.recv();
                });
            });
            let second = scope.spawn(move || {
                node(&mut |pods| {
                    assert_eq!(other.recv(), Ok(pods[0].veth.ifindex), "the same index in both");
                    start(pins, pods);
                    assert_eq!(links(pins, &["gress"]).len(), 4);
                    to_other.send(0).unwrap();
                    other.recv().unwrap();
                    // Its veth is gone, and all its links are dead.
                    start(pins, pods);
                    assert_eq!(links(pins, &["gress"]).len(), 2);
                    assert_eq!(std::fs::read_dir(pins).unwrap().count(), 1);
                    to_other.send(0).unwrap();
                });
            });
            second.join().unwrap();
            first.join().unwrap();
        });
    };
    thread::scope(|scope| scope.spawn(both).join().unwrap());
}
