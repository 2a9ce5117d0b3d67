//! `/metrics`: the node in Prometheus' text format (version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use crate::production::http::App;
use crate::production::http::status::{Point, RaftStatus, raft_status};

/// Upper bounds of the buckets of a latency, in microseconds.
const BOUNDS_US: [u64; 14] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000];

/// How long requests took.
#[derive(Debug, Default)]
struct Latency {
    /// Not cumulative; the last one is everything beyond the bounds.
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// What the HTTP interface counts.
#[derive(Debug, Default)]
pub struct HttpMetrics {
    latencies: Mutex<BTreeMap<&'static str, Arc<Latency>>>,
    errors: Mutex<BTreeMap<(&'static str, String), u64>>,
}

impl HttpMetrics {
    pub(super) fn record(&self, endpoint: &'static str, took: Duration, failed_with: Option<String>) {
        let latency = {
            let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
            latencies.entry(endpoint).or_default().clone()
        };
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        latency.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        latency.sum_us.fetch_add(us, Ordering::Relaxed);
        if let Some(code) = failed_with {
            let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
            *errors.entry((endpoint, code)).or_default() += 1;
        }
    }

    fn write(&self, page: &mut Page) {
        page.head("aspen_http_request_seconds", "histogram", "Time to answer a request.");
        for (endpoint, latency) in self.latencies.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let mut total = 0;
            for (bucket, count) in latency.buckets.iter().enumerate() {
                total += count.load(Ordering::Relaxed);
                let bound = BOUNDS_US.get(bucket).map_or("+Inf".to_owned(), |bound| seconds(*bound));
                page.line("aspen_http_request_seconds_bucket", &[("endpoint", endpoint), ("le", &bound)], total);
            }
            let sum = seconds(latency.sum_us.load(Ordering::Relaxed));
            page.line("aspen_http_request_seconds_sum", &[("endpoint", endpoint)], sum);
            page.line("aspen_http_request_seconds_count", &[("endpoint", endpoint)], total);
        }
        page.head("aspen_http_errors_total", "counter", "Requests that failed, by the code of the error.");
        for ((endpoint, code), count) in self.errors.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            page.line("aspen_http_errors_total", &[("endpoint", endpoint), ("code", code)], count);
        }
    }
}

pub(super) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page(&app))
}

fn page(app: &App) -> String {
    let mut page = Page::default();
    raft(&mut page, &raft_status(app));
    let log = app.node.log_stats();
    page.counter("aspen_log_commits_total", "Transactions of the log, each with one sync.", log.commits);
    page.counter("aspen_log_entries_total", "Entries written to the log.", log.entries);
    page.counter("aspen_log_reads_cached_total", "Reads of the log answered from memory.", log.reads_cached);
    page.counter("aspen_log_reads_disk_total", "Reads of the log that went to disk.", log.reads_disk);
    page.gauge(
        "aspen_proposals_in_flight",
        "Proposals whose outcome is not known yet.",
        app.node.proposals_in_flight(),
    );
    if let Ok(bytes) = app.disk.wal_bytes() {
        page.gauge("aspen_wal_bytes", "SQLite's write-ahead log.", bytes);
    }
    if let Ok(bytes) = app.disk.data_bytes() {
        page.gauge("aspen_data_bytes", "All files of the node.", bytes);
    }
    if let Ok(usage) = app.disk.usage() {
        page.gauge("aspen_disk_used_bytes", "Of the file system of the data directory.", usage.used);
        page.gauge("aspen_disk_total_bytes", "Of the file system of the data directory.", usage.total);
    }
    transport(&mut page, app);
    app.metrics.write(&mut page);
    page.text
}

