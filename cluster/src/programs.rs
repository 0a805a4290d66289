//! Kubernetes, etcd, CoreDNS and Helm: which versions, where their binaries are, and building them where they are not.
//!
//! Each is built from its Go module (`cluster/go/`) into a folder of its own in the user's cache, named after all that
//! the binary depends on. A folder that is there is complete: it appears by rename.

mod build;

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use build::{Progress, build};

/// The Kubernetes version. `cluster/go/kubernetes/go.mod` says the same.
pub const KUBERNETES: &str = "v1.34.4";
/// The etcd version: the one that this Kubernetes is released with. `cluster/go/etcd/go.mod` says the same.
pub const ETCD: &str = "v3.6.5";
/// The CoreDNS version: the one that this Kubernetes is released with. `cluster/go/coredns/go.mod` says the same.
pub const COREDNS: &str = "v1.12.1";
/// The Helm version. `cluster/go/helm/go.mod` says the same.
pub const HELM: &str = "v4.3.1";

/// No binaries.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing says where the user's cache is.
    #[error("neither XDG_CACHE_HOME nor HOME is set: nowhere to keep what is built")]
    NoCache,
    /// It was not built yet.
    #[error("{program} is not built yet; run `cargo xtask cluster build` (once, about 20 minutes)")]
    NotBuilt {
        /// Its name.
        program: &'static str,
    },
    /// There is no Go.
    #[error(
        "no `go` in PATH; Kubernetes is built with it: install Go 1.24 or newer (Debian: golang-go), then try again"
    )]
    NoGo,
    /// It does not build.
    #[error("go build of {program} failed:\n{output}")]
    Build {
        /// Its name.
        program: &'static str,
        /// What go said.
        output: String,
    },
    /// Files.
    #[error(transparent)]
    File(#[from] crate::files::Error),
}

/// Something that is built from a Go module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The store of the API server.
    Etcd,
    /// The API server.
    Apiserver,
    /// Controllers: service accounts, endpoints, daemon sets, and the like.
    ControllerManager,
    /// The scheduler.
    Scheduler,
    /// The agent of each node.
    Kubelet,
    /// Services, on each node.
    Proxy,
    /// The command line.
    Kubectl,
    /// Names of Services and pods.
    CoreDns,
    /// The package manager, for trying the chart.
    Helm,
}

impl Program {
    /// All of them, what is needed first first.
    pub const ALL: [Self; 9] = [
        Self::Etcd,
        Self::Apiserver,
        Self::Kubectl,
        Self::ControllerManager,
        Self::Scheduler,
        Self::Kubelet,
        Self::Proxy,
        Self::CoreDns,
        Self::Helm,
    ];

    /// Its name: that of the binary.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Apiserver => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::Proxy => "kube-proxy",
            Self::Kubectl => "kubectl",
            Self::CoreDns => "coredns",
            Self::Helm => "helm",
        }
    }

    /// Its version, with the `v`.
    #[must_use]
    pub const fn version(self) -> &'static str {
        match self {
            Self::Etcd => ETCD,
            Self::CoreDns => COREDNS,
            Self::Helm => HELM,
            _ => KUBERNETES,
        }
    }

    /// The folder with the Go module that it is built in.
    fn module(self) -> PathBuf {
        let folder = match self {
            Self::Etcd => "etcd",
            Self::CoreDns => "coredns",
            Self::Helm => "helm",
            _ => "kubernetes",
        };
        Path::new(env!("CARGO_MANIFEST_DIR")).join("go").join(folder)
    }

    /// The Go package.
    fn package(self) -> String {
        match self {
            Self::Etcd => "go.etcd.io/etcd/server/v3".to_owned(),
            // Of our own, in the module itself: it names the plugins.
            Self::CoreDns => ".".to_owned(),
            Self::Helm => "helm.sh/helm/v4/cmd/helm".to_owned(),
            _ => format!("k8s.io/kubernetes/cmd/{}", self.name()),
        }
    }

    /// Small, and with a version that `--version` and the API server's `/version` tell.
    fn linker_flags(self) -> String {
        let strip = "-s -w";
        match self {
            Self::Etcd | Self::CoreDns => strip.to_owned(),
            Self::Helm => format!("{strip} -X helm.sh/helm/v4/internal/version.version={HELM}"),
            _ => {
                let package = "k8s.io/component-base/version";
                let minor = KUBERNETES.split('.').nth(1).unwrap_or_default();
                format!(
                    "{strip} -X {package}.gitVersion={KUBERNETES} -X {package}.gitMajor=1 \
                     -X {package}.gitMinor={minor}"
                )
            }
        }
    }

    /// The folder of this very build, in the user's cache.
    fn folder(self) -> Result<PathBuf, Error> {
        let mut hash = Sha256::new();
        let own: &[&str] = if self == Self::CoreDns { &["main.go"] } else { &[] };
        for file in ["go.mod", "go.sum"].iter().chain(own) {
            let path = self.module().join(file);
            hash.update(std::fs::read(&path).map_err(crate::files::Error::on("read", &path))?);
        }
        hash.update(self.package());
        hash.update(self.linker_flags());
        hash.update(build::FLAGS.join(" "));
        let key = hash.finalize().iter().take(4).fold(0_u32, |key, byte| key << 8 | u32::from(*byte));
        Ok(cache()?.join(format!("{}-{}-{key:08x}", self.name(), self.version().trim_start_matches('v'))))
    }

    /// The binary.
    ///
    /// # Errors
    /// It is not built yet.
    pub fn path(self) -> Result<PathBuf, Error> {
        let path = self.folder()?.join("bin").join(self.name());
        if path.exists() { Ok(path) } else { Err(Error::NotBuilt { program: self.name() }) }
    }
}

/// Where Postern keeps what takes long to make: `$XDG_CACHE_HOME/postern`, `~/.cache/postern`.
///
/// # Errors
/// Neither variable is set.
pub fn cache() -> Result<PathBuf, Error> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    Ok(cache.ok_or(Error::NoCache)?.join("postern"))
}

#[cfg(test)]
mod tests {
    use super::Program;

    #[test]
    fn modules_hold_the_versions_that_are_said() {
        for program in Program::ALL {
            let module = std::fs::read_to_string(program.module().join("go.mod")).unwrap();
            let root = match program {
                Program::CoreDns => "github.com/coredns/coredns".to_owned(),
                _ => program.package(),
            };
            let required = module.lines().find_map(|line| {
                let (path, version) = line.strip_prefix("require ")?.split_once(' ')?;
                root.starts_with(path).then(|| version.to_owned())
            });
            assert_eq!(required.as_deref(), Some(program.version()), "{}", program.name());
        }
    }

    #[test]
    fn staging_modules_are_those_of_this_kubernetes() {
        let module = std::fs::read_to_string(Program::Kubelet.module().join("go.mod")).unwrap();
        let expected = super::KUBERNETES.replace("v1.", "v0.");
        let replaced: Vec<&str> = module.lines().filter(|line| line.contains(" => ")).collect();
        assert!(!replaced.is_empty());
        for line in replaced {
            assert!(line.ends_with(&expected), "{line}");
        }
    }
}
