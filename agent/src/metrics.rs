//! What the agent tells Prometheus: a page made anew for each scrape, from the same status that `postern status` shows.

use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::control::Status;

type Labels = Vec<(&'static str, String)>;

/// What is counted as it happens; everything else is read off the status.
#[derive(Clone, Debug)]
pub struct Metrics {
    enforced: Histogram,
}

impl Metrics {
    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
        // From 0.1 ms to 13 s, each twice the one before.
        Self { enforced: Histogram::new(exponential_buckets(0.0001, 2.0, 18)) }
    }

    /// A change is enforced, so long after it was noticed.
    pub fn enforced(&self, after: Duration) {
        self.enforced.observe(after.as_secs_f64());
    }

    /// The page.
    ///
    /// # Errors
    ///
    /// None in practice: writing to a string does not fail.
    pub fn page(&self, status: &Status) -> Result<String, std::fmt::Error> {
        let mut page = Page(Registry::with_prefix("postern"));
        page.agent(status);
        page.cluster(status);
        page.packets(status);
        let help = "Time from when a change was there for the running agent to see to the last write that enforced it; \
                    of the first ones, from when the last of them was";
        page.0.register_with_unit("enforcement", help, Unit::Seconds, self.enforced.clone());
        let mut text = String::new();
        encode(&mut text, &page.0)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

struct Page(Registry);

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: usize) {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        self.0.register(name, help, gauge);
    }

    fn gauges(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, usize)>) {
        let family = Family::<Labels, Gauge>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        self.0.register(name, help, family);
    }

    fn counters(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(name, help, family);
    }

    fn agent(&mut self, status: &Status) {
        let labels = vec![("version", status.version.clone()), ("attach", status.attach.clone())];
        self.gauges("build", "Always 1; what runs", [(labels, 1)]);
        self.gauge("ready", "Everything known is enforced on this node", status.ready.into());
        self.gauge("synced", "The first picture of the cluster is complete", status.synced.into());
        self.gauge("errors", "How many errors `postern status` lists", status.errors_total);
        self.gauge(
            "pods_pending",
            "Isolated pods of this node whose veth may yet come",
            status.pending.len(),
        );
        let help = "Isolated pods of this node whose veth did not come: they are not enforced";
        self.gauge("pods_without_veth", help, status.pods_without_veth);
        let lost = Counter::<u64>::default();
        lost.inc_by(status.log_lines_lost);
        self.0.register("log_lines_lost", "Lines of the log that standard error did not take", lost);
        let count =
            |of: fn(&crate::control::Endpoint) -> bool| status.endpoints.iter().filter(|it| of(it)).count();
        let endpoints = [
            ("isolated", count(|it| !it.quarantined && (it.ingress_class != 0 || it.egress_class != 0))),
            ("guarded", count(|it| it.guarded && it.ingress_class == 0 && it.egress_class == 0)),
            ("quarantined", count(|it| it.quarantined)),
        ];
        let endpoints = endpoints.map(|(state, count)| (vec![("state", state.to_owned())], count));
        self.gauges("endpoints", "Veths that carry programs", endpoints);
        let generation = usize::try_from(status.generation).unwrap_or_default();
        self.gauge("policy_generation", "Policy generation in the kernel", generation);
    }

    fn cluster(&mut self, status: &Status) {
        let kind = |kind: &str| vec![("kind", kind.to_owned())];
        let watches = || status.watches.iter();
        let objects = watches().map(|it| (kind(&it.kind), it.objects));
        self.gauges("objects", "Objects known, by kind", objects);
        let up = watches().map(|it| (kind(&it.kind), it.up.into()));
        self.gauges("watch_up", "The API server answered the last request of this watch", up);
        let lists = watches().map(|it| (kind(&it.kind), it.lists));
        self.counters("watch_lists", "Complete lists read, the first one included", lists);
        let events = watches().map(|it| (kind(&it.kind), it.events));
        self.counters("watch_events", "Changes heard", events);
        let failures = watches().flat_map(|it| {
            let labelled = |cause: &String| vec![("kind", it.kind.clone()), ("cause", cause.clone())];
            it.failures.iter().map(move |(cause, count)| (labelled(cause), *count)).collect::<Vec<_>>()
        });
        self.counters("watch_failures", "Requests and watches that failed", failures);
    }

    fn packets(&mut self, status: &Status) {
        let labels = |it: &crate::datapath::counters::Counted| {
            vec![
                ("direction", it.direction.clone()),
                ("verdict", if it.dropped { "drop" } else { "pass" }.to_owned()),
                ("reason", it.reason.clone()),
            ]
        };
        let packets = status.packets.iter().map(|it| (labels(it), it.packets));
        let help = "Packets of isolated pods, by what was found of them (docs/packet-path.md)";
        self.counters("packets", help, packets);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::kube::KindStatus;

    #[test]
    fn the_page_says_what_the_status_says() {
        let metrics = Metrics::new();
        metrics.enforced(Duration::from_millis(3));
        let watch = KindStatus {
            kind: "Pod".to_owned(),
            synced: true,
            up: false,
            objects: 7,
            lists: 2,
            events: 40,
            version: "12".to_owned(),
            failures: BTreeMap::from([("busy".to_owned(), 3)]),
        };
        let page = {
            let status = Status { ready: true, watches: vec![watch], log_lines_lost: 3, ..Status::default() };
            metrics.page(&status).unwrap()
        };
        for line in [
            "postern_ready 1",
            "postern_objects{kind=\"Pod\"} 7",
            "postern_watch_up{kind=\"Pod\"} 0",
            "postern_watch_lists_total{kind=\"Pod\"} 2",
            "postern_watch_failures_total{kind=\"Pod\",cause=\"busy\"} 3",
            "postern_enforcement_seconds_count 1",
            "postern_log_lines_lost_total 3",
            "# EOF",
        ] {
            assert!(page.lines().any(|it| it == line), "{line} is not in\n{page}");
        }
    }
}
