//! Services and their backends as last applied.

use std::collections::HashMap;

use crate::model::{EndpointSlice, NamespacedName, Service};

/// Services and endpoint slices by name.
#[derive(Debug, Default)]
pub(super) struct Services {
    services: HashMap<NamespacedName, Service>,
    slices: HashMap<NamespacedName, EndpointSlice>,
}

impl Services {
    /// Adds or replaces a Service. Returns whether it differs from the one known.
    pub(super) fn insert(&mut self, service: Service) -> bool {
        if self.services.get(&service.id) == Some(&service) {
            return false;
        }
        self.services.insert(service.id.clone(), service);
        true
    }

    /// Forgets a Service. Returns whether it was known.
    pub(super) fn remove(&mut self, id: &NamespacedName) -> bool {
        self.services.remove(id).is_some()
    }

    /// Adds or replaces an endpoint slice. Returns whether it differs from the one known.
    pub(super) fn insert_slice(&mut self, slice: EndpointSlice) -> bool {
        if self.slices.get(&slice.id) == Some(&slice) {
            return false;
        }
        self.slices.insert(slice.id.clone(), slice);
        true
    }

    /// Forgets an endpoint slice. Returns whether it was known.
    pub(super) fn remove_slice(&mut self, id: &NamespacedName) -> bool {
        self.slices.remove(id).is_some()
    }
}
