//! Names in the cluster: CoreDNS in `kube-system`, behind the Service `kube-dns`, whose address every kubelet gives to pods.

use std::path::Path;

use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;

use crate::{api, fabric, image, manifest};

/// What the names of all Services and pods end with.
pub const DOMAIN: &str = "cluster.local";
/// What CoreDNS is deployed as.
const MANIFEST: &str = include_str!("dns/coredns.yaml");

/// Deploys CoreDNS.
pub(crate) async fn deploy(kubeconfig: &Path) -> Result<(), manifest::Error> {
    manifest::apply(&api::client(kubeconfig).await?, &manifest()).await
}

/// What it still waits for.
pub(crate) async fn missing(client: kube::Client) -> Result<Option<String>, kube::Error> {
    let deployment = Api::<Deployment>::namespaced(client, "kube-system").get("coredns").await?;
    let wanted = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = deployment.status.and_then(|status| status.available_replicas).unwrap_or(0);
    Ok((ready < wanted).then(|| format!("{ready} of {wanted} pods of CoreDNS are ready")))
}

fn manifest() -> String {
    MANIFEST
        .replace("$(DOMAIN)", DOMAIN)
        .replace("$(ADDRESS)", &fabric::DNS_SERVICE.to_string())
        .replace("$(IMAGE)", image::COREDNS)
}

#[cfg(test)]
mod tests {
    #[test]
    fn everything_in_the_manifest_is_filled_in() {
        assert!(!super::manifest().contains("$("));
    }
}
