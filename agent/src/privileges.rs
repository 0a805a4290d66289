//! What the agent must be allowed to do.

use caps::{CapSet, Capability};

/// The capabilities that it needs; docs/install/security.md says what for.
pub const NEEDED: [Capability; 4] =
    [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_NET_BROADCAST, Capability::CAP_PERFMON];

/// Those of [`NEEDED`] that this process does not have. `CAP_SYS_ADMIN` stands for two of them (`capabilities(7)`).
///
/// Nothing is refused because of this: what fails says so first, and this may say why.
#[must_use]
pub fn missing() -> Vec<Capability> {
    // A set that cannot be read explains nothing.
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(true);
    let implied = |capability| {
        matches!(capability, Capability::CAP_BPF | Capability::CAP_PERFMON) && has(Capability::CAP_SYS_ADMIN)
    };
    NEEDED.into_iter().filter(|capability| !has(*capability) && !implied(*capability)).collect()
}

/// Why something failed, where it is for want of capabilities; and the way out.
#[must_use]
pub fn hint() -> Option<String> {
    let missing: Vec<String> = missing().iter().map(ToString::to_string).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "this process lacks {}: run it as root, or give its container what deploy/kustomize/reduced does",
            missing.join(", ")
        )
    })
}
