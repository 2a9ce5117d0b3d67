//! Reads the state beside the applier: each query is one read transaction on a connection of its own.

use std::fmt;
use std::io;
use std::sync::Arc;

use buggify::{assert_always, assert_sometimes, buggify};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::InstantOf;
use rusqlite::Connection;

use super::Shared;
use super::database::{CheckpointMode, From, find_kv, read_kv_page, read_meta, sqlite};
use crate::command::{Answer, KeyValue, Query};
use crate::env::{Env, Lane};
use crate::planted::planted;
use crate::store::StoreError;
use crate::types::{LogId, TypeConfig};

/// Answers queries from the applied state. What makes an answer linearizable is the caller's business. Cheap to clone.
pub struct StateReader<E: Env> {
    shared: Arc<Shared<E>>,
}

impl<E: Env> Clone for StateReader<E> {
    fn clone(&self) -> Self {
        StateReader { shared: self.shared.clone() }
    }
}

impl<E: Env> StateReader<E> {
    pub(super) fn new(shared: Arc<Shared<E>>) -> Self {
        StateReader { shared }
    }

    /// Answers from one state, whose last applied index is the answer's revision. A scan may stop before its limit,
    /// with [`Answer::more`], when the rows grow too large for one answer.
    pub async fn query(&self, query: Query) -> Result<Answer, StoreError> {
        self.query_opened(query).await.map(|(answer, _)| answer)
    }

    /// As [`StateReader::query`], with a moment at which the read transaction was open.
    pub async fn query_opened(&self, query: Query) -> Result<(Answer, InstantOf<TypeConfig<E>>), StoreError> {
        let shared = &self.shared;
        shared.health.check().map_err(StoreError::Stopped)?;
        let bytes_max = shared.config.scan_bytes_max;
        let bytes_max = if buggify!(at "scan stops after one row") { 0 } else { bytes_max };
        let is_short = matches!(query, Query::Get { .. });
        let read = move |shared: Arc<Shared<E>>| {
            let reader = shared.reader.lock();
            answer(reader.as_ref().ok_or_else(super::closed)?, &query, bytes_max, TypeConfig::<E>::now)
        };
        let what = "the state cannot be read";
        let answered = match is_short {
            true => shared.short_section(what, read).await,
            false => shared.section(what, read).await,
        };
        let (mut answer, opened) = answered.map_err(|error| StoreError::from_io("read", error))?;
        if planted!("revision-read-outside-transaction") {
            answer.revision = self.applied().map_or(0, |applied| applied.index);
        }
        Ok((answer, opened))
    }

    /// Log time of the last applied command, ms.
    pub fn log_time_ms(&self) -> u64 {
        self.shared.view().log_time_ms
    }

    /// The last applied entry.
    pub fn applied(&self) -> Option<LogId> {
        self.shared.view().applied
    }

    /// The last entry of the newest durable snapshot.
    pub fn snapshot(&self) -> Option<LogId> {
        self.shared.view().snapshot.as_ref().and_then(|current| current.meta.last_log_id)
    }

    /// Recomputes the state hash from every row and compares it with the one kept. Returns the last applied entry and
    /// the hash.
    pub async fn verify(&self) -> Result<(Option<LogId>, u64), StoreError> {
        let verify = |shared: Arc<Shared<E>>| {
            let state = shared.state.lock();
            let database = state.as_ref().ok_or_else(super::closed)?;
            Ok((database.meta.applied, database.verify()?))
        };
        let verified = self.shared.section("the state does not verify", verify).await;
        verified.map_err(|error| StoreError::from_io("verify", error))
    }

    /// Copies the write-ahead log into the database and empties it, as far as no reader is in the way. Returns whether
    /// none was: then everything applied is durable.
    pub async fn checkpoint(&self) -> Result<bool, StoreError> {
        let checkpoint = |shared: Arc<Shared<E>>| {
            let state = shared.state.lock();
            let done = state.as_ref().ok_or_else(super::closed)?.checkpoint(CheckpointMode::Truncate)?;
            Ok(done.is_complete())
        };
        let done = self.shared.section("the state cannot be checkpointed", checkpoint).await;
        done.map_err(|error| StoreError::from_io("checkpoint", error))
    }

    /// Checkpoints and closes the database. Later calls fail.
    pub async fn close(&self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        shared.health.stopping();
        let close = move || -> io::Result<()> {
            drop(shared.pinned.lock().take());
            drop(shared.reader.lock().take());
            let Some(database) = shared.state.lock().take() else { return Ok(()) };
            // What a failed sync lost must not be copied into the database.
            if shared.health.check().is_ok() {
                database.checkpoint(CheckpointMode::Truncate)?;
            }
            Ok(())
        };
        let closed = self.shared.lane.run(close).await.unwrap_or_else(|stopped| Err(stopped.into()));
        closed.map_err(|error| StoreError::from_io("close", error))
    }
}

fn answer<I>(connection: &Connection, query: &Query, bytes_max: usize, now: impl Fn() -> I) -> io::Result<(Answer, I)> {
    connection.prepare_cached("BEGIN").and_then(|mut begin| begin.execute([])).map_err(sqlite)?;
    let answer = answer_in_transaction(connection, query, bytes_max, now);
    connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])).map_err(sqlite)?;
    answer
}

fn answer_in_transaction<I>(
    connection: &Connection,
    query: &Query,
    bytes_max: usize,
    now: impl Fn() -> I,
) -> io::Result<(Answer, I)> {
    // The first statement opens the snapshot.
    let revision = read_meta(connection)?.applied.map_or(0, |applied| applied.index);
    let opened = now();
    let answer = match query {
        Query::Get { key } => {
            let found = find_kv(connection, key, &mut Vec::new())?;
            assert_sometimes!(found.is_none(), "a get found nothing");
            let row = found.map(|found| KeyValue { key: key.clone(), value: found.value, meta: found.meta });
            Answer { revision, rows: row.into_iter().collect(), more: false }
        }
        Query::Scan { start, end, limit } => {
            let rows_max = usize::try_from(*limit).unwrap_or(usize::MAX);
            let end = end.as_ref().map(|end| end.as_slice());
            let page = read_kv_page(connection, &From::Key(start.clone()), end, rows_max, bytes_max)?;
            assert_sometimes!(page.more, "a scan stopped before the last row");
            Answer { revision, rows: page.rows, more: page.more }
        }
    };
    assert_always!(
        answer.rows.iter().all(|row| row.meta.mod_revision <= revision),
        "no row is newer than the state it was read from"
    );
    Ok((answer, opened))
}

impl<E: Env> fmt::Debug for StateReader<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateReader").field("applied", &self.applied()).finish_non_exhaustive()
    }
}
