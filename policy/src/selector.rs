//! Label matching (`metav1.LabelSelector`): labels and a selector flow in, yes or no flows out.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::model::{Labels, Requirement, Selector};

impl Requirement {
    /// Whether labels fulfil this requirement.
    ///
    /// `NotIn` and `DoesNotExist` hold for labels without the key; a label with an empty value is not a missing label.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.contains_key(key),
            Self::DoesNotExist(key) => !labels.contains_key(key),
        }
    }

    /// The label that this requirement looks at.
    #[must_use]
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::In(key, _) | Self::NotIn(key, _) | Self::Exists(key) | Self::DoesNotExist(key) => key,
        }
    }
}

impl Selector {
    /// Whether labels fulfil every requirement. An empty selector matches all labels.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }
}
