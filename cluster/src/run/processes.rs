//! Finding the processes of a run: they are those in its network namespaces.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long the kernel may take until killed processes are gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often that is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Kills every process in these network namespaces, and waits until they are gone. What else a node runs, in its pods'
/// namespaces, is in the process namespace of one of them, and dies with that one.
pub(super) fn kill_within(namespaces: &[String]) {
    let identities: Vec<(u64, u64)> =
        namespaces.iter().filter_map(|name| identity(&Path::new("/run/netns").join(name))).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = within(&identities);
        if found.is_empty() || Instant::now() > deadline {
            for pid in found {
                eprintln!("postern-cluster: process {pid} does not end");
            }
            return;
        }
        for pid in found {
            // It may have ended by itself.
            let _ = kill(pid, Signal::SIGKILL);
        }
        thread::sleep(POLL);
    }
}

fn within(identities: &[(u64, u64)]) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let own = Pid::this().as_raw();
    let is_inside = |pid: &i32| {
        *pid != own
            && identity(Path::new(&format!("/proc/{pid}/ns/net")))
                .is_some_and(|one| identities.contains(&one))
    };
    pids.filter(is_inside).map(Pid::from_raw).collect()
}

/// File system and inode: a file that is no namespace, or not any more, is never taken for one.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
