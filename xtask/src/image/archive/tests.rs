//! What readers of the archive go by: every reference resolves, sizes and digests are those of the bytes.

use std::collections::BTreeMap;
use std::io::Read as _;

use serde_json::Value;

use super::{About, Archive, INDEX, Variant, archive, digest};
use crate::architecture::Architecture;

const LAYER: &[u8] = b"not really a layer";

fn about() -> About {
    About {
        name: "localhost/postern:0.1.0".parse().unwrap(),
        created: "2026-11-24T12:00:00Z".to_owned(),
        labels: vec![("title", "postern".to_owned())],
    }
}

/// The files of an archive.
fn unpack(archive: &Archive) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(&archive.content[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(path, content);
    }
    files
}

fn json(files: &BTreeMap<String, Vec<u8>>, path: &str) -> Value {
    serde_json::from_slice(&files[path]).unwrap()
}

/// The content that a descriptor names, after checking that it is what it says.
fn follow<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
    let name = descriptor["digest"].as_str().unwrap();
    let content = &files[&format!("blobs/{}", name.replace(':', "/"))];
    assert_eq!(digest(content), name);
    assert_eq!(descriptor["size"], content.len());
    content
}

fn variant(architecture: Architecture, layer: &[u8]) -> Variant {
    Variant { architecture, layer: layer.to_owned() }
}

fn amd64() -> Variant {
    variant(Architecture::Amd64, LAYER)
}

/// Follows a manifest to the configuration and the layer, and checks what they say.
fn check_image(files: &BTreeMap<String, Vec<u8>>, described: &Value, architecture: &str, expected: &[u8]) {
    assert_eq!(described["platform"]["architecture"], architecture);
    assert_eq!(described["platform"]["os"], "linux");
    let manifest: Value = serde_json::from_slice(follow(files, described)).unwrap();
    let config: Value = serde_json::from_slice(follow(files, &manifest["config"])).unwrap();
    let compressed = follow(files, &manifest["layers"][0]);
    let mut layer = Vec::new();
    flate2::read::GzDecoder::new(compressed).read_to_end(&mut layer).unwrap();
    assert_eq!(layer, expected);
    assert_eq!(config["rootfs"]["diff_ids"][0], digest(expected));
    assert_eq!(config["architecture"], architecture);
    assert_eq!(config["config"]["Labels"]["org.opencontainers.image.title"], "postern");
}

/// The one thing that the archive holds, under the names that it goes by.
fn top(files: &BTreeMap<String, Vec<u8>>) -> Value {
    assert_eq!(json(files, "oci-layout")["imageLayoutVersion"], "1.0.0");
    let index = json(files, "index.json");
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    let described = &index["manifests"][0];
    assert_eq!(described["annotations"]["io.containerd.image.name"], "localhost/postern:0.1.0");
    assert_eq!(described["annotations"]["org.opencontainers.image.ref.name"], "0.1.0");
    described.clone()
}

/// Docker's own table of contents names files that are there: those of an image for this processor.
fn check_docker(files: &BTreeMap<String, Vec<u8>>, architecture: &str) {
    let docker = &json(files, "manifest.json")[0];
    assert_eq!(docker["RepoTags"][0], "localhost/postern:0.1.0");
    assert!(files.contains_key(docker["Layers"][0].as_str().unwrap()));
    let config = json(files, docker["Config"].as_str().unwrap());
    assert_eq!(config["architecture"], architecture);
}

#[test]
fn index_manifest_config_and_layer_lead_to_one_another() {
    let made = archive(&about(), &[amd64()]).unwrap();
    let files = unpack(&made);
    let described = top(&files);
    assert_eq!(described["digest"], made.digest);
    check_image(&files, &described, "amd64", LAYER);
    check_docker(&files, "amd64");
}

#[test]
fn an_image_for_two_processors_is_an_index_of_two() {
    let other = b"a layer for another";
    let made = archive(&about(), &[amd64(), variant(Architecture::Arm64, other)]).unwrap();
    let files = unpack(&made);
    let described = top(&files);
    assert_eq!(
        (&described["mediaType"], &described["digest"]),
        (&INDEX.into(), &made.digest.as_str().into())
    );
    let index: Value = serde_json::from_slice(follow(&files, &described)).unwrap();
    assert_eq!(index["mediaType"], INDEX);
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    for (at, (architecture, layer)) in [("amd64", LAYER), ("arm64", &other[..])].into_iter().enumerate() {
        check_image(&files, &index["manifests"][at], architecture, layer);
        assert_eq!(index["manifests"][at]["digest"], made.images[at].1);
    }
    check_docker(&files, "amd64");
}

#[test]
fn what_is_the_same_for_two_processors_is_there_once() {
    let made = archive(&about(), &[amd64(), variant(Architecture::Arm64, LAYER)]).unwrap();
    let mut paths = Vec::new();
    for entry in tar::Archive::new(&made.content[..]).entries().unwrap() {
        paths.push(entry.unwrap().path().unwrap().into_owned());
    }
    let entries = paths.len();
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), entries);
}

#[test]
fn the_same_input_makes_the_same_bytes() {
    let both = || [amd64(), variant(Architecture::Arm64, LAYER)];
    let (one, other) = (archive(&about(), &both()).unwrap(), archive(&about(), &both()).unwrap());
    assert_eq!(one.content, other.content);
    let changed = archive(&about(), &[amd64(), variant(Architecture::Arm64, b"another layer")]).unwrap();
    assert_ne!(one.digest, changed.digest);
    // What is for one processor is the same, whatever it comes with.
    let alone = archive(&about(), &[amd64()]).unwrap();
    assert_eq!(alone.digest, one.images[0].1);
}

/// `(instruction, rest)` of the last stage of deploy/Dockerfile.
fn last_stage() -> Vec<(String, String)> {
    let path = crate::build::workspace().join("deploy/Dockerfile");
    let text = std::fs::read_to_string(path).unwrap().replace("\\\n", " ");
    let instructions: Vec<(String, String)> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.starts_with(' '))
        .filter_map(|line| line.split_once(' '))
        .map(|(instruction, rest)| (instruction.to_owned(), rest.trim().to_owned()))
        .collect();
    let last = instructions.iter().rposition(|(instruction, _)| instruction == "FROM").unwrap();
    instructions[last..].to_vec()
}

#[test]
fn the_dockerfile_makes_the_same_image() {
    let config = super::config(&about(), Architecture::Amd64, "")["config"].clone();
    let stage = last_stage();
    let all = |instruction: &str| -> Vec<&str> {
        stage.iter().filter(|(it, _)| it == instruction).map(|(_, rest)| rest.as_str()).collect()
    };
    assert_eq!(all("FROM"), ["scratch"]);
    let env: Vec<&str> = config["Env"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(all("ENV"), env);
    for (instruction, value) in [("ENTRYPOINT", &config["Entrypoint"]), ("CMD", &config["Cmd"])] {
        assert_eq!(all(instruction), [value.to_string()], "{instruction}");
    }
    assert_eq!(all("USER"), [config["User"].as_str().unwrap()]);
}
