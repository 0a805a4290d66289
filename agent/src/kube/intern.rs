//! Equal texts are kept once: ten thousand pods have a few hundred distinct labels between them.

use std::collections::HashSet;
use std::sync::Arc;

use postern_policy::model::{Labels, Object};

/// Every text that is in use, once.
#[derive(Debug, Default)]
pub(super) struct Interner {
    texts: HashSet<Arc<str>>,
    /// As many as there may be before those that nobody uses any more are looked for.
    sweep_at: usize,
}

/// No sweep is worth it below this.
const SMALL: usize = 1024;

impl Interner {
    /// Makes an object share its texts with those seen before.
    pub(super) fn share(&mut self, object: &mut Object) {
        match object {
            Object::Namespace(namespace) => self.labels(&mut namespace.labels),
            Object::Pod(pod) => {
                self.text(&mut pod.id.namespace);
                self.labels(&mut pod.labels);
                if let Some(node) = &mut pod.node {
                    self.text(node);
                }
                for name in pod.ports.iter_mut().filter_map(|port| port.name.as_mut()) {
                    self.text(name);
                }
            }
            Object::EndpointSlice(slice) => {
                self.text(&mut slice.id.namespace);
                for node in slice.endpoints.iter_mut().filter_map(|endpoint| endpoint.node.as_mut()) {
                    self.text(node);
                }
            }
            Object::Service(service) => self.text(&mut service.id.namespace),
            // Few, or read once.
            Object::Node(_) | Object::NetworkPolicy(_) => {}
        }
        if self.texts.len() > self.sweep_at.max(SMALL) {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.sweep_at = 2 * self.texts.len();
        }
    }

    fn labels(&mut self, labels: &mut Labels) {
        let entries = std::mem::take(labels).into_iter().map(|(mut key, mut value)| {
            self.text(&mut key);
            self.text(&mut value);
            (key, value)
        });
        *labels = entries.collect();
    }

    fn text(&mut self, text: &mut Arc<str>) {
        match self.texts.get(text) {
            Some(known) => *text = known.clone(),
            None => {
                self.texts.insert(text.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use postern_policy::model::Namespace;

    use super::*;

    fn namespace(value: &str) -> Namespace {
        Namespace { name: "shop".into(), labels: Labels::from([("tier".into(), value.into())]) }
    }

    fn shared(interner: &mut Interner, value: &str) -> Labels {
        let mut object = Object::Namespace(namespace(value));
        interner.share(&mut object);
        let Object::Namespace(namespace) = object else { panic!("another kind") };
        namespace.labels
    }

    #[test]
    fn equal_texts_are_one() {
        let mut interner = Interner::default();
        let (first, second) = (shared(&mut interner, "front"), shared(&mut interner, "front"));
        assert_eq!(first, second);
        assert!(first.keys().zip(second.keys()).all(|(one, other)| Arc::ptr_eq(one, other)));
        assert!(first.values().zip(second.values()).all(|(one, other)| Arc::ptr_eq(one, other)));
    }

    #[test]
    fn what_nobody_uses_any_more_is_let_go() {
        let mut interner = Interner::default();
        let kept = shared(&mut interner, "kept");
        for number in 0..10 * SMALL {
            shared(&mut interner, &number.to_string());
        }
        assert!(interner.texts.len() <= SMALL + 1, "{}", interner.texts.len());
        assert!(Arc::ptr_eq(&kept["tier"], &shared(&mut interner, "kept")["tier"]));
    }
}
