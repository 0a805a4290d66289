//! `go build`, into the cache.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Error, Program};
use crate::files;

/// Flags of every build: the same sources give the same binary, wherever they lie.
pub(super) const FLAGS: [&str; 3] = ["-mod=readonly", "-trimpath", "-buildvcs=false"];
/// How many lines of an unsuccessful build are shown.
const SHOWN_LINES: usize = 30;

/// What a build has to say.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// This one is about to be built.
    Building(Program),
    /// It was compiling this package.
    Compiled(&'a str),
    /// It is built.
    Built(Program),
}

/// Builds those of `programs` that are not there yet, one after the other: each keeps all processors busy.
///
/// # Errors
/// There is no Go, or a build fails.
pub fn build(programs: &[Program], mut progress: impl FnMut(Progress<'_>)) -> Result<(), Error> {
    let missing: Vec<Program> = programs.iter().copied().filter(|program| program.path().is_err()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if Command::new("go").arg("version").stdout(Stdio::null()).status().is_err() {
        return Err(Error::NoGo);
    }
    for program in missing {
        progress(Progress::Building(program));
        build_one(program, &mut progress)?;
        progress(Progress::Built(program));
    }
    Ok(())
}

fn build_one(program: Program, progress: &mut impl FnMut(Progress<'_>)) -> Result<(), Error> {
    let folder = program.folder()?;
    // Next to where it will be; a build that was killed leaves it, and the next one writes over it.
    let mut unfinished = folder.clone().into_os_string();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    files::create_folder(&unfinished)?;
    let output = unfinished.join("bin").join(program.name());
    let failed = |output: String| Error::Build { program: program.name(), output };
    let mut child = Command::new("go")
        .current_dir(program.module())
        .env("CGO_ENABLED", "0")
        .env_remove("GOFLAGS")
        .args(["build", "-v"])
        .args(FLAGS)
        .args(["-ldflags", &program.linker_flags(), "-o"])
        .arg(&output)
        .arg(program.package())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let mut said = Vec::new();
    if let Some(pipe) = child.stderr.take() {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            progress(Progress::Compiled(&line));
            said.push(line);
        }
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        return Err(failed(said.split_off(said.len().saturating_sub(SHOWN_LINES)).join("\n")));
    }
    // Somebody else may have built it meanwhile.
    if !folder.exists() {
        fs::rename(&unfinished, &folder).map_err(files::Error::on("complete", &folder))?;
    }
    Ok(())
}
