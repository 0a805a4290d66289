//! What else is on pods' veths: qdiscs and filters of CNI plugins, and other people's programs. Wherever a packet could get by ours, it is
//! said, and where it is known to, the agent is not ready.

use std::net::UdpSocket;
use std::time::Duration;

use aya::programs::TcAttachType;
use postern::control::Status;
use postern::datapath::Datapath;
use postern::datapath::attach::Mode;
use postern::datapath::object::{self, GUARD, Settings};
use postern::datapath::readback::Place;
use postern::datapath::wanted::Wanted;

use crate::agents::{Agent, WEB, dropped, route, sh};
use crate::features;
use crate::pins::{by_hand, links, programs_of_tests};
use crate::pod_netns::PodNetns;
use crate::removal::{Pins, on_node, programs};

/// Nothing may come to the pod, and it may send nothing.
const DENY: &str = "spec: { podSelector: {}, policyTypes: [Ingress, Egress] }\n";

fn agent(name: &str, mode: &str) -> Agent {
    Agent::start(name, &format!("{WEB}{DENY}"), &["--attach", mode])
}

/// Whether a datagram of one pod gets to the other one.
fn reaches(from: &PodNetns, to: &PodNetns, address: &str) -> bool {
    let socket = to.within(|| UdpSocket::bind((address, 9)).unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    from.within(|| {
        let sender = UdpSocket::bind("0.0.0.0:0").unwrap();
        (0..3).for_each(|_| drop(sender.send_to(b"hello", (address, 9))));
    });
    socket.recv(&mut [0; 16]).is_ok()
}

/// Whether a datagram gets out of `web`, and whether one gets in.
fn exchanged(pods: &[PodNetns]) -> [bool; 2] {
    [reaches(&pods[0], &pods[1], "10.9.2.2"), reaches(&pods[1], &pods[0], "10.9.1.2")]
}

/// What the CNI plugin `bandwidth` does for `kubernetes.io/egress-bandwidth`: an `ingress` qdisc, and on it a filter of the first priority
/// that sends everything round by a device that limits it.
fn limit_bandwidth() {
    sh("ip link add ifb-1 type ifb; ip link set ifb-1 up
        tc qdisc add dev ifb-1 root tbf rate 1gbit burst 100k latency 50ms
        tc qdisc add dev veth-1 ingress
        tc filter add dev veth-1 parent ffff: protocol all pref 1 u32 match u32 0 0 flowid 1:1 \
            action mirred egress redirect dev ifb-1");
}

/// Packets that went round.
fn went_round() -> String {
    sh("tc -s qdisc show dev ifb-1 | grep -o '[0-9]* pkt'")
}

#[test]
fn with_a_qdisc_that_limits_bandwidth_both_directions_are_enforced() {
    for mode in ["clsact", "tcx"] {
        on_node(|pods| {
            route(pods);
            limit_bandwidth();
            assert_eq!(exchanged(pods), [true, true], "before there is an agent");
            let agent = agent(&format!("bandwidth-{mode}"), mode);
            agent.wait_for(|status| status.ready);
            assert_eq!(exchanged(pods), [false, false], "{mode}: denied");
            let status = agent.wait_for(|_| true);
            assert!(status.ready, "{status:?}");
            for direction in ["ingress", "egress"] {
                assert!(
                    dropped(&status, direction, "denied-by-policy") > 0,
                    "{mode}: {direction} {status:?}"
                );
            }
            // What was there goes on, behind ours.
            let filters = sh("tc filter show dev veth-1 ingress");
            assert!(filters.contains("mirred (Egress Redirect to device ifb-1) stolen"), "{filters}");
            // Now and then, ARP and neighbour discovery do.
            let goes_round = |_| {
                let before = went_round();
                assert_eq!(exchanged(pods), [false, false], "{mode}: denied");
                went_round() != before
            };
            assert!(!(0..5).all(goes_round), "what is denied does not go round");
            let before = went_round();
            pods[0].within(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"node", "10.9.1.1:9").unwrap());
            assert_ne!(went_round(), before, "what is allowed does");
        });
    }
}

#[test]
fn a_qdisc_whose_filters_cannot_be_moved_is_named_and_the_agent_is_not_ready() {
    on_node(|pods| {
        route(pods);
        sh("tc qdisc add dev veth-1 ingress");
        // The kernel does not give a filter's program away to those who may not administer the system.
        by_hand::attach_filter(&mut programs_of_tests(), &pods[0].veth.interface, 40_000);
        let agent = agent("immovable", "clsact");
        let status = agent.wait_for(|status| status.synced && !status.errors.is_empty());
        assert!(!status.ready, "{status:?}");
        is_named(&status, &["veth-1", "ingress qdisc", "bpf", "40000", "tc qdisc del dev veth-1 ingress"]);
        assert!(
            sh("tc filter show dev veth-1 ingress").contains("pref 40000 bpf"),
            "nobody's filter is lost"
        );
        // What can be enforced is.
        assert!(!reaches(&pods[0], &pods[1], "10.9.2.2"));
        sh("tc qdisc del dev veth-1 ingress");
        agent.wait_for(|status| status.ready);
        assert_eq!(exchanged(pods), [false, false]);
    });
}

/// That one error holds all these words.
fn is_named(status: &Status, words: &[&str]) {
    let errors = &status.errors;
    assert!(
        errors.iter().any(|error| words.iter().all(|word| error.contains(word))),
        "{words:?}: {errors:?}"
    );
}

#[test]
fn a_filter_that_takes_packets_past_ours_is_named_and_the_agent_is_not_ready() {
    on_node(|pods| {
        by_hand::add_other_kind(&pods[0].veth, 7);
        let agent = agent("past", "clsact");
        let status = agent.wait_for(|status| status.synced && !status.errors.is_empty());
        assert!(!status.ready, "{status:?}");
        is_named(&status, &["veth-1", "ingress", "u32", "pref 7", "tc filter del dev veth-1 ingress pref 7"]);
        sh("tc filter del dev veth-1 ingress pref 7");
        agent.wait_for(|status| status.ready);
    });
}

#[test]
fn others_are_named_and_on_which_side_of_ours_they_stand() {
    on_node(|pods| {
        let interface = &pods[0].veth.interface;
        let mut programs = programs_of_tests();
        let before = object::program(&mut programs, GUARD).unwrap();
        let link = before.attach(interface, TcAttachType::Ingress).unwrap();
        let id = before.info().unwrap().id();
        sh("tc qdisc add dev veth-1 clsact
            tc filter add dev veth-1 egress protocol all pref 9 u32 match u32 0 0 action mirred egress mirror dev lo");
        let agent = agent("others", "tcx");
        let status = agent.wait_for(|status| status.ready && !status.foreign.is_empty());
        let [filter, program] = &status.foreign[..] else { panic!("{:?}", status.foreign) };
        assert_eq!((program.program, program.name.as_deref()), (Some(id), Some("postern_guard")));
        assert_eq!((program.hook.as_str(), program.runs), ("ingress", Place::Before));
        assert_eq!((filter.kind.as_deref(), filter.pref), (Some("u32"), Some(9)));
        assert_eq!((filter.hook.as_str(), filter.runs), ("egress", Place::After));
        for it in &status.foreign {
            assert_eq!((it.interface.as_str(), it.pod.as_deref()), ("veth-1", Some("shop/web")));
        }
        let printed = agent.printed();
        for line in [
            format!("program id {id} postern_guard  veth-1     ingress  shop/web  before Postern"),
            format!(
                "{:<width$}  veth-1     egress   shop/web  after Postern",
                "filter u32 pref 9",
                width = 25 + id.to_string().len()
            ),
        ] {
            assert!(printed.contains(&line), "{line}: {printed}");
        }
        object::program(&mut programs, GUARD).unwrap().detach(link).unwrap();
    });
}

#[test]
fn a_program_before_ours_is_named_and_may_be_what_somebody_wants() {
    on_node(|pods| {
        sh("tc qdisc add dev veth-1 clsact");
        by_hand::attach_filter(&mut programs_of_tests(), &pods[0].veth.interface, 7);
        let agent = agent("wanted", "clsact");
        let status = agent.wait_for(|status| status.ready && !status.foreign.is_empty());
        let [it] = &status.foreign[..] else { panic!("{:?}", status.foreign) };
        assert_eq!((it.pref, it.runs, it.kind.as_deref()), (Some(7), Place::Before, Some("bpf")));
        assert!(it.program.is_some());
        assert!(it.warning().unwrap().contains("filter bpf pref 7"));
    });
}

#[test]
fn what_was_taken_off_is_found_out_and_attached_again() {
    for mode in [Mode::Tcx, Mode::Clsact] {
        if mode == Mode::Tcx && !features::tcx() {
            continue;
        }
        on_node(|pods| {
            let pins = Pins::new("again");
            let veth = &pods[0].veth;
            let (mut datapath, _) = Datapath::start(&pins.0, mode, Settings::default()).unwrap();
            let wanted = [(veth.ifindex, Wanted::quarantine(veth.interface.clone()))].into();
            let taken_off: &[&dyn Fn()] = match mode {
                Mode::Tcx => &[&|| by_hand::detach(&links(&pins.0, &["ingress"])[0])],
                Mode::Clsact => &[
                    &|| by_hand::delete_filters(veth),
                    &|| drop(sh("tc qdisc del dev veth-1 clsact")),
                    &|| drop(sh("tc qdisc del dev veth-1 clsact; tc qdisc add dev veth-1 ingress")),
                ],
            };
            for take_off in taken_off {
                assert!(datapath.reconcile(&wanted, false).is_empty());
                assert_eq!(datapath.read_back(), <[String; 0]>::default());
                take_off();
                let problems = datapath.read_back();
                assert!(
                    !problems.is_empty() && problems.iter().all(|it| it.contains("veth-1")),
                    "{problems:?}"
                );
            }
            assert!(datapath.reconcile(&wanted, false).is_empty());
            assert_eq!(datapath.read_back(), <[String; 0]>::default());
            assert_eq!(programs(&pods[..1]), 2);
            // One that is gone lacks nothing.
            sh("ip link del veth-1");
            assert_eq!(datapath.read_back(), <[String; 0]>::default());
        });
    }
}
