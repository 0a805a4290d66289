//! Netfilter's links when an agent is killed in the middle of their swap: the next one ends with its own, and none else.

use std::path::{Path, PathBuf};

use postern::datapath::Datapath;
use postern::datapath::attach::Mode;
use postern::datapath::behind_nat::{self, BehindNat};
use postern::datapath::object::Settings;
use postern::datapath::services::Services;
use postern::datapath::wanted::Wanted;

use crate::features;
use crate::pins::by_hand;
use crate::pins::{links, programs_of_tests};
use crate::pod_netns::PodNetns;
use crate::removal::{Pins, on_node};

const FAMILIES: [i32; 2] = [2, 10];

/// An agent takes over.
fn agent(pins: &Path) -> Result<(), String> {
    behind_nat::probe().unwrap();
    let links = pins.join("links");
    std::fs::create_dir_all(&links).unwrap();
    let mut behind_nat = BehindNat::new(&programs_of_tests(), &links).unwrap();
    behind_nat.attach().map_err(|error| error.to_string())?;
    behind_nat.detach_earlier().map_err(|error| error.to_string())
}

fn pinned(pins: &Path) -> Vec<PathBuf> {
    let mut pinned = links(pins, &["behind-nat"]);
    pinned.sort();
    pinned
}

/// An agent's links are called, and pinned, and nobody else's.
fn is_exact(pins: &Path, state: &str) {
    assert_eq!(agent(pins), Ok(()), "{state}");
    let [busy, busy6] = by_hand::netfilter_priorities();
    assert!(busy.len() == 1 && busy == busy6, "{state}: {busy:?} {busy6:?}");
    let expected = FAMILIES.map(|family| pin(pins, family, busy[0]));
    assert_eq!(pinned(pins).len(), 2, "{state}");
    assert!(expected.iter().all(|pin| pin.exists()), "{state}");
    assert!(BehindNat::is_judged(&pins.join("links")), "{state}");
}

fn pin(pins: &Path, family: i32, priority: i32) -> PathBuf {
    pins.join("links").join(format!("behind-nat-{family}-{priority}"))
}

/// Links of both families as an agent pins them, of a priority.
fn pin_both(pins: &Path, priority: i32) {
    for (links, family) in by_hand::occupy(priority..priority + 1).into_iter().zip(FAMILIES) {
        by_hand::pin(&links[&priority], &pin(pins, family, priority));
    }
}

fn unpin(pin: &Path) {
    by_hand::detach(pin);
    std::fs::remove_file(pin).unwrap();
}

#[test]
fn wherever_a_swap_is_broken_off_the_next_agent_ends_with_its_own_links() {
    if !features::netfilter() {
        return;
    }
    // What a killed agent has done: pinned its own, of one family or both; detached the earlier's, of one or both, with or without
    // the pin. What it had not pinned went with it.
    let states: [(&str, [[bool; 2]; 3]); 7] = [
        ("nothing pinned", [[false, false], [false, false], [false, false]]),
        ("one pinned", [[true, false], [false, false], [false, false]]),
        ("both pinned", [[true, true], [false, false], [false, false]]),
        ("one detached", [[true, true], [true, false], [false, false]]),
        ("one taken off", [[true, true], [true, false], [true, false]]),
        ("the other detached", [[true, true], [true, true], [true, false]]),
        ("all taken off", [[true, true], [true, true], [true, true]]),
    ];
    on_node(|_| {
        let pins = Pins::new("swap");
        is_exact(&pins.0, "the first");
        for (state, [own, detached, unpinned]) in states {
            let earlier = by_hand::netfilter_priorities()[0][0];
            let later = if earlier == 90 { 91 } else { 90 };
            pin_both(&pins.0, later);
            for (number, family) in FAMILIES.into_iter().enumerate() {
                if !own[number] {
                    unpin(&pin(&pins.0, family, later));
                }
                if detached[number] {
                    by_hand::detach(&pin(&pins.0, family, earlier));
                }
                if unpinned[number] {
                    std::fs::remove_file(pin(&pins.0, family, earlier)).unwrap();
                }
            }
            assert!(BehindNat::is_judged(&pins.0.join("links")), "{state}: never nobody");
            is_exact(&pins.0, state);
        }
    });
}

