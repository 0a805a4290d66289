//! A pod that is behind a Service reaches itself through it: kube-proxy masquerades what comes back as the node, and policy
//! must know it for what it is. That opens nothing else.

use super::ask::{curl, pod, settles};
use crate::site::Site;

pub(super) const MANIFEST: &str = include_str!("hairpin.yaml");
const DENY: &str = include_str!("hairpin-deny.yaml");

pub(super) fn check(site: &Site) {
    let address = site.ok(&["--namespace=mirror", "get", "pod", "self", "--output=jsonpath={.status.podIP}"]);
    let path = "--output=jsonpath={.spec.clusterIP}";
    let service = site.ok(&["--namespace=mirror", "get", "service", "self", path]);
    let udp = |address: &str| format!("echo question | nc -u -w 1 {address} 5000");
    let through_itself = |client| {
        vec![pod(client, curl(&format!("http://{service}")), "self"), pod(client, udp(&service), "here")]
    };
    let others = |tcp: &str, answer: &str| {
        let mut rows = Vec::new();
        for address in [&address, &service] {
            let url = if *address == service { address.clone() } else { format!("{address}:8080") };
            rows.push(pod("mirror/other", curl(&format!("http://{url}")), tcp));
            rows.push(pod("mirror/other", udp(address), answer));
        }
        rows
    };
    let both = |tcp: &str, answer: &str| {
        let mut rows = through_itself("mirror/self");
        rows.extend(others(tcp, answer));
        rows
    };
    settles(site, "no policy", &both("self", "here"));
    site.apply(DENY);
    settles(site, "deny-all ingress: only itself", &both("", ""));
    // Again, while the above is still remembered: the port that a neighbour uses now may be the one of a moment ago.
    settles(site, "and still only itself", &both("", ""));
}
