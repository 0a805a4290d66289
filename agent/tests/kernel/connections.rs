//! Flows: replies pass, unsolicited packets do not, and policy changes reach what is established.

use std::time::{Duration, Instant};

use postern::datapath::object::{Settings, tick};
use postern_common::conntrack::{Lifetimes, SECOND, state};
use postern_common::reason::Reason;

use crate::frames::{echo, sctp, tcp, udp};
use crate::rig::{Answer, Rig};

const WORLD: &str = r"
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db, labels: {app: db}}
spec: {nodeName: node-b, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.0.9}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: deny}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress: [{ports: [{port: 80}, {port: 80, protocol: UDP}]}]
  egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]
";

const WEB: (&str, u16) = ("10.0.0.1", 80);
const CLIENT: (&str, u16) = ("10.0.0.2", 40000);
const DB: (&str, u16) = ("10.0.0.9", 5432);
const WEB_TO_DB: (&str, u16) = ("10.0.0.1", 33000);

#[test]
fn replies_pass_in_both_directions() {
    let mut rig = Rig::new("shop/web", WORLD);
    assert_eq!(rig.gets(&tcp(CLIENT, WEB, "S")), Answer(Reason::AllowedByPolicy));
    assert_eq!(rig.sends(&tcp(WEB, CLIENT, "SA")), Answer(Reason::Established));
    assert_eq!(rig.gets(&tcp(CLIENT, WEB, "A")), Answer(Reason::Established));
    assert_eq!(rig.sends(&tcp(WEB, CLIENT, "FA")), Answer(Reason::Established));
    assert_eq!(rig.sends(&tcp(WEB_TO_DB, DB, "S")), Answer(Reason::AllowedByPolicy));
    assert_eq!(rig.gets(&tcp(DB, WEB_TO_DB, "SA")), Answer(Reason::Established));
    assert_eq!(rig.sends(&sctp(WEB_TO_DB, DB)), Answer(Reason::AllowedByPolicy));
    assert_eq!(rig.gets(&sctp(DB, WEB_TO_DB)), Answer(Reason::Established));
    assert_eq!(rig.gets(&udp(CLIENT, WEB)), Answer(Reason::AllowedByPolicy));
    assert_eq!(rig.sends(&udp(WEB, CLIENT)), Answer(Reason::Established));
    assert_eq!(rig.sends(&echo("10.0.0.1", "10.0.0.9", 77, false)), Answer(Reason::AllowedByPolicy));
    assert_eq!(rig.gets(&echo("10.0.0.9", "10.0.0.1", 77, true)), Answer(Reason::Established));
}

#[test]
fn what_is_no_reply_is_judged_as_new() {
    let mut rig = Rig::new("shop/web", WORLD);
    assert_eq!(rig.gets(&tcp(DB, WEB_TO_DB, "SA")), Answer(Reason::DeniedByPolicy), "forged SYN-ACK");
    assert_eq!(rig.gets(&tcp(DB, WEB_TO_DB, "A")), Answer(Reason::DeniedByPolicy), "ACK scan");
    assert_eq!(rig.gets(&udp(("10.0.0.9", 53), ("10.0.0.1", 5353))), Answer(Reason::DeniedByPolicy));
    assert_eq!(rig.gets(&echo("10.0.0.9", "10.0.0.1", 78, true)), Answer(Reason::DeniedByPolicy));
    assert_eq!(rig.sends(&echo("10.0.0.1", "10.0.0.9", 79, false)), Answer(Reason::AllowedByPolicy));
    let request = echo("10.0.0.9", "10.0.0.1", 79, false);
    assert_eq!(rig.gets(&request), Answer(Reason::DeniedByPolicy), "a request with the identifier of ours");
    assert_eq!(rig.gets(&echo("10.0.0.9", "10.0.0.1", 79, true)), Answer(Reason::Established));
    assert_eq!(rig.gets(&tcp(CLIENT, WEB, "S")), Answer(Reason::AllowedByPolicy));
    assert_eq!(
        rig.sends(&tcp(("10.0.0.1", 81), CLIENT, "SA")),
        Answer(Reason::DeniedByPolicy),
        "another port"
    );
    assert_eq!(rig.sends(&tcp(WEB, CLIENT, "SA")), Answer(Reason::Established));
    assert_eq!(
        rig.sends(&tcp(WEB, CLIENT, "S")),
        Answer(Reason::DeniedByPolicy),
        "a SYN of the pod's own from the port it was reached on"
    );
}

