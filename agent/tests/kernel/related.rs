//! ICMP errors: those about an allowed flow pass, whoever sent them; forged ones do not.

use postern_common::reason::Reason;

use crate::frames::{self, End};
use crate::rig::{Answer, Rig};

const WORLD: &str = web!(
    r"
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress: [{ports: [{port: 80}]}]
  egress: [{ports: [{port: 443}, {port: 53, protocol: UDP}]}]
"
);

const WEB: End = ("10.0.0.1", 33000);
const SERVER: End = ("10.9.9.9", 443);
const ROUTER: &str = "10.7.7.7";
const WEB6: End = ("fd00::1", 33000);
const SERVER6: End = ("fd99::9", 443);
const ROUTER6: &str = "fd77::7";

fn rig() -> Rig {
    Rig::new("shop/web", WORLD)
}

/// Destination unreachable, fragmentation needed; time exceeded; parameter problem (RFC 792).
const ERRORS4: [(u8, u8); 4] = [(3, 1), (3, 4), (11, 0), (12, 0)];
/// Unreachable, packet too big, time exceeded, parameter problem (RFC 4443).
const ERRORS6: [(u8, u8); 4] = [(1, 0), (2, 0), (3, 0), (4, 0)];

#[test]
fn errors_about_what_the_pod_sent_pass() {
    for (kind, code) in ERRORS4 {
        let (mut rig, sent) = (rig(), frames::tcp(WEB, SERVER, "S"));
        let error = frames::icmp_error(ROUTER, WEB.0, kind, code, &sent);
        assert_eq!(
            rig.gets(&error),
            Answer(Reason::DeniedByPolicy),
            "{kind}/{code} before anything was sent"
        );
        assert_eq!(rig.sends(&sent), Answer(Reason::AllowedByPolicy));
        assert_eq!(rig.gets(&error), Answer(Reason::Related), "{kind}/{code}");
    }
    for (kind, code) in ERRORS6 {
        let (mut rig, sent) = (rig(), frames::tcp(WEB6, SERVER6, "S"));
        let error = frames::icmp_error(ROUTER6, WEB6.0, kind, code, &sent);
        assert_eq!(
            rig.gets(&error),
            Answer(Reason::DeniedByPolicy),
            "{kind}/{code} before anything was sent"
        );
        assert_eq!(rig.sends(&sent), Answer(Reason::AllowedByPolicy));
        assert_eq!(rig.gets(&error), Answer(Reason::Related), "{kind}/{code}");
    }
}

#[test]
fn errors_of_the_pod_about_what_it_got_pass() {
    let (client, web) = (("10.0.0.2", 40000), ("10.0.0.1", 80));
    let (mut rig, got) = (rig(), frames::tcp(client, web, "S"));
    assert_eq!(rig.gets(&got), Answer(Reason::AllowedByPolicy));
    assert_eq!(rig.sends(&frames::icmp_error(web.0, client.0, 3, 3, &got)), Answer(Reason::Related));
    let other = frames::tcp(("10.0.0.2", 40001), web, "S");
    assert_eq!(rig.sends(&frames::icmp_error(web.0, client.0, 3, 3, &other)), Answer(Reason::DeniedByPolicy));
}

#[test]
fn forged_errors_are_dropped() {
    let mut rig = rig();
    let sent = frames::tcp(WEB, SERVER, "S");
    assert_eq!(rig.sends(&sent), Answer(Reason::AllowedByPolicy));
    let table: &[(&str, Vec<u8>)] = &[
        ("another port", frames::tcp((WEB.0, 33001), SERVER, "S")),
        ("another server", frames::tcp(WEB, ("10.9.9.8", 443), "S")),
        ("another protocol", frames::udp(WEB, SERVER)),
        ("a packet the pod did not send but get", frames::tcp(SERVER, WEB, "SA")),
        ("a packet of somebody else", frames::tcp(("10.0.0.3", WEB.1), SERVER, "S")),
        ("a later fragment", frames::fragment(WEB, SERVER, 7, 1480, false)),
    ];
    for (what, quoted) in table {
        let error = frames::icmp_error(ROUTER, WEB.0, 3, 4, quoted);
        assert_eq!(rig.gets(&error), Answer(Reason::DeniedByPolicy), "{what}");
    }
    let error = frames::icmp_error(ROUTER, WEB.0, 3, 4, &sent);
    for cut in [14 + 20 + 8, 14 + 20 + 8 + 12, 14 + 20 + 8 + 20, 14 + 20 + 8 + 27] {
        let cut_short = frames::with_length(error[..cut].to_vec());
        assert_eq!(rig.gets(&cut_short), Answer(Reason::DeniedByPolicy), "quotes {cut} bytes");
    }
    let just_enough = frames::with_length(error[..14 + 20 + 8 + 28].to_vec());
    assert_eq!(rig.gets(&just_enough), Answer(Reason::Related), "quotes just enough");
    assert_eq!(
        rig.gets(&frames::icmp_error(ROUTER, WEB.0, 5, 0, &sent)),
        Answer(Reason::DeniedByPolicy),
        "redirect"
    );
}

