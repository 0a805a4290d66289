//! Debian packages.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::linker::LLVM;
use super::{Step, progress};
use crate::architecture::Architecture;

/// What the build and the lab need from the distribution, beside the LLVM of [`LLVM`]. `cargo xtask bench traffic`
/// compares with nftables, iptables and ipset.
const OTHERS: [&str; 5] = ["g++", "iproute2", "ipset", "iptables", "nftables"];

/// What a cluster needs more: container runtime, CNI plugins, and the programs of its image of tools
/// (`cluster/src/image/tools.rs`).
const OF_CLUSTER: [&str; 14] = [
    "bind9-dnsutils",
    "busybox-static",
    "containerd",
    "containernetworking-plugins",
    "curl",
    "dash",
    "iperf3",
    "iptables",
    "iputils-ping",
    "netcat-openbsd",
    "nftables",
    "runc",
    "socat",
    "tcpdump",
];
/// What those bring, beside what building needs, for systems that are not Debian.
const PROGRAMS_OF_CLUSTER: [&str; 6] = ["busybox", "containerd", "curl", "iperf3", "runc", "socat"];

/// What booting other kernels needs more: the guest's shell, and what loads modules, here and there.
const OF_KERNELS: [&str; 5] = ["busybox-static", "iproute2", "kmod", "procps", "xz-utils"];
/// What those bring.
const PROGRAMS_OF_KERNELS: [&str; 4] = ["busybox", "modprobe", "sysctl", "xz"];

/// The packages.
#[derive(Debug)]
pub(super) enum Packages {
    /// For building, the lab and the tests.
    Base,
    /// For `cargo xtask cluster`.
    Cluster,
    /// For `cargo xtask kernels`.
    Kernels {
        /// Whose processor guests have.
        guest: Architecture,
    },
}

impl Packages {
    fn wanted(&self) -> Vec<String> {
        match self {
            Self::Base => [llvm()].into_iter().chain(OTHERS.map(str::to_owned)).collect(),
            Self::Cluster => OF_CLUSTER.map(str::to_owned).to_vec(),
            Self::Kernels { guest } => {
                OF_KERNELS.into_iter().chain([guest.qemu_package()]).map(str::to_owned).collect()
            }
        }
    }

    fn missing(&self) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        for package in self.wanted() {
            let query = ["--show", "--showformat=${db:Status-Status}", &package];
            let output = Command::new("dpkg-query").args(query).output().context("run dpkg-query")?;
            if output.stdout != b"installed" {
                missing.push(package);
            }
        }
        Ok(missing)
    }
}

impl Step for Packages {
    fn short(&self) -> &'static str {
        match self {
            Self::Base => "packages",
            Self::Cluster => "packages of the cluster",
            Self::Kernels { guest: Architecture::Amd64 } => "packages of x86_64 kernels",
            Self::Kernels { guest: Architecture::Arm64 } => "packages of aarch64 kernels",
        }
    }

    fn name(&self) -> String {
        format!("packages {}", self.wanted().join(", "))
    }

    fn done(&self) -> Result<bool> {
        if !Path::new("/usr/bin/dpkg-query").exists() {
            // Another distribution: look for what the packages bring.
            return match self {
                Self::Base => {
                    let linker_is_there = super::linker::BpfLinker.done()?;
                    let programs = ["ip", "ipset", "iptables-restore", "nft"];
                    Ok(linker_is_there && programs.into_iter().all(in_path))
                }
                Self::Cluster => Ok(PROGRAMS_OF_CLUSTER.into_iter().all(in_path)),
                Self::Kernels { guest } => {
                    Ok(PROGRAMS_OF_KERNELS.into_iter().chain([guest.qemu()]).all(in_path))
                }
            };
        }
        Ok(self.missing()?.is_empty())
    }

    fn install(&self) -> Result<()> {
        if !in_path("apt-get") {
            bail!("this is not a Debian system (no apt-get)");
        }
        if !nix::unistd::geteuid().is_root() {
            bail!("installing packages needs root");
        }
        let missing = self.missing()?;
        if !missing.iter().all(|package| has_candidate(package)) {
            progress::run(apt().arg("update"))?;
        }
        if let Some(package) = missing.iter().find(|package| !has_candidate(package)) {
            bail!("no apt source of this system has {package}");
        }
        progress::run(apt().args(["install", "--yes", "--no-install-recommends"]).args(&missing))
    }

    fn by_hand(&self) -> Vec<String> {
        let packages = self.wanted().join(" ");
        if !in_path("apt-get") {
            return vec![format!("# install what Debian calls {packages}")];
        }
        let mut commands = Vec::new();
        if matches!(self, Self::Base) && !has_candidate(&llvm()) {
            commands.push(format!(
                "# {} is not among this system's packages: add the LLVM project's own apt source first",
                llvm()
            ));
        }
        commands.push("sudo apt-get update".to_owned());
        commands.push(format!("sudo apt-get install --yes --no-install-recommends {packages}"));
        commands
    }
}

fn llvm() -> String {
    format!("llvm-{LLVM}-dev")
}

fn has_candidate(package: &str) -> bool {
    let output = Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().any(|line| line.trim().starts_with("Candidate: ") && !line.contains("(none)"))
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive").args(["--option", "DPkg::Lock::Timeout=300"]);
    apt
}

pub(super) fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Administrators' programs are not in every user's PATH.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).any(|file| file.exists())
}
