//! `cargo xtask setup`: what cargo cannot bring along. Each step is said, and skipped when its result is there already.
//!
//! Pinned together with the toolchain (rust-toolchain.toml) and the aya crates (Cargo.toml): move one, move all.

mod go;
mod linker;
mod packages;
mod progress;
mod rust_src;
mod static_target;

use anyhow::{Result, bail};

use crate::architecture::Architecture;

/// Something to install.
trait Step {
    /// What it is called, in a word.
    fn short(&self) -> &'static str;
    /// What it is called, with what installing it takes.
    fn name(&self) -> String;
    /// Whether it is there.
    fn done(&self) -> Result<bool>;
    /// Installs it.
    fn install(&self) -> Result<()>;
    /// What to type to do it by hand.
    fn by_hand(&self) -> Vec<String>;
}

/// Brings up everything that is missing. Quick when nothing is.
pub(crate) fn run() -> Result<()> {
    bring_up(&[&rust_src::RustSrc, &packages::Packages::Base, &linker::BpfLinker])
}

/// The same for what `cargo xtask cluster` needs more. Kubernetes itself is built by `postern-cluster`.
pub(crate) fn cluster() -> Result<()> {
    bring_up(&[&packages::Packages::Cluster, &go::Go])
}

/// The same for what `cargo xtask kernels` needs more, with guests of these processors.
pub(crate) fn kernels(guests: &[Architecture]) -> Result<()> {
    let packages: Vec<packages::Packages> =
        guests.iter().map(|&guest| packages::Packages::Kernels { guest }).collect();
    let steps: Vec<&dyn Step> = packages.iter().map(|it| it as &dyn Step).collect();
    bring_up(&steps)
}

/// The same for what a static binary for a processor needs more.
pub(crate) fn static_binary(architecture: Architecture) -> Result<()> {
    bring_up(&[&static_target::StaticTarget(architecture)])
}

fn bring_up(steps: &[&dyn Step]) -> Result<()> {
    let (mut there, mut by_hand) = (Vec::new(), Vec::new());
    for step in steps {
        if step.done()? {
            there.push(step.short());
            continue;
        }
        // A later step may rest on an earlier one, so nothing more is installed once one has failed.
        if by_hand.is_empty() {
            println!("setup: {}: installing", step.name());
            match step.install() {
                Ok(()) => println!("setup: {}: done", step.name()),
                Err(error) => eprintln!("setup: {}: {error:#}", step.name()),
            }
            if step.done()? {
                continue;
            }
        }
        by_hand.extend(step.by_hand());
    }
    if !there.is_empty() {
        eprintln!("setup: already there: {}", there.join(", "));
    }
    if by_hand.is_empty() {
        return Ok(());
    }
    bail!("set-up is not complete. Run these, then try again:\n  {}", by_hand.join("\n  "))
}
