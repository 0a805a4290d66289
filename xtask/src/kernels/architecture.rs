//! What differs between processors: packages, machines, and where a guest's programs come from.

/// A guest's processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Architecture {
    /// `x86_64`
    Amd64,
    /// aarch64
    Arm64,
}

impl Architecture {
    /// That of this machine, as far as its guests are known.
    pub(super) const HERE: Self = if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 };

    /// As Debian calls it.
    pub(super) const fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The emulator.
    pub(super) const fn qemu(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86_64",
            Self::Arm64 => "qemu-system-aarch64",
        }
    }

    /// Its machine. Pointer authentication by the architecture's own cipher is slow to emulate; large physical
    /// addresses stop kernels before 5.12.
    pub(super) const fn machine(self) -> &'static [&'static str] {
        match self {
            Self::Amd64 => &["-cpu", "max"],
            Self::Arm64 => &["-machine", "virt,gic-version=3", "-cpu", "max,pauth-impdef=on,lpa2=off"],
        }
    }

    /// The kernel's console.
    pub(super) const fn console(self) -> &'static str {
        match self {
            Self::Amd64 => "ttyS0",
            Self::Arm64 => "ttyAMA0",
        }
    }
}