#[test]
fn a_policy_change_reaches_established_flows() {
    let mut rig = Rig::new("shop/web", WORLD);
    assert_eq!(rig.gets(&tcp(CLIENT, WEB, "S")), Answer(Reason::AllowedByPolicy));
    assert_eq!(rig.sends(&tcp(WEB_TO_DB, DB, "S")), Answer(Reason::AllowedByPolicy));
    rig.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress: [{ports: [{port: 80}]}]
",
    );
    assert_eq!(
        rig.sends(&tcp(WEB, CLIENT, "SA")),
        Answer(Reason::Established),
        "still allowed, seen from the reply"
    );
    assert_eq!(rig.gets(&tcp(DB, WEB_TO_DB, "A")), Answer(Reason::DeniedByPolicy), "not allowed any more");
    assert_eq!(rig.sends(&tcp(WEB_TO_DB, DB, "A")), Answer(Reason::DeniedByPolicy));
    rig.delete_policy("shop/web");
    assert_eq!(rig.gets(&tcp(CLIENT, WEB, "A")), Answer(Reason::DeniedByPolicy));
}

#[test]
fn established_flows_are_kept_when_told_so() {
    let mut rig = Rig::keeping("shop/web", WORLD);
    assert_eq!(rig.gets(&tcp(CLIENT, WEB, "S")), Answer(Reason::AllowedByPolicy));
    rig.delete_policy("shop/web");
    assert_eq!(rig.gets(&tcp(CLIENT, WEB, "A")), Answer(Reason::Established));
    assert_eq!(rig.sends(&tcp(WEB, CLIENT, "A")), Answer(Reason::Established));
    assert_eq!(rig.gets(&tcp(("10.0.0.2", 40001), WEB, "S")), Answer(Reason::DeniedByPolicy), "a new one");
}

/// A pod that may send anything, and be reached on TCP and UDP 80; then on nothing.
const OPEN_SENDER: &str = r"
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{ports: [{port: 80}, {port: 80, protocol: UDP}]}]
";

#[test]
fn what_policy_ended_is_not_reopened_by_the_other_side() {
    let ended =
        OPEN_SENDER.replace("ingress: [{ports: [{port: 80}, {port: 80, protocol: UDP}]}]", "ingress: []");
    let mut rig = Rig::new("shop/web", OPEN_SENDER);
    // Established over TCP, half-open over UDP.
    assert_eq!(rig.gets(&tcp(CLIENT, WEB, "S")), Answer(Reason::AllowedByPolicy));
    assert_eq!(rig.sends(&tcp(WEB, CLIENT, "SA")), Answer(Reason::Established));
    assert_eq!(rig.gets(&tcp(CLIENT, WEB, "A")), Answer(Reason::Established));
    assert_eq!(rig.gets(&udp(CLIENT, WEB)), Answer(Reason::AllowedByPolicy));
    rig.apply(&ended);
    for _ in 0..3 {
        assert_eq!(rig.sends(&tcp(WEB, CLIENT, "A")), Answer(Reason::NotIsolated), "may send");
        assert_eq!(rig.gets(&tcp(CLIENT, WEB, "A")), Answer(Reason::DeniedByPolicy), "gets nothing for it");
        assert_eq!(rig.sends(&udp(WEB, CLIENT)), Answer(Reason::NotIsolated));
        assert_eq!(rig.gets(&udp(CLIENT, WEB)), Answer(Reason::DeniedByPolicy));
    }
    // A connection of its own with the same ports.
    assert_eq!(rig.sends(&tcp(WEB, CLIENT, "S")), Answer(Reason::NotIsolated));
    assert_eq!(rig.gets(&tcp(CLIENT, WEB, "SA")), Answer(Reason::Established));
    assert_eq!(rig.sends(&tcp(WEB, CLIENT, "A")), Answer(Reason::Established));
    // What policy allows again goes on.
    rig.apply(OPEN_SENDER);
    assert_eq!(rig.gets(&udp(CLIENT, WEB)), Answer(Reason::AllowedByPolicy));
    assert_eq!(rig.sends(&udp(WEB, CLIENT)), Answer(Reason::Established));
}

