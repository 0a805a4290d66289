//! Where a guest's programs come from: this machine's own root, or a small Debian where the processor is another.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::apt::{self, Apt};
use crate::architecture::Architecture;

/// What a guest's script and the tests call. `base-files` brings the links of a merged `/usr`.
const PACKAGES: [&str; 8] =
    ["base-files", "busybox-static", "coreutils", "dash", "iproute2", "kmod", "nftables", "procps"];
/// A static one is all that a guest has when it starts.
const BUSYBOX: [&str; 2] = ["usr/bin/busybox", "bin/busybox"];

/// The root of a guest, before anything is written there.
#[derive(Debug)]
pub(super) struct Root {
    folder: PathBuf,
}

impl Root {
    /// For guests of this architecture.
    pub(super) fn bring(apt: &Apt, architecture: Architecture, cache: &Path) -> Result<Self> {
        if architecture == Architecture::HERE {
            return Ok(Self { folder: "/".into() });
        }
        let root = Self { folder: cache.join(format!("root-{}", architecture.debian())) };
        if root.folder.exists() {
            return Ok(root);
        }
        eprintln!("kernels: fetching programs for {}", architecture.debian());
        let partial = root.folder.with_extension("partial");
        if partial.exists() {
            std::fs::remove_dir_all(&partial).with_context(|| format!("remove {}", partial.display()))?;
        }
        // Where a guest mounts something, or root has a home.
        for folder in ["dev", "proc", "root", "run", "sys", "tmp"] {
            let folder = partial.join(folder);
            std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        }
        for package in apt.download_with_dependencies(&PACKAGES)? {
            apt::run(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&partial))?;
        }
        for (link, to) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib")] {
            let link = partial.join(link);
            if !link.exists() {
                std::os::unix::fs::symlink(to, &link).with_context(|| format!("link {}", link.display()))?;
            }
        }
        std::fs::rename(&partial, &root.folder)
            .with_context(|| format!("rename {} to {}", partial.display(), root.folder.display()))?;
        Ok(root)
    }

    /// Where it is on this machine.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The guest's first shell.
    pub(super) fn busybox(&self) -> Result<Vec<u8>> {
        let path = BUSYBOX.into_iter().map(|it| self.folder.join(it)).find(|it| it.exists());
        let path = path.context("there is no busybox; install busybox-static")?;
        std::fs::read(&path).with_context(|| format!("read {}", path.display()))
    }
}
