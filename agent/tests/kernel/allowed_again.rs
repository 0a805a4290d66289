//! What policy allows now passes now, whatever was denied before with the same addresses and ports; what it denies now does not,
//! whatever was allowed before.

use postern_common::reason::Reason::{
    self, AllowedByPolicy, DeniedByPolicy, Established, NotIsolated, Related, Spoofed,
};
use postern_policy::model::Direction::{self, Egress, Ingress};

use crate::frames::{echo, fragment, icmp_error, sctp, tcp, udp};
use crate::rig::{Answer, Rig};

/// A server that its friends may reach, and that may reach its friends; both by the labels of pods and of namespaces.
const WORLD: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}, {namespaceSelector: {matchLabels: {zone: red}}}]}]
  egress: [{to: [{podSelector: {matchLabels: {app: friend}}}, {namespaceSelector: {matchLabels: {zone: red}}}]}]
"#;

/// The peers, as they are allowed.
const PEERS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: team, labels: {zone: red}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: team, name: guest, labels: {app: guest}}
spec: {nodeName: node-b, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.0.3}, {ip: "fd00::3"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: peer, labels: {app: friend}}
spec: {nodeName: node-b, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}
"#;

const POD: [&str; 2] = ["10.0.0.1", "fd00::1"];
const FRIEND: [&str; 2] = ["10.0.0.2", "fd00::2"];
const GUEST: [&str; 2] = ["10.0.0.3", "fd00::3"];

/// How a peer loses what policy allows it. What is applied to give it back is always the same.
#[derive(Clone, Copy, Debug)]
enum Away {
    PodRelabelled,
    NamespaceRelabelled,
    PodGone,
}

impl Away {
    fn peer(self) -> [&'static str; 2] {
        match self {
            Self::PodRelabelled | Self::PodGone => FRIEND,
            Self::NamespaceRelabelled => GUEST,
        }
    }

    fn happens(self, rig: &mut Rig) {
        match self {
            Self::PodRelabelled => rig.apply(&PEERS.replace("app: friend", "app: stranger")),
            Self::NamespaceRelabelled => rig.apply(&PEERS.replace("zone: red", "zone: blue")),
            Self::PodGone => rig.delete_pod("shop/peer"),
        }
    }
}

/// What two ends have to say to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Talk {
    Tcp,
    Udp,
    Sctp,
    Echo,
}

/// A conversation of the pod with a peer, started in a direction.
#[derive(Clone, Copy, Debug)]
struct Conversation {
    talk: Talk,
    started: Direction,
    pod: &'static str,
    peer: &'static str,
    /// The client's port, or the echo's identifier.
    port: u16,
}

