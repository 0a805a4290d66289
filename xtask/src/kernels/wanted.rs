//! Which kernels: as they are asked for, and as Debian names its packages of them.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};

/// Those that are tried when none is named: the oldest and the newest that clusters of today run.
pub(super) const DEFAULT: [&str; 2] = ["6.1", "newest"];
/// Those of `--all`: what Debian's releases ship, with real-time scheduling too.
pub(super) const ALL: [&str; 6] = ["5.10", "6.1", "6.1-rt", "6.12", "6.12-rt", "newest"];

/// How a kernel was configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Flavour {
    /// For any machine.
    Generic,
    /// For virtual machines of clouds: the same, with fewer drivers.
    Cloud,
    /// `PREEMPT_RT`.
    Realtime,
}

/// What names of packages say of a flavour.
const SUFFIXES: [(&str, Flavour); 2] = [("-cloud", Flavour::Cloud), ("-rt", Flavour::Realtime)];

/// A kernel as it is asked for: `6.1`, `6.12-rt`, `newest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The first numbers of its version; none for the newest.
    version: Vec<u64>,
    flavour: Flavour,
    text: String,
}

impl FromStr for Wanted {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (version, flavour) = split_flavour(text);
        let version = if version == "newest" {
            Vec::new()
        } else {
            let numbers: Result<Vec<u64>, _> = version.split('.').map(str::parse).collect();
            match numbers {
                Ok(numbers) => numbers,
                Err(_) => bail!("{text} is no kernel; name it like 6.1, 6.12-rt, 6.1-cloud or newest"),
            }
        };
        Ok(Self { version, flavour, text: text.to_owned() })
    }
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
        candidates.iter().filter(fits).max_by(|one, other| one.compare(other))
    }
}

/// A package that holds a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The packages to unpack: the kernel's own, and that of its modules where they have one.
    pub(super) packages: Vec<String>,
    /// What `uname -r` says there.
    pub(super) release: String,
    /// The package's version, which holds the kernel's.
    pub(super) version: String,
    flavour: Flavour,
}

impl Candidate {
    /// Reads a package's name.
    ///
    /// Up to 6.12, `linux-image-6.1.0-57-amd64` holds the kernel and its modules. Since 6.19, `linux-binary-*` holds the
    /// kernel, `linux-modules-*` the modules, and `linux-image-*` nothing. `linux-image-6.1-amd64` is a name for the
    /// newest of them, and has no third number.
    pub(super) fn read(package: &str, version: &str, architecture: &str) -> Option<Self> {
        let (release, packages) = if let Some(release) = package.strip_prefix("linux-binary-") {
            (release, vec![package.to_owned(), format!("linux-modules-{release}")])
        } else {
            (package.strip_prefix("linux-image-")?, vec![package.to_owned()])
        };
        let (version_in_name, flavour) =
            split_flavour(release.strip_suffix(architecture)?.strip_suffix('-')?);
        let is_a_kernel = version_in_name.starts_with(|it: char| it.is_ascii_digit())
            && version_in_name.split('.').count() >= 3;
        let (release, version) = (release.to_owned(), version.to_owned());
        is_a_kernel.then_some(Self { packages, release, version, flavour })
    }

    /// The kernel's version alone: 6.1.192.
    pub(super) fn kernel(&self) -> &str {
        self.version.split(['-', '~', '+']).next().unwrap_or(&self.version)
    }

    fn numbers(&self) -> Vec<u64> {
        numbers(&self.version)
    }

    /// By version. Where a kernel comes as a package of its own, that of the old name is empty, and less.
    fn compare(&self, other: &Self) -> Ordering {
        self.numbers().cmp(&other.numbers()).then(self.packages.len().cmp(&other.packages.len()))
    }
}

fn split_flavour(name: &str) -> (&str, Flavour) {
    let known = SUFFIXES.into_iter().find_map(|(suffix, it)| Some((name.strip_suffix(suffix)?, it)));
    known.unwrap_or((name, Flavour::Generic))
}

/// All numbers in a version, in their order: enough to compare versions of one package.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|it: char| !it.is_ascii_digit()).filter_map(|it| it.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::{ALL, Candidate, DEFAULT, Wanted};

    fn candidates() -> Vec<Candidate> {
        [
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
        ]
        .into_iter()
        .filter_map(|(package, version)| Candidate::read(package, version, "amd64"))
        .collect()
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
        assert_eq!(picked("6.1-cloud").unwrap(), "linux-image-6.1.0-57-cloud-amd64");
        assert_eq!(picked("6.12").unwrap(), "linux-image-6.12.118+deb13-amd64");
        assert_eq!(picked("6.6"), None);
    }

    #[test]
    fn a_kernel_in_a_package_of_its_own_comes_with_its_modules() {
        let expected = "linux-binary-7.3.4+deb13-amd64 linux-modules-7.3.4+deb13-amd64";
        assert_eq!(picked("newest").unwrap(), expected);
        assert_eq!(picked("7").unwrap(), expected);
    }

    #[test]
    fn a_kernel_has_the_version_of_its_package() {
        let all = candidates();
        let wanted: Wanted = "newest".parse().unwrap();
        let newest = wanted.pick(&all).unwrap();
        assert_eq!((newest.kernel(), newest.release.as_str()), ("7.3.4", "7.3.4+deb13-amd64"));
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert!("six".parse::<Wanted>().is_err());
        for text in ALL.into_iter().chain(DEFAULT) {
            text.parse::<Wanted>().unwrap();
        }
    }
}
