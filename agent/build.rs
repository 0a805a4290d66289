//! Builds the eBPF programs (crate `postern-ebpf`) into `OUT_DIR/postern`, where `datapath::object` picks them up, and those
//! that are measured (`benches/packet`) into `OUT_DIR/bench`.
//!
//! The same few flags as aya-build, which cannot be told to use a stable toolchain or to be quiet.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The folder below the user's cache folder where `cargo xtask setup` installs bpf-linker.
const BPF_LINKER: &str = "postern/bpf-linker-0.13.0-llvm-22/bin";

fn main() -> Result<()> {
    let variable = |name: &'static str| env::var(name).context(name);
    let workspace = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..");
    for watched in ["Cargo.lock", "common/src", "ebpf/Cargo.toml", "ebpf/src"] {
        println!("cargo:rerun-if-changed={}", workspace.join(watched).display());
    }
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target = if variable("CARGO_CFG_TARGET_ENDIAN")? == "big" { "bpfeb" } else { "bpfel" };
    let target = format!("{target}-unknown-none");
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", variable("CARGO_CFG_TARGET_ARCH")?),
        "--check-cfg=cfg(bpf_target_arch, values(any()))".to_owned(),
        // Maps are declared in BTF, which comes from debug information.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    let flags = flags.into_iter().chain(remapped(&workspace)?).collect::<Vec<_>>();

    let mut cargo = Command::new(variable("CARGO")?);
    cargo.args(["build", "--quiet", "--locked", "--package=postern-ebpf", "--bins", "--release"]);
    cargo.args(["-Z", "build-std=core", "--target", &target]);
    // A folder of its own: this build runs while the outer one holds the lock of the usual one.
    cargo.arg("--target-dir").arg(out.join("ebpf"));
    cargo.current_dir(&workspace);
    cargo.env("PATH", path_with_linker()?);
    // `-Z build-std` on the pinned stable toolchain, so that no nightly is needed.
    cargo.env("RUSTC_BOOTSTRAP", "1");
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    // Those of the outer build are for another target.
    for inherited in ["RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(inherited);
    }
    let status = cargo.status().context("starting cargo")?;
    if !status.success() {
        bail!("building the eBPF programs failed ({status}); `cargo xtask setup` installs what it needs");
    }
    let built = out.join("ebpf").join(&target).join("release");
    for object in ["postern", "bench"] {
        let built = built.join(object);
        std::fs::copy(&built, out.join(object)).with_context(|| format!("copying {}", built.display()))?;
    }
    Ok(())
}

/// The object names its sources for the verifier's log. Where they are on this machine must not show: the same sources are
/// to make the same object.
fn remapped(workspace: &Path) -> Result<Vec<String>> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot =
        Command::new(rustc).args(["--print", "sysroot"]).output().context("asking rustc for its folder")?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    let cargo = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home);
    let workspace = workspace.canonicalize().with_context(|| format!("finding {}", workspace.display()))?;
    let folders = [(Some(workspace), "/postern"), (cargo, "/cargo"), (Some(sysroot), "/rust")];
    let folders = folders.into_iter().filter_map(|(folder, name)| Some((folder?, name)));
    Ok(folders.map(|(folder, name)| format!("--remap-path-prefix={}={name}", folder.display())).collect())
}

/// `PATH`, led by the folder with the pinned bpf-linker.
fn path_with_linker() -> Result<OsString> {
    println!("cargo:rerun-if-env-changed=XDG_CACHE_HOME");
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let linker = cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join(BPF_LINKER);
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = || std::iter::once(linker.clone()).chain(env::split_paths(&path));
    if !folders().any(|folder| folder.join("bpf-linker").exists()) {
        bail!("bpf-linker is missing; run `cargo xtask setup` once");
    }
    Ok(env::join_paths(folders())?)
}
