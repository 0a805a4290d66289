//! The licence texts that go with a binary: ours, and those of everything that is linked into it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::files::Files;
use crate::architecture::Architecture;
use crate::build::{cargo, workspace};

/// What is linked: the agent, and the programs that it carries.
const ROOTS: [&str; 2] = ["postern", "postern-ebpf"];

/// Files of the repository, and what they are called in the image.
const OURS: [(&str, &str); 3] = [
    ("LICENSE", "LICENSE"),
    ("ebpf/LICENSE-GPL-2.0", "LICENSE-GPL-2.0"),
    ("deploy/licences/musl.txt", "musl.txt"),
];

/// Adds all texts that go with the binary for a processor.
pub(super) fn add(files: &mut Files, architecture: Architecture) -> Result<()> {
    for (path, name) in OURS {
        files.licence(name, read(&workspace().join(path))?);
    }
    if let Some(text) = standard_library()? {
        files.licence("rust-standard-library.html", text);
    }
    let mut cargo = cargo();
    let target = architecture.static_target();
    cargo.args(["metadata", "--locked", "--format-version=1", "--filter-platform", target]);
    let metadata: Value = serde_json::from_slice(&output(&mut cargo)?).context("read cargo metadata")?;
    let mut texts = BTreeMap::<String, Vec<String>>::new();
    let mut without = Vec::new();
    for crate_ in linked(&metadata) {
        let found = texts_in(&crate_.folder)?;
        if found.is_empty() {
            let title = &crate_.title;
            // Ours is the text of the same licence.
            ensure!(
                title.contains("Apache-2.0"),
                "{title} brings no licence text; add one to deploy/licences"
            );
            without.push(title.clone());
        }
        for text in found {
            texts.entry(text).or_default().push(crate_.title.clone());
        }
    }
    files.licence("crates.txt", page(&texts, &without).into_bytes());
    Ok(())
}

/// A crate from elsewhere.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Crate {
    /// Name, version, licence.
    title: String,
    folder: PathBuf,
}

/// The crates from elsewhere that are linked into the binary: no build scripts' or tests' ones.
fn linked(metadata: &Value) -> BTreeSet<Crate> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let nodes: BTreeMap<String, Value> =
        list(&metadata["resolve"]["nodes"]).into_iter().map(|node| (text(&node["id"]), node)).collect();
    let packages: BTreeMap<String, Value> =
        list(&metadata["packages"]).into_iter().map(|package| (text(&package["id"]), package)).collect();
    let is_root = |package: &Value| package["source"].is_null() && ROOTS.contains(&&*text(&package["name"]));
    let mut queue: Vec<String> =
        packages.iter().filter(|(_, package)| is_root(package)).map(|(id, _)| id.clone()).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = queue.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        for dependency in list(&nodes.get(&id).unwrap_or(&Value::Null)["deps"]) {
            // `kind` is null for what is neither a build nor a development dependency.
            if list(&dependency["dep_kinds"]).iter().any(|it| it["kind"].is_null()) {
                queue.push(text(&dependency["pkg"]));
            }
        }
    }
    let from_elsewhere = packages.iter().filter(|(id, it)| seen.contains(*id) && !it["source"].is_null());
    from_elsewhere
        .map(|(_, package)| {
            let (name, version, licence) =
                (text(&package["name"]), text(&package["version"]), text(&package["license"]));
            let manifest = PathBuf::from(text(&package["manifest_path"]));
            let folder = manifest.parent().map(Path::to_owned).unwrap_or_default();
            Crate { title: format!("{name} {version} ({licence})"), folder }
        })
        .collect()
}

/// The licence texts in a crate's folder, without differences that nobody sees.
fn texts_in(folder: &Path) -> Result<BTreeSet<String>> {
    let mut texts = BTreeSet::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let is_text = ["license", "licence", "copying", "copyright", "notice", "unlicense"]
            .iter()
            .any(|it| name.starts_with(it));
        if is_text && path.is_file() {
            let text = String::from_utf8_lossy(&read(&path)?).replace("\r\n", "\n");
            texts.insert(text.trim_end().trim_start_matches('\n').to_owned());
        }
    }
    Ok(texts)
}

/// One page: each text once, under the crates it is for.
fn page(texts: &BTreeMap<String, Vec<String>>, without: &[String]) -> String {
    let mut groups: Vec<(&Vec<String>, &String)> =
        texts.iter().map(|(text, crates)| (crates, text)).collect();
    groups.sort();
    let mut parts = vec!["Crates that are part of this binary, and their licences.\n".to_owned()];
    parts.extend(groups.iter().map(|(crates, text)| format!("{}\n\n{text}\n", crates.join("\n"))));
    if !without.is_empty() {
        parts.push(format!(
            "Without a text of their own, and used under Apache-2.0, whose text is in LICENSE:\n\n{}\n",
            without.join("\n")
        ));
    }
    parts.join(&format!("\n{}\n", "=".repeat(80)))
}

/// The notices of Rust's standard library, where the toolchain brings them along.
fn standard_library() -> Result<Option<Vec<u8>>> {
    let mut rustc = Command::new("rustc");
    let sysroot = output(rustc.args(["--print", "sysroot"]).current_dir(workspace()))?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot).trim());
    let path = sysroot.join("share/doc/rust/COPYRIGHT-library.html");
    if path.exists() { read(&path).map(Some) } else { Ok(None) }
}

fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed ({}): {said}", output.status);
    Ok(output.stdout)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::linked;

    #[test]
    fn what_is_linked_counts_and_what_only_builds_or_tests_does_not() {
        let package = |name: &str, source| {
            json!({
                "id": name, "name": name, "version": "1.0.0", "license": "MIT", "source": source,
                "manifest_path": format!("/crates/{name}/Cargo.toml"),
            })
        };
        let depends = |on: &str, kind| json!({ "pkg": on, "dep_kinds": [{ "kind": kind }] });
        let nothing = || json!(null);
        let metadata = json!({
            "packages": [
                package("postern", nothing()), package("postern-common", nothing()),
                package("xtask", nothing()), package("linked", json!("registry")),
                package("deep", json!("registry")), package("builds", json!("registry")),
                package("tests", json!("registry")), package("others", json!("registry")),
            ],
            "resolve": { "nodes": [
                { "id": "postern", "deps": [
                    depends("postern-common", nothing()), depends("builds", json!("build")),
                    depends("tests", json!("dev")), depends("linked", nothing()),
                ] },
                { "id": "postern-common", "deps": [depends("deep", nothing())] },
                { "id": "xtask", "deps": [depends("others", nothing())] },
            ] },
        });
        let titles: Vec<String> = linked(&metadata).into_iter().map(|it| it.title).collect();
        assert_eq!(titles, ["deep 1.0.0 (MIT)", "linked 1.0.0 (MIT)"]);
    }
}
