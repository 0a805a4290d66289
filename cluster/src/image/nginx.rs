//! The image of nginx: the binary of Debian's package. The package is unpacked, not installed: installed, it would start a
//! web server on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::archive::Layer;
use super::{Error, NGINX, libraries, output};
use crate::files;

const PACKAGE: &str = "nginx";

/// What the package is called and what is in it, to tell one version from another.
pub(super) fn version() -> Result<String, Error> {
    let mut command = Command::new("apt-cache");
    if !Path::new("/usr/bin/apt-cache").exists() {
        let reason =
            "no such program; the image of nginx is made of Debian's package, on a Debian system".to_owned();
        return Err(Error::Command { command: "apt-cache show nginx".to_owned(), reason });
    }
    let said = output(command.args(["show", "--no-all-versions", PACKAGE]), "apt-cache show nginx")?;
    let digest = said.lines().find(|line| line.starts_with("SHA256: ")).map(str::to_owned);
    digest.ok_or_else(|| Error::Command {
        command: "apt-cache show nginx".to_owned(),
        reason: "no digest of a package; try: apt-get update".to_owned(),
    })
}

/// Makes the archive.
pub(super) fn build(archive: &Path) -> Result<(), Error> {
    let failed = |error| Error::Archive { path: archive.to_owned(), error };
    let folder = tempfile::tempdir().map_err(failed)?;
    let program = unpack(folder.path())?;
    let content = fs::read(&program).map_err(files::Error::on("read", &program))?;
    let mut layer = Layer::new();
    layer.file("usr/sbin/nginx", 0o755, &content).map_err(failed)?;
    libraries::add(&mut layer, &libraries::needed(&program)?, archive)?;
    layer.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/false\n").map_err(failed)?;
    layer.file("etc/group", 0o644, b"root:x:0:\n").map_err(failed)?;
    layer.file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n").map_err(failed)?;
    for folder in ["run", "tmp", "var/lib/nginx", "var/log/nginx"] {
        layer.folder(folder, 0o1777).map_err(failed)?;
    }
    let image = layer.into_image(NGINX, &["/usr/sbin/nginx", "-g", "daemon off;"]).map_err(failed)?;
    fs::write(archive, image).map_err(failed)
}

/// Fetches the package and unpacks it, into `folder`. Returns the program.
fn unpack(folder: &Path) -> Result<PathBuf, Error> {
    let mut fetch = Command::new("apt-get");
    output(fetch.current_dir(folder).args(["download", PACKAGE]), "apt-get download nginx")?;
    let entries = fs::read_dir(folder).map_err(files::Error::on("read", folder))?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let package = paths.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let package = package.ok_or_else(|| Error::Command {
        command: "apt-get download nginx".to_owned(),
        reason: "it left no package".to_owned(),
    })?;
    let unpacked = folder.join("unpacked");
    output(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&unpacked), "dpkg-deb --extract")?;
    Ok(unpacked.join("usr/sbin/nginx"))
}