fn raft(page: &mut Page, raft: &RaftStatus) {
    let index = |point: &Option<Point>| point.map_or(0, |point| point.index);
    page.head("aspen_raft_state", "gauge", "1 for the state that Raft is in.");
    for role in ["leader", "follower", "candidate", "learner", "shutdown"] {
        page.line("aspen_raft_state", &[("state", role)], u64::from(raft.role == role));
    }
    page.gauge("aspen_raft_term", "The current term.", raft.term);
    page.gauge("aspen_raft_has_leader", "Whether a leader is known.", u64::from(raft.leader.is_some()));
    page.gauge("aspen_raft_leader_id", "The leader's id, 0 if none is known.", raft.leader.unwrap_or(0));
    page.gauge("aspen_raft_last_log_index", "The last entry in the log.", raft.last_log_index.unwrap_or(0));
    page.gauge("aspen_raft_committed_index", "The last entry known to be committed.", index(&raft.committed));
    page.gauge("aspen_raft_applied_index", "The last entry applied.", index(&raft.applied));
    page.gauge("aspen_raft_snapshot_index", "The last entry in the newest snapshot.", index(&raft.snapshot));
    page.gauge("aspen_raft_purged_index", "The last entry purged from the log.", index(&raft.purged));
    page.head("aspen_replication_lag_entries", "gauge", "Entries that a follower lacks; at the leader.");
    for (id, follower) in &raft.followers {
        page.line("aspen_replication_lag_entries", &[("node", &id.to_string())], follower.lag);
    }
    page.head("aspen_heartbeat_age_seconds", "gauge", "Since a follower last answered; at the leader.");
    for (id, follower) in &raft.followers {
        if let Some(age_ms) = follower.heartbeat_age_ms {
            let age = seconds(age_ms.saturating_mul(1000));
            page.line("aspen_heartbeat_age_seconds", &[("node", &id.to_string())], age);
        }
    }
}

fn transport(page: &mut Page, app: &App) {
    let stats = app.transport.stats();
    page.gauge("aspen_transport_connections", "Open connections to other nodes and clients.", stats.connections);
    let counters = [
        ("aspen_transport_frames_sent_total", "Messages sent.", stats.frames_sent),
        ("aspen_transport_bytes_sent_total", "Bytes of them.", stats.bytes_sent),
        ("aspen_transport_frames_received_total", "Messages received.", stats.frames_received),
        ("aspen_transport_bytes_received_total", "Bytes of them.", stats.bytes_received),
        ("aspen_transport_dials_total", "Connections attempted from here.", stats.dials),
        ("aspen_transport_dials_failed_total", "Those of them that failed.", stats.dials_failed),
        ("aspen_transport_accepted_total", "Connections accepted.", stats.accepted),
        ("aspen_transport_malformed_total", "Frames that were none.", stats.malformed),
    ];
    for (name, help, value) in counters {
        page.counter(name, help, value);
    }
    page.head("aspen_transport_refused_total", "counter", "Connections refused here, by reason.");
    for (reason, count) in &stats.refused {
        let reason = format!("{reason:?}");
        page.line("aspen_transport_refused_total", &[("reason", &reason)], count);
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> = labels.iter().map(|(label, text)| format!("{label}=\"{text}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.text, "{name}{labels} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, "gauge", help);
        self.line(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, "counter", help);
        self.line(name, &[], value);
    }
}

fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_falls_into_every_bucket_above_it() {
        let metrics = HttpMetrics::default();
        metrics.record("/read", Duration::from_micros(250), None);
        metrics.record("/read", Duration::from_secs(9), Some("timeout".to_owned()));
        let mut page = Page::default();
        metrics.write(&mut page);
        for line in [
            "aspen_http_request_seconds_bucket{endpoint=\"/read\",le=\"0.000100\"} 0",
            "aspen_http_request_seconds_bucket{endpoint=\"/read\",le=\"0.000250\"} 1",
            "aspen_http_request_seconds_bucket{endpoint=\"/read\",le=\"+Inf\"} 2",
            "aspen_http_request_seconds_sum{endpoint=\"/read\"} 9.000250",
            "aspen_http_errors_total{endpoint=\"/read\",code=\"timeout\"} 1",
        ] {
            assert!(page.text.contains(line), "{line}\n{}", page.text);
        }
    }
}