/// Established flows as the programs wrote them.
fn states(rig: &Rig) -> Vec<u8> {
    rig.maps.flows4.iter().map(|flow| flow.unwrap().1.state).collect()
}

#[test]
fn tcp_goes_from_half_open_to_established_to_closing() {
    let mut rig = Rig::new("shop/web", WORLD);
    let (to_web, to_client) = (|flags| tcp(CLIENT, WEB, flags), |flags| tcp(WEB, CLIENT, flags));
    let half_open = |rig: &Rig| {
        let rows = rig.maps.half_open.iter().map(|row| row.unwrap().1);
        rows.flat_map(|row| row.flows).filter(|flow| flow.expires != 0).count()
    };
    rig.gets(&to_web("S"));
    rig.sends(&to_client("SA"));
    rig.sends(&to_client("SA"));
    assert_eq!((states(&rig), half_open(&rig)), (vec![], 1), "a SYN-ACK again establishes nothing");
    rig.gets(&to_web("A"));
    assert_eq!((states(&rig), half_open(&rig)), (vec![state::ESTABLISHED], 0));
    rig.gets(&to_web("FA"));
    assert_eq!(states(&rig), [state::ESTABLISHED], "half-closed: the other side may send for hours");
    rig.gets(&to_web("FA"));
    assert_eq!(states(&rig), [state::ESTABLISHED], "the same side again");
    rig.sends(&to_client("FA"));
    assert_eq!(states(&rig), [state::CLOSING]);
    assert_eq!(rig.gets(&to_web("A")), Answer(Reason::Established), "the last word");
    assert_eq!(rig.gets(&to_web("S")), Answer(Reason::AllowedByPolicy), "the same ports, right after");
    assert_eq!((states(&rig), half_open(&rig)), (vec![], 1), "a connection of its own");
    rig.sends(&to_client("SA"));
    rig.gets(&to_web("A"));
    assert_eq!((states(&rig), half_open(&rig)), (vec![state::ESTABLISHED], 0));
    rig.sends(&to_client("R"));
    assert_eq!(states(&rig), [state::CLOSING]);
}

#[test]
fn others_are_established_by_a_third_packet() {
    let mut rig = Rig::new("shop/web", WORLD);
    rig.gets(&udp(CLIENT, WEB));
    rig.gets(&udp(CLIENT, WEB));
    rig.sends(&udp(WEB, CLIENT));
    assert!(states(&rig).is_empty(), "asked and answered");
    rig.sends(&udp(WEB, CLIENT));
    assert_eq!(states(&rig), [state::ESTABLISHED]);
    assert_eq!(rig.gets(&udp(CLIENT, WEB)), Answer(Reason::Established));
}

#[test]
fn a_stream_that_nobody_answers_is_established_by_its_eighth_packet() {
    let mut rig = Rig::new("shop/web", WORLD);
    for _ in 0..7 {
        assert_eq!(rig.gets(&udp(CLIENT, WEB)), Answer(Reason::AllowedByPolicy));
    }
    assert!(states(&rig).is_empty());
    assert_eq!(rig.gets(&udp(CLIENT, WEB)), Answer(Reason::AllowedByPolicy));
    assert_eq!(states(&rig), [state::ESTABLISHED]);
    assert_eq!(rig.gets(&udp(CLIENT, WEB)), Answer(Reason::Established));
    for _ in 0..20 {
        rig.gets(&tcp(CLIENT, WEB, "S"));
        rig.gets(&tcp(CLIENT, WEB, "A"));
    }
    assert_eq!(states(&rig), [state::ESTABLISHED], "no number of TCP segments does");
}

