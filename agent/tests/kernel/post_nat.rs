//! The program that judges packets to Services on the devices that they leave by: on every one of them, for as long as somebody relies on
//! it, and no longer. What it says of packets, the lab's tests of Services tell (`POSTERN_SERVICES=egress`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use aya::programs::{SchedClassifier, TcAttachType};
use postern::datapath::Datapath;
use postern::datapath::attach::{Mode, probe};
use postern::datapath::maps::Maps;
use postern::datapath::object::{Settings, map_folder};
use postern::datapath::readback::Foreign;
use postern::datapath::services::Services;
use postern::datapath::wanted::Wanted;
use postern::links::Scanner;

use crate::features;
use crate::pins::{by_hand, links, programs_of_tests};
use crate::pod_netns::PodNetns;
use crate::removal::{Pins, on_node, remove, runtime};

/// Name of the program, as the kernel has it.
const PROGRAM: &str = "postern_postnat";

fn modes() -> impl Iterator<Item = Mode> {
    [Mode::Clsact, Mode::Tcx].into_iter().filter(|mode| *mode == Mode::Clsact || probe() == Mode::Tcx)
}

fn start(pins: &Path, mode: Mode, services: Services) -> Datapath {
    Datapath::start(pins, mode, Settings { services, ..Settings::default() }).unwrap().0
}

/// What the node's devices are, as the agent sees them.
fn devices() -> BTreeMap<u32, String> {
    runtime().block_on(async { Scanner::open().unwrap().scan().await.unwrap().devices })
}

fn reconcile(datapath: &mut Datapath, wanted: &BTreeMap<u32, Wanted>) -> Vec<String> {
    datapath.set_devices(&devices());
    datapath.reconcile(wanted, false).iter().map(ToString::to_string).collect()
}

fn isolated(pods: &[PodNetns]) -> BTreeMap<u32, Wanted> {
    let pod = &pods[0].veth;
    [(pod.ifindex, Wanted::quarantine(pod.interface.clone()))].into()
}

