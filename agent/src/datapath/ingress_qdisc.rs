//! An `ingress` qdisc, where clsact would be: it has no egress hook, and whoever adds a filter there gets one at ingress. CNI plugins that
//! limit bandwidth leave one on pods' veths.
//!
//! It is replaced by a clsact qdisc. Its filters go along, where it is known how, behind ours: what they send round by another device comes back
//! without being looked at again.

use std::io;

use super::attach::{Layer, PRIORITY};
use super::tc::{AT_INGRESS, Filter, Tc};

/// Why an `ingress` qdisc stays.
#[derive(Debug, thiserror::Error)]
pub enum QdiscError {
    /// A filter.
    #[error("its filter {0} is not of those that can be moved to a clsact qdisc as they are")]
    Filter(String),
    /// Others have the same filters.
    #[error("it shares its filters with other qdiscs")]
    Shared,
    /// A request.
    #[error("{what}: {source}")]
    Request {
        /// What was asked for.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel did not take a filter again.
    #[error("its filter {filter} could not be added again ({reason}), and {outcome}")]
    Lost {
        /// The filter.
        filter: String,
        /// Why.
        reason: String,
        /// What became of it.
        outcome: &'static str,
    },
}

/// Replaces an interface's `ingress` qdisc, if that is what it has. Says how many filters of others have moved; none where there was nothing
/// to replace.
///
/// # Errors
///
/// See [`QdiscError`]: everything is as it was, if not said otherwise.
pub(super) fn replace(ifindex: u32) -> Result<Option<usize>, QdiscError> {
    let mut tc = Tc::open().map_err(failed("opening a route netlink socket"))?;
    let qdisc = tc.ingress_qdisc(ifindex).map_err(failed("listing qdiscs"))?;
    let Some(qdisc) = qdisc.filter(|it| it.kind == "ingress") else { return Ok(None) };
    if qdisc.is_shared {
        return Err(QdiscError::Shared);
    }
    let before = of_others(&mut tc, ifindex).map_err(failed("listing filters"))?;
    let moved = behind_ours(&before)?;
    tc.delete_ingress_qdisc(ifindex).map_err(failed("deleting it"))?;
    if let Err((filter, reason)) = fill(&mut tc, ifindex, "clsact", &moved) {
        let outcome = match take_back(&mut tc, ifindex, &before) {
            Ok(()) => "everything is as it was",
            Err(_) => "is lost: whoever added it must do so again",
        };
        return Err(QdiscError::Lost { filter, reason, outcome });
    }
    Ok(Some(moved.len()))
}

/// The filters as they are added to a clsact qdisc: in the same order, behind ours.
fn behind_ours(filters: &[Filter]) -> Result<Vec<Filter>, QdiscError> {
    let mut moved = Vec::new();
    let mut last = None;
    let mut priority = PRIORITY;
    for filter in filters {
        if last != Some(filter.priority) {
            last = Some(filter.priority);
            priority = priority.saturating_add(1).max(filter.priority);
        }
        // With other tables than the first one, it would take more to add it.
        let tables = filters.iter().filter(|it| it.is_table() && it.priority == filter.priority).count();
        if filter.is_table() && tables == 1 {
            continue;
        }
        let added = filter.to_add().filter(|_| tables == 1);
        let added = added.ok_or_else(|| QdiscError::Filter(name(filter)))?;
        moved.push(Filter { priority, ..added });
    }
    Ok(moved)
}

/// Adds a qdisc with filters, and looks whether they are what was added.
fn fill(tc: &mut Tc, ifindex: u32, kind: &str, filters: &[Filter]) -> Result<(), (String, String)> {
    let qdisc = |error: io::Error| (format!("(qdisc {kind})"), error.to_string());
    tc.add_ingress_qdisc(ifindex, kind).map_err(qdisc)?;
    for filter in filters {
        tc.add_filter(ifindex, AT_INGRESS, filter).map_err(|error| (name(filter), error.to_string()))?;
    }
    let there: Vec<_> = of_others(tc, ifindex).map_err(qdisc)?.iter().filter_map(Filter::to_add).collect();
    match filters.iter().find(|it| !there.contains(it)) {
        Some(filter) => Err((name(filter), "it is another one then".to_owned())),
        None => Ok(()),
    }
}

/// Makes everything what it was.
fn take_back(tc: &mut Tc, ifindex: u32, before: &[Filter]) -> Result<(), (String, String)> {
    // It may not have been added.
    let _ = tc.delete_ingress_qdisc(ifindex);
    let filters: Vec<_> = before.iter().filter(|it| !it.is_table()).filter_map(Filter::to_add).collect();
    fill(tc, ifindex, "ingress", &filters)
}

fn of_others(tc: &mut Tc, ifindex: u32) -> io::Result<Vec<Filter>> {
    Ok(tc
        .filters(ifindex, AT_INGRESS)?
        .into_iter()
        .filter(|it| !Layer::ALL.iter().any(|layer| it.is_ours(*layer)))
        .collect())
}

fn name(filter: &Filter) -> String {
    format!("{} pref {}", filter.kind, filter.priority)
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> QdiscError {
    move |source| QdiscError::Request { what, source }
}
