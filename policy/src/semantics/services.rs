//! Statements 13, 16, 17, 26, 27, 28, 31: Services are judged by the backend that a packet reaches.
//!
//! `~`: some backends that may be chosen are allowed, others are not; `.`: there is no such way.

use super::objects;
use crate::matrix::{External, IpFamily, Reach, matrix};
use crate::model::{NamespacedName, Object, Protocol};
use crate::reference::services::{Frontend, connections};
use crate::testkit::Cluster;
use crate::testkit::build::{
    block, endpoint, namespace, node, pod, pods, policy, range, rule, service, slice, tcp,
};

const TCP: Protocol = Protocol::Tcp;
const UDP: Protocol = Protocol::Udp;

/// `client` and `near` on node-a, `far` on node-b, all serving 8080 as `http` but `far`, which has `http` at 9090.
fn cluster(more: Vec<Object>) -> Vec<Object> {
    let mut objects = objects![
        namespace("a", &[]),
        node("node-a", &["172.16.0.1", "fd01::1"]),
        node("node-b", &["172.16.0.2", "fd01::2"]),
        pod("a", "client", "10.0.0.1").and_address("fd00::1").labelled(&[("app", "client")]),
        pod("a", "near", "10.0.0.2")
            .and_address("fd00::2")
            .labelled(&[("app", "web"), ("track", "one")])
            .port("http", 8080, TCP)
            .port("dns", 53, UDP),
        pod("a", "far", "10.0.1.2")
            .on("node-b")
            .labelled(&[("app", "web"), ("track", "two")])
            .port("http", 9090, TCP)
            .port("dns", 54, UDP),
        pod("a", "remote", "10.0.1.3").on("node-b").labelled(&[("app", "client")]),
        pod("a", "host", "172.16.0.1").on_host_network(),
    ];
    objects.extend(more);
    objects
}

/// `web`, on port 80, to `http`.
fn web() -> crate::model::Service {
    service("a", "web", &["10.96.0.1"]).selecting(&[("app", "web")]).port("", TCP, 80, "http")
}

/// Clients send to `track: one` alone.
fn only_one() -> crate::model::NetworkPolicy {
    policy("a", "only-one")
        .selecting(&[("app", "client")])
        .egress([rule([pods("a", &[("track", "one")])], [])])
}

fn mark(reach: Option<Reach>) -> &'static str {
    reach.map_or(".", Reach::mark)
}

/// Checks answers: source, destination, port, mark.
fn check(statement: &str, more: Vec<Object>, questions: &[(&str, &str, (u16, Protocol), &str)]) {
    check_in(IpFamily::V4, statement, more, questions);
}

fn check_in(
    family: IpFamily,
    statement: &str,
    more: Vec<Object>,
    questions: &[(&str, &str, (u16, Protocol), &str)],
) {
    let outside =
        External { name: "out".to_owned(), addresses: vec![[192, 0, 2, 1].into()], ports: vec![(443, TCP)] };
    let cluster = Cluster { objects: cluster(more), externals: vec![outside] };
    let cells = matrix(&cluster.objects, &cluster.externals);
    for (from, to, (port, protocol), expected) in questions {
        let cell = cells.iter().find(|cell| {
            (&*cell.from, &*cell.to, cell.port, cell.protocol, cell.ip_family)
                == (*from, *to, *port, *protocol, family)
        });
        let question = format!("{statement}: {from} to {to} {protocol}/{port} {family:?}");
        assert_eq!(mark(cell.map(|cell| cell.allowed)), *expected, "compiler, {question}");
        assert_eq!(
            mark(reference(&cluster, from, to, *port, *protocol, family)),
            *expected,
            "reference, {question}"
        );
    }
}

