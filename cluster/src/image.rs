//! Images without a registry: made of this machine's own programs, as docker archives in the user's cache.

mod archive;
mod coredns;
mod libraries;
mod nginx;
mod tools;

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::files;
use crate::programs::{Program, cache};

/// What holds a pod's namespaces open.
pub const PAUSE: &str = "postern.test/pause:1";
/// Tools to try networks with, those of `nicolaka/netshoot` that matter here: curl, nc, nslookup, iperf3, socat, ip, ping, and a
/// shell.
pub const TOOLS: &str = "postern.test/netshoot:1";

/// CoreDNS.
pub const COREDNS: &str = "postern.test/coredns:1";
/// nginx: what an ingress controller is inside.
pub const NGINX: &str = "postern.test/nginx:1";

/// The program of [`PAUSE`].
const PAUSE_SOURCE: &str = include_str!("image/pause.c");

/// An image cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is not installed.
    #[error(
        "no {program} on this machine, for the image {TOOLS}; `cargo xtask cluster` installs {package}, or: \
         apt-get install {package}"
    )]
    Missing {
        /// The program.
        program: &'static str,
        /// The Debian package that brings it.
        package: &'static str,
    },
    /// A command failed.
    #[error("{command}: {reason}")]
    Command {
        /// What was run.
        command: String,
        /// What it said.
        reason: String,
    },
    /// The archive.
    #[error("write {path}: {error}", path = .path.display())]
    Archive {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        error: std::io::Error,
    },
    /// There is no cache.
    #[error(transparent)]
    Cache(#[from] crate::programs::Error),
    /// Files.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// The archives of the images that every node needs; makes those that are not in the cache.
///
/// # Errors
/// A program that goes into them is not installed.
pub fn archives() -> Result<[PathBuf; 2], Error> {
    Ok([cached("pause", PAUSE_SOURCE, pause)?, cached("netshoot", &tools::versions()?, tools::build)?])
}

/// The archive of [`COREDNS`].
///
/// # Errors
/// CoreDNS is not built yet.
pub fn coredns() -> Result<PathBuf, Error> {
    let program = Program::CoreDns.path()?;
    // Its path says what it was built of.
    cached("coredns", &program.display().to_string(), |archive| coredns::build(&program, archive))
}

/// The archive of [`NGINX`]. No node has it unless it is loaded.
///
/// # Errors
/// This is no Debian system, or its package cannot be fetched.
pub fn nginx() -> Result<PathBuf, Error> {
    cached("nginx", &nginx::version()?, nginx::build)
}

/// The archive of this name and content; `build` makes it where it is not there yet.
fn cached(
    name: &str,
    content: &str,
    build: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<PathBuf, Error> {
    // Whatever changes how archives are made has to raise the number.
    let hash = Sha256::digest(format!("1 {content}"));
    let key = hash.iter().take(4).fold(0_u32, |key, byte| key << 8 | u32::from(*byte));
    let folder = cache()?.join("images");
    let path = folder.join(format!("{name}-{key:08x}.tar"));
    if !path.exists() {
        files::create_folder(&folder)?;
        // A folder of its own: other clusters of this process, or of another one, may be making the same.
        let own = tempfile::tempdir_in(&folder).map_err(files::Error::on("make a folder in", &folder))?;
        let unfinished = own.path().join("unfinished.tar");
        build(&unfinished)?;
        std::fs::rename(&unfinished, &path).map_err(files::Error::on("complete", &path))?;
    }
    Ok(path)
}

/// Compiles the pause program, and puts it into an archive.
fn pause(path: &Path) -> Result<(), Error> {
    let (source, program) = (path.with_extension("c"), path.with_extension("program"));
    files::write(&source, PAUSE_SOURCE)?;
    let compiled =
        output(Command::new("cc").args(["-static", "-Os", "-s", "-o"]).arg(&program).arg(&source), "cc");
    let content =
        compiled.and_then(|_| Ok(std::fs::read(&program).map_err(files::Error::on("read", &program))?));
    for file in [&source, &program] {
        // The compiler may not have made it.
        let _ = std::fs::remove_file(file);
    }
    let mut layer = archive::Layer::new();
    let failed = |error| Error::Archive { path: path.to_owned(), error };
    layer.file("pause", 0o755, &content?).map_err(failed)?;
    layer.into_image(PAUSE, &["/pause"]).and_then(|image| std::fs::write(path, image)).map_err(failed)
}

/// What a command prints.
fn output(command: &mut Command, name: &str) -> Result<String, Error> {
    let failed = |reason| Error::Command { command: name.to_owned(), reason };
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
