//! Random states of a small cluster, which all allow and deny the same few paths, each in its own words.
//!
//! `web`, on node-a, is probed. A state says anew which policies there are, whom they select, how they name peers and
//! ports, and how pods and the namespace are labelled. Whatever it says, see [`paths`](super::paths).

use std::collections::BTreeMap;

use postern_policy::model::{NamespaceScope, Requirement};
use postern_policy::model::{NetworkPolicy, Object, ObjectRef, Peer, Pod, Port, Protocol, Rule};
use postern_policy::testkit::build::{
    any, block, named, namespace, pod, pods, pods_of, policy, range, rule, selector, tcp,
};

/// Numbers that are random enough, and the same in each run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// Xorshift (Marsaglia, "Xorshift RNGs", 2003).
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 16).unwrap() % bound
    }

    fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }
}

/// Other pods of the node, whose veths are flipped too: right after that of `web`, for plans go by names.
pub(crate) const WORKERS: [(&str, &str, &str); 4] = [
    ("worker-1", "10.0.1.1", "fd00::1:1"),
    ("worker-2", "10.0.1.2", "fd00::1:2"),
    ("worker-3", "10.0.1.3", "fd00::1:3"),
    ("worker-4", "10.0.1.4", "fd00::1:4"),
];

/// A state. Two of them have policies of the same names in common, so that one replaces the other.
pub(crate) fn state(dice: &mut Dice) -> BTreeMap<ObjectRef, Object> {
    let stage = dice.one_of(&["one", "two"]);
    let tier = dice.one_of(&["one", "two"]);
    let mut objects = vec![namespace("shop", &[("stage", stage)])];
    objects.extend(all_pods(dice, tier).into_iter().map(Object::Pod));
    objects.extend(policies(dice, tier).into_iter().map(Object::NetworkPolicy));
    objects.into_iter().map(|object| (object.reference(), object)).collect()
}

fn all_pods(dice: &mut Dice, tier: &str) -> Vec<Pod> {
    let mut other = |name: &str, v4: &str, v6: &str, team: &str, roles: &[&'static str]| {
        let role = dice.one_of(roles);
        pod("shop", name, v4).and_address(v6).labelled(&[("team", team), ("role", role)])
    };
    let mut pods = vec![
        pod("shop", "web", "10.0.0.1")
            .and_address("fd00::1")
            .labelled(&[("app", "web"), ("tier", tier)])
            .port("http", 80, Protocol::Tcp),
        other("friend", "10.0.0.2", "fd00::2", "friend", &["one", "two"])
            .port("db", 5432, Protocol::Tcp)
            .on("node-b"),
        other("buddy", "10.0.0.4", "fd00::4", "buddy", &["three", "four"]).on("node-b"),
        other("foe", "10.0.0.3", "fd00::3", "foe", &["five", "six"]).on("node-b"),
    ];
    pods.extend(WORKERS.map(|(name, v4, v6)| other(name, v4, v6, "worker", &["five", "six", "seven"])));
    pods
}

/// The same peer in many words: a pod with this team and one of these roles, at these addresses.
fn friend_or_buddy(dice: &mut Dice, team: &str, roles: [&str; 2], addresses: [&str; 2]) -> Vec<Peer> {
    let either = selector([Requirement::In("role".into(), roles.map(Into::into).to_vec())]);
    let here = NamespaceScope::Named("shop".into());
    dice.one_of(&[
        vec![pods("shop", &[("team", team)])],
        vec![pods("shop", &[("role", roles[0])]), pods("shop", &[("role", roles[1])])],
        vec![
            pods_of(&[("stage", "one")], &[("team", team)]),
            pods_of(&[("stage", "two")], &[("team", team)]),
        ],
        vec![pods_of(&[("kubernetes.io/metadata.name", "shop")], &[("team", team)])],
        vec![Peer::Pods { namespaces: here, pods: either }],
        addresses.map(|address| block(address, &[])).to_vec(),
    ])
}

