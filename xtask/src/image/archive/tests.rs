//! What readers of the archive go by: every reference resolves, sizes and digests are those of the bytes.

use std::collections::BTreeMap;
use std::io::Read as _;

use serde_json::Value;

use super::{About, Archive, archive, digest};

const LAYER: &[u8] = b"not really a layer";

fn about() -> About {
    About {
        name: "localhost/postern:0.1.0".parse().unwrap(),
        architecture: "amd64",
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

#[test]
fn index_manifest_config_and_layer_lead_to_one_another() {
    let made = archive(&about(), LAYER).unwrap();
    let files = unpack(&made);
    assert_eq!(json(&files, "oci-layout")["imageLayoutVersion"], "1.0.0");
    let index = json(&files, "index.json");
    let described = &index["manifests"][0];
    assert_eq!(described["digest"], made.digest);
    assert_eq!(described["platform"]["architecture"], "amd64");
    assert_eq!(described["annotations"]["io.containerd.image.name"], "localhost/postern:0.1.0");
    assert_eq!(described["annotations"]["org.opencontainers.image.ref.name"], "0.1.0");

    let manifest: Value = serde_json::from_slice(follow(&files, described)).unwrap();
    let config: Value = serde_json::from_slice(follow(&files, &manifest["config"])).unwrap();
    let compressed = follow(&files, &manifest["layers"][0]);
    let mut layer = Vec::new();
    flate2::read::GzDecoder::new(compressed).read_to_end(&mut layer).unwrap();
    assert_eq!(layer, LAYER);
    assert_eq!(config["rootfs"]["diff_ids"][0], digest(LAYER));
    assert_eq!(config["architecture"], "amd64");
    assert_eq!(config["config"]["Labels"]["org.opencontainers.image.title"], "postern");

    // Docker's own table of contents names the same files.
    let docker = &json(&files, "manifest.json")[0];
    assert_eq!(docker["RepoTags"][0], "localhost/postern:0.1.0");
    for path in [&docker["Config"], &docker["Layers"][0]] {
        assert!(files.contains_key(path.as_str().unwrap()), "{path}");
    }
}

#[test]
fn the_same_input_makes_the_same_bytes() {
    let (one, other) = (archive(&about(), LAYER).unwrap(), archive(&about(), LAYER).unwrap());
    assert_eq!(one.content, other.content);
    let changed = archive(&about(), b"another layer").unwrap();
    assert_ne!(one.digest, changed.digest);
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
    let config = super::config(&about(), "")["config"].clone();
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
