//! A few pods and veths: what these carry, in every mode.

use postern_common::endpoint::{GUARDED, QUARANTINE};
use postern_policy::model::{Object, ObjectRef};
use postern_policy::testkit::build::{pod, policy};
use postern_policy::{ClassId, Scope};

use super::*;
use crate::controller::age::Moment;
use crate::datapath::wanted::Role;

/// Two pods of shop, which a policy isolates, and one of other, which none does.
fn engine() -> Engine {
    let mut engine = Engine::new(Scope::Node("node-a".into()), ClassId(1));
    engine.keep_departed();
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
        master: 0,
        bridge: None,
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

fn all(engine: &Engine, veths: &[Veth], owners: &mut Owners, antispoof: Antispoof) -> Vec<String> {
    owners.heard(engine, Moment::now());
    owners.looked(veths, Moment::now());
    let (wanted, _) = wanted(engine, veths, owners, antispoof);
    veths.iter().map(|veth| told(&wanted, veth.ifindex)).collect()
}

fn afresh(engine: &Engine, veths: &[Veth], antispoof: Antispoof) -> Vec<String> {
    all(engine, veths, &mut Owners::default(), antispoof)
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
    let (wanted, _) = wanted(&engine(), &veths(), &mut Owners::default(), Antispoof::Isolated);
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

#[test]
fn a_pod_that_changes_its_interface_stays_who_it_is() {
    let engine = engine();
    let mut owners = Owners::default();
    assert_eq!(all(&engine, &veths(), &mut owners, Antispoof::All), [WEB, DB, FREE]);
    let [_, db, free] = veths();
    for shown in [&["10.0.0.3"][..], &["10.0.0.2"], &["192.168.0.1"], &[], &["10.0.0.1", "10.0.0.3"]] {
        let seen = [veth(1, shown), db.clone(), free.clone()];
        let (wanted, hidden) = wanted(&engine, &seen, &mut owners, Antispoof::All);
        assert_eq!(told(&wanted, 1), WEB, "it shows {shown:?}");
        assert_eq!((told(&wanted, 2), told(&wanted, 3)), (DB.to_owned(), FREE.to_owned()));
        assert!(hidden.is_empty(), "{hidden:?}");
    }
}

#[test]
fn what_an_earlier_agent_found_out_counts() {
    let found = BTreeMap::from([(1, BTreeSet::from(["fd00::1".parse().unwrap()]))]);
    let mut owners = Owners::new(found, BTreeSet::new());
    let seen = [veth(1, &["10.0.0.3"])];
    assert_eq!(all(&engine(), &seen, &mut owners, Antispoof::Isolated), [WEB]);
}

#[test]
fn a_veth_follows_its_pods_addresses_and_outlives_it() {
    let mut engine = engine();
    let mut owners = Owners::default();
    assert_eq!(all(&engine, &veths(), &mut owners, Antispoof::All), [WEB, DB, FREE]);
    engine.apply(Object::Pod(pod("shop", "db", "10.0.0.2").and_address("fd00::2")));
    let expected = "policy, guarded: shop/db [10.0.0.2 fd00::2]";
    assert_eq!(all(&engine, &veths(), &mut owners, Antispoof::All)[1], expected);
    engine.delete(&ObjectRef::Pod(NamespacedName::new("shop", "db")));
    assert_eq!(all(&engine, &veths(), &mut owners, Antispoof::All)[1], expected, "its processes may run on");
    // Its address is another pod's now, which has the same sandbox.
    engine.apply(Object::Pod(pod("other", "next", "10.0.0.2")));
    assert_eq!(all(&engine, &veths(), &mut owners, Antispoof::All)[1], "guard: other/next [10.0.0.2]");
    // A veth with the index of one that is gone is another one.
    assert_eq!(all(&engine, &[], &mut owners, Antispoof::All), [""; 0]);
    let replaced = [veth(1, &["10.0.0.3"])];
    assert_eq!(all(&engine, &replaced, &mut owners, Antispoof::All), [FREE]);
}

#[test]
fn what_one_pod_had_and_several_claim_is_told_by_what_the_veth_shows() {
    let mut engine = engine();
    let mut owners = Owners::default();
    let shown = [veth(1, &["10.0.0.1", "fd00::1"])];
    assert_eq!(all(&engine, &shown, &mut owners, Antispoof::All), [WEB]);
    // web is gone; its addresses went to two others.
    engine.delete(&ObjectRef::Pod(NamespacedName::new("shop", "web")));
    engine.apply(Object::Pod(pod("shop", "one", "10.0.0.1")));
    engine.apply(Object::Pod(pod("shop", "two", "fd00::1")));
    assert_eq!(all(&engine, &shown, &mut owners, Antispoof::All), ["quarantine: unknown []"]);
    let expected = ["policy, guarded: shop/one [10.0.0.1]"];
    assert_eq!(all(&engine, &[veth(1, &["10.0.0.1"])], &mut owners, Antispoof::All), expected);
    assert_eq!(all(&engine, &shown, &mut owners, Antispoof::All), expected, "from then on");
}

#[test]
fn a_pod_that_is_gone_keeps_its_veth() {
    for antispoof in [Antispoof::Isolated, Antispoof::All] {
        let mut engine = engine();
        let mut owners = Owners::default();
        let before = all(&engine, &veths(), &mut owners, antispoof);
        for (namespace, name) in [("shop", "web"), ("shop", "db"), ("other", "free")] {
            engine.delete(&ObjectRef::Pod(NamespacedName::new(namespace, name)));
        }
        engine.delete(&ObjectRef::NetworkPolicy(NamespacedName::new("shop", "deny")));
        assert_eq!(all(&engine, &veths(), &mut owners, antispoof), before, "{antispoof}");
        // Whatever it shows, and whoever else there is.
        engine.apply(Object::Pod(pod("other", "rich", "10.0.0.9")));
        let shown = [veth(1, &["10.0.0.9"]), veth(2, &[]), veth(3, &["10.0.0.3"]), veth(9, &["10.0.0.9"])];
        assert_eq!(all(&engine, &shown, &mut owners, antispoof)[..3], before, "{antispoof}");
        // They are forgotten with their links.
        engine.forget_departed(&owners.pods());
        assert!(engine.departed_pods().count() >= 3);
        all(&engine, &[], &mut owners, antispoof);
        engine.forget_departed(&owners.pods());
        assert_eq!(engine.departed_pods().count(), 0);
    }
}

#[test]
fn who_has_the_address_next_has_a_veth_of_its_own() {
    let mut engine = engine();
    let mut owners = Owners::default();
    assert_eq!(all(&engine, &veths(), &mut owners, Antispoof::Isolated)[1], DB);
    engine.delete(&ObjectRef::Pod(NamespacedName::new("shop", "db")));
    engine.apply(Object::Pod(pod("other", "next", "10.0.0.2")));
    // Told of before anybody has looked for its veth.
    owners.heard(&engine, Moment::now());
    let (wanted, _) = wanted(&engine, &veths(), &mut owners, Antispoof::Isolated);
    assert_eq!(told(&wanted, 2), DB);
    let both = [&veths()[..], &[veth(7, &["10.0.0.2"])]].concat();
    assert_eq!(all(&engine, &both, &mut owners, Antispoof::Isolated), [WEB, DB, "nothing", "nothing"]);
    // Until then, it is the one.
    assert_eq!(all(&engine, &veths(), &mut owners, Antispoof::Isolated)[1], "nothing");
}

#[test]
fn the_same_name_again_is_another_pod() {
    let mut engine = engine();
    let mut owners = Owners::default();
    assert_eq!(all(&engine, &veths(), &mut owners, Antispoof::Isolated)[1], DB);
    for address in ["none yet", "10.0.0.7"] {
        engine.delete(&ObjectRef::Pod(NamespacedName::new("shop", "db")));
        engine.apply(Object::Pod(pod("shop", "db", address)));
        let both = [&veths()[..], &[veth(7, &["10.0.0.7"])]].concat();
        let all = all(&engine, &both, &mut owners, Antispoof::Isolated);
        let new = if address == "none yet" {
            "quarantine: unknown []"
        } else {
            "policy, guarded: shop/db [10.0.0.7]"
        };
        assert_eq!(all, [WEB, DB, "nothing", new]);
    }
}

#[test]
fn a_pod_that_went_without_an_agent_is_shut_off() {
    let found =
        || BTreeMap::from([2, 3].map(|it| (it, BTreeSet::from([format!("10.0.0.{it}").parse().unwrap()]))));
    let mut engine = engine();
    engine.delete(&ObjectRef::Pod(NamespacedName::new("shop", "db")));
    engine.delete(&ObjectRef::Pod(NamespacedName::new("other", "free")));
    let mut owners = Owners::new(found(), BTreeSet::from([2]));
    let expected = [WEB, "quarantine: unknown [10.0.0.2]", "guard: unknown [10.0.0.3]"];
    assert_eq!(all(&engine, &veths(), &mut owners, Antispoof::All), expected);
    assert_eq!(all(&engine, &veths(), &mut owners, Antispoof::Isolated), [WEB, expected[1], "nothing"]);
    engine.apply(Object::Pod(pod("other", "next", "10.0.0.2")));
    assert_eq!(all(&engine, &veths(), &mut owners, Antispoof::Isolated), [WEB, "nothing", "nothing"]);
}

/// What veths carry: one that was there before an isolated pod without an address, one in the namespace of a known pod,
/// one of neither kind.
fn beside_a_stuck_pod(created: impl Fn(Moment) -> Option<u64>, later: u64) -> [String; 3] {
    let mut engine = engine();
    let mut owners = Owners::default();
    let start = Moment::now();
    let second = Veth { netns: veth(3, &[]).netns, ..veth(5, &["192.168.0.5"]) };
    let seen = [&veths()[..], &[veth(4, &["192.168.0.4"])]].concat();
    owners.looked(&seen, start);
    owners.heard(&engine, start);
    let _ = wanted(&engine, &seen, &mut owners, Antispoof::Isolated);
    owners.ages.catch_up();
    let later = start.later(std::time::Duration::from_secs(later));
    let mut stuck = pod("shop", "new", "none yet");
    stuck.created = created(later);
    engine.apply(Object::Pod(stuck));
    owners.heard(&engine, later);
    let seen = [&seen[..], &[second, veth(6, &["192.168.0.6"])]].concat();
    owners.looked(&seen, later.later(std::time::Duration::from_secs(1)));
    let (wanted, _) = wanted(&engine, &seen, &mut owners, Antispoof::Isolated);
    [4, 5, 6].map(|ifindex| told(&wanted, ifindex))
}

#[test]
fn a_pod_without_an_address_is_behind_no_veth_that_is_older() {
    let quarantine = "quarantine: unknown []";
    let both = [quarantine, "nothing", quarantine];
    let young = ["nothing", "nothing", quarantine];
    assert_eq!(beside_a_stuck_pod(|_| None, 1), young, "a file");
    assert_eq!(beside_a_stuck_pod(|now| Some(now.seconds()), 60), young);
    assert_eq!(beside_a_stuck_pod(|now| Some(now.seconds()), 5), both, "the clocks may differ by that");
    assert_eq!(beside_a_stuck_pod(|now| Some(now.seconds() - 58), 60), both, "the news came late");
    assert_eq!(beside_a_stuck_pod(|now| Some(now.seconds() + 3600), 5), both, "the server's clock is ahead");
}

#[test]
fn what_is_older_than_the_agent_may_be_anybodys() {
    let mut engine = engine();
    engine.apply(Object::Pod(pod("shop", "new", "none yet")));
    let stranger = veth(4, &["192.168.0.1"]);
    let seen = [&veths()[..], &[stranger]].concat();
    let mut owners = Owners::default();
    assert_eq!(all(&engine, &seen, &mut owners, Antispoof::Isolated)[3], "quarantine: unknown []");
    assert_eq!(owners.unaddressed(&engine), [NamespacedName::new("shop", "new")]);
}

#[test]
fn namespaces_without_an_id_are_not_taken_for_the_same() {
    let mut engine = engine();
    engine.apply(Object::Pod(pod("shop", "new", "none yet")));
    let unassigned = |veth: Veth| Veth { netns: -1, ..veth };
    let seen = [unassigned(veths()[0].clone()), unassigned(veth(4, &[]))];
    assert_eq!(afresh(&engine, &seen, Antispoof::Isolated), [WEB, "quarantine: unknown []"]);
}
