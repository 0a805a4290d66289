//! Which files of a folder are read.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::super::digest;
use super::{Folder, POD, POLICY, policy, web};
use crate::feed::Change;

#[test]
fn subfolders_and_names_in_any_letter_case_are_read() {
    let files = ["sub/a.yaml", "sub/deep/er/a.yml", "a.YAML", "a.Yml", "a.JSON", "folder.yaml/a.yaml"];
    for file in files {
        let mut folder = Folder::new(&[(file, POLICY)]);
        let (changes, errors) = folder.read();
        assert_eq!(errors, Vec::<String>::new(), "{file}");
        assert_eq!(policy(&changes).id.to_string(), "shop/web", "{file}");
        let before = digest(folder.path()).unwrap();
        folder.write(file, &POLICY.replace("80", "81"));
        assert_eq!(folder.read().0.len(), 1, "{file}");
        assert_ne!(digest(folder.path()).unwrap(), before, "{file}");
        fs::remove_file(folder.path().join(file)).unwrap();
        assert!(folder.read().0.contains(&Change::Delete(web())), "{file}");
    }
}

#[test]
fn hidden_files_and_folders_are_not_read() {
    let mut folder = Folder::new(&[(".a.yaml", "}{"), (".git/a.yaml", "}{"), ("sub/.b.yaml", "}{")]);
    assert_eq!(folder.read(), (vec![], vec![]));
}

#[test]
fn a_volume_of_a_config_map_is_read_once_and_followed() {
    let mut folder = Folder::new(&[("..2026_01/a.yaml", POD), ("..2026_01/sub/p.yaml", POLICY)]);
    let link = |target: &str, name: &str| symlink(target, folder.path().join(name)).unwrap();
    link("..2026_01", "..data");
    link("..data/a.yaml", "a.yaml");
    link("..data/sub", "sub");
    let (changes, errors) = folder.read();
    assert_eq!((changes.len(), errors), (3, vec![]));
    folder.write("..2026_02/a.yaml", POD);
    folder.write("..2026_02/sub/p.yaml", &POLICY.replace("80", "81"));
    symlink("..2026_02", folder.path().join("..data_tmp")).unwrap();
    fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
    let (changes, errors) = folder.read();
    assert_eq!((changes.len(), errors), (1, vec![]));
}

#[test]
fn links_lead_nowhere_twice() {
    let mut folder = Folder::new(&[("a.yaml", POLICY), ("sub/b.yaml", POD)]);
    symlink("a.yaml", folder.path().join("z.yaml")).unwrap();
    symlink("sub", folder.path().join("sub2")).unwrap();
    symlink("..", folder.path().join("sub/up")).unwrap();
    let (changes, errors) = folder.read();
    assert_eq!((changes.len(), errors), (3, vec![]));
}

#[test]
fn what_cannot_be_read_is_said_and_keeps_what_it_held() {
    // A link into nothing and something that is no file: neither is passed over without a word.
    let mut folder = Folder::new(&[("sub/a.yaml", POLICY)]);
    let _ = folder.read();
    let path = folder.path().join("sub/a.yaml");
    fs::remove_file(&path).unwrap();
    symlink("nowhere.yaml", &path).unwrap();
    let reading = folder.source.read();
    assert_eq!(reading.changes, vec![]);
    assert!(reading.incomplete);
    assert!(reading.errors[0].to_string().contains("sub/a.yaml: "), "{reading:?}");
    fs::remove_file(&path).unwrap();
    fs::write(&path, [0xff, 0xfe, 0x61, 0x00]).unwrap();
    let reading = folder.source.read();
    assert_eq!((reading.changes, reading.incomplete), (vec![], true), "not UTF-8");
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reading = folder.source.read();
    assert_eq!((reading.changes, reading.incomplete), (vec![], true), "a pipe");
    fs::remove_file(&path).unwrap();
    let sparse = fs::File::create(&path).unwrap();
    sparse.set_len(1 << 40).unwrap();
    let reading = folder.source.read();
    assert_eq!((reading.changes, reading.incomplete), (vec![], true), "too large");
    assert!(reading.errors[0].to_string().contains("split it"), "{:?}", reading.errors);
    fs::remove_file(&path).unwrap();
    assert!(folder.read().0.contains(&Change::Delete(web())), "gone for good");
}

#[test]
fn a_subfolder_that_cannot_be_listed_keeps_what_it_held() {
    let mut folder = Folder::new(&[("sub/a.yaml", POLICY)]);
    let _ = folder.read();
    let sub = folder.path().join("sub");
    // Root may read anything, so a link that leads back to itself stands in for a folder without permission.
    if nix::unistd::geteuid().is_root() {
        fs::rename(&sub, folder.path().join(".sub")).unwrap();
        symlink("sub", &sub).unwrap();
    } else {
        fs::set_permissions(&sub, fs::Permissions::from_mode(0o000)).unwrap();
    }
    let reading = folder.source.read();
    assert_eq!((&reading.changes, reading.incomplete), (&vec![], true), "{reading:?}");
    assert_eq!(reading.errors.len(), 1, "{reading:?}");
}
