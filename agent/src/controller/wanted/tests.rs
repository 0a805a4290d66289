//! A few pods and veths: what these carry, in every mode.

use postern_common::endpoint::{GUARDED, QUARANTINE};
use postern_policy::model::Object;
use postern_policy::testkit::build::{pod, policy};
use postern_policy::{ClassId, Scope};

use super::*;
use crate::datapath::wanted::Role;

/// Two pods of shop, which a policy isolates, and one of other, which none does.
fn engine() -> Engine {
    let mut engine = Engine::new(Scope::Node("node-a".into()), ClassId(1));
    let pods = [
        pod("shop", "web", "10.0.0.1").and_address("fd00::1"),
        pod("shop", "db", "10.0.0.2"),
        pod("other", "free", "10.0.0.3"),
    ];
    for pod in pods {
        engine.apply(Object::Pod(pod));
    }
    engine.apply(Object::NetworkPolicy(policy("shop", "deny").ingress([]).egress([])));
    engine
}

fn veth(ifindex: u32, addresses: &[&str]) -> Veth {
    Veth {
        ifindex,
        interface: format!("veth{ifindex}"),
        netns: 40 + i32::try_from(ifindex).unwrap(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        uplink: false,
    }
}

fn veths() -> [Veth; 3] {
    [veth(1, &["10.0.0.1", "fd00::1"]), veth(2, &["10.0.0.2"]), veth(3, &["10.0.0.3"])]
}

/// What a veth is to carry, in a few words.
fn told(wanted: &BTreeMap<u32, Wanted>, ifindex: u32) -> String {
    let Some(wanted) = wanted.get(&ifindex) else { return "nothing".to_owned() };
    let addresses: Vec<String> = wanted.addresses.iter().map(ToString::to_string).collect();
    let role = match wanted.role {
        Role::Guard => "guard",
        Role::Policy(policy) if policy.ingress == ClassId(QUARANTINE) => "quarantine",
        Role::Policy(policy) if policy.endpoint(0).flags & GUARDED != 0 => "policy, guarded",
        Role::Policy(_) => "policy",
    };
    let pod = wanted.pod.as_ref().map_or("unknown".to_owned(), ToString::to_string);
    format!("{role}: {pod} [{}]", addresses.join(" "))
}

fn afresh(engine: &Engine, veths: &[Veth], antispoof: Antispoof) -> Vec<String> {
    let (wanted, _) = wanted(engine, veths, antispoof);
    veths.iter().map(|veth| told(&wanted, veth.ifindex)).collect()
}

const WEB: &str = "policy, guarded: shop/web [10.0.0.1 fd00::1]";
const DB: &str = "policy, guarded: shop/db [10.0.0.2]";
const FREE: &str = "guard: other/free [10.0.0.3]";

#[test]
fn each_mode_guards_whom_it_names() {
    let engine = engine();
    assert_eq!(afresh(&engine, &veths(), Antispoof::Isolated), [WEB, DB, "nothing"]);
    assert_eq!(afresh(&engine, &veths(), Antispoof::All), [WEB, DB, FREE]);
    let off = ["policy: shop/web [10.0.0.1 fd00::1]", "policy: shop/db [10.0.0.2]", "nothing"];
    assert_eq!(afresh(&engine, &veths(), Antispoof::Off), off);
}

#[test]
fn the_endpoint_names_the_pods_namespace() {
    let (wanted, _) = wanted(&engine(), &veths(), Antispoof::Isolated);
    // One more than the id: zero is for none.
    assert_eq!(wanted[&1].policy().unwrap().endpoint(7).netns, 42);
    assert_eq!(Wanted::quarantine(String::new()).policy().unwrap().endpoint(7).netns, 0);
}

#[test]
fn a_pod_opts_out_and_in_again() {
    let mut engine = engine();
    for antispoof in [Antispoof::Isolated, Antispoof::All] {
        engine.apply(Object::Pod(pod("shop", "db", "10.0.0.2").unguarded()));
        engine.apply(Object::Pod(pod("other", "free", "10.0.0.3").unguarded()));
        let expected = [WEB, "policy: shop/db [10.0.0.2]", "nothing"];
        assert_eq!(afresh(&engine, &veths(), antispoof), expected);
        engine.apply(Object::Pod(pod("shop", "db", "10.0.0.2")));
        assert_eq!(afresh(&engine, &veths(), antispoof)[1], DB);
    }
}

#[test]
fn pods_of_the_host_and_of_other_nodes_are_not_guarded() {
    let mut engine = engine();
    engine.apply(Object::Pod(pod("other", "host", "10.0.0.4").on_host_network()));
    engine.apply(Object::Pod(pod("other", "far", "10.0.0.5").on("node-b")));
    engine.apply(Object::Pod(pod("other", "job", "10.0.0.6").finished()));
    let veths = ["10.0.0.4", "10.0.0.5", "10.0.0.6"].map(|address| veth(1, &[address]));
    for veth in veths {
        assert_eq!(afresh(&engine, &[veth], Antispoof::All), ["nothing"]);
    }
}

#[test]
fn quarantine_is_what_it_was() {
    let mut engine = engine();
    let stranger = veth(4, &["192.168.0.1"]);
    let bare = veth(5, &[]);
    let quarantine = "quarantine: unknown []";
    for antispoof in [Antispoof::Isolated, Antispoof::All, Antispoof::Off] {
        let with = |veth: &Veth| [&veths()[..], std::slice::from_ref(veth)].concat();
        assert_eq!(afresh(&engine, &with(&stranger), antispoof)[3], "nothing");
        assert_eq!(afresh(&engine, &with(&bare), antispoof)[3], "nothing");
        // web's veth is the one without an address, maybe.
        assert_eq!(
            afresh(&engine, &[bare.clone(), veths()[1].clone()], antispoof),
            [quarantine, &{
                let [_, db, _] = afresh(&engine, &veths(), antispoof).try_into().unwrap();
                db
            }]
        );
        // Both claim it, and one is isolated.
        let both = veth(6, &["10.0.0.1", "10.0.0.3"]);
        assert_eq!(afresh(&engine, &[both], antispoof), [quarantine]);
    }
    engine.apply(Object::Pod(pod("shop", "new", "none yet")));
    assert_eq!(afresh(&engine, &[stranger], Antispoof::All), [quarantine]);
}

#[test]
fn a_veth_that_several_open_pods_claim_is_guarded_with_all_their_addresses() {
    let mut engine = engine();
    engine.apply(Object::Pod(pod("other", "second", "10.0.0.4")));
    let both = [veth(1, &["10.0.0.3", "10.0.0.4"])];
    assert_eq!(afresh(&engine, &both, Antispoof::All), ["guard: unknown [10.0.0.3 10.0.0.4]"]);
    assert_eq!(afresh(&engine, &both, Antispoof::Isolated), ["nothing"]);
    engine.apply(Object::Pod(pod("other", "second", "10.0.0.4").unguarded()));
    assert_eq!(afresh(&engine, &both, Antispoof::All), ["nothing"], "one of them may send from any");
}
