//! Which kernels: as they are asked for, and as Debian names its packages of them.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};

use crate::architecture::Architecture;

/// Those that are tried when none is named: the oldest and the newest that clusters of today run.
pub(super) const DEFAULT: [&str; 2] = ["6.1", "newest"];
/// Those of `--all`: what Debian's releases ship, with real-time scheduling too, and for another processor, with pages of 4 and of
/// 16 KiB. 5.10 refuses the programs, which `--kernel 5.10` shows.
pub(super) const ALL: [&str; 7] =
    ["6.1", "6.1-rt", "6.12", "6.12-rt", "newest", "6.12-arm64", "newest-arm64-16k"];

/// How a kernel was configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    /// For any machine.
    Generic,
    /// `PREEMPT_RT`.
    Realtime,
    /// Pages of 16 KiB, which arm64 can have.
    Pages16k,
}

/// A kernel as it is asked for: `6.1`, `6.12-rt`, `newest`, `6.12-arm64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The first numbers of its version; none for the newest.
    version: Vec<u64>,
    flavour: Flavour,
    /// Whose kernel it is.
    pub(super) architecture: Architecture,
    text: String,
}

impl FromStr for Wanted {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split('-');
        let version = match words.next() {
            Some("newest") => Some(Vec::new()),
            version => version.and_then(|it| it.split('.').map(|it| it.parse().ok()).collect()),
        };
        let Some(version) = version else { return refused(text) };
        let (mut flavour, mut architecture) = (Flavour::Generic, Architecture::HERE);
        for word in words {
            match word {
                "rt" => flavour = Flavour::Realtime,
                "16k" => flavour = Flavour::Pages16k,
                "amd64" => architecture = Architecture::Amd64,
                "arm64" => architecture = Architecture::Arm64,
                _ => return refused(text),
            }
        }
        Ok(Self { version, flavour, architecture, text: text.to_owned() })
    }
}

fn refused(text: &str) -> Result<Wanted> {
    bail!("{text} is no kernel; name it like 6.1, 6.12-rt, newest, 6.12-arm64 or newest-arm64-16k")
}

impl fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Wanted {
    /// The newest of those that fit.
    pub(super) fn pick<'a>(&self, candidates: &'a [Candidate]) -> Option<&'a Candidate> {
        let fits = |it: &&Candidate| it.flavour == self.flavour && it.numbers().starts_with(&self.version);
        candidates.iter().filter(fits).max_by_key(|it| it.numbers())
    }
}

/// A package that holds a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The packages to unpack: the kernel's own, and those of its modules where they have some.
    pub(super) packages: Vec<String>,
    /// What `uname -r` says there.
    pub(super) release: String,
    /// The package's version, which holds the kernel's.
    pub(super) version: String,
    flavour: Flavour,
}

impl Candidate {
    /// Reads all packages that there are, as names and versions.
    ///
    /// Up to 6.12, `linux-image-6.1.0-57-amd64` holds the kernel and its modules. Since 6.19, `linux-binary-*` holds the
    /// kernel, `linux-modules-*` the modules, and `linux-image-*` nothing. Of older kernels, the archive has but one of the
    /// two.
    pub(super) fn read_all(packages: &[(String, String)], architecture: Architecture) -> Vec<Self> {
        let names: BTreeSet<&str> = packages.iter().map(|(name, _)| name.as_str()).collect();
        let read = |(package, version): &(String, String)| {
            let mut candidate = Self::read(package, version, architecture)?;
            let other = |kind| format!("linux-{kind}-{}", candidate.release);
            let (binary, modules) = (other("binary"), other("modules"));
            if *package == binary {
                candidate.packages.push(modules.clone());
                return names.contains(modules.as_str()).then_some(candidate);
            }
            (!names.contains(binary.as_str())).then_some(candidate)
        };
        packages.iter().filter_map(read).collect()
    }

    /// Reads a package's name. `linux-image-6.1-amd64` is one for the newest of them, and has no third number.
    fn read(package: &str, version: &str, architecture: Architecture) -> Option<Self> {
        let release =
            package.strip_prefix("linux-binary-").or_else(|| package.strip_prefix("linux-image-"))?;
        let (before, behind) = release.split_once(&format!("-{}", architecture.debian()))?;
        let realtime = before.strip_suffix("-rt").map(|it| (it, Flavour::Realtime));
        let (version_in_name, flavour) = match behind {
            "" => realtime.unwrap_or((before, Flavour::Generic)),
            "-16k" => (before, Flavour::Pages16k),
            _ => return None,
        };
        // The kernels for clouds have no 9p, which guests get their root by.
        let is_a_kernel = !before.ends_with("-cloud")
            && version_in_name.starts_with(|it: char| it.is_ascii_digit())
            && version_in_name.split('.').count() >= 3;
        is_a_kernel.then(|| Self {
            packages: vec![package.to_owned()],
            release: release.to_owned(),
            version: version.to_owned(),
            flavour,
        })
    }

    /// The kernel's version alone: 6.1.192.
    pub(super) fn kernel(&self) -> &str {
        self.version.split(['-', '~', '+']).next().unwrap_or(&self.version)
    }