/// Blocks that hold `192.0.2.10` and `2001:db8::10`, and none of `192.0.2.200`, `2001:db8:8000::1` and all others.
fn inside(dice: &mut Dice) -> Vec<Peer> {
    vec![
        dice.one_of(&[
            block("192.0.2.0/24", &["192.0.2.128/25"]),
            block("192.0.2.0/24", &["192.0.2.128/26", "192.0.2.192/26", "192.0.2.12/30"]),
            block("192.0.2.0/25", &[]),
            block("192.0.2.0/25", &["192.0.2.0/29", "192.0.2.64/26"]),
            block("192.0.2.10/32", &[]),
            block("192.0.0.0/16", &["192.0.2.200/32", "192.0.2.11/32"]),
        ]),
        dice.one_of(&[
            block("2001:db8::/32", &["2001:db8:8000::/33"]),
            block("2001:db8::/33", &["2001:db8:1::/48"]),
            block("2001:db8::/64", &[]),
            block("2001:db8::10/128", &[]),
            block("2001:db8::/32", &["2001:db8:8000::/34", "2001:db8:c000::/34"]),
        ]),
    ]
}

/// The same port in many words; some need pages.
fn ports(dice: &mut Dice, protocol: Protocol, port: u16, name: Option<&str>) -> Vec<Port> {
    let pages = (0..12).map(|index| range(protocol, port + 100 * index, port + 100 * index));
    let mut choices = vec![
        vec![range(protocol, port, port)],
        vec![range(protocol, port - 1, port + 1)],
        vec![range(protocol, port - 10, port), range(protocol, port + 40, port + 50)],
        pages.collect(),
        (0..30).map(|index| range(protocol, port + 7 * index, port + 7 * index)).collect(),
    ];
    choices.extend(name.map(|name| vec![named(protocol, name)]));
    dice.one_of(&choices)
}

fn policies(dice: &mut Dice, tier: &str) -> Vec<NetworkPolicy> {
    let friend =
        |dice: &mut Dice| friend_or_buddy(dice, "friend", ["one", "two"], ["10.0.0.2/32", "fd00::2/128"]);
    let buddy =
        |dice: &mut Dice| friend_or_buddy(dice, "buddy", ["three", "four"], ["10.0.0.4/32", "fd00::4/128"]);
    let ingress = [
        rule(friend(dice), ports(dice, Protocol::Tcp, 80, Some("http"))),
        rule(inside(dice), ports(dice, Protocol::Tcp, 443, None)),
        rule(buddy(dice), []),
    ];
    let egress = [
        rule(friend(dice), ports(dice, Protocol::Tcp, 5432, Some("db"))),
        rule(inside(dice), ports(dice, Protocol::Udp, 53, None)),
        rule(buddy(dice), []),
    ];
    let mut all: Vec<NetworkPolicy> = Vec::new();
    // One policy with all rules, or as many as there are rules.
    let names = dice.one_of(&[vec!["a"], vec!["a", "b"], vec!["b", "a", "c"]]);
    for (index, name) in names.iter().enumerate() {
        let share = |rules: &[Rule]| -> Vec<Rule> {
            rules.iter().skip(index).step_by(names.len()).cloned().collect()
        };
        let selected =
            dice.one_of(&[vec![("app", "web")], vec![("tier", tier)], vec![("app", "web"), ("tier", tier)]]);
        all.push(policy("shop", name).selecting(&selected).ingress(share(&ingress)).egress(share(&egress)));
    }
    // A policy that adds nothing, or somebody whom nobody asks about.
    all.push(
        dice.one_of(&[
            policy("shop", "noise").selecting(&[("app", "web")]).ingress([]),
            policy("shop", "noise")
                .selecting(&[("tier", "one")])
                .egress([rule([pods("shop", &[("role", "seven")])], [])]),
            policy("shop", "noise")
                .selecting(&[("tier", "two")])
                .ingress([rule([block("198.51.100.0/24", &[])], [tcp(1)])]),
        ]),
    );
    // Workers allow everything, nothing or something else: what `web` must never be judged by.
    for (name, ..) in WORKERS {
        let mine = policy("shop", name)
            .selecting(&[("team", "worker"), ("role", dice.one_of(&["five", "six", "seven"]))]);
        all.extend(dice.one_of(&[
            None,
            Some(mine.clone().ingress([]).egress([])),
            Some(mine.clone().ingress([rule([], [])]).egress([rule([], [])])),
            Some(mine.ingress([rule([pods("shop", &[("team", "foe")])], [any(Protocol::Tcp)])])),
        ]));
    }
    all
}
