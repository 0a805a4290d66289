//! What the filters of others do: whether a packet goes on to ours behind them, and how to add them again.

use super::attach::{HANDLE, Layer};
use super::tc::{Filter, attribute, attributes, find, text, word};

/// Attributes of `u32` (`linux/pkt_cls.h`).
mod u32_attribute {
    pub(super) const CLASSID: u16 = 1;
    pub(super) const HASH: u16 = 2;
    pub(super) const DIVISOR: u16 = 4;
    pub(super) const SEL: u16 = 5;
    pub(super) const ACT: u16 = 7;
    pub(super) const INDEV: u16 = 8;
    pub(super) const PCNT: u16 = 9;
    pub(super) const MARK: u16 = 10;
    pub(super) const FLAGS: u16 = 11;
    pub(super) const PAD: u16 = 12;
}

/// Attributes of `bpf`.
mod bpf_attribute {
    pub(super) const NAME: u16 = 7;
    pub(super) const ID: u16 = 11;
}

/// Attributes of an action.
mod action_attribute {
    pub(super) const KIND: u16 = 1;
    pub(super) const OPTIONS: u16 = 2;
    pub(super) const STATS: u16 = 4;
    pub(super) const PAD: u16 = 5;
    pub(super) const COOKIE: u16 = 6;
    pub(super) const FLAGS: u16 = 7;
    pub(super) const HW_STATS: u16 = 8;
    pub(super) const USED_HW_STATS: u16 = 9;
    pub(super) const IN_HW_COUNT: u16 = 10;
}

/// Attributes of the actions `gact` and `mirred`, which begin alike.
mod verdict_attribute {
    pub(super) const TM: u16 = 1;
    pub(super) const PARMS: u16 = 2;
    pub(super) const PAD: u16 = 3;
    /// Of `gact`: what else it may do, at random.
    pub(super) const PROB: u16 = 3;
}

/// `TC_ACT_UNSPEC`: on to the next filter.
const UNSPEC: i32 = -1;
/// `TC_ACT_SHOT`
const SHOT: i32 = 2;

/// Where in [`u32_attribute::FLAGS`] it says that a device does it (`TCA_CLS_FLAGS_IN_HW`), and that none does.
const IN_HARDWARE: u32 = 4;
const NOT_IN_HARDWARE: u32 = 8;

impl Filter {
    /// Whether an agent attached it as this.
    pub(super) fn is_ours(&self, layer: Layer) -> bool {
        let is_bpf = self.chain == 0 && self.kind == "bpf";
        is_bpf && self.priority == layer.priority() && self.handle == u32::from(HANDLE)
    }

    /// Whether it is a table of `u32`, not a filter.
    pub(super) fn is_table(&self) -> bool {
        self.kind == "u32" && find(&self.options, u32_attribute::DIVISOR).is_some()
    }

    /// Of a `bpf` filter: its program's id, and what whoever attached it calls that.
    pub(super) fn program(&self) -> Option<(u32, Option<String>)> {
        let id = find(&self.options, bpf_attribute::ID).filter(|_| self.kind == "bpf")?;
        Some((word(id, 0), find(&self.options, bpf_attribute::NAME).map(text)))
    }

    /// Whether packets that it matches never come to filters behind it, but go on. Programs say themselves, packet by packet: of those it
    /// is not known. All others end what they match, whatever their actions return, other than "continue".
    pub(super) fn passes_by(&self) -> bool {
        let actions = match self.kind.as_str() {
            "bpf" => return false,
            "u32" => find(&self.options, u32_attribute::ACT),
            "matchall" => find(&self.options, 2),
            "flower" => find(&self.options, 3),
            _ => None,
        };
        let mut actions = attributes(actions.unwrap_or_default());
        let (Some((_, action)), None) = (actions.next(), actions.next()) else { return true };
        let kind = find(action, action_attribute::KIND).map(text);
        let options = find(action, action_attribute::OPTIONS).unwrap_or_default();
        let Some(parameters) = find(options, verdict_attribute::PARMS) else { return true };
        let is_random = find(options, verdict_attribute::PROB).is_some();
        let verdict = word(parameters, 8).cast_signed();
        kind.as_deref() != Some("gact") || is_random || !matches!(verdict, UNSPEC | SHOT)
    }

