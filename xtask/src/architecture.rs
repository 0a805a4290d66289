//! What differs between processors: names, tools, and machines of an emulator.

use std::env::consts::ARCH;

use anyhow::{Result, bail};
use clap::ValueEnum;

/// A processor that Postern is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Architecture {
    /// Of most servers.
    #[value(name = "x86_64", alias = "amd64")]
    Amd64,
    /// 64-bit ARM.
    #[value(name = "aarch64", alias = "arm64")]
    Arm64,
}

impl Architecture {
    /// All of them, in the order in which an image lists them.
    pub(crate) const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// That of this machine, as far as its guests are known.
    pub(crate) const HERE: Self = if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 };

    /// That of this machine.
    ///
    /// # Errors
    ///
    /// It is neither.
    pub(crate) fn here() -> Result<Self> {
        let here = Self::ALL.into_iter().find(|it| it.rust() == ARCH);
        here.map_or_else(|| bail!("Postern is built for x86_64 and aarch64, and this machine is {ARCH}"), Ok)
    }

    /// As rustc and the kernel call it.
    pub(crate) const fn rust(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// As Debian calls it, and Go, after which images name it.
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Rust's target of binaries without shared libraries.
    pub(crate) const fn static_target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }

    /// The C compiler for static binaries. That of this machine's own processor finds musl's headers; the other one those of glibc,
    /// which is enough for what the crates have of C.
    pub(crate) fn c_compiler(self) -> &'static str {
        match self {
            _ if self.rust() == ARCH => "musl-gcc",
            Self::Amd64 => "x86_64-linux-gnu-gcc",
            Self::Arm64 => "aarch64-linux-gnu-gcc",
        }
    }

    /// Debian's packages of it.
    pub(crate) fn c_packages(self) -> &'static [&'static str] {
        match self {
            _ if self.rust() == ARCH => &["musl-tools"],
            Self::Amd64 => &["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
            Self::Arm64 => &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
        }
    }

    /// The emulator.
    pub(crate) const fn qemu(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86_64",
            Self::Arm64 => "qemu-system-aarch64",
        }
    }

    /// Debian's package of the emulator.
    pub(crate) const fn qemu_package(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86",
            Self::Arm64 => "qemu-system-arm",
        }
    }

    /// Its machine. Pointer authentication by the architecture's own cipher is slow to emulate; large physical
    /// addresses stop kernels before 5.12.
    pub(crate) const fn machine(self) -> &'static [&'static str] {
        match self {
            Self::Amd64 => &["-cpu", "max"],
            Self::Arm64 => &["-machine", "virt,gic-version=3", "-cpu", "max,pauth-impdef=on,lpa2=off"],
        }
    }

    /// The kernel's console.
    pub(crate) const fn console(self) -> &'static str {
        match self {
            Self::Amd64 => "ttyS0",
            Self::Arm64 => "ttyAMA0",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::Architecture;

    #[test]
    fn an_architecture_has_the_names_that_people_call_it() {
        for (name, expected) in [
            ("x86_64", Architecture::Amd64),
            ("amd64", Architecture::Amd64),
            ("aarch64", Architecture::Arm64),
            ("arm64", Architecture::Arm64),
        ] {
            assert_eq!(Architecture::from_str(name, false), Ok(expected), "{name}");
        }
    }

    #[test]
    fn only_the_other_processor_needs_a_cross_compiler() {
        let compilers = Architecture::ALL.map(Architecture::c_compiler);
        assert_eq!(compilers.iter().filter(|it| **it == "musl-gcc").count(), 1, "{compilers:?}");
    }
}
