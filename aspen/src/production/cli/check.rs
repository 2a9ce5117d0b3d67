//! `aspen check`: whether a data directory is sound, while no node uses it.
//!
//! The node's identity and key are read, without which it does not start.
//! The stores are opened as a node opens them, which checks them against each other; then every entry of the log is
//! decoded, and the hash of the state is computed anew from all rows. Opening finishes what a crash interrupted, as the
//! next start of the node would.

use std::path::PathBuf;

use clap::Args;
use openraft::storage::RaftLogReader;
use serde_json::json;

use crate::production::cli::{CliError, Outcome, Output, Verdict};
use crate::production::config::Kept;
use crate::production::daemon::DirectoryLock;
use crate::production::env::{NoTransport, RealEnv};
use crate::store::{self, StoreConfig};
use crate::types::LogId;

#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The directory given to aspen-node as --data-dir
    data_dir: PathBuf,
}

/// Entries decoded at one time.
const STEP: u64 = 1000;

pub(super) async fn run(arguments: CheckArguments) -> Outcome {
    let kept = Kept::read(&arguments.data_dir);
    let dir = arguments.data_dir.join("data");
    if !dir.is_dir() && !kept.is_known() || !arguments.data_dir.is_dir() {
        let message = format!("{} is no data directory of aspen-node", arguments.data_dir.display());
        return Err(CliError::Usage(message));
    }
    let _lock = DirectoryLock::take(&arguments.data_dir).map_err(|error| CliError::Failed(error.to_string()))?;
    let mut problems = kept.problems();
    let must_exist = kept.identity.as_ref().is_ok_and(|known| known.as_ref().is_some_and(|known| known.served));
    if matches!(kept.identity, Ok(None)) {
        problems.push("identity.json is missing: a node would not know who it was".to_owned());
    }
    let config = StoreConfig { must_exist, ..StoreConfig::default() };
    // Opening makes what is missing.
    let is_there = dir.is_dir();
    let inspected = match is_there {
        true => inspect(dir, &config).await,
        false if must_exist => {
            Err("the node has served before, but its stores are gone; remove it from the cluster, and add \
                                    one with a new id and an empty directory in its place"
                .to_owned())
        }
        false => Ok(Output::good(json!({ "sound": true }), "sound: the node has an identity and has not served yet")),
    };
    match inspected {
        Ok(output) if problems.is_empty() => Ok(output),
        inspected => {
            problems.extend(inspected.err());
            let problem = problems.join("; ");
            let json = json!({ "sound": false, "problem": problem });
            Ok(Output::new(json, format!("not sound: {problem}"), Verdict::Bad))
        }
    }
}

async fn inspect(dir: PathBuf, config: &StoreConfig) -> Result<Output, String> {
    let env = RealEnv::new(NoTransport);
    let mut stores = store::open(&env, &dir, config).await.map_err(|error| error.to_string())?;
    let recovery = stores.recovery.clone();
    let (first, end) = match (recovery.log.entries.first(), recovery.log.entries.last()) {
        (Some(first), Some(last)) => (first.log_id.index, last.log_id.index + 1),
        _ => (0, 0),
    };
    let mut decoded = 0;
    let mut from = first;
    while from < end {
        let upto = end.min(from + STEP);
        let entries = stores.log.try_get_log_entries(from..upto).await.map_err(|error| error.to_string())?;
        for (expected, entry) in (from..upto).zip(&entries) {
            if entry.log_id.index != expected {
                return Err(format!("the log has entry {} where {expected} follows", entry.log_id));
            }
        }
        if entries.len() != usize::try_from(upto - from).unwrap_or(usize::MAX) {
            return Err(format!("the log has {} entries from {from} to {upto}", entries.len()));
        }
        decoded += entries.len();
        from = upto;
    }
    let (applied, hash) = stores.reader.verify().await.map_err(|error| error.to_string())?;
    stores.log.close().await.map_err(|error| error.to_string())?;
    stores.reader.close().await.map_err(|error| error.to_string())?;
    let show = |id: Option<LogId>| id.map(|id| id.to_string());
    let json = json!({
        "sound": true,
        "log": { "purged": show(recovery.log.purged), "entries": decoded, "last": show(recovery.log.last()),
                 "committed": show(recovery.log.committed) },
        "state": { "applied": show(applied), "snapshot": show(recovery.state.snapshot), "hash": format!("{hash:016x}") },
    });
    let text = format!("sound: {recovery}\n{decoded} entries decoded, state hash {hash:016x}");
    Ok(Output::good(json, text))
}
