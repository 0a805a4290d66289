//! From Kubernetes API objects to the policy model: defaults filled in, CIDRs masked, what cannot be meant refused.
//!
//! Nothing invalid ever widens a policy: an invalid peer or port becomes one that matches nothing and is reported,
//! and where the subject of a policy itself cannot be read, see [`salvage`].

mod address;
mod network_policy;
pub mod object;
mod pod;
pub mod salvage;
mod selector;
mod service;
pub mod slim;

pub use self::network_policy::network_policy;
pub use self::pod::{bare_namespace, namespace, node, pod};
pub use self::service::{endpoint_slice, service};

use std::fmt;

/// Something in an API object that cannot be meant as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, such as `spec.ingress[0].from[1].ipBlock.except[0]`.
    pub field: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl Problem {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}
