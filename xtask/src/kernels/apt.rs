//! Debian's packages of kernels, by apt, beside what this machine has set up: a source list, package lists and
//! downloads of their own in the cache. Nothing is installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};

use super::wanted::Candidate;
use crate::architecture::Architecture;

/// Releases whose kernels are tried, from the archive of the distribution.
const SUITES: [&str; 4] = ["bullseye", "bookworm", "trixie", "trixie-backports"];
/// The same, from its archive of security updates.
const SECURITY_SUITES: [&str; 3] = ["bullseye-security", "bookworm-security", "trixie-security"];
/// Knows the keys of all these, older and newer than this machine's own release.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Kernels come every few days: package lists that are older are fetched again.
const FRESH: Duration = Duration::from_hours(24);

/// Apt with configuration of its own.
#[derive(Debug)]
pub(super) struct Apt {
    folder: PathBuf,
    architecture: Architecture,
}

impl Apt {
    /// Makes its folders, and fetches package lists that are not fresh.
    pub(super) fn new(cache: &Path, architecture: Architecture) -> Result<Self> {
        let apt = Self { folder: cache.join("apt").join(architecture.debian()), architecture };
        for folder in ["lists/partial", "cache/archives/partial", "state"] {
            let folder = apt.folder.join(folder);
            std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        }
        // Nothing is installed here.
        apt.write("status", "")?;
        if !apt.is_fresh() {
            apt.update()?;
        }
        Ok(apt)
    }

    /// Whose packages it fetches.
    pub(super) fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Every kernel that there is.
    pub(super) fn candidates(&self) -> Result<Vec<Candidate>> {
        let pattern = format!("^linux-(image|binary|modules)-[0-9].*-{}(-16k)?$", self.architecture.debian());
        let names = output(self.command("apt-cache").args(["search", "--names-only", &pattern]))?;
        let names: Vec<&str> = names.lines().filter_map(|line| line.split(' ').next()).collect();
        ensure!(!names.is_empty(), "Debian's archive has no kernel for {}", self.architecture.debian());
        let packages = output(self.command("apt-cache").arg("show").args(names))?;
        Ok(Candidate::read_all(&read_packages(&packages), self.architecture))
    }

    /// Downloads packages into a folder.
    pub(super) fn download(&self, candidate: &Candidate, folder: &Path) -> Result<()> {
        let version = &candidate.version;
        let packages = candidate.packages.iter().map(|package| format!("{package}={version}"));
        let mut command = self.command("apt-get");
        command.arg("download").args(packages).current_dir(folder);
        run(&mut command)
    }

    /// Downloads packages and all that they need.
    pub(super) fn download_with_dependencies(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let mut command = self.command("apt-get");
        command.args(["install", "--download-only", "--yes", "--no-install-recommends"]).args(packages);
        // Nothing else works with these folders, and dpkg's lock is about what is installed here.
        command.args(["--option", "Debug::NoLocking=true"]);
        run(&mut command)?;
        let folder = self.folder.join("cache/archives");
        let files = std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
        let files: Vec<PathBuf> = files.map(|it| it.map(|it| it.path())).collect::<Result<_, _>>()?;
        Ok(files.into_iter().filter(|it| it.extension().is_some_and(|it| it == "deb")).collect())
    }

    fn is_fresh(&self) -> bool {
        let changed = std::fs::metadata(self.folder.join("updated")).and_then(|it| it.modified());
        changed.is_ok_and(|changed| SystemTime::now().duration_since(changed).is_ok_and(|age| age < FRESH))
    }

    fn update(&self) -> Result<()> {
        eprintln!("kernels: fetching Debian's package lists");
        self.write("sources.list", &source_list(&mirrors()?))?;
        run(self.command("apt-get").arg("update"))?;
        self.write("updated", "")
    }

