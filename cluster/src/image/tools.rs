//! The image of tools: programs of this machine, and the libraries that they need.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::archive::Layer;
use super::{Error, TOOLS, output};
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
    let mut libraries = BTreeSet::new();
    for (program, package) in PROGRAMS {
        let path = find(program, package)?;
        layer.file(Path::new("usr/bin").join(program), 0o755, &read(&path)?).map_err(failed)?;
        if program != "busybox" {
            libraries.extend(needed(&path)?);
        }
    }
    for library in libraries {
        let inside = library.strip_prefix("/").unwrap_or(&library);
        layer.file(inside, 0o755, &read(&library)?).map_err(failed)?;
    }
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

/// The loader and the libraries of a program, where it looks for them.
fn needed(program: &Path) -> Result<Vec<PathBuf>, Error> {
    let said = output(Command::new("ldd").arg(program), "ldd")?;
    Ok(parse(&said))
}

/// Lines are `NAME => /PATH (ADDRESS)`, or `/PATH (ADDRESS)` for the loader.
fn parse(said: &str) -> Vec<PathBuf> {
    let words = said.lines().filter_map(|line| {
        let path = line.split_once(" => ").map_or(line, |(_, path)| path);
        path.split_whitespace().next()
    });
    words.filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    #[test]
    fn ldd_names_libraries_and_the_loader() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(super::parse(said), expected);
    }
}
