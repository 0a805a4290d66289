//! Who is who: the certificates and kubeconfigs of the control plane's parts.

use std::path::{Path, PathBuf};

use crate::fabric::{APISERVER_PORT, CONTROL, KUBERNETES_SERVICE};
use crate::files;
use crate::kubeconfig;
use crate::pki::{Authority, Error, Pair, signing_key};

/// Everything that was made, and the files that hold it.
#[derive(Debug)]
pub(crate) struct Identities {
    authority: Authority,
    administrator: Pair,
    folder: PathBuf,
}

impl Identities {
    /// Makes all that the control plane needs, in `state/pki` and `state/*.kubeconfig`.
    pub(super) fn write(state: &Path) -> Result<Self, Error> {
        let authority = Authority::new()?;
        let administrator = authority.client("postern-cluster-admin", Some("system:masters"))?;
        let identities = Self { authority, administrator, folder: state.to_owned() };
        let pki = identities.pki();
        files::write(&pki.join("ca.crt"), identities.authority.certificate())?;
        identities.authority.server("kube-apiserver", &hosts())?.write(&pki, "apiserver")?;
        let kubelet_client = identities.authority.client("kube-apiserver-kubelet", Some("system:masters"))?;
        kubelet_client.write(&pki, "apiserver-kubelet")?;
        // Whom the API server stands in for when it passes requests on to other API servers.
        let front_proxy = Authority::new()?;
        files::write(&pki.join("front-proxy-ca.crt"), front_proxy.certificate())?;
        front_proxy.client("front-proxy-client", None)?.write(&pki, "front-proxy")?;
        let (private, public) = signing_key()?;
        files::write(&pki.join("service-accounts.key"), private)?;
        files::write(&pki.join("service-accounts.pub"), public)?;
        files::write(&identities.administrator(), identities.administrator_kubeconfig(&server()))?;
        for (file, user) in
            [("controller-manager", "system:kube-controller-manager"), ("scheduler", "system:kube-scheduler")]
        {
            identities.write_kubeconfig(file, user, None)?;
        }
        Ok(identities)
    }

    /// Makes a kubeconfig for a user, as seen from the control plane's and the nodes' namespaces.
    pub(crate) fn write_kubeconfig(
        &self,
        file: &str,
        user: &str,
        group: Option<&str>,
    ) -> Result<PathBuf, Error> {
        let pair = self.authority.client(user, group)?;
        let path = self.kubeconfig(file);
        files::write(&path, kubeconfig::render(&server(), &self.authority.certificate(), &pair))?;
        Ok(path)
    }

    /// The authority.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The folder of certificates and keys.
    pub(crate) fn pki(&self) -> PathBuf {
        self.folder.join("pki")
    }

    /// A kubeconfig's path.
    pub(super) fn kubeconfig(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.kubeconfig"))
    }

    /// The administrator's kubeconfig.
    pub(crate) fn administrator(&self) -> PathBuf {
        self.kubeconfig("admin")
    }

    /// The text of the administrator's kubeconfig, with another way there.
    pub(super) fn administrator_kubeconfig(&self, server: &str) -> String {
        kubeconfig::render(server, &self.authority.certificate(), &self.administrator)
    }
}

fn server() -> String {
    format!("https://{CONTROL}:{APISERVER_PORT}")
}

/// All that the API server may be called. Relays listen on loopback addresses.
fn hosts() -> Vec<String> {
    let names =
        ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
    let addresses = [CONTROL.to_string(), KUBERNETES_SERVICE.to_string(), "127.0.0.1".to_owned()];
    names.into_iter().chain(["kubernetes.default.svc.cluster.local".to_owned()]).chain(addresses).collect()
}