fn reference(
    cluster: &Cluster,
    from: &str,
    to: &str,
    port: u16,
    protocol: Protocol,
    family: IpFamily,
) -> Option<Reach> {
    let (name, frontend) = match to.strip_prefix("service:")?.split_once('@') {
        None => (to.strip_prefix("service:")?, Frontend::Cluster),
        Some((name, "external")) => (name, Frontend::External),
        Some((name, node)) => (name, Frontend::NodePort(node.to_owned())),
    };
    let (namespace, name) = name.split_once('/')?;
    let pod = cluster.pods().find(|pod| pod.id.to_string() == from);
    let externals = cluster.externals.iter().filter(|it| format!("external/{}", it.name) == from);
    let addresses = pod.map(|pod| pod.addresses.clone());
    let addresses = addresses.into_iter().chain(externals.map(|it| it.addresses.clone())).flatten();
    let address = addresses.into_iter().find(|address| IpFamily::of(*address) == family)?;
    let source = crate::reference::Endpoint { pod: pod.map(|pod| pod.id.clone()), address };
    let service = NamespacedName::new(namespace, name);
    let answers = connections(&cluster.objects, &source, &service, &frontend, protocol, port)?;
    Some(Reach::of(answers))
}

#[test]
fn the_backend_decides_and_its_port() {
    let ask = |policies: Vec<Object>, expected| {
        let mut more = objects![web()];
        more.extend(policies);
        check("26", more, &[("a/client", "service:a/web", (80, TCP), expected)]);
    };
    let egress = |ports: Vec<crate::model::Port>| {
        policy("a", "p").selecting(&[("app", "client")]).egress([rule([pods("a", &[("app", "web")])], ports)])
    };
    ask(vec![], "+");
    ask(objects![only_one()], "~");
    ask(objects![egress(vec![tcp(80)])], "-");
    ask(objects![egress(vec![tcp(8080)])], "~");
    ask(objects![egress(vec![tcp(8080), tcp(9090)])], "+");
    // The frontend's address opens nothing.
    let frontend =
        policy("a", "p").selecting(&[("app", "client")]).egress([rule([block("10.96.0.1/32", &[])], [])]);
    ask(objects![frontend], "-");
    // The other side has its say.
    ask(objects![policy("a", "shut").selecting(&[("track", "two")]).ingress([])], "~");
    ask(objects![policy("a", "shut").selecting(&[("app", "web")]).ingress([])], "-");
}

#[test]
fn several_ports_and_protocols_are_judged_each() {
    let both = service("a", "both", &["10.96.0.2"])
        .selecting(&[("app", "web")])
        .port("web", TCP, 80, "8080")
        .port("admin", TCP, 81, "8081")
        .port("dns", UDP, 53, "dns");
    let policy =
        policy("a", "p").selecting(&[("app", "client")]).egress([rule([], [tcp(8080), range(UDP, 54, 54)])]);
    check(
        "26",
        objects![both, policy],
        &[
            ("a/client", "service:a/both", (80, TCP), "+"),
            ("a/client", "service:a/both", (81, TCP), "-"),
            ("a/client", "service:a/both", (53, UDP), "~"),
            ("a/client", "service:a/both", (53, TCP), "."),
            ("external/out", "service:a/both", (80, TCP), "."),
        ],
    );
}

#[test]
fn a_headless_service_is_its_backends() {
    let headless = service("a", "db", &[]).selecting(&[("app", "web")]).port("", TCP, 80, "http");
    check(
        "26: headless",
        objects![headless, only_one()],
        &[
            ("a/client", "service:a/db", (8080, TCP), "+"),
            ("a/client", "service:a/db", (9090, TCP), "-"),
            ("a/client", "service:a/db", (80, TCP), "."),
        ],
    );
    let terminating = slice("a", "db", "db-1").port("", TCP, 8080).with(endpoint("10.0.0.2").terminating());
    let headless =
        service("a", "db", &[]).external(&["198.18.0.1"]).port("", TCP, 80, "http").node_port(30080);
    check(
        "26: headless, DNS does not name what terminates, and nothing translates",
        objects![headless, terminating],
        &[
            ("a/client", "service:a/db", (8080, TCP), "."),
            ("a/client", "service:a/db@external", (80, TCP), "."),
            ("a/client", "service:a/db@node-a", (30080, TCP), "."),
        ],
    );
}