#[test]
fn a_swap_that_is_broken_off_again_and_again_fills_nothing_up() {
    if !features::netfilter() {
        return;
    }
    on_node(|_| {
        let pins = Pins::new("swaps");
        is_exact(&pins.0, "the first");
        // One family's alone is what a killed agent may leave each time.
        let busy = by_hand::netfilter_priorities()[0][0];
        (90..100).filter(|priority| *priority != busy).for_each(|priority| {
            pin_both(&pins.0, priority);
            unpin(&pin(&pins.0, FAMILIES[usize::from(priority % 2 == 0)], priority));
        });
        is_exact(&pins.0, "after nine");
    });
}

#[test]
fn a_dead_or_foreign_pin_of_netfilter_gives_way() {
    if !features::netfilter() {
        return;
    }
    on_node(|pods| {
        let pins = Pins::new("dead");
        is_exact(&pins.0, "the first");
        for family in 0..2 {
            by_hand::detach(&pinned(&pins.0)[family]);
            assert!(!BehindNat::is_judged(&pins.0.join("links")));
            is_exact(&pins.0, "detached by hand");
        }
        // A pin of the name that the next one takes, which is a veth's link.
        let [veth, _] = &pins_of(&pins.0, pods)[..] else { panic!("two links of a veth") };
        std::fs::rename(veth, pin(&pins.0, 2, 91)).unwrap();
        is_exact(&pins.0, "another link under its name");
    });
}

/// A veth's links.
fn pins_of(pins: &Path, pods: &[PodNetns]) -> Vec<PathBuf> {
    crate::pins::agent(pins, Mode::Tcx, &pods[..1]);
    links(pins, &["gress"])
}

#[test]
fn priorities_that_others_have_are_left_to_them() {
    if !features::netfilter() {
        return;
    }
    on_node(|_| {
        let pins = Pins::new("busy");
        let others = by_hand::occupy(90..92);
        assert_eq!(agent(&pins.0), Ok(()));
        drop(others);
        is_exact(&pins.0, "others are gone");
        // Where there is none left, it is said, and nothing is quietly judged otherwise.
        let _others = by_hand::occupy(80..100);
        let other_pins = Pins::new("none-left");
        let error = agent(&other_pins.0).unwrap_err();
        for word in ["BPF_LINK_CREATE", "POST_ROUTING of IPv4", "os error 16"] {
            assert!(error.contains(word), "{word}: {error}");
        }
    });
}

#[test]
fn an_agent_that_cannot_hook_in_says_so_and_one_for_together_takes_off_what_was() {
    if !features::netfilter() {
        return;
    }
    on_node(|pods| {
        let pins = Pins::new("together");
        let start = |services| {
            Datapath::start(&pins.0, Mode::Tcx, Settings { services, ..Settings::default() }).unwrap().0
        };
        let pod = &pods[0].veth;
        let wanted = [(pod.ifindex, Wanted::quarantine(pod.interface.clone()))].into();
        let errors = |datapath: &mut Datapath| -> Vec<String> {
            datapath.reconcile(&wanted, false).iter().map(ToString::to_string).collect()
        };
        let mut datapath = start(Services::Auto);
        assert!(datapath.judges_backends());
        let others = by_hand::occupy(80..100);
        let [error] = &errors(&mut datapath)[..] else { panic!("one error") };
        assert!(error.contains("POST_ROUTING") && error.contains("--services together"), "{error}");
        drop(others);
        assert_eq!(errors(&mut datapath), <[String; 0]>::default(), "it is tried again");
        drop(datapath);
        // Until it is said that nobody judges there, what judges there stays.
        let mut datapath = start(Services::Together);
        assert_eq!(by_hand::netfilter_priorities().map(|busy| busy.len()), [1, 1]);
        assert_eq!(errors(&mut datapath), <[String; 0]>::default());
        assert_eq!(by_hand::netfilter_priorities().map(|busy| busy.len()), [0, 0]);
        assert_eq!(pinned(&pins.0), <[PathBuf; 0]>::default());
    });
}