    fn numbers(&self) -> Vec<u64> {
        numbers(&self.version)
    }
}

/// All numbers in a version, in their order: enough to compare versions of one package.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|it: char| !it.is_ascii_digit()).filter_map(|it| it.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::{ALL, Architecture, Candidate, DEFAULT, Wanted};

    fn read_all(packages: &[(&str, &str)], architecture: Architecture) -> Vec<Candidate> {
        let packages: Vec<_> =
            packages.iter().map(|&(name, version)| (name.to_owned(), version.to_owned())).collect();
        Candidate::read_all(&packages, architecture)
    }

    fn candidates() -> Vec<Candidate> {
        let packages = [
            ("linux-image-5.10.0-46-amd64", "5.10.262-1"),
            ("linux-image-6.1-amd64", "6.1.180-1~deb11u1"),
            ("linux-image-6.1.0-0.deb11.52-amd64", "6.1.180-1~deb11u1"),
            ("linux-image-6.1.0-9-amd64", "6.1.27-1"),
            ("linux-image-6.1.0-57-amd64", "6.1.192-3"),
            ("linux-image-6.1.0-57-cloud-amd64", "6.1.192-3"),
            ("linux-image-6.1.0-57-rt-amd64", "6.1.192-3"),
            ("linux-image-6.12.118+deb13-amd64", "6.12.118-1"),
            ("linux-image-6.12.118+deb13-rt-amd64", "6.12.118-1"),
            ("linux-image-7.3.4+deb13-amd64", "7.3.4-1~bpo13+1"),
            ("linux-binary-7.3.4+deb13-amd64", "7.3.4-1~bpo13+1"),
            ("linux-image-amd64", "6.12.118-1"),
            ("linux-image-amd64-signed-template", "6.12.118-1"),
            ("linux-image-6.12.118+deb13-amd64-dbg", "6.12.118-1"),
            ("linux-modules-7.3.4+deb13-amd64", "7.3.4-1~bpo13+1"),
            ("linux-binary-6.19.14+deb13-amd64", "6.19.14-1"),
            ("linux-image-6.19.14+deb13-amd64", "6.19.14-1"),
        ];
        read_all(&packages, Architecture::Amd64)
    }

    fn picked(text: &str) -> Option<String> {
        let wanted: Wanted = text.parse().unwrap();
        wanted.pick(&candidates()).map(|it| it.packages.join(" "))
    }

    #[test]
    fn the_newest_package_of_a_version_and_a_flavour_is_picked() {
        assert_eq!(picked("5.10").unwrap(), "linux-image-5.10.0-46-amd64");
        assert_eq!(picked("6.1").unwrap(), "linux-image-6.1.0-57-amd64");
        assert_eq!(picked("6.1.27").unwrap(), "linux-image-6.1.0-9-amd64");
        assert_eq!(picked("6.1-rt").unwrap(), "linux-image-6.1.0-57-rt-amd64");
        assert_eq!(picked("6.12").unwrap(), "linux-image-6.12.118+deb13-amd64");
        assert_eq!(picked("6.6"), None);
    }

    #[test]
    fn a_kernel_in_a_package_of_its_own_comes_with_its_modules() {
        let expected = "linux-binary-7.3.4+deb13-amd64 linux-modules-7.3.4+deb13-amd64";
        assert_eq!(picked("newest").unwrap(), expected);
        assert_eq!(picked("7").unwrap(), expected);
        assert_eq!(picked("6.19"), None, "its modules are gone");
    }

    #[test]
    fn a_kernel_has_the_version_of_its_package() {
        let all = candidates();
        let wanted: Wanted = "newest".parse().unwrap();
        let newest = wanted.pick(&all).unwrap();
        assert_eq!((newest.kernel(), newest.release.as_str()), ("7.3.4", "7.3.4+deb13-amd64"));
    }

    #[test]
    fn arm64_has_pages_of_two_sizes() {
        let names = [
            "linux-image-7.3.4-amd64",
            "linux-image-7.3.4-arm64",
            "linux-image-7.3.4-arm64-16k",
            "linux-image-7.3.4-rt-arm64",
        ];
        let candidates = read_all(&names.map(|name| (name, "7.3.4-1")), Architecture::Arm64);
        assert_eq!(candidates.len(), 3);
        for (text, release) in [
            ("7.3-arm64", "7.3.4-arm64"),
            ("newest-arm64-16k", "7.3.4-arm64-16k"),
            ("7-rt-arm64", "7.3.4-rt-arm64"),
        ] {
            let wanted: Wanted = text.parse().unwrap();
            assert_eq!(wanted.architecture, Architecture::Arm64);
            assert_eq!(wanted.pick(&candidates).unwrap().release, release);
        }
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        for text in ["six", "6.1-fast", "6.1-cloud", "", "6."] {
            assert!(text.parse::<Wanted>().is_err(), "{text}");
        }
        for text in ALL.into_iter().chain(DEFAULT) {
            text.parse::<Wanted>().unwrap();
        }
    }
}
