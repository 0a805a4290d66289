//! `cargo xtask cluster`: sets up what a cluster needs beyond the rest, then hands over to `postern-cluster`.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{build, setup};

const PACKAGE: &str = "postern-cluster";

/// Replaces this process by `postern-cluster`.
pub(crate) fn become_it(arguments: &[OsString]) -> Result<()> {
    setup::cluster()?;
    build::become_binary_of(&[PACKAGE], PACKAGE, arguments)
}

/// Measures an agent, as shipped, in a large cluster.
pub(crate) fn bench(arguments: &[OsString]) -> Result<()> {
    build()?;
    let postern = build::release_binary(&["postern"], "postern")?;
    let lab = build::binary(&["postern-lab"], "postern-lab")?;
    let own = ["bench".into(), "--postern".into(), postern.into(), "--lab".into(), lab.into()];
    let arguments: Vec<OsString> = own.into_iter().chain(arguments.iter().cloned()).collect();
    become_it(&arguments)
}

/// Builds Kubernetes, where that was not done yet.
pub(crate) fn build() -> Result<()> {
    setup::cluster()?;
    let binary = build::binary(&[PACKAGE], PACKAGE)?;
    let status = Command::new(&binary).arg("build").status();
    let status = status.with_context(|| format!("run {}", binary.display()))?;
    ensure!(status.success(), "building Kubernetes failed");
    Ok(())
}
