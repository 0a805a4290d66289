//! Who judges packets to Services behind the choice of a backend, so that each is judged by the one it goes to.
//!
//! | | kernel | |
//! |---|---|---|
//! | [`BehindNat`] | 6.4 | programs in netfilter's hooks |
//! | [`PostNat`] | any | a program on every device that packets leave by |
//! | nobody | | frontends are judged by all their backends together |

use std::collections::BTreeMap;
use std::path::Path;

use tracing::info;

use super::attach::Mode;
use super::behind_nat::{self, BEHIND_NAT, BehindNat, BehindNatError};
use super::post_nat::{PostNat, PostNatError};
use super::programs::Programs;

/// Where packets to Services are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Services {
    /// By the backend that each goes to: in netfilter's hooks where the kernel has programs there (6.4), else at the egress of devices.
    #[default]
    Auto,
    /// By the backend that each goes to, at the egress of every device that packets leave by (TC).
    Egress,
    /// By all backends of a frontend together: all of them allowed, or nothing.
    Together,
}

/// Where packets to Services are judged on a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JudgedAt {
    /// In netfilter's hooks.
    Netfilter,
    /// On the devices that they leave by.
    Egress,
    /// On the pod's veth, before a backend is chosen.
    Veth,
}

/// Why packets to Services are not judged by their backends.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The programs in netfilter's hooks.
    #[error(transparent)]
    BehindNat(#[from] BehindNatError),
    /// The program on devices.
    #[error(transparent)]
    PostNat(#[from] PostNatError),
}

/// Who judges.
#[derive(Debug)]
pub struct Judge {
    way: Way,
    /// By which devices packets may leave: names by index.
    devices: BTreeMap<u32, String>,
    /// What earlier agents left of other ways may still be there.
    others: bool,
}

#[derive(Debug)]
enum Way {
    Netfilter(BehindNat),
    Egress(PostNat),
    Nobody,
}

impl Services {
    /// What they come to on this kernel.
    pub(super) fn here(self) -> JudgedAt {
        match (self, behind_nat::probe()) {
            (Self::Together, _) => JudgedAt::Veth,
            (Self::Auto, Ok(())) => JudgedAt::Netfilter,
            (Self::Auto, Err(missing)) => {
                info!(
                    "packets to Services are judged on the devices that they leave by; this kernel cannot do so in netfilter's hooks: {missing}"
                );
                JudgedAt::Egress
            }
            (Self::Egress, _) => JudgedAt::Egress,
        }
    }
}

impl Judge {
    /// For a place. `behind_nat` are the programs in netfilter's hooks. What earlier agents left goes on.
    pub(super) fn new(judged_at: JudgedAt, behind_nat: Option<BehindNat>, mode: Mode, links: &Path) -> Self {
        let way = match (judged_at, behind_nat) {
            (JudgedAt::Netfilter, Some(behind_nat)) => Way::Netfilter(behind_nat),
            (JudgedAt::Egress, _) => Way::Egress(PostNat::new(mode, links)),
            _ => Way::Nobody,
        };
        Self { way, devices: BTreeMap::new(), others: true }
    }

    /// Whether packets to Services are judged by the backend that each goes to.
    #[must_use]
    pub fn judges_backends(&self) -> bool {
        !matches!(self.way, Way::Nobody)
    }

    /// What it is called in `postern status`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.way {
            Way::Netfilter(_) => "behind-nat",
            Way::Egress(_) => "egress",
            Way::Nobody => "together",
        }
    }

    /// Whether somebody judges what an earlier agent left to be judged, so that it may be left.
    #[must_use]
    pub fn is_judged(&self, links: &Path) -> bool {
        BehindNat::is_judged(links) || matches!(&self.way, Way::Egress(post_nat) if post_nat.is_attached())
    }

    /// The same where this agent's program cannot be put on some device: programs in netfilter's hooks need no devices.
    #[must_use]
    pub fn is_judged_anyway(links: &Path) -> bool {
        BehindNat::is_judged(links)
    }

    /// By which devices packets may leave.
    pub fn set_devices(&mut self, devices: &BTreeMap<u32, String>) {
        self.devices.clone_from(devices);
    }

    /// Finds out early what the kernel refuses, before a pod needs it.
    ///
    /// # Errors
    ///
    /// It refuses a program.
    pub fn load(&mut self) -> Result<(), JudgeError> {
        match &mut self.way {
            Way::Netfilter(behind_nat) => Ok(behind_nat.load()?),
            Way::Egress(_) | Way::Nobody => Ok(()),
        }
    }

    /// Has it judge from now on, beside what earlier agents left.
    ///
    /// # Errors
    ///
    /// The kernel refused. What an earlier agent left goes on.
    pub fn attach(&mut self, programs: &mut Programs) -> Result<(), JudgeError> {
        match &mut self.way {
            Way::Netfilter(behind_nat) => Ok(behind_nat.attach()?),
            Way::Egress(post_nat) => Ok(post_nat.attach(programs, &self.devices)?),
            Way::Nobody => Ok(()),
        }
    }

    /// Takes off what earlier agents left beside, once nobody relies on it.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn detach_earlier(&mut self, links: &Path) -> Result<(), JudgeError> {
        if let Way::Netfilter(behind_nat) = &mut self.way {
            behind_nat.detach_earlier()?;
        }
        if !self.others {
            return Ok(());
        }
        match self.way {
            Way::Netfilter(_) => PostNat::forget(links, &self.devices)?,
            Way::Egress(_) => BehindNat::forget(links, &BEHIND_NAT)?,
            Way::Nobody => {}
        }
        self.others = false;
        Ok(())
    }

    /// Has nobody judge.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn detach(&mut self, links: &Path) -> Result<(), JudgeError> {
        match &mut self.way {
            Way::Netfilter(behind_nat) => behind_nat.detach()?,
            Way::Egress(post_nat) => post_nat.detach(&self.devices)?,
            Way::Nobody if self.others => {
                BehindNat::forget(links, &BEHIND_NAT)?;
                PostNat::forget(links, &self.devices)?;
                self.others = false;
            }
            Way::Nobody => {}
        }
        Ok(())
    }

    /// Reads back what the kernel has of it. Returns what is wrong, for people to read.
    pub fn read_back(&mut self) -> Vec<String> {
        match &mut self.way {
            Way::Egress(post_nat) => post_nat.read_back(&self.devices),
            Way::Netfilter(_) | Way::Nobody => Vec::new(),
        }
    }
}
