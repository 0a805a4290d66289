//! Names under deny-all: with a rule for DNS they are answered, over UDP and TCP, and without one they are not; a cache on
//! the pod's own node needs no rule.

use super::ask::{Row, curl, pod, settles};
use crate::site::Site;

pub(super) const MANIFEST: &str = include_str!("dns.yaml");
const POLICIES: &str = include_str!("dns-policies.yaml");

/// What a Service may be called from its own namespace.
const NAMES: [&str; 3] = ["web", "web.shop", "web.shop.svc.cluster.local"];

/// A question for each name, over each protocol.
fn questions(client: &'static str, answer: &str) -> Vec<Row> {
    let ask = |name: &str, how: &str| {
        // What dig says when nobody answers starts with ;
        let script = format!("dig +search +short +tries=2 +time=1 {how} {name} | grep -v '^;'");
        pod(client, script, answer)
    };
    NAMES.iter().flat_map(|name| [ask(name, "+notcp"), ask(name, "+tcp")]).collect()
}

pub(super) fn check(site: &Site) {
    let service = |name: &str| {
        site.ok(&["--namespace=shop", "get", "service", name, "--output=jsonpath={.spec.clusterIP}"])
    };
    let web = service("web");
    let mut open = questions("shop/client", &web);
    open.extend(questions("shop/local", &web));
    open.push(pod("shop/client", curl("http://web"), "web"));
    open.push(pod("shop/client", curl("http://other"), "other"));
    settles(site, "no policy", &open);

    site.apply(POLICIES);
    let mut ruled = questions("shop/client", &web);
    ruled.extend(NAMES.map(|name| pod("shop/client", curl(&format!("http://{name}")), "web")));
    ruled.push(pod("shop/client", curl("http://other"), ""));
    ruled.push(pod("shop/client", curl(&format!("http://{}", service("other"))), ""));
    settles(site, "deny-all, a rule for DNS, and one Service", &ruled);

    site.ok(&["--namespace=shop", "delete", "networkpolicy", "dns"]);
    let mut without = questions("shop/client", "");
    without.push(pod("shop/client", curl("http://web"), ""));
    without.push(pod("shop/client", curl(&format!("http://{web}")), "web"));
    without.extend(questions("shop/local", &web));
    settles(site, "deny-all, no rule for DNS: only the cache of the own node answers", &without);
}
