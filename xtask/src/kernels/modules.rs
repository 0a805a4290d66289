//! Modules that a guest needs before it sees the folders of this machine, in the order in which they are loaded.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// A module's file in the archive, and its content.
pub(super) type Module = (String, Vec<u8>);

/// Reads modules and what they depend on, uncompressed. Those that are built into the kernel are left out.
pub(super) fn closure(folder: &Path, names: &[&str]) -> Result<Vec<Module>> {
    let dependencies = folder.join("modules.dep");
    let failed =
        || format!("read {}; remove that kernel's folder, and it is fetched again", dependencies.display());
    let text = std::fs::read_to_string(&dependencies).with_context(failed)?;
    order(&text, names)
        .into_iter()
        .map(|path| Ok((file_name(path).to_owned(), read(&folder.join(path))?)))
        .collect()
}

/// The paths of modules in the order of their loading. `modules.dep` has a line `module: those that it needs, the last
/// of them first`.
fn order<'a>(dependencies: &'a str, names: &[&str]) -> Vec<&'a str> {
    let lines = dependencies.lines().filter_map(|line| line.split_once(':'));
    let by_name: BTreeMap<String, (&str, &str)> =
        lines.map(|(path, needs)| (name(path), (path, needs))).collect();
    let mut order = Vec::new();
    for (path, needs) in names.iter().filter_map(|wanted| by_name.get(*wanted)) {
        for it in needs.split_whitespace().rev().chain([*path]) {
            if !order.contains(&it) {
                order.push(it);
            }
        }
    }
    order
}

/// A module's name: files have `-` where names have `_`.
fn name(path: &str) -> String {
    file_name(path).split('.').next().unwrap_or_default().replace('-', "_")
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Reads a module. The archive's own `insmod` knows no compression.
fn read(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|it| it.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return std::fs::read(path).with_context(|| format!("read {}", path.display())),
    };
    let output = Command::new(program).args(["--decompress", "--stdout"]).arg(path).output();
    let output = output.with_context(|| format!("run {program}"))?;
    ensure!(output.status.success(), "{program} could not decompress {}", path.display());
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::order;

    #[test]
    fn what_a_module_needs_is_loaded_before_it_and_once() {
        let dependencies = "kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/fscache/fscache.ko kernel/fs/netfs/netfs.ko\n\
                            kernel/net/9p/9pnet.ko:\n\
                            kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko kernel/drivers/virtio/virtio.ko\n\
                            kernel/drivers/virtio/virtio-pci.ko.xz:\n";
        let expected = [
            "kernel/drivers/virtio/virtio-pci.ko.xz",
            "kernel/drivers/virtio/virtio.ko",
            "kernel/net/9p/9pnet.ko",
            "kernel/net/9p/9pnet_virtio.ko.xz",
            "kernel/fs/netfs/netfs.ko",
            "kernel/fs/fscache/fscache.ko",
            "kernel/fs/9p/9p.ko",
        ];
        assert_eq!(order(dependencies, &["virtio_pci", "9pnet_virtio", "9p", "built_in"]), expected);
    }
}
