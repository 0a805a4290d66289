//! Services as real clusters have them, in both modes of kube-proxy: CoreDNS behind `kube-dns` and a cache of each node,
//! nginx between the world and two Services, clients that keep their backend, and pods that reach themselves. One cluster
//! for each mode.

mod affinity;
mod ask;
mod dns;
mod hairpin;
mod ingress;

use postern_cluster::image;
use postern_cluster::node::ProxyMode;

use crate::e2e::story;
use crate::site::{self, Site};

/// Steps of the story that the second mode is tried with: until single pods are opened to whole namespaces.
const STEPS: &str = "4";

#[test]
fn names_ingress_and_hairpin_with_iptables() {
    check(ProxyMode::Iptables);
}

#[test]
fn names_ingress_hairpin_and_the_story_with_nftables() {
    let site = check(ProxyMode::Nftables);
    story(&site, &["--steps", STEPS], 4);
}

/// Brings up everything, and tries one after the other.
fn check(proxy_mode: ProxyMode) -> Site {
    let mut site = Site::with(&site::Options { proxy_mode, dns: true, ..site::options() });
    site.cluster.import_image(&image::nginx().unwrap()).unwrap();
    site.kustomize("apply", "base");
    site.rolled_out("postern");
    let manifests = [dns::MANIFEST, ingress::MANIFEST, hairpin::MANIFEST, affinity::MANIFEST];
    for manifest in manifests {
        site.apply(manifest);
    }
    for namespace in ["kube-system", "shop", "ingress-nginx", "app", "elsewhere", "mirror", "sticky"] {
        site.wait_for_pods(namespace);
    }

    ingress::check(&mut site);
    dns::check(&site);
    hairpin::check(&site);
    affinity::check(&site);
    site
}