#[test]
fn a_reset_opens_nothing() {
    let mut rig = Rig::new("shop/web", WORLD);
    for flags in ["R", "RA", "SR"] {
        assert_eq!(rig.gets(&tcp(CLIENT, WEB, flags)), Answer(Reason::AllowedByPolicy), "{flags}");
        assert_eq!(rig.sends(&tcp(WEB, CLIENT, "A")), Answer(Reason::DeniedByPolicy), "after {flags}");
    }
}

#[test]
fn flows_end_when_their_time_is_up() {
    // Each state has a time of its own: half a second here, an hour for the others.
    let (short, long) = (Duration::from_millis(500), 3600 * SECOND);
    let short_ns = u64::try_from(short.as_nanos()).unwrap();
    let all_long = Lifetimes {
        tcp_opening: long,
        tcp_established: long,
        tcp_closing: long,
        opening: long,
        established: long,
    };
    let tcp_steps: [&[u8]; 5] = [
        &tcp(CLIENT, WEB, "S"),
        &tcp(WEB, CLIENT, "SA"),
        &tcp(CLIENT, WEB, "A"),
        &tcp(CLIENT, WEB, "FA"),
        &tcp(WEB, CLIENT, "FA"),
    ];
    let udp_steps: [&[u8]; 3] = [&udp(CLIENT, WEB), &udp(WEB, CLIENT), &udp(WEB, CLIENT)];
    let (tcp_reply, udp_reply) = (tcp(WEB, CLIENT, "A"), udp(WEB, CLIENT));
    let table = [
        ("tcp-opening", Lifetimes { tcp_opening: short_ns, ..all_long }, &tcp_steps[..1], &tcp_reply),
        ("tcp-established", Lifetimes { tcp_established: short_ns, ..all_long }, &tcp_steps[..3], &tcp_reply),
        ("tcp-closing", Lifetimes { tcp_closing: short_ns, ..all_long }, &tcp_steps[..], &tcp_reply),
        ("opening", Lifetimes { opening: short_ns, ..all_long }, &udp_steps[..1], &udp_reply),
        ("established", Lifetimes { established: short_ns, ..all_long }, &udp_steps[..], &udp_reply),
    ];
    for (state, lifetimes, steps, reply) in table {
        for (lifetimes, expected) in [(lifetimes, Reason::DeniedByPolicy), (all_long, Reason::Established)] {
            let mut rig =
                Rig::with_settings("shop/web", WORLD, Settings { lifetimes, ..Settings::default() });
            for frame in steps {
                // The pod's own frames are those from its address.
                let answer = if frame[26..30] == [10, 0, 0, 1] { rig.sends(frame) } else { rig.gets(frame) };
                assert!(!answer.0.drops(), "{state}: {answer:?}");
            }
            std::thread::sleep(short + Duration::from_millis(100));
            assert_eq!(rig.sends(reply), Answer(expected), "{state}");
        }
    }
}

#[test]
fn the_clock_of_flows_goes_as_fast_as_any() {
    let mut rig = Rig::new("shop/web", WORLD);
    let mut begun = |port| {
        let before = Instant::now();
        assert_eq!(rig.gets(&udp((CLIENT.0, port), WEB)), Answer(Reason::AllowedByPolicy));
        let after = Instant::now();
        let rows = rig.maps.half_open.iter().map(|row| row.unwrap().1);
        let flows = rows.flat_map(|row| row.flows.into_iter().zip(row.identities));
        let expires = flows.filter(|(_, identity)| identity.peer_port == port).map(|(flow, _)| flow.expires);
        (before, after, expires.max().unwrap())
    };
    let (before, after, first) = begun(1001);
    std::thread::sleep(Duration::from_secs(1));
    let (before_next, after_next, next) = begun(1002);
    let passed = Duration::from_nanos(next - first);
    // Of a tick, either may have seen the beginning or the end.
    let tick = Duration::from_nanos(tick());
    assert!(passed + tick >= before_next - after, "{passed:?} of {:?}", before_next - after);
    assert!(passed <= after_next - before + tick, "{passed:?} of {:?}", after_next - before);
}
