//! A pod under policy, or behind a bridge, sends from its own addresses alone, and answers for them alone; with `--antispoof=all`, every
//! pod.

mod neighbours;
mod roles;
mod world;

use std::net::SocketAddr;

use postern_lab::lab::Lab;
use serde_json::json;

use self::world::{
    Liar, NOBODY, Talk, all_allowed, arrive, arrive_all, opted_out, spoofed, veth, with_flags, world,
};
use crate::inside::{PATIENCE, ask_udp, command, external, node, pod};
use crate::support::{run, up};

/// One liar behind a bridge and one behind a routed veth.
const LIARS: [Liar; 2] = world::LIARS;

#[test]
fn an_isolated_pod_sends_from_its_own_addresses_alone() {
    run(async {
        let open = world();
        let isolated = all_allowed(world());
        let mut lab = up(&[&isolated.0]).await;
        for state in [&isolated, &open, &isolated] {
            lab.apply(&state.0).await.unwrap();
            let is_isolated = state.0 == isolated.0;
            for liar in &LIARS {
                liar.take_on(&lab, &NOBODY);
                let before = spoofed(&lab, liar.node);
                // Behind a bridge, nobody else does either.
                let is_checked = is_isolated || liar.node == "node-a";
                let others = if is_checked { vec![] } else { NOBODY.to_vec() };
                let expected = [liar.own(), others].concat();
                let tried = [liar.own(), NOBODY.to_vec()].concat();
                assert_eq!(
                    arrive(&lab, liar, &tried),
                    world::set(&expected),
                    "{liar:?}, isolated: {is_isolated}"
                );
                assert_eq!(spoofed(&lab, liar.node) > before, is_checked, "{liar:?}: counted");
            }
        }
    });
}

#[test]
fn a_pod_without_its_own_address_is_still_who_it_is() {
    run(async {
        let isolated = all_allowed(world());
        let mut lab = up(&[&isolated.0]).await;
        lab.apply(&isolated.0).await.unwrap();
        for liar in &LIARS {
            liar.take_on(&lab, &liar.neighbours());
            for address in liar.own() {
                command(pod(&lab, liar.id), &format!("ip address delete {address} dev eth0"));
            }
            // Sooner or later the agent looks.
            for _ in 0..3 {
                assert_eq!(arrive(&lab, liar, &liar.neighbours()), world::set(&[]), "{liar:?}");
            }
        }
        lab.enforced().await.unwrap();
        for agent in lab.agents_mut() {
            let status = agent.status().unwrap();
            assert_eq!(status.pending, [""; 0]);
            let pods: Vec<_> = status.endpoints.iter().filter_map(|it| it.pod.as_deref()).collect();
            assert!(LIARS.iter().any(|liar| pods.contains(&liar.id)), "{pods:?}");
        }
    });
}

#[test]
fn a_pod_that_opts_out_sends_from_any_address() {
    run(async {
        for flags in [&["--antispoof", "isolated"][..], &["--antispoof", "all"]] {
            let guarded = all_allowed(world());
            let exempt = opted_out(guarded.clone());
            let mut lab = up(&[&guarded.0]).await;
            with_flags(&mut lab, flags).await;
            for (state, passes) in [(&guarded, false), (&exempt, true), (&guarded, false)] {
                lab.apply(&state.0).await.unwrap();
                arrive_all(&lab, passes, &format!("{flags:?}, opted out: {passes}"));
            }
        }
    });
}

/// Answers to the foreign address find the way back, so that the flow is established.
fn route_back(lab: &Lab, liar: &Liar, address: &str) {
    let family = if address.contains(':') { "-6" } else { "-4" };
    let own = liar.own().into_iter().find(|own| own.contains(':') == address.contains(':')).unwrap();
    let way = command(node(lab, liar.node), &format!("ip -o {family} route show {own}"));
    let device = way.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap();
    command(node(lab, liar.node), &format!("ip {family} route replace {address} dev {device}"));
    let of_family = |it: &&std::net::IpAddr| it.is_ipv6() == address.contains(':');
    let via = lab.topology().node_addresses(liar.node).iter().find(of_family).unwrap();
    command(external(lab, "outside"), &format!("ip {family} route replace {address} via {via} dev eth0"));
}

