//! Builds the eBPF programs (crate `postern-ebpf`) into `OUT_DIR/postern`, where `datapath::object` picks them up.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain};

/// The folder below the user's cache folder where `cargo xtask setup` installs bpf-linker.
const BPF_LINKER: &str = "postern/bpf-linker-0.13.0-llvm-22/bin";

fn main() -> Result<()> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("cargo sets CARGO_MANIFEST_DIR")?);
    let ebpf = manifest.join("../ebpf");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={}", manifest.join("../common/src").display());
    let path = path_with_linker()?;
    // SAFETY: a build script has one thread at this point.
    #[expect(unsafe_code, reason = "aya-build takes its settings from the environment alone")]
    unsafe {
        // `-Z build-std` on the pinned stable toolchain, so that no nightly is needed.
        env::set_var("RUSTC_BOOTSTRAP", "1");
        env::set_var("PATH", path);
    }
    let root_dir = ebpf.to_str().context("the path of the checkout is not UTF-8")?;
    let package = Package { name: "postern-ebpf", root_dir, ..Package::default() };
    aya_build::build_ebpf([package], Toolchain::Custom(env!("CARGO_PKG_RUST_VERSION")))
        .context("building the eBPF programs failed; `cargo xtask setup` installs what it needs")
}

/// `PATH`, led by the folder with the pinned bpf-linker.
fn path_with_linker() -> Result<std::ffi::OsString> {
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let linker = cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join(BPF_LINKER);
    let path = env::var_os("PATH").unwrap_or_default();
    let found = linker.join("bpf-linker").exists()
        || env::split_paths(&path).any(|folder| folder.join("bpf-linker").exists());
    if !found {
        bail!("bpf-linker is missing; run `cargo xtask setup` once");
    }
    Ok(env::join_paths([linker].into_iter().chain(env::split_paths(&path)))?)
}