/// The devices that have the program at egress, as tools of others see it.
fn carrying(mode: Mode) -> BTreeSet<String> {
    let has = |name: &String| match mode {
        Mode::Clsact => tc(&["filter", "show", "dev", name, "egress"]).contains(PROGRAM),
        Mode::Tcx => {
            let (_, programs) = SchedClassifier::query_tcx(name, TcAttachType::Egress).unwrap();
            programs.iter().any(|program| program.name_as_str() == Some(PROGRAM))
        }
    };
    devices().into_values().chain(["lo".to_owned()]).filter(has).collect()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn tc(arguments: &[&str]) -> String {
    run("tc", arguments)
}

fn ip(arguments: &[&str]) {
    run("ip", arguments);
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn every_device_carries_it_while_a_pod_is_isolated() {
    for mode in modes() {
        on_node(|pods| {
            let pins = Pins::new(&format!("egress-{mode:?}").to_lowercase());
            let mut datapath = start(&pins.0, mode, Services::Egress);
            assert!(datapath.judges_backends());
            assert_eq!(reconcile(&mut datapath, &BTreeMap::new()), [""; 0]);
            assert_eq!(carrying(mode), names(&[]), "nobody is isolated");
            assert_eq!(reconcile(&mut datapath, &isolated(pods)), [""; 0]);
            assert_eq!(carrying(mode), names(&["veth-1", "veth-2"]));

            // One that comes.
            ip(&["link", "add", "uplink", "type", "bridge"]);
            assert_eq!(reconcile(&mut datapath, &isolated(pods)), [""; 0]);
            assert_eq!(carrying(mode), names(&["uplink", "veth-1", "veth-2"]));
            assert_eq!(datapath.read_back(), [""; 0]);
            assert_eq!(datapath.foreign(), <[Foreign; 0]>::default(), "it is nobody else's");

            // Somebody takes it off: it is said, and it comes back.
            match mode {
                Mode::Clsact => drop(tc(&["filter", "del", "dev", "uplink", "egress", "pref", "28751"])),
                Mode::Tcx => {
                    let index = nix::net::if_::if_nametoindex("uplink").unwrap();
                    by_hand::detach(&links(&pins.0, &[&format!("post-nat-{index}")])[0]);
                }
            }
            let [problem] = &datapath.read_back()[..] else { panic!("one problem") };
            assert!(problem.contains("uplink") && problem.contains("Services"), "{problem}");
            assert_eq!(reconcile(&mut datapath, &isolated(pods)), [""; 0]);
            assert_eq!(carrying(mode), names(&["uplink", "veth-1", "veth-2"]));
            assert_eq!(datapath.read_back(), [""; 0]);

            // One that goes takes its pin along; the next agent takes the rest over.
            ip(&["link", "del", "uplink"]);
            assert_eq!(reconcile(&mut datapath, &isolated(pods)), [""; 0]);
            drop(datapath);
            let mut datapath = start(&pins.0, mode, Services::Egress);
            assert_eq!(carrying(mode), names(&["veth-1", "veth-2"]), "as it was left");
            assert_eq!(reconcile(&mut datapath, &isolated(pods)), [""; 0]);
            assert_eq!(carrying(mode), names(&["veth-1", "veth-2"]));
            let links = links(&pins.0, &["post-nat"]);
            assert_eq!(links.len(), if mode == Mode::Tcx { 2 } else { 0 }, "{links:?}");
            assert_eq!(reconcile(&mut datapath, &BTreeMap::new()), [""; 0]);
            assert_eq!(carrying(mode), names(&[]), "nobody is isolated any more");
        });
    }
}

#[test]
fn one_way_of_judging_takes_over_from_the_other() {
    if !features::netfilter() {
        return;
    }
    for mode in modes() {
        on_node(|pods| {
            let pins = Pins::new(&format!("ways-{mode:?}").to_lowercase());
            for (services, hooked, devices) in [
                (Services::Egress, 0, &["veth-1", "veth-2"][..]),
                (Services::Auto, 1, &[]),
                (Services::Egress, 0, &["veth-1", "veth-2"]),
                (Services::Together, 0, &[]),
            ] {
                let mut datapath = start(&pins.0, mode, services);
                assert_eq!(reconcile(&mut datapath, &isolated(pods)), [""; 0], "{services:?}");
                assert_eq!(carrying(mode), names(devices), "{services:?}");
                let priorities = by_hand::netfilter_priorities().map(|busy| busy.len());
                assert_eq!(priorities, [hooked; 2], "{services:?}");
            }
        });
    }
}

#[test]
fn uninstall_takes_it_off_every_device() {
    for mode in modes() {
        on_node(|pods| {
            let pins = Pins::new(&format!("uninstall-egress-{mode:?}").to_lowercase());
            ip(&["link", "add", "uplink", "type", "bridge"]);
            let mut datapath = start(&pins.0, mode, Services::Egress);
            assert_eq!(reconcile(&mut datapath, &isolated(pods)), [""; 0]);
            assert_eq!(carrying(mode).len(), 3);
            drop(datapath);
            remove(&pins.0).unwrap();
            assert_eq!(carrying(mode), names(&[]));
            assert!(!tc(&["qdisc", "show"]).contains("clsact"), "qdiscs too");
            assert!(!pins.0.exists());
        });
    }
}

#[test]
fn a_device_that_refuses_it_closes_services_and_is_named() {
    on_node(|pods| {
        let pins = Pins::new("egress-refused");
        let mut datapath = start(&pins.0, Mode::Clsact, Services::Egress);
        assert_eq!(reconcile(&mut datapath, &isolated(pods)), [""; 0]);
        assert!(is_left_to_it(&pins.0));
        // Without an egress hook, and with a filter that is not moved.
        ip(&["link", "add", "uplink", "type", "bridge"]);
        tc(&["qdisc", "add", "dev", "uplink", "ingress"]);
        by_hand::attach_filter(&mut programs_of_tests(), "uplink", 40_000);
        let [error] = &reconcile(&mut datapath, &isolated(pods))[..] else { panic!("one error") };
        for word in ["uplink", "ingress qdisc", "--services together"] {
            assert!(error.contains(word), "{word}: {error}");
        }
        assert!(!is_left_to_it(&pins.0), "what nobody judges does not pass");
        tc(&["qdisc", "del", "dev", "uplink", "ingress"]);
        assert_eq!(reconcile(&mut datapath, &isolated(pods)), [""; 0]);
        assert!(is_left_to_it(&pins.0));
    });
}

/// Whether packets to frontends pass on the veth, to be judged by their backends.
fn is_left_to_it(pins: &Path) -> bool {
    let here = std::fs::read_dir(pins).unwrap().map(|entry| entry.unwrap().path());
    let here = here.into_iter().find(|path| path.join("links").is_dir()).unwrap();
    let maps = Maps::open(&map_folder(&here)).unwrap();
    maps.state.get(&0, 0).unwrap().behind_nat != 0
}
