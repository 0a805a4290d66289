//! Where pins are: in a folder of this boot and this network namespace.
//!
//! An interface index means nothing anywhere else. Maps and links of another boot or namespace are not believed, so each has a folder
//! of its own below the one that the agent is given.

#![expect(unsafe_code, reason = "neither nix nor libc has a safe wrapper for SO_NETNS_COOKIE")]

use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tracing::{info, warn};

use super::link;

/// How folders of pins begin.
const PREFIX: &str = "boot-";
/// What stands between the boot and the namespace in their names.
const NAMESPACE: &str = "-netns-";

/// The kernel's number of this boot (`random(4)`).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The folder for pins of this boot and of the calling thread's network namespace.
///
/// # Errors
///
/// The kernel tells neither of them.
pub fn here(root: &Path) -> io::Result<PathBuf> {
    Ok(root.join(format!("{PREFIX}{}{NAMESPACE}{}", boot()?, namespace()?)))
}

/// Makes this boot's and namespace's folder, with one for links in it, and removes what nothing else uses. Links of an agent that knew
/// no such folders come along: each is looked at before it is believed.
pub(super) fn take(root: &Path) -> io::Result<PathBuf> {
    let here = here(root)?;
    remove_unused(root, &here);
    std::fs::create_dir_all(&here)?;
    let (links, earlier) = (here.join("links"), root.join("links"));
    if !links.exists() && earlier.exists() {
        std::fs::rename(earlier, &links)?;
    }
    std::fs::create_dir_all(links)?;
    Ok(here)
}

/// Where an agent's pins are, for who reads them: this namespace's, or the only ones that there are.
///
/// # Errors
///
/// See [`here`].
pub fn find(root: &Path) -> io::Result<PathBuf> {
    let here = here(root)?;
    if !here.exists()
        && let [only] = &all(root)?[..]
    {
        return Ok(only.clone());
    }
    Ok(here)
}

/// All folders of pins.
pub(super) fn all(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in entries(root)? {
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with(PREFIX) && name.contains(NAMESPACE)) {
            all.push(path);
        }
    }
    Ok(all)
}

/// Removes what other boots and other namespaces left, where nothing uses it. An agent goes on without: it believes none of it.
pub fn remove_unused(root: &Path, here: &Path) {
    for folder in all(root).unwrap_or_default().iter().filter(|it| *it != here) {
        match is_used(folder) {
            Ok(true) => {
                info!(folder = %folder.display(), "pins of another network namespace are in use; they stay");
            }
            Ok(false) => match remove(folder) {
                Ok(()) => info!(folder = %folder.display(), "removed pins that nothing uses"),
                Err(error) => warn!(folder = %folder.display(), %error, "pins that nothing uses stay"),
            },
            Err(error) => warn!(folder = %folder.display(), %error, "pins of another network namespace stay"),
        }
    }
}

/// Whether a folder's links do something: one of a veth is alive, or those of netfilter were never beside any of a veth, as with
/// clsact; a network namespace lives as long as these do.
fn is_used(folder: &Path) -> io::Result<bool> {
    let boot = format!("{PREFIX}{}{NAMESPACE}", boot()?);
    if !folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&boot)) {
        return Ok(false);
    }
    let pins = entries(&folder.join("links"))?;
    let mut veths = 0;
    for pin in &pins {
        if let Some(link) = link::tcx(pin)? {
            if link.ifindex != 0 {
                return Ok(true);
            }
            veths += 1;
        }
    }
    Ok(veths == 0 && !pins.is_empty())
}

/// Removes a folder with all links and maps. Dead links go last: they tell that the others are of no use.
fn remove(folder: &Path) -> io::Result<()> {
    let (dead, others): (Vec<_>, Vec<_>) =
        entries(&folder.join("links"))?.into_iter().partition(|pin| matches!(link::tcx(pin), Ok(Some(_))));
    others.iter().chain(&dead).try_for_each(|pin| link::remove(pin))?;
    std::fs::remove_dir_all(folder)
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

fn boot() -> io::Result<String> {
    let id = std::fs::read_to_string(BOOT_ID)
        .map_err(|error| io::Error::new(error.kind(), format!("{BOOT_ID}: {error}")))?;
    Ok(id.trim().to_owned())
}

/// The network namespace's cookie, which no other one gets while the kernel runs. Minimum kernel version: 5.14; before that, the
/// namespace's inode number, which may come back.
fn namespace() -> io::Result<u64> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of_val(&cookie)).map_err(io::Error::other)?;
    // SAFETY: the kernel writes no more than the length says, which is the cookie's.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        return Ok(cookie);
    }
    Ok(std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/thread-self/ns/net")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_boot_or_namespace_is_another_folder() {
        let root = tempfile::tempdir().unwrap();
        let here = here(root.path()).unwrap();
        assert_eq!(find(root.path()).unwrap(), here);
        let other = root.path().join("boot-1-netns-1");
        std::fs::create_dir_all(other.join("links")).unwrap();
        std::fs::create_dir(root.path().join("v7")).unwrap();
        assert_eq!(find(root.path()).unwrap(), other, "the only one");
        std::fs::create_dir(&here).unwrap();
        assert_eq!(find(root.path()).unwrap(), here);
        remove_unused(root.path(), &here);
        assert!(!other.exists(), "of another boot, nothing is in use");
        assert!(here.exists());
    }
}
