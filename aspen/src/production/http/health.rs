//! `/livez`, `/readyz`, `/health`: is the process alive, may traffic come, what is wrong.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use openraft::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};

use crate::detach;
use crate::node::Phase;
use crate::production::disk::{CRITICAL_PERCENT, WAL_CRITICAL_BYTES, WAL_WARN_BYTES, WARN_PERCENT};
use crate::production::env::RealEnv;
use crate::production::http::App;
use crate::production::http::error::Failure;
use crate::production::http::standing::Standing;

/// Raft answers within this time.
const RAFT_PATIENCE: Duration = Duration::from_millis(25);
/// A node that lags by more entries is not caught up.
const LAG_ENTRIES_MAX: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warn,
    Critical,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    pub name: String,
    pub level: Level,
    pub detail: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// The worst of the components.
    pub level: Level,
    pub components: Vec<Component>,
}

/// 200 as long as the process answers.
pub(super) async fn livez() -> &'static str {
    "alive\n"
}

/// 200 if clients are served here: a leader is known, and what it committed is applied, but for a few entries.
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str, Failure> {
    let not = |message: String| {
        Failure::definite(
            StatusCode::SERVICE_UNAVAILABLE,
            "not-ready",
            message,
            "send traffic elsewhere until it is ready",
        )
    };
    match app.standing() {
        Standing::Outside => return Err(not(app.outside().to_owned())),
        Standing::Removed => return Err(not("the node was removed from the cluster".to_owned())),
        Standing::Member => {}
    }
    match app.node.phase() {
        Phase::Serving => {}
        Phase::Recovering => return Err(not("the node is recovering what it knew before it was started".to_owned())),
        Phase::Stopping => return Err(not("the node is stopping".to_owned())),
    }
    if let Err(problem) = app.heard_leader() {
        return Err(not(problem));
    }
    let metrics = app.node.raft().metrics().borrow_watched().clone();
    let committed = metrics.cluster_committed.as_ref().map_or(0, |id| id.index);
    let applied = metrics.last_applied.as_ref().map_or(0, |id| id.index);
    if committed.saturating_sub(applied) > LAG_ENTRIES_MAX {
        return Err(not(format!("applied to {applied} of {committed} committed entries")));
    }
    Ok("ready\n")
}

/// 200 unless a component is critical.
pub(super) async fn health(State(app): State<Arc<App>>) -> Response {
    let report = report(&app).await;
    let status = if report.level == Level::Critical { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, Json(report)).into_response()
}

async fn report(app: &App) -> HealthReport {
    let raft = app.node.raft().clone();
    let answer = async move { raft.with_raft_state(|_| ()).await };
    let raft = detach::timeout::<RealEnv, _>(RAFT_PATIENCE, answer).await;
    let raft = match raft {
        Ok(Ok(())) => (Level::Ok, "answers".to_owned()),
        Ok(Err(fatal)) => (Level::Critical, fatal.to_string()),
        Err(_) => (Level::Critical, format!("no answer within {RAFT_PATIENCE:?}")),
    };
    let leader = match app.heard_leader() {
        Ok(leader) => (Level::Ok, format!("node {leader} leads")),
        Err(problem) => (Level::Critical, problem),
    };
    let disk = match app.disk.usage() {
        Ok(usage) => (level(usage.percent(), WARN_PERCENT, CRITICAL_PERCENT), format!("{} % in use", usage.percent())),
        Err(error) => (Level::Critical, error.to_string()),
    };
    let storage = match app.node.store_failure() {
        Some(reason) => (Level::Critical, reason.to_string()),
        None => probe(app).await,
    };
    let wal = match app.disk.wal_bytes() {
        Ok(bytes) => (level(bytes, WAL_WARN_BYTES, WAL_CRITICAL_BYTES), format!("{bytes} bytes")),
        Err(error) => (Level::Critical, error.to_string()),
    };
    let components: Vec<Component> =
        [("raft", raft), ("leader", leader), ("disk", disk), ("storage", storage), ("wal", wal)]
            .into_iter()
            .map(|(name, (level, detail))| Component { name: name.to_owned(), level, detail })
            .collect();
    let level = components.iter().map(|component| component.level).max().unwrap_or(Level::Ok);
    HealthReport { level, components }
}

async fn probe(app: &App) -> (Level, String) {
    let disk = app.disk.clone();
    match tokio::task::spawn_blocking(move || disk.probe()).await {
        Ok(Ok(())) => (Level::Ok, "writable".to_owned()),
        Ok(Err(error)) => (Level::Critical, format!("not writable: {error}")),
        Err(error) => (Level::Critical, error.to_string()),
    }
}

fn level(value: u64, warn: u64, critical: u64) -> Level {
    match value {
        value if value >= critical => Level::Critical,
        value if value >= warn => Level::Warn,
        _ => Level::Ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_begin_at_their_bounds() {
        assert_eq!(
            [79, 80, 94, 95].map(|percent| level(percent, 80, 95)),
            [Level::Ok, Level::Warn, Level::Warn, Level::Critical]
        );
    }
}
