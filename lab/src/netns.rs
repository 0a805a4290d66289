//! Named network namespaces, in the place where `ip netns` keeps its own (`/run/netns/NAME`), so that
//! `ip netns exec` and friends work on the lab's too.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Where named namespaces live.
const DIRECTORY: &str = "/run/netns";

/// What went wrong with a namespace.
#[derive(Debug, thiserror::Error)]
#[error("network namespace {name}: {step}: {error}")]
pub struct Error {
    /// The namespace.
    pub name: String,
    /// What was tried.
    pub step: &'static str,
    /// What the kernel said.
    #[source]
    pub error: io::Error,
}

/// An open handle to a named network namespace. Dropping the handle leaves the namespace: see [`delete`].
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// Makes a new, empty namespace whose loopback is still down.
    ///
    /// # Errors
    /// The name exists, or the kernel refuses (not root).
    pub fn create(name: &str) -> Result<Self, Error> {
        let failed = |step| move |error| Error { name: name.to_owned(), step, error };
        prepare_directory().map_err(failed("prepare /run/netns"))?;
        let path = path_of(name);
        File::create_new(&path).map_err(failed("create its file"))?;
        // Unsharing moves the calling thread, so a thread of its own does it.
        let made = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            });
            thread.join().unwrap_or(Err(Errno::ECANCELED))
        });
        if let Err(errno) = made {
            // Nothing is mounted on the file yet: take it away again, and report the first failure.
            let _ = fs::remove_file(&path);
            return Err(failed("unshare and mount")(errno.into()));
        }
        Self::open(name)
    }

    /// Opens a namespace that exists.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn open(name: &str) -> Result<Self, Error> {
        let file = File::open(path_of(name)).map_err(|error| Error {
            name: name.to_owned(),
            step: "open",
            error,
        })?;
        Ok(Self { name: name.to_owned(), file })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// Runs `work` on a thread inside the namespace and waits for it. Sockets that it opens stay in the namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered, or `work` panicked.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let failed = |errno: Errno| Error { name: self.name.clone(), step: "enter", error: errno.into() };
        thread::scope(|scope| {
            let thread = scope.spawn(|| setns(&self.file, CloneFlags::CLONE_NEWNET).map(|()| work()));
            thread.join().unwrap_or(Err(Errno::ECANCELED)).map_err(failed)
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Moves the calling thread into the namespace at `path`. For helper processes, before they start other threads.
///
/// # Errors
/// The namespace cannot be entered.
pub fn enter(path: &Path) -> Result<(), Error> {
    let failed = |step, error| Error { name: path.display().to_string(), step, error };
    let file = File::open(path).map_err(|error| failed("open", error))?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| failed("enter", errno.into()))
}

/// Removes the name. The namespace goes when its last process and socket do. One that is gone already is no error.
///
/// # Errors
/// The kernel refuses.
pub fn delete(name: &str) -> Result<(), Error> {
    let path = path_of(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: the file is there, nothing is mounted on it (a run died between the two).
        Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => {}
        Err(errno) => {
            return Err(Error { name: name.to_owned(), step: "unmount", error: errno.into() });
        }
    }
    match fs::remove_file(&path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error { name: name.to_owned(), step: "remove its file", error }),
    }
}

/// Names of all namespaces that start with `prefix`.
#[must_use]
pub fn names_with_prefix(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).collect()
}

fn path_of(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// As `ip netns add` does: the folder is a shared mount, so that a removal reaches every mount namespace.
fn prepare_directory() -> io::Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    let share = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(None::<&str>, DIRECTORY, None::<&str>, flags, None::<&str>)
    };
    if share() == Err(Errno::EINVAL) {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(DIRECTORY), DIRECTORY, None::<&str>, flags, None::<&str>)?;
        share()?;
    }
    Ok(())
}
