//! A kernel in the cache: what QEMU boots, and modules of it.

use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::apt::{self, Apt};
use super::wanted::Candidate;
use crate::architecture::Architecture;

/// Folders of drivers that a guest without hardware can use: a kernel's other modules are most of its 400 MB.
const DRIVERS: [&str; 3] = ["net", "virtio", "char"];
/// Of those, what is for hardware again.
const HARDWARE: [&str; 4] = ["net/ethernet", "net/wireless", "net/usb", "net/can"];

/// A kernel, ready to boot.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// Whose kernel it is.
    pub(super) architecture: Architecture,
    /// What `uname -r` says there.
    pub(super) release: String,
    /// The kernel's version.
    pub(super) kernel: String,
    folder: PathBuf,
}

impl Image {
    /// Downloads and unpacks a kernel that is not in the cache.
    pub(super) fn bring(apt: &Apt, candidate: &Candidate, cache: &Path) -> Result<Self> {
        let Candidate { release, version, .. } = candidate;
        let image = Self {
            architecture: apt.architecture(),
            release: release.clone(),
            kernel: candidate.kernel().to_owned(),
            folder: cache.join(format!("{release}_{version}")),
        };
        if image.folder.exists() {
            return Ok(image);
        }
        eprintln!("kernels: fetching {} {version}", candidate.packages.join(", "));
        // It gets its name when it is whole.
        let partial = cache.join(format!("{release}_{version}.partial"));
        if partial.exists() {
            std::fs::remove_dir_all(&partial).with_context(|| format!("remove {}", partial.display()))?;
        }
        let packages = partial.join("packages");
        std::fs::create_dir_all(&packages).with_context(|| format!("make {}", packages.display()))?;
        apt.download(candidate, &packages)?;
        for package in std::fs::read_dir(&packages).with_context(|| format!("read {}", packages.display()))? {
            unpack(&package?.path(), &partial)?;
        }
        std::fs::remove_dir_all(&packages).with_context(|| format!("remove {}", packages.display()))?;
        ensure!(partial.join("vmlinuz").exists(), "{} holds no kernel", candidate.packages.join(", "));
        apt::run(super::administrator("depmod").arg("--basedir").arg(&partial).arg(release))?;
        std::fs::rename(&partial, &image.folder)
            .with_context(|| format!("rename {} to {}", partial.display(), image.folder.display()))?;
        Ok(image)
    }

    /// What QEMU boots.
    pub(super) fn vmlinuz(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// A file of a run with this kernel.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder that is `/lib/modules/RELEASE` in the guest.
    pub(super) fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.release)
    }
}

/// Unpacks what a guest can use of a package.
fn unpack(package: &Path, into: &Path) -> Result<()> {
    let failed = || format!("unpack {}", package.display());
    let mut child = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(failed)?;
    let mut output = child.stdout.take().with_context(failed)?;
    let mut archive = tar::Archive::new(&mut output);
    for entry in archive.entries().with_context(failed)? {
        let mut entry = entry.with_context(failed)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().with_context(failed)?.into_owned();
        let Some(place) = place(&path) else { continue };
        let place = into.join(place);
        if let Some(folder) = place.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        entry.unpack(&place).with_context(|| format!("write {}", place.display()))?;
    }
    // Padding behind the archive's end: a pipe that nobody empties would stop dpkg-deb.
    std::io::copy(&mut output.by_ref(), &mut std::io::sink()).with_context(failed)?;
    let status = child.wait().with_context(failed)?;
    if !status.success() {
        bail!("dpkg-deb could not read {} ({status})", package.display());
    }
    Ok(())
}

/// Where a file of a package goes in the cache; nowhere when no guest needs it.
fn place(path: &Path) -> Option<PathBuf> {
    let path: PathBuf = path.components().filter(|it| matches!(it, Component::Normal(_))).collect();
    // vmlinux on some architectures; beside its modules since 7.1.
    if path.file_name()?.to_str()?.starts_with("vmlinu") {
        return Some("vmlinuz".into());
    }
    // With and without a merged /usr.
    let modules = path.strip_prefix("usr").unwrap_or(&path);
    let mut parts = modules.strip_prefix("lib/modules").ok()?.components();
    let _release = parts.next()?;
    let module = parts.as_path();
    let is_needed = match module.strip_prefix("kernel/drivers") {
        Ok(driver) => {
            DRIVERS.iter().any(|it| driver.starts_with(it))
                && !HARDWARE.iter().any(|it| driver.starts_with(it))
        }
        Err(_) => !module.starts_with("kernel/sound"),
    };
    is_needed.then(|| modules.to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::place;

    fn placed(path: &str) -> Option<String> {
        place(Path::new(path)).map(|it| it.display().to_string())
    }

    #[test]
    fn the_kernel_and_modules_without_hardware_are_unpacked() {
        assert_eq!(placed("./boot/vmlinuz-6.1.0-57-amd64").unwrap(), "vmlinuz");
        assert_eq!(placed("./usr/lib/modules/7.3/vmlinuz").unwrap(), "vmlinuz");
        assert_eq!(placed("./boot/System.map-6.1.0-57-amd64"), None);
        assert_eq!(
            placed("./lib/modules/6.1/kernel/net/9p/9pnet.ko").unwrap(),
            "lib/modules/6.1/kernel/net/9p/9pnet.ko"
        );
        assert_eq!(
            placed("./usr/lib/modules/6.12/modules.builtin").unwrap(),
            "lib/modules/6.12/modules.builtin"
        );
        assert_eq!(
            placed("./lib/modules/6.1/kernel/drivers/net/veth.ko").unwrap(),
            "lib/modules/6.1/kernel/drivers/net/veth.ko"
        );
        assert_eq!(placed("./lib/modules/6.1/kernel/drivers/net/ethernet/intel/e1000.ko"), None);
        assert_eq!(placed("./lib/modules/6.1/kernel/drivers/gpu/drm/drm.ko"), None);
        assert_eq!(placed("./usr/share/doc/linux-image/copyright"), None);
    }
}
