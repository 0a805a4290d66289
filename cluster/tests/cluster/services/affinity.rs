//! Session affinity: a client keeps the backend that it got, and policy is asked about that one alone.

use super::ask::{pod, settles};
use crate::site::Site;

pub(super) const MANIFEST: &str = include_str!("affinity.yaml");
/// The client reaches some of the backends.
const POLICY: &str = include_str!("affinity-policy.yaml");

const BACKENDS: [&str; 2] = ["one", "two"];
/// Were each connection a choice, all of them would be alike with a probability of 10^-3.
const CONNECTIONS: usize = 10;
/// Of a second each, until a backend answers for the first time.
const ATTEMPTS: usize = 30;

pub(super) fn check(site: &Site) {
    let path = "--output=jsonpath={.spec.clusterIP}";
    let service = site.ok(&["--namespace=sticky", "get", "service", "web", path]);
    let ask = format!("curl --silent --fail --max-time 1 http://{service} || echo nobody");
    let often = format!("for i in $(seq {CONNECTIONS}); do {ask}; done");
    let all = |said: &str| [pod("sticky/client", &*often, [said; CONNECTIONS].join("\n"))];

    let answer = || site.ok(&["--namespace=sticky", "exec", "client", "--", "sh", "-c", &ask]);
    // kube-proxy may not have heard of the backends yet.
    let answers = (0..ATTEMPTS).find_map(|_| BACKENDS.into_iter().find(|it| *it == answer().trim()));
    let kept = answers.expect("a backend answers");
    let other = BACKENDS.into_iter().find(|it| *it != kept).unwrap();
    settles(site, "no policy", &all(kept));
    for (backends, said) in [(kept, kept), (other, "nobody"), ("one, two", kept)] {
        site.apply(&POLICY.replace("$(BACKENDS)", backends));
        settles(site, &format!("allowed: {backends}, kept: {kept}"), &all(said));
    }
}