#[test]
fn external_names_have_no_frontend() {
    let name = service("a", "name", &[]);
    check("27", objects![name], &[("a/client", "service:a/name", (80, TCP), ".")]);
}

#[test]
fn without_backends_nothing_is_reached() {
    let nobody =
        service("a", "nobody", &["10.96.0.3"]).selecting(&[("app", "nobody")]).port("", TCP, 80, "80");
    let named = service("a", "named", &["10.96.0.4"]).selecting(&[("app", "web")]).port("", TCP, 80, "https");
    check(
        "28",
        objects![nobody, named],
        &[("a/client", "service:a/nobody", (80, TCP), "-"), ("a/client", "service:a/named", (80, TCP), "-")],
    );
}

#[test]
fn node_ports_show_the_node() {
    let policy_for = |cidr: &str| {
        objects![
            web().node_port(30080),
            policy("a", "p").selecting(&[("app", "web")]).ingress([rule([block(cidr, &[])], [])])
        ]
    };
    let questions = |answers: [&'static str; 5]| {
        let ways = [
            ("a/client", "service:a/web@node-a"),
            ("a/client", "service:a/web@node-b"),
            ("a/host", "service:a/web@node-a"),
            ("a/host", "service:a/web@node-b"),
            ("external/out", "service:a/web@node-a"),
        ];
        ways.into_iter().zip(answers).map(|((from, to), it)| (from, to, (30080, TCP), it)).collect::<Vec<_>>()
    };
    // The node that forwards is never "the own node", not even for its own pods; its processes are.
    check("16, 26", policy_for("192.0.2.0/24"), &questions(["-", "-", "~", "-", "-"]));
    check("16, 26", policy_for("10.0.0.1/32"), &questions(["-", "-", "~", "-", "-"]));
    check("16, 26", policy_for("172.16.0.1/32"), &questions(["+", "-", "+", "-", "+"]));
    check("16, 26", policy_for("172.16.0.2/32"), &questions(["-", "+", "~", "+", "-"]));
}

#[test]
fn a_remote_node_port_needs_every_backend() {
    check(
        "26",
        objects![web().node_port(30080), only_one()],
        &[
            ("a/client", "service:a/web@node-a", (30080, TCP), "~"),
            ("a/client", "service:a/web@node-b", (30080, TCP), "-"),
            ("a/remote", "service:a/web@node-a", (30080, TCP), "-"),
            ("a/remote", "service:a/web@node-b", (30080, TCP), "~"),
        ],
    );
    // What terminates on the node that is asked may be chosen, though something is ready elsewhere.
    let draining = slice("a", "web", "web-1")
        .port("", TCP, 8080)
        .with(endpoint("10.0.0.2"))
        .with(endpoint("10.0.1.2").on("node-b").terminating());
    check(
        "26",
        objects![web().node_port(30080).external_local(), only_one(), draining],
        &[("a/client", "service:a/web@node-b", (30080, TCP), "-")],
    );
    // A node's address in a block opens its node ports no more than it does a cluster address.
    let node =
        policy("a", "p").selecting(&[("app", "client")]).egress([rule([block("172.16.0.0/16", &[])], [])]);
    check(
        "16, 26",
        objects![web().node_port(30080), node],
        &[
            ("a/client", "service:a/web@node-a", (30080, TCP), "-"),
            ("a/client", "service:a/web@node-b", (30080, TCP), "-"),
        ],
    );
}

