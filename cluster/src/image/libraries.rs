//! The libraries that a program of this machine needs, for its image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::archive::Layer;
use super::{Error, output};
use crate::files;

/// The loader and the libraries of a program, where it looks for them.
pub(super) fn needed(program: &Path) -> Result<Vec<PathBuf>, Error> {
    let said = output(Command::new("ldd").arg(program), "ldd")?;
    if let Some(missing) = said.lines().find(|line| line.ends_with("not found")) {
        let name = missing.split_whitespace().next().unwrap_or_default();
        let reason = format!("{name} is not installed; install the package that brings it");
        return Err(Error::Command { command: format!("ldd {}", program.display()), reason });
    }
    Ok(parse(&said))
}

/// Adds libraries where they are on this machine.
pub(super) fn add<'a>(
    layer: &mut Layer,
    libraries: impl IntoIterator<Item = &'a PathBuf>,
    archive: &Path,
) -> Result<(), Error> {
    for library in libraries {
        let inside = library.strip_prefix("/").unwrap_or(library);
        let content = fs::read(library).map_err(files::Error::on("read", library))?;
        let added = layer.file(inside, 0o755, &content);
        added.map_err(|error| Error::Archive { path: archive.to_owned(), error })?;
    }
    Ok(())
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
