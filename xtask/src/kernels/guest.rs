//! What a guest does: its first root, which is a script, a shell and a few modules, and the steps of its work.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::cpio::Archive;
use super::image::Image;
use super::modules;
use super::root::Root;

/// The first process.
const INIT: &str = include_str!("init.sh");
/// What it becomes.
const RUN: &str = include_str!("run.sh");

/// Modules without which a guest does not reach this machine's files and the port to speak through.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];

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

/// What a guest does.
#[derive(Clone, Debug)]
pub(super) struct Work {
    /// Settings of its kernel.
    pub(super) sysctls: Vec<(&'static str, String)>,
    /// Steps, one after another.
    pub(super) steps: Vec<Step>,
    /// Whether it goes on behind a step that failed.
    pub(super) keep_going: bool,
}

/// Makes the archive that a kernel unpacks as its first root.
pub(super) fn initramfs(image: &Image, root: &Root, work: &Work) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "host", "layer", "modules", "proc", "root", "sys"] {
        archive.folder(folder);
    }
    archive.device("dev/console", 5, 1);
    archive.file("bin/busybox", &root.busybox()?);
    let mut order = String::new();
    for (name, content) in modules::closure(&image.modules(), &MODULES)? {
        // Without compression now.
        let name = name.trim_end_matches(".xz").trim_end_matches(".zst");
        archive.file(&format!("modules/{name}"), &content);
        let _ = writeln!(order, "{name}");
    }
    archive.file("modules.order", order.as_bytes());
    archive.file("modules.folder", image.modules().display().to_string().as_bytes());
    let root_of_host = Path::new("/");
    if root.folder() != root_of_host {
        // What its steps run is elsewhere.
        let folders = work.steps.iter().flat_map(Step::folders).chain([image.modules()]);
        let folders: Vec<String> = folders.map(|it| format!("{}\n", it.display())).collect();
        archive.file("folders", folders.concat().as_bytes());
    }
    archive.file("root.folder", root.folder().display().to_string().as_bytes());
    archive.file("init", INIT.as_bytes());
    archive.file("run.sh", RUN.replace("\nsteps\n", &format!("\n{}\n", work.script())).as_bytes());
    Ok(archive.finish())
}

impl Work {
    fn script(&self) -> String {
        let sysctl =
            |(name, value): &(&str, String)| format!("sysctl -q -w {}", quote(&format!("{name}={value}")));
        let mut lines: Vec<String> = self.sysctls.iter().map(sysctl).collect();
        let steps: Vec<String> = self.steps.iter().map(Step::line).collect();
        lines.push(steps.join(if self.keep_going { "\n" } else { " &&\n    " }));
        lines.join("\n")
    }
}

impl Step {
    /// Folders that it runs in and from.
    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        let program = self.command.first().and_then(|it| Path::new(it).parent());
        [self.directory.clone()].into_iter().chain(program.map(Path::to_owned))
    }

    /// Its line of the script.
    fn line(&self) -> String {
        let environment = self.environment.iter().map(|(name, value)| format!("{name}={value}"));
        let prefix = ["env".to_owned(), format!("--chdir={}", self.directory.display())];
        let limit = ["timeout".to_owned(), "--kill-after=10".to_owned(), self.seconds.to_string()];
        let words = prefix.into_iter().chain(environment).chain(limit).chain(self.command.iter().cloned());
        let words: Vec<String> = words.map(|it| quote(&it)).collect();
        format!("step {} {}", self.name, words.join(" "))
    }
}

/// A word as a shell reads it back.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::{RUN, Step, Work};

    #[test]
    fn work_becomes_a_script_that_stops_at_the_first_failure() {
        let step = |name, command: &[&str]| Step {
            name,
            command: command.iter().map(|&it| it.to_owned()).collect(),
            directory: "/work".into(),
            environment: vec![("A".to_owned(), "it's".to_owned())],
            seconds: 60,
        };
        let mut work = Work {
            sysctls: vec![("net.core.bpf_jit_harden", "2".to_owned())],
            steps: vec![step("load", &["/bin/postern", "load"]), step("tests", &["/bin/kernel"])],
            keep_going: false,
        };
        let expected = r"sysctl -q -w 'net.core.bpf_jit_harden=2'
step load 'env' '--chdir=/work' 'A=it'\''s' 'timeout' '--kill-after=10' '60' '/bin/postern' 'load' &&
    step tests 'env' '--chdir=/work' 'A=it'\''s' 'timeout' '--kill-after=10' '60' '/bin/kernel'";
        assert_eq!(work.script(), expected);
        work.keep_going = true;
        assert_eq!(work.script(), expected.replace(" &&\n    ", "\n"));
    }

    #[test]
    fn the_script_of_a_guest_has_a_place_for_steps() {
        assert!(RUN.contains("\nsteps\n"));
    }
}
