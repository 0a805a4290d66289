//! The image of tools: programs of this machine, and the libraries that they need.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::archive::Layer;
use super::{Error, TOOLS, libraries};
use crate::files;

/// Programs, and the Debian packages that bring them. `xtask/src/setup` installs the same.
const PROGRAMS: [(&str, &str); 12] = [
    ("busybox", "busybox-static"),
    ("curl", "curl"),
    ("dash", "dash"),
    ("dig", "bind9-dnsutils"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("nc", "netcat-openbsd"),
    ("nslookup", "bind9-dnsutils"),
    ("ping", "iputils-ping"),
    ("socat", "socat"),
    ("ss", "iproute2"),
    ("tcpdump", "tcpdump"),
];

/// What busybox does. Its shell runs its own versions of everything above, so the shell is another one.
const APPLETS: [&str; 27] = [
    "cat", "chmod", "cut", "date", "dd", "echo", "env", "false", "grep", "head", "hostname", "httpd", "id",
    "kill", "ls", "mkdir", "printf", "ps", "rm", "sed", "seq", "sleep", "sort", "tail", "test", "timeout",
    "true",
];

/// What goes in, to tell one version of the image from another.
pub(super) fn versions() -> Result<String, Error> {
    let mut versions = format!("{PROGRAMS:?} {APPLETS:?}");
    for (program, package) in PROGRAMS {
        let path = find(program, package)?;
        let metadata = fs::metadata(&path).map_err(files::Error::on("read", &path))?;
        // Writing to a string does not fail.
        let _ = write!(versions, " {} {:?}", metadata.len(), metadata.modified().ok());
    }
    Ok(versions)
}

/// Makes the archive.
pub(super) fn build(archive: &Path) -> Result<(), Error> {
    let failed = |error| Error::Archive { path: archive.to_owned(), error };
    let mut layer = Layer::new();
    let mut wanted = BTreeSet::new();
    for (program, package) in PROGRAMS {
        let path = find(program, package)?;
        layer.file(Path::new("usr/bin").join(program), 0o755, &read(&path)?).map_err(failed)?;
        if program != "busybox" {
            wanted.extend(libraries::needed(&path)?);
        }
    }
    libraries::add(&mut layer, &wanted, archive)?;
    for applet in APPLETS {
        layer.link(Path::new("bin").join(applet), "/usr/bin/busybox").map_err(failed)?;
    }
    layer.link("bin/sh", "/usr/bin/dash").map_err(failed)?;
    layer.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n").map_err(failed)?;
    layer.file("etc/group", 0o644, b"root:x:0:\n").map_err(failed)?;
    layer.file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n").map_err(failed)?;
    layer.folder("root", 0o700).map_err(failed)?;
    layer.folder("tmp", 0o1777).map_err(failed)?;
    let image = layer.into_image(TOOLS, &["/bin/sleep", "2147483647"]).map_err(failed)?;
    fs::write(archive, image).map_err(failed)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    Ok(fs::read(path).map_err(files::Error::on("read", path))?)
}

fn find(program: &'static str, package: &'static str) -> Result<PathBuf, Error> {
    let folders = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];
    let mut paths = folders.into_iter().map(|folder| Path::new(folder).join(program));
    paths.find(|path| path.exists()).ok_or(Error::Missing { program, package })
}