#[test]
fn external_addresses_show_the_node_of_the_source() {
    let from_a =
        policy("a", "p").selecting(&[("app", "web")]).ingress([rule([block("172.16.0.1/32", &[])], [])]);
    check(
        "26",
        objects![web().external(&["198.18.0.1"]), from_a],
        &[
            ("a/client", "service:a/web@external", (80, TCP), "+"),
            ("a/remote", "service:a/web@external", (80, TCP), "-"),
            ("external/out", "service:a/web@external", (80, TCP), "+"),
        ],
    );
}

#[test]
fn external_traffic_policy_local_keeps_the_client() {
    let from =
        |cidr: &str| policy("a", "p").selecting(&[("app", "web")]).ingress([rule([block(cidr, &[])], [])]);
    let local = || web().node_port(30080).external(&["198.18.0.1"]).external_local();
    check(
        "26: hosts outside",
        objects![local(), from("192.0.2.1/32")],
        &[
            ("external/out", "service:a/web@node-a", (30080, TCP), "+"),
            ("external/out", "service:a/web@node-b", (30080, TCP), "+"),
            ("external/out", "service:a/web@external", (80, TCP), "+"),
            ("a/client", "service:a/web@node-a", (30080, TCP), "-"),
        ],
    );
    check(
        "26: pods of the node have all backends, those of others the node's",
        objects![
            local(),
            from("10.0.0.1/32"),
            policy("a", "shut").selecting(&[("track", "two")]).ingress([])
        ],
        &[
            ("a/client", "service:a/web@node-a", (30080, TCP), "+"),
            ("a/client", "service:a/web@node-b", (30080, TCP), "+"),
            ("a/client", "service:a/web@external", (80, TCP), "+"),
        ],
    );
    // near is the only backend: there is none on node-b.
    let one = || local().selecting(&[("track", "one")]);
    check(
        "26: a node without backends",
        objects![one()],
        &[
            ("external/out", "service:a/web@node-a", (30080, TCP), "+"),
            ("external/out", "service:a/web@node-b", (30080, TCP), "-"),
            ("a/client", "service:a/web@node-b", (30080, TCP), "-"),
            ("a/remote", "service:a/web@node-b", (30080, TCP), "+"),
            ("external/out", "service:a/web@external", (80, TCP), "+"),
        ],
    );
}

#[test]
fn internal_traffic_policy_local_keeps_to_the_node() {
    check(
        "26",
        objects![web().internal_local(), only_one()],
        &[("a/client", "service:a/web", (80, TCP), "+"), ("a/remote", "service:a/web", (80, TCP), "-")],
    );
    let one = web().selecting(&[("track", "one")]).internal_local();
    check("26: none there", objects![one], &[("a/remote", "service:a/web", (80, TCP), "-")]);
}

#[test]
fn slices_say_what_serves() {
    let by_hand = || service("a", "web", &["10.96.0.1"]).port("http", TCP, 80, "http");
    let ask = |slices: Vec<Object>, expected| {
        let mut more = objects![by_hand(), only_one()];
        more.extend(slices);
        check("31", more, &[("a/client", "service:a/web", (80, TCP), expected)]);
    };
    let one = |it| slice("a", "web", "web-1").port("http", TCP, 8080).with(it);
    let near = || endpoint("10.0.0.2");
    let far = || endpoint("10.0.1.2").on("node-b");
    ask(vec![], "-");
    ask(objects![one(near())], "+");
    ask(objects![one(near()).with(far())], "~");
    ask(objects![one(near()).with(far().not_ready())], "+");
    ask(objects![one(near()).with(far().terminating())], "+");
    // Terminating ones serve where nothing else does.
    ask(objects![one(near().not_ready()).with(far().terminating())], "-");
    ask(objects![one(near().terminating()).with(far().not_ready())], "+");
    // Another Service's, another namespace's, another port's.
    ask(objects![slice("a", "other", "web-1").port("http", TCP, 8080).with(near())], "-");
    ask(objects![slice("b", "web", "web-1").port("http", TCP, 8080).with(near())], "-");
    ask(objects![slice("a", "web", "web-1").port("https", TCP, 8080).with(near())], "-");
    ask(objects![slice("a", "web", "web-1").port("http", UDP, 8080).with(near())], "-");
    // Two slices are one list.
    ask(objects![one(near()), slice("a", "web", "web-2").port("http", TCP, 9090).with(far())], "~");
}

