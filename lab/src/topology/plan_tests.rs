use postern_policy::model::{Labels, NamespacedName, Pod};

use super::plan;
use crate::scenario::{External, NodeSpec, Scenario, Style};

fn pod(name: &str, node: &str, addresses: &[&str]) -> Pod {
    Pod {
        id: NamespacedName::new("default", name),
        labels: Labels::new(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        node: Some(node.into()),
        host_network: false,
        finished: false,
        ports: Vec::new(),
        unguarded: false,
        uid: 0,
        created: None,
    }
}

fn scenario(pods: Vec<Pod>, externals: &[&str]) -> Scenario {
    let node = |name: &str| NodeSpec { name: name.to_owned(), addresses: Vec::new(), style: Style::Bridge };
    let external =
        |ip: &&str| External { name: (*ip).to_owned(), ips: vec![ip.parse().unwrap()], ports: Vec::new() };
    Scenario { nodes: vec![node("a"), node("b")], externals: externals.iter().map(external).collect(), pods }
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

#[test]
fn a_network_per_node_is_shared_whole() {
    let scenario = scenario(
        vec![pod("x", "a", &["10.244.1.1"]), pod("y", "b", &["10.244.2.9", "fd00::9"])],
        &["10.244.3.1"],
    );
    let nodes = plan(&scenario);
    assert_eq!(texts(&nodes[0].on_link), ["10.244.1.0/24"]);
    assert_eq!(texts(&nodes[1].on_link), ["10.244.2.0/24", "fd00::/64"]);
    assert_eq!(texts(&nodes[0].gateways), ["10.244.1.254", "fe80::1"], "x sits on .1");
    assert_eq!(texts(&nodes[1].gateways), ["10.244.2.1", "fd00::1"]);
    assert_eq!(texts(&nodes[0].addresses), ["192.168.224.1", "fd70:7374:6e::1"]);
    assert_eq!(texts(&nodes[1].addresses), ["192.168.224.2", "fd70:7374:6e::2"]);
}

#[test]
fn pods_of_two_nodes_in_one_network_are_not_on_each_others_link() {
    let pods = vec![pod("x", "a", &["10.0.0.5"]), pod("y", "a", &["10.0.0.6"]), pod("z", "b", &["10.0.0.7"])];
    let nodes = plan(&scenario(pods, &[]));
    assert_eq!(texts(&nodes[0].on_link), ["10.0.0.5/32", "10.0.0.6/32"]);
    assert_eq!(texts(&nodes[1].on_link), ["10.0.0.7/32"]);
    assert_eq!(texts(&nodes[0].gateways), ["169.254.1.1"]);
}

#[test]
fn an_address_that_moves_between_nodes_is_on_no_link() {
    let pods = vec![pod("x", "a", &["10.0.0.5"]), pod("y", "a", &["10.0.0.6"]), pod("z", "b", &["10.0.0.5"])];
    let nodes = plan(&scenario(pods, &[]));
    assert_eq!(texts(&nodes[0].on_link), ["10.0.0.6/32"]);
    assert_eq!(texts(&nodes[1].on_link), [""; 0]);
}

#[test]
fn node_addresses_keep_away_from_the_scenarios() {
    let nodes = plan(&scenario(vec![pod("x", "a", &["192.168.224.77"])], &[]));
    assert_eq!(texts(&nodes[0].addresses), ["172.29.224.1"]);
}