#[test]
fn opting_in_ends_what_was_established_from_a_foreign_address() {
    run(async {
        let guarded = all_allowed(world());
        let exempt = opted_out(guarded.clone());
        let mut lab = up(&[&guarded.0]).await;
        lab.apply(&exempt.0).await.unwrap();
        let mut talks = Vec::new();
        for (port, liar) in (4000..).step_by(10).zip(&LIARS) {
            for (port, address) in (port..).zip(NOBODY) {
                liar.take_on(&lab, &[address]);
                route_back(&lab, liar, address);
                for port in [port, port + 5] {
                    let talk = Talk::between(&lab, liar, address, port);
                    for _ in 0..5 {
                        assert_eq!(
                            (talk.says(), talk.is_answered()),
                            (true, true),
                            "{liar:?} from {address}"
                        );
                    }
                    talks.push(talk);
                }
            }
        }
        lab.apply(&guarded.0).await.unwrap();
        for (number, talk) in talks.iter().enumerate() {
            if number % 2 == 1 {
                // The first packet that is judged again is the peer's.
                let _ = talk.is_answered();
            }
            assert!(!talk.says(), "{talk:?}");
        }
        for liar in &LIARS {
            for own in liar.own() {
                assert!(Talk::between(&lab, liar, own, 4999).says(), "{liar:?} from {own}");
            }
        }
    });
}

#[test]
fn behind_a_bridge_nobody_answers_for_others() {
    run(async {
        let guarded = all_allowed(world());
        let exempt = opted_out(guarded.clone());
        let open = world();
        let mut lab = up(&[&guarded.0]).await;
        let [liar, _] = &LIARS;
        let asking = "shop/near-a";
        let resolves = |lab: &Lab, address: &str| {
            let netns = pod(lab, asking);
            command(netns, "ip neighbour flush all");
            // What it says does not matter; that it asks does.
            let _ = ask_udp(netns, 0, SocketAddr::new(address.parse().unwrap(), 9), "who", PATIENCE);
            command(netns, &format!("ip neighbour show {address}")).contains("lladdr")
        };
        // Its own answers are asked for in every state.
        let all = ["--antispoof", "all"];
        let states = [
            (&guarded, &["--antispoof", "isolated"], false),
            (&exempt, &["--antispoof", "isolated"], true),
            (&open, &["--antispoof", "isolated"], true),
            (&open, &all, false),
            (&guarded, &["--antispoof", "off"], true),
        ];
        for (state, flags, answers) in states {
            with_flags(&mut lab, flags).await;
            lab.apply(&state.0).await.unwrap();
            liar.take_on(&lab, &NOBODY);
            for address in NOBODY {
                assert_eq!(resolves(&lab, address), answers, "{address} with {flags:?}");
            }
            for own in liar.own() {
                assert!(resolves(&lab, own), "{own} with {flags:?}");
            }
        }
    });
}

#[test]
fn a_wrong_annotation_guards_and_is_reported() {
    run(async {
        let mut cluster = all_allowed(world());
        let mut lab = up(&[&cluster.0]).await;
        world::annotate(&mut cluster, "pod-shop-liar-a", &json!("no"));
        lab.follow(&cluster.0).await.unwrap_err();
        lab.sync_pods(&crate::support::snapshot(&all_allowed(world()).0)).await.unwrap();
        lab.write(&cluster.0).unwrap();
        lab.enforced().await.unwrap();
        let [liar, _] = &LIARS;
        liar.take_on(&lab, &NOBODY);
        assert_eq!(arrive(&lab, liar, &NOBODY), world::set(&[]));
        assert!(veth(&lab, liar).is_some());
        for agent in lab.agents_mut() {
            let errors = agent.status().unwrap().errors;
            assert!(
                errors.iter().any(|it| it.contains("Pod shop/liar-a") && it.contains("\"off\"")),
                "{errors:?}"
            );
        }
    });
}