#[test]
fn slices_stand_above_the_selector() {
    let empty = slice("a", "web", "web-1").port("", TCP, 8080);
    check("31", objects![web(), empty], &[("a/client", "service:a/web", (80, TCP), "-")]);
    let outside = slice("a", "web", "web-1").port("", TCP, 443).with(endpoint("192.0.2.1"));
    let allow = policy("a", "p")
        .selecting(&[("app", "client")])
        .egress([rule([block("192.0.2.0/24", &[])], [tcp(443)])]);
    check(
        "26: a backend outside the cluster",
        objects![web(), outside.clone(), allow],
        &[("a/client", "service:a/web", (80, TCP), "+")],
    );
    check(
        "26: a backend outside the cluster",
        objects![web(), outside, only_one()],
        &[("a/client", "service:a/web", (80, TCP), "-")],
    );
}

#[test]
fn selectors_of_services_and_policies_are_strangers() {
    // `one` and `web` share a pod; policies know labels alone.
    let one = service("a", "one", &["10.96.0.5"]).selecting(&[("track", "one")]).port("", TCP, 8000, "8080");
    let other =
        service("b", "one", &["10.96.0.6"]).selecting(&[("track", "one")]).port("", TCP, 8000, "8080");
    check(
        "26",
        objects![web(), one, other, only_one()],
        &[
            ("a/client", "service:a/web", (80, TCP), "~"),
            ("a/client", "service:a/one", (8000, TCP), "+"),
            ("a/client", "service:b/one", (8000, TCP), "-"),
        ],
    );
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let deny = policy("a", "deny").selecting(&[("app", "web")]).ingress([]).egress([]);
    let mine = web().selecting(&[("track", "one")]).node_port(30080).external(&["198.18.0.1"]);
    check(
        "17",
        objects![mine, deny],
        &[
            ("a/near", "service:a/web", (80, TCP), "+"),
            ("a/near", "service:a/web@node-a", (30080, TCP), "+"),
            ("a/near", "service:a/web@external", (80, TCP), "+"),
            // It comes back from another node, and as that.
            ("a/near", "service:a/web@node-b", (30080, TCP), "-"),
            ("a/far", "service:a/web", (80, TCP), "-"),
        ],
    );
    let both = policy("a", "deny").selecting(&[("app", "web")]).ingress([]).egress([]);
    check("17", objects![web(), both], &[("a/near", "service:a/web", (80, TCP), "~")]);
}

#[test]
fn families_are_services_of_their_own() {
    let dual = service("a", "dual", &["10.96.0.7", "fd96::7"])
        .selecting(&[("app", "web")])
        .external(&["198.18.0.1"])
        .port("", TCP, 80, "http");
    let single = service("a", "single", &["10.96.0.8"])
        .selecting(&[("app", "web")])
        .external(&["fd98::1"])
        .port("", TCP, 80, "http")
        .node_port(30080);
    let more = || objects![dual.clone(), single.clone(), only_one()];
    check("24, 26", more(), &[("a/client", "service:a/dual", (80, TCP), "~")]);
    check_in(
        IpFamily::V6,
        "24, 26",
        more(),
        &[
            // far has no IPv6 address.
            ("a/client", "service:a/dual", (80, TCP), "+"),
            ("a/client", "service:a/dual@external", (80, TCP), "."),
            ("a/client", "service:a/single", (80, TCP), "."),
            ("a/client", "service:a/single@external", (80, TCP), "."),
            ("a/client", "service:a/single@node-a", (30080, TCP), "."),
            ("a/remote", "service:a/dual", (80, TCP), "."),
        ],
    );
}