impl Conversation {
    /// All kinds with a peer.
    fn all(peer: [&'static str; 2], port: u16) -> Vec<Self> {
        let mut all = Vec::new();
        for (pod, peer) in POD.into_iter().zip(peer) {
            for started in [Ingress, Egress] {
                for talk in [Talk::Tcp, Talk::Udp, Talk::Sctp, Talk::Echo] {
                    all.push(Self { talk, started, pod, peer, port });
                }
            }
        }
        all
    }

    /// A packet, one of the side that asks or of the one that answers; of TCP with these flags.
    fn packet(&self, asks: bool, flags: &str) -> Vec<u8> {
        let (client, server) =
            if self.started == Ingress { (self.peer, self.pod) } else { (self.pod, self.peer) };
        let (client, server) = ((client, self.port), (server, 7000));
        let (source, destination) = if asks { (client, server) } else { (server, client) };
        match self.talk {
            Talk::Tcp => tcp(source, destination, flags),
            Talk::Udp => udp(source, destination),
            Talk::Sctp => sctp(source, destination),
            Talk::Echo => {
                // It stands for both ports: either direction needs one of its own.
                let identifier = self.port + u16::from(self.started == Egress) * 10_000;
                echo(source.0, destination.0, identifier, !asks)
            }
        }
    }

    fn show(&self, rig: &mut Rig, asks: bool, flags: &str) -> Reason {
        let frame = self.packet(asks, flags);
        let Answer(reason) =
            if asks == (self.started == Ingress) { rig.gets(&frame) } else { rig.sends(&frame) };
        reason
    }

    /// Whether a packet passes that goes on.
    fn passes(&self, rig: &mut Rig, asks: bool) -> bool {
        !self.show(rig, asks, "A").drops()
    }

    /// A question alone, or as much as establishes a flow.
    fn begin(&self, rig: &mut Rig, established: bool) {
        assert_eq!(self.show(rig, true, "S"), AllowedByPolicy, "{self:?}");
        if established {
            assert_eq!(self.show(rig, false, "SA"), Established, "{self:?}");
            for asks in [true, true, false, true] {
                self.passes(rig, asks);
            }
            assert_eq!(self.show(rig, true, "A"), Established, "{self:?}");
        }
    }
}

#[test]
fn what_policy_allows_again_goes_on() {
    let mut rig = Rig::new("shop/web", WORLD);
    let mut port = 41_000;
    for away in [Away::PodRelabelled, Away::NamespaceRelabelled, Away::PodGone] {
        // Who speaks while the peer is away, and who speaks first when it is back, makes no difference.
        for [established, meanwhile, first] in
            (0..8).map(|bits| [bits & 1, bits & 2, bits & 4].map(|bit| bit != 0))
        {
            port += 1;
            rig.apply(PEERS);
            let all = Conversation::all(away.peer(), port);
            for it in &all {
                it.begin(&mut rig, established);
            }
            // More than once: it does not hang on what changed last.
            for round in 1..=2 {
                away.happens(&mut rig);
                for it in &all {
                    for _ in 0..3 {
                        assert!(
                            !it.passes(&mut rig, meanwhile),
                            "{away:?} {round}, {meanwhile} speaks: {it:?}"
                        );
                    }
                }
                rig.apply(PEERS);
                for it in &all {
                    for asks in [first, !first, first] {
                        assert!(
                            it.passes(&mut rig, asks),
                            "back after {away:?} {round} (established {established}, {meanwhile} spoke, {first} \
                             speaks first), {asks} is heard: {it:?}"
                        );
                    }
                }
            }
        }
    }
}

/// What was never allowed is no other.
#[test]
fn what_was_denied_from_the_start_passes_once_it_is_allowed() {
    for (keep, mut rig) in [(false, Rig::new("shop/web", WORLD)), (true, Rig::keeping("shop/web", WORLD))] {
        rig.apply(PEERS);
        Away::PodRelabelled.happens(&mut rig);
        let all = Conversation::all(FRIEND, 41_000);
        for it in &all {
            for flags in ["S", "A"] {
                assert_eq!(it.show(&mut rig, true, flags), DeniedByPolicy, "keep {keep}: {it:?}");
            }
            assert!(!it.passes(&mut rig, false));
        }
        rig.apply(PEERS);
        for it in &all {
            it.begin(&mut rig, true);
        }
        Away::PodRelabelled.happens(&mut rig);
        for it in &all {
            assert_eq!(it.passes(&mut rig, true), keep, "keep {keep}: {it:?}");
            assert_eq!(it.passes(&mut rig, false), keep, "keep {keep}: {it:?}");
        }
    }
}

/// What an agent with `recheck` denied is not among what one with `keep`, which takes over its flows, is to keep; and is no more dead.
#[test]
fn keep_keeps_what_was_allowed_alone() {
    let mut rig = Rig::keeping("shop/web", WORLD);
    for established in [true, false] {
        rig.apply(PEERS);
        let all = Conversation::all(FRIEND, 41_000 + u16::from(established));
        for it in &all {
            it.begin(&mut rig, established);
        }
        rig.deny_flows();
        Away::PodRelabelled.happens(&mut rig);
        for it in &all {
            for asks in [true, false] {
                assert!(!it.passes(&mut rig, asks), "denied, established {established}: {it:?}");
            }
        }
        rig.apply(PEERS);
        for it in &all {
            for asks in [false, true] {
                assert!(it.passes(&mut rig, asks), "allowed, established {established}: {it:?}");
            }
        }
    }
}

/// The server's policy is about what comes in alone: its answers pass, and open nothing.
#[test]
fn answers_pass_by_their_own_policy_and_reopen_nothing() {
    let one_way =
        WORLD
            .lines()
            .map(|line| {
                if line.starts_with("  egress:") {
                    "  egress: [{}]\n".to_owned()
                } else {
                    format!("{line}\n")
                }
            })
            .collect::<String>();
    for (world, answered) in [
        (one_way.as_str(), AllowedByPolicy),
        (&one_way.replace("[Ingress, Egress]", "[Ingress]").replace("  egress: [{}]\n", ""), NotIsolated),
    ] {
        let mut rig = Rig::new("shop/web", world);
        for established in [true, false] {
            rig.apply(PEERS);
            let all = Conversation::all(FRIEND, 41_000 + u16::from(established));
            let all: Vec<_> = all.into_iter().filter(|it| it.started == Ingress).collect();
            for it in &all {
                it.begin(&mut rig, established);
            }
            Away::PodRelabelled.happens(&mut rig);
            for it in &all {
                // Of TCP it is known that it is no beginning, and an echo reply never is.
                let may_begin = matches!(it.talk, Talk::Udp | Talk::Sctp) || answered == NotIsolated;
                let expected = if may_begin { answered } else { DeniedByPolicy };
                for _ in 0..3 {
                    assert_eq!(it.show(&mut rig, false, "A"), expected, "established {established}: {it:?}");
                    assert!(!it.passes(&mut rig, true), "established {established}, reopened: {it:?}");
                }
            }
            rig.apply(PEERS);
            for it in &all {
                assert!(it.passes(&mut rig, false) && it.passes(&mut rig, true), "{it:?}");
            }
        }
    }
}

#[test]
fn errors_and_fragments_go_with_their_flows() {
    let mut rig = Rig::new("shop/web", WORLD);
    rig.apply(PEERS);
    let all = Conversation::all(FRIEND, 41_000);
    let udp = all.iter().find(|it| it.talk == Talk::Udp && it.started == Ingress).unwrap();
    udp.begin(&mut rig, true);
    let error = icmp_error(udp.pod, udp.peer, 3, 3, &udp.packet(true, ""));
    let ends = ((udp.peer, udp.port), (udp.pod, 7000));
    let piece = |id, offset| fragment(ends.0, ends.1, id, offset, offset == 0);
    for id in 1..3 {
        Away::PodRelabelled.happens(&mut rig);
        assert_eq!(rig.sends(&error), Answer(DeniedByPolicy));
        assert_eq!(rig.gets(&piece(id, 0)), Answer(DeniedByPolicy));
        assert_eq!(rig.gets(&piece(id, 16)), Answer(Reason::OrphanFragment));
        rig.apply(PEERS);
        // Nothing else was heard since.
        assert_eq!(rig.sends(&error), Answer(Related));
        assert_eq!(rig.gets(&piece(id, 0)), Answer(Established));
        assert_eq!(rig.gets(&piece(id, 16)), Answer(Established));
    }
}

#[test]
fn a_pod_that_may_send_for_others_again_does() {
    let mut rig = Rig::new("shop/web", WORLD);
    rig.apply(PEERS);
    let other = |it: Conversation| Conversation {
        pod: if it.pod == POD[0] { "10.0.0.77" } else { "fd00::77" },
        ..it
    };
    for established in [true, false] {
        let all = Conversation::all(FRIEND, 41_000 + u16::from(established));
        let all: Vec<_> = all.into_iter().map(other).collect();
        for it in &all {
            it.begin(&mut rig, established);
        }
        rig.guard();
        rig.advance_generation();
        for it in &all {
            for asks in [true, false] {
                // What comes in by a rule for another's address opens nothing, and what leaves is not the pod's.
                let gets = asks == (it.started == Ingress);
                let reason = it.show(&mut rig, asks, "A");
                assert!(gets || reason == Spoofed, "{reason:?}: {it:?}");
            }
        }
        rig.unguard();
        for it in &all {
            for asks in [false, true] {
                assert!(it.passes(&mut rig, asks), "established {established}: {it:?}");
            }
        }
    }
}