    fn write(&self, name: &str, content: &str) -> Result<()> {
        let path = self.folder.join(name);
        std::fs::write(&path, content).with_context(|| format!("write {}", path.display()))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        let mut set = |name: &str, value: &str| {
            command.args(["--option", &format!("{name}={value}")]);
        };
        let own = |name: &str| self.folder.join(name).display().to_string();
        set("Dir::Etc::sourcelist", &own("sources.list"));
        set("Dir::Etc::sourceparts", "-");
        // A preference of this machine's is about what is installed on it.
        set("Dir::Etc::preferences", "-");
        set("Dir::Etc::preferencesparts", "-");
        set("Dir::State", &own("state"));
        set("Dir::State::lists", &own("lists"));
        set("Dir::State::status", &own("status"));
        set("Dir::Cache", &own("cache"));
        set("APT::Architecture", self.architecture.debian());
        set("APT::Architectures", self.architecture.debian());
        set("Acquire::Languages", "none");
        set("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false");
        // Root downloads as a user who may not write here; and where root's cache is, that user may not even look.
        set("APT::Sandbox::User", "root");
        command
    }
}

/// Where this machine gets Debian's packages from.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    archive: String,
    security: String,
}

/// Asks apt, which knows of mirrors and proxies that are right for this machine.
fn mirrors() -> Result<Mirrors> {
    let mut command = Command::new("apt-get");
    command.args([
        "indextargets",
        "--format",
        "$(LABEL) $(REPO_URI)",
        "Created-By: Packages",
        "Origin: Debian",
    ]);
    read_mirrors(&output(&mut command)?)
}

fn read_mirrors(targets: &str) -> Result<Mirrors> {
    let find = |label: &str| {
        let mut of_label = targets.lines().filter_map(|line| line.split_once(' ')).filter(|it| it.0 == label);
        of_label.next().map(|(_, uri)| uri.to_owned())
    };
    let (Some(archive), Some(security)) = (find("Debian"), find("Debian-Security")) else {
        bail!(
            "apt knows no mirror of Debian and of its security updates on this machine; \
             add both to /etc/apt/sources.list.d, and run apt-get update"
        );
    };
    Ok(Mirrors { archive, security })
}

fn source_list(mirrors: &Mirrors) -> String {
    let options = if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
    let of = |uri: &str, suites: &[&str]| -> String {
        let lines: Vec<String> =
            suites.iter().map(|suite| format!("deb {options}{uri} {suite} main\n")).collect();
        lines.concat()
    };
    of(&mirrors.archive, &SUITES) + &of(&mirrors.security, &SECURITY_SUITES)
}

/// Reads names and versions from what `apt-cache show` says: paragraphs of `Name: value`.
fn read_packages(text: &str) -> Vec<(String, String)> {
    let field = |paragraph: &str, name: &str| {
        let value = paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.map(str::to_owned)
    };
    let read = |paragraph: &str| Some((field(paragraph, "Package")?, field(paragraph, "Version")?));
    text.split("\n\n").filter_map(read).collect()
}

/// Runs a command, shows what it says where it fails.
pub(super) fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        eprint!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{program} failed ({}); see above", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{Mirrors, read_mirrors, read_packages, source_list};

    #[test]
    fn mirrors_are_those_of_this_machine() {
        let targets = "Debian http://mirror.example/debian/\nDebian-Security http://mirror.example/security/\n\
                       Debian http://other.example/debian/\n";
        let mirrors = read_mirrors(targets).unwrap();
        assert_eq!(mirrors.archive, "http://mirror.example/debian/");
        assert_eq!(mirrors.security, "http://mirror.example/security/");
        assert!(read_mirrors("Debian http://mirror.example/debian/\n").is_err());
    }

    #[test]
    fn a_source_list_has_a_line_for_each_suite() {
        let mirrors = Mirrors { archive: "http://a/".to_owned(), security: "http://s/".to_owned() };
        let list = source_list(&mirrors);
        let has = |end: &str| list.lines().any(|line| line.starts_with("deb ") && line.ends_with(end));
        assert!(has("http://a/ trixie-backports main"));
        assert!(has("http://s/ bullseye-security main"));
    }

    #[test]
    fn packages_are_read_from_apt() {
        let text = "Package: linux-image-6.1.0-57-amd64\nSource: linux-signed-amd64 (6.1.192+3)\nVersion: 6.1.192-3\n\
                    Description: Linux\n Version: none of a package\n\nPackage: linux-image-amd64\nVersion: 6.1.192-4\n";
        let expected = [("linux-image-6.1.0-57-amd64", "6.1.192-3"), ("linux-image-amd64", "6.1.192-4")];
        assert_eq!(
            read_packages(text),
            expected.map(|(name, version)| (name.to_owned(), version.to_owned()))
        );
    }
}