#[test]
fn what_is_quoted_is_in_the_packet() {
    let mut rig = rig();
    let sent = frames::tcp(WEB6, SERVER6, "S");
    assert_eq!(rig.sends(&sent), Answer(Reason::AllowedByPolicy));
    let error = |kind| frames::icmp_error(ROUTER6, WEB6.0, kind, 0, &sent);
    for kind in [0, 5, 127] {
        assert_eq!(rig.gets(&error(kind)), Answer(Reason::DeniedByPolicy), "no type of RFC 4443: {kind}");
    }
    let mut padding = error(2);
    padding[14 + 5] = 8 + 40 + 7;
    assert_eq!(rig.gets(&padding), Answer(Reason::DeniedByPolicy), "the ports are padding");

    let quoting = |first, chain: &[u8]| {
        frames::icmp_error(ROUTER6, WEB6.0, 2, 0, &frames::extended(&sent, first, chain))
    };
    let (options, fragment) = ([6, 0, 1, 4, 0, 0, 0, 0], [6, 0, 0, 1, 0, 0, 0, 7]);
    assert_eq!(rig.gets(&quoting(60, &options)), Answer(Reason::Related));
    assert_eq!(rig.gets(&quoting(44, &fragment)), Answer(Reason::Related), "a first fragment");
    let mut later = fragment;
    later[3] = 8;
    assert_eq!(rig.gets(&quoting(44, &later)), Answer(Reason::DeniedByPolicy), "a later one");
}

#[test]
fn an_error_in_fragments_gives_no_leave_to_what_it_quotes() {
    let mut rig = rig();
    let sent = frames::udp(WEB, ("10.9.9.9", 53));
    assert_eq!(rig.sends(&sent), Answer(Reason::AllowedByPolicy));
    let mut error = frames::icmp_error(ROUTER, WEB.0, 3, 4, &sent);
    error[14 + 4..14 + 8].copy_from_slice(&[0, 7, 0x20, 0]);
    assert_eq!(rig.gets(&error), Answer(Reason::DeniedByPolicy));
    let later = frames::fragment(("10.9.9.9", 53), WEB, 7, 1480, false);
    assert_eq!(rig.gets(&later), Answer(Reason::OrphanFragment));
}

#[test]
fn errors_about_a_flow_that_is_not_allowed_any_more_are_dropped() {
    let mut rig = rig();
    let sent = frames::tcp(WEB, SERVER, "S");
    let error = frames::icmp_error(ROUTER, WEB.0, 3, 4, &sent);
    assert_eq!(rig.sends(&sent), Answer(Reason::AllowedByPolicy));
    rig.apply(&WORLD.replace("443", "444"));
    assert_eq!(rig.gets(&error), Answer(Reason::DeniedByPolicy));
}

#[test]
fn a_rule_without_ports_allows_any_error() {
    let mut rig = rig();
    rig.apply(
        &WORLD.replace(
            "ingress: [{ports: [{port: 80}]}]",
            "ingress: [{from: [{ipBlock: {cidr: 10.7.0.0/16}}]}]",
        ),
    );
    let error = frames::icmp_error(ROUTER, WEB.0, 3, 4, &frames::tcp(WEB, SERVER, "S"));
    assert_eq!(rig.gets(&error), Answer(Reason::AllowedByPolicy));
}
