//! nginx in `ingress-nginx` forwards to two Services of `app`, which takes nothing else; and whose address its own
//! namespace's policies see of what comes through a node port.

use super::ask::{Row, curl, host, pod, settles};
use crate::site::Site;

pub(super) const MANIFEST: &str = include_str!("ingress.yaml");
/// Nothing reaches a pod of `app`.
const DENY: &str = include_str!("ingress-deny.yaml");
/// But from the namespace `ingress-nginx`.
const ALLOW: &str = include_str!("ingress-allow.yaml");
/// Only this address reaches nginx.
const ONLY: &str = include_str!("ingress-only.yaml");

/// Node ports of nginx: externalTrafficPolicy Cluster and Local. nginx runs on the first node.
const CLUSTER: u16 = 30080;
const LOCAL: u16 = 30081;
/// The host outside, and the nodes.
const OUTSIDE: &str = "192.168.240.1";
const NODES: [&str; 2] = ["192.168.240.11", "192.168.240.12"];

/// A request to nginx, for the host that it forwards.
fn request(address: &str, port: u16, path: &str) -> String {
    curl(&format!("--header 'Host: app.example.com' http://{address}:{port}{path}"))
}

pub(super) fn check(site: &mut Site) {
    let address =
        |name: &str| site.ok(&["--namespace=app", "get", "pod", name, "--output=jsonpath={.status.podIP}"]);
    let (api, web) = (address("api"), address("web"));
    let nginx = "nginx.ingress-nginx.svc.cluster.local";
    let direct = |answers: bool| {
        let said = |text: &str| if answers { text.to_owned() } else { String::new() };
        vec![
            pod("elsewhere/client", curl(&format!("http://{api}:8080/api")), said("api")),
            pod("elsewhere/client", curl(&format!("http://{web}:8080/")), said("web")),
            pod("elsewhere/client", curl("http://api.app/api"), said("api")),
            pod("elsewhere/client", curl("http://web.app/"), said("web")),
        ]
    };
    // The control plane's host is no node, and has no pods.
    let netns = site.cluster.control().netns().path();
    let from_outside =
        |address: &str, port, path, said: &str| host(&netns, request(address, port, path), said);
    let through = |answers: bool| {
        let said = |text: &'static str| if answers { text } else { "" };
        let mut rows = vec![
            pod("elsewhere/client", request(nginx, 80, "/api"), said("api")),
            pod("elsewhere/client", request(nginx, 80, "/"), said("web")),
            from_outside(NODES[0], LOCAL, "/api", said("api")),
            from_outside(NODES[0], LOCAL, "/", said("web")),
        ];
        for node in NODES {
            rows.push(from_outside(node, CLUSTER, "/api", said("api")));
            rows.push(from_outside(node, CLUSTER, "/", said("web")));
        }
        rows
    };
    let strangers = |answers: bool| {
        let said = if answers { "api" } else { "" };
        vec![host(&netns, curl(&format!("http://{api}:8080/api")), said)]
    };
    let together = |parts: [Vec<Row>; 3]| parts.into_iter().flatten().collect::<Vec<Row>>();
    settles(site, "no policy", &together([through(true), direct(true), strangers(true)]));
    site.apply(DENY);
    settles(site, "deny-all of app", &together([through(false), direct(false), strangers(false)]));
    site.apply(ALLOW);
    settles(site, "app takes ingress-nginx", &together([through(true), direct(false), strangers(false)]));

    site.apply(&ONLY.replace("$(CIDR)", &format!("{OUTSIDE}/32")));
    let client = [
        from_outside(NODES[0], LOCAL, "/", "web"),
        // Where no nginx runs, Local leads nowhere.
        from_outside(NODES[1], LOCAL, "/", ""),
        // The node that nginx runs on masquerades too, and is not taken for itself.
        from_outside(NODES[0], CLUSTER, "/", ""),
        from_outside(NODES[1], CLUSTER, "/", ""),
        pod("elsewhere/client", request(nginx, 80, "/"), ""),
    ];
    settles(site, "nginx takes the client's address: Local keeps it, Cluster does not", &client);
    site.apply(&ONLY.replace("$(CIDR)", &format!("{}/32", NODES[1])));
    let node = [
        from_outside(NODES[0], LOCAL, "/", ""),
        from_outside(NODES[0], CLUSTER, "/", ""),
        from_outside(NODES[1], CLUSTER, "/", "web"),
    ];
    settles(site, "nginx takes another node's address: what that node masquerades has it", &node);
}
