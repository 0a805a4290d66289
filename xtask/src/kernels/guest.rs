//! What a guest does: its first root, which is a script, a shell and a few modules, and the steps of its work.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::cpio::Archive;
use super::image::Image;
use super::modules;

/// The first process.
const INIT: &str = include_str!("init.sh");
/// What it becomes.
const RUN: &str = include_str!("run.sh");

/// Modules without which a guest does not reach this machine's files and the port to speak through.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];
/// A static one: nothing else is there when it starts.
const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// A command that a guest runs, and reports the status of.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// What it is called in the table.
    pub(super) name: &'static str,
    /// Program and arguments, with the paths of this machine.
    pub(super) command: Vec<String>,
    /// Where it runs.
    pub(super) directory: PathBuf,
    /// What it finds in its environment.
    pub(super) environment: Vec<(String, String)>,
    /// It is ended after so many seconds.
    pub(super) seconds: u64,
}

/// Makes the archive that a kernel unpacks as its first root. Steps run one after another; one that fails is the last.
pub(super) fn initramfs(image: &Image, sysctls: &[(&str, String)], steps: &[Step]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "host", "layer", "modules", "proc", "root", "sys"] {
        archive.folder(folder);
    }
    archive.device("dev/console", 5, 1);
    archive.file("bin/busybox", &busybox()?);
    let mut order = String::new();
    for (name, content) in modules::closure(&image.modules(), &MODULES)? {
        // Without compression now.
        let name = name.trim_end_matches(".xz").trim_end_matches(".zst");
        archive.file(&format!("modules/{name}"), &content);
        let _ = writeln!(order, "{name}");
    }
    archive.file("modules.order", order.as_bytes());
    archive.file("modules.folder", image.modules().display().to_string().as_bytes());
    archive.file("init", INIT.as_bytes());
    archive.file("run.sh", RUN.replace("\nsteps\n", &format!("\n{}\n", script(sysctls, steps))).as_bytes());
    Ok(archive.finish())
}

fn busybox() -> Result<Vec<u8>> {
    let path = BUSYBOX.into_iter().map(Path::new).find(|it| it.exists());
    let path = path.context("there is no busybox; install busybox-static")?;
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

fn script(sysctls: &[(&str, String)], steps: &[Step]) -> String {
    let mut lines: Vec<String> =
        sysctls.iter().map(|(name, value)| format!("sysctl -q -w {}", quote(&format!("{name}={value}")))).collect();
    let steps: Vec<String> = steps
        .iter()
        .map(|step| {
            let environment = step.environment.iter().map(|(name, value)| format!("{name}={value}"));
            let prefix = ["env".to_owned(), format!("--chdir={}", step.directory.display())];
            let limit = ["timeout".to_owned(), "--kill-after=10".to_owned(), step.seconds.to_string()];
            let words = prefix.into_iter().chain(environment).chain(limit).chain(step.command.iter().cloned());
            let words: Vec<String> = words.map(|it| quote(&it)).collect();
            format!("step {} {}", step.name, words.join(" "))
        })
        .collect();
    lines.push(steps.join(" &&\n    "));
    lines.join("\n")
}

/// A word as a shell reads it back.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::{RUN, Step, script};

    #[test]
    fn steps_become_a_script_that_stops_at_the_first_failure() {
        let step = |name, command: &[&str]| Step {
            name,
            command: command.iter().map(|&it| it.to_owned()).collect(),
            directory: "/work".into(),
            environment: vec![("A".to_owned(), "it's".to_owned())],
            seconds: 60,
        };
        let sysctls = [("net.core.bpf_jit_harden", "2".to_owned())];
        let text = script(&sysctls, &[step("load", &["/bin/postern", "load"]), step("tests", &["/bin/kernel"])]);
        let expected = r"sysctl -q -w 'net.core.bpf_jit_harden=2'
step load 'env' '--chdir=/work' 'A=it'\''s' 'timeout' '--kill-after=10' '60' '/bin/postern' 'load' &&
    step tests 'env' '--chdir=/work' 'A=it'\''s' 'timeout' '--kill-after=10' '60' '/bin/kernel'";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_script_of_a_guest_has_a_place_for_steps() {
        assert!(RUN.contains("\nsteps\n"));
    }
}
