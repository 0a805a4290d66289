//! A node's own view of the machine: its own `/run`, `/var/lib` and `/var/log`, its own BPF file system, `/proc` and `/sys` of
//! its own namespaces, and kernel settings that it may write without touching the machine's.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::{Error, Spec};
use crate::files;

/// What the kubelet insists on setting. They belong to the whole machine, so in a node they are plain files that say what
/// it wants to read.
const SETTINGS: [(&str, &str); 6] = [
    ("kernel/keys/root_maxbytes", "25000000"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
];

/// Lays out everything.
pub(super) fn lay_out(spec: &Spec) -> Result<(), Error> {
    // What the machine unmounts goes here too; what is mounted here does not show there.
    propagate(MsFlags::MS_SLAVE)?;
    for (folder, own) in &spec.own {
        cover(folder, own, &spec.keep)?;
    }
    fresh("proc", Path::new("/proc"))?;
    sys(&spec.settings)?;
    for (name, value) in SETTINGS {
        let file = spec.settings.join(name);
        files::write(&file, format!("{value}\n"))?;
        let setting = Path::new("/proc/sys").join(name);
        if setting.exists() {
            bind(&file, &setting)?;
        }
    }
    // Pods may ask for mounts that show in the node, and the other way round.
    propagate(MsFlags::MS_SHARED)
}

/// Puts `own` in the place of `folder`, with what has to stay of it.
fn cover(folder: &Path, own: &Path, keep: &[PathBuf]) -> Result<(), Error> {
    files::create_folder(own)?;
    for kept in keep {
        let Ok(below) = kept.strip_prefix(folder) else { continue };
        let place = own.join(below);
        files::create_folder(&place)?;
        bind(kept, &place)?;
    }
    bind(own, folder)
}

/// `/sys` as the node's network namespace has it. The machine's cgroups stay.
fn sys(scratch: &Path) -> Result<(), Error> {
    let cgroups = Path::new("/sys/fs/cgroup");
    let aside = scratch.join("cgroup");
    files::create_folder(&aside)?;
    bind(cgroups, &aside)?;
    fresh("sysfs", Path::new("/sys"))?;
    bind(&aside, cgroups)?;
    fresh("bpf", Path::new("/sys/fs/bpf"))
}

fn bind(from: &Path, to: &Path) -> Result<(), Error> {
    let result = mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>);
    result.map_err(failed("bind-mount on", to))
}

fn fresh(kind: &str, path: &Path) -> Result<(), Error> {
    let result = mount(Some(kind), path, Some(kind), MsFlags::empty(), None::<&str>);
    result.map_err(failed("mount", path))
}

fn propagate(how: MsFlags) -> Result<(), Error> {
    let result = mount(None::<&str>, "/", None::<&str>, how | MsFlags::MS_REC, None::<&str>);
    result.map_err(failed("change how mounts spread below", Path::new("/")))
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(Errno) -> Error {
    let path = path.to_owned();
    move |errno| Error::Mount { step, path, errno }
}