    /// The same filter as it is added: without what the kernel says of it beside. None where it holds anything of which that is not known,
    /// so that it might become another one. What is known is what the CNI plugin `bandwidth` adds: `u32`, in its first table, with actions
    /// `mirred`.
    pub(super) fn to_add(&self) -> Option<Self> {
        if self.kind != "u32" || self.chain != 0 {
            return None;
        }
        let mut options = Vec::new();
        for (kind, payload) in attributes(&self.options) {
            match kind {
                u32_attribute::CLASSID | u32_attribute::SEL | u32_attribute::INDEV | u32_attribute::MARK => {
                    options.extend(attribute(kind, payload));
                }
                u32_attribute::ACT => options.extend(attribute(kind, &actions_to_add(payload)?)),
                u32_attribute::FLAGS => {
                    let flags = word(payload, 0);
                    if flags & IN_HARDWARE != 0 {
                        return None;
                    }
                    let flags = flags & !NOT_IN_HARDWARE;
                    if flags != 0 {
                        options.extend(attribute(kind, &flags.to_ne_bytes()));
                    }
                }
                u32_attribute::HASH | u32_attribute::PCNT | u32_attribute::PAD => {}
                _ => return None,
            }
        }
        // Its number within the table.
        Some(Self { handle: self.handle & 0xfff, options, ..self.clone() })
    }
}

fn actions_to_add(actions: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for (order, action) in attributes(actions) {
        bytes.extend(attribute(order, &action_to_add(action)?));
    }
    Some(bytes)
}

fn action_to_add(action: &[u8]) -> Option<Vec<u8>> {
    if find(action, action_attribute::KIND).map(text)? != "mirred" {
        return None;
    }
    let mut bytes = Vec::new();
    for (kind, payload) in attributes(action) {
        match kind {
            action_attribute::OPTIONS => {
                let mut options = Vec::new();
                for (kind, payload) in attributes(payload) {
                    match kind {
                        verdict_attribute::PARMS => {
                            let mut parameters = payload.to_vec();
                            // How many refer to it, which the kernel counts.
                            parameters.get_mut(12..20)?.fill(0);
                            options.extend(attribute(kind, &parameters));
                        }
                        verdict_attribute::TM | verdict_attribute::PAD => {}
                        _ => return None,
                    }
                }
                bytes.extend(attribute(kind, &options));
            }
            action_attribute::KIND
            | action_attribute::COOKIE
            | action_attribute::FLAGS
            | action_attribute::HW_STATS => bytes.extend(attribute(kind, payload)),
            action_attribute::STATS
            | action_attribute::PAD
            | action_attribute::USED_HW_STATS
            | action_attribute::IN_HW_COUNT => {}
            _ => return None,
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(kind: &str, options: Vec<u8>) -> Filter {
        Filter { priority: 7, protocol: 3, handle: 0x8000_0800, chain: 0, kind: kind.to_owned(), options }
    }

    /// Actions, each with what it returns.
    fn actions(of: &[(&str, i32)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, (kind, returns)) in of.iter().enumerate() {
            let mut parameters = [0; 28];
            parameters[8..12].copy_from_slice(&returns.to_ne_bytes());
            parameters[12] = 1;
            let mut action = attribute(action_attribute::KIND, kind.as_bytes());
            action.extend(attribute(
                action_attribute::OPTIONS,
                &attribute(verdict_attribute::PARMS, &parameters),
            ));
            bytes.extend(attribute(u16::try_from(number + 1).unwrap_or_default(), &action));
        }
        attribute(u32_attribute::ACT, &bytes)
    }

    #[test]
    fn only_what_drops_or_goes_on_takes_nothing_past_ours() {
        let table: &[(&[(&str, i32)], bool)] = &[
            (&[], true),
            (&[("gact", SHOT)], false),
            (&[("gact", UNSPEC)], false),
            (&[("gact", 0)], true),
            (&[("gact", 3)], true),
            (&[("mirred", 4)], true),
            (&[("mirred", 3), ("gact", SHOT)], true),
        ];
        for (of, passes_by) in table {
            assert_eq!(filter("u32", actions(of)).passes_by(), *passes_by, "{of:?}");
        }
        assert!(filter("route", Vec::new()).passes_by(), "of a kind that is not known");
        assert!(!filter("bpf", Vec::new()).passes_by(), "that says itself");
    }

    #[test]
    fn what_is_not_known_is_not_added_again() {
        let known = [attribute(u32_attribute::SEL, &[0; 16]), actions(&[("mirred", 4)])].concat();
        let again = filter("u32", known.clone()).to_add().map(|it| (it.handle, it.options.len()));
        assert_eq!(again, Some((0x800, known.len())));
        for (kind, more) in [
            ("bpf", Vec::new()),
            ("u32", attribute(3, &[0; 4])),
            ("u32", attribute(u32_attribute::FLAGS, &IN_HARDWARE.to_ne_bytes())),
            ("u32", actions(&[("police", 3)])),
        ] {
            assert_eq!(filter(kind, [known.clone(), more].concat()).to_add(), None);
        }
        assert_eq!(Filter { chain: 1, ..filter("u32", known) }.to_add(), None);
    }
}
