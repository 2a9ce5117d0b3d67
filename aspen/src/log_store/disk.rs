//! The log on disk: one redb file with the entries, the vote and the marks. Synchronous; runs in the log's lane.
//!
//! The file is created under a temporary name, because a power loss during redb's first initialisation leaves a file
//! that never opens again; a file under its real name is always complete.

use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::{
    Database, Durability, Key, ReadableDatabase, ReadableTable, StorageBackend, Table, TableDefinition, Value,
    WriteTransaction,
};

use crate::codec;
use crate::env::{Env, File as _};
use crate::observe::{EntryMeta, Observation};
use crate::planted::planted;
use crate::types::{Entry, LogId, Vote};

/// Index to sealed entry.
pub(super) const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
/// Name to sealed value.
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

const VOTE: &str = "vote";
const PURGED: &str = "purged";
const COMMITTED: &str = "committed";
const FORMAT: &str = "format";

pub const LOG_FILE: &str = "log.redb";
const LOG_FILE_NEW: &str = "log.redb.tmp";
/// Where a log is put that cannot be trusted.
pub const LOG_FILE_DAMAGED: &str = "log.redb.damaged";

/// Encoded entries, back to back.
#[derive(Debug, Default)]
pub(super) struct EncodedBatch {
    pub bytes: Vec<u8>,
    /// Index of each entry and the end of its bytes.
    pub entries: Vec<(u64, usize)>,
}

/// One change of the log, in the order it was asked for.
#[derive(Debug)]
pub(super) enum Change {
    Append(EncodedBatch),
    Vote(Vote),
    /// Removes the entries from this index on.
    Truncate {
        from: u64,
    },
    Purge {
        upto: LogId,
    },
    Committed(LogId),
}

impl Change {
    /// Whether it changes a mark, so that another mark costs next to nothing.
    pub fn is_mark(&self) -> bool {
        matches!(self, Change::Vote(_) | Change::Purge { .. } | Change::Committed(_))
    }
}

/// What a log holds when it is opened.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub created: bool,
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
    pub committed: Option<LogId>,
    /// Of every entry, in order; without gap.
    pub entries: Vec<EntryMeta>,
    /// The newest entries with their encoded length, newest first, up to the bytes asked for.
    pub newest: Vec<(Entry, usize)>,
}

/// What a transaction did, for statistics and assertions.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Committed {
    pub entries: u64,
    pub truncated: u64,
    pub purged: u64,
}

#[derive(Debug)]
pub(super) struct LogDisk {
    database: Database,
}

impl LogDisk {
    /// Opens the log of `dir`, or creates one. Verifies every page that is in use, and every entry: after an orderly stop redb
    /// itself trusts what it finds.
    pub fn open<E: Env>(env: &E, dir: &Path, cache_bytes: usize) -> io::Result<(LogDisk, Found)> {
        let path = dir.join(LOG_FILE);
        let created = !env.exists(&path)?;
        if created {
            Self::create(env, dir)?;
        }
        let backend = env.open_log(&path, false)?;
        if backend.len()? == 0 {
            // redb would take it for a new database and forget a vote.
            return Err(damaged("log.redb is empty; it was damaged from outside"));
        }
        let opened = unless_panicked(|| {
            let database = redb::Builder::new().set_cache_size(REDB_CACHE_BYTES).create_with_backend(backend);
            let mut database = database.map_err(failure)?;
            Ok(database.check_integrity().map_err(failure)?.then_some(database))
        })?;
        let Some(database) = opened else {
            // It went back to an older commit, and the vote with it. Nobody may take that for the log.
            env.rename(&path, &dir.join(LOG_FILE_DAMAGED))?;
            env.sync_dir(dir)?;
            return Err(damaged("the last commit of log.redb cannot be read"));
        };
        let disk = LogDisk { database };
        let mut found = unless_panicked(|| disk.scan(cache_bytes))?;
        found.created = created;
        if env.is_observed() {
            env.observe(Observation::LogOpened {
                vote: found.vote,
                purged: found.purged,
                committed: found.committed,
                entries: found.entries.clone(),
            });
        }
        Ok((disk, found))
    }

    fn create<E: Env>(env: &E, dir: &Path) -> io::Result<()> {
        let temporary = dir.join(LOG_FILE_NEW);
        if env.exists(&temporary)? {
            buggify::assert_reachable!("a half-created log was thrown away", owed_by = "power");
            env.remove(&temporary)?;
        }
        let database = redb::Builder::new().create_with_backend(env.open_log(&temporary, true)?).map_err(failure)?;
        let transaction = database.begin_write().map_err(failure)?;
        {
            transaction.open_table(ENTRIES).map_err(failure)?;
            let mut meta = transaction.open_table(META).map_err(failure)?;
            let mut format = Vec::new();
            codec::seal_into(codec::Kind::LogFormat, &mut format, |_| {});
            meta.insert(FORMAT, format.as_slice()).map_err(failure)?;
        }
        transaction.commit().map_err(failure)?;
        drop(database);
        // Closing writes once more; the file itself must be complete before it gets its name.
        env.open(&temporary)?.sync()?;
        env.rename(&temporary, &dir.join(LOG_FILE))?;
        env.sync_dir(dir)
    }

    /// Reads everything once: checks each entry, that there is no hole, and collects the newest entries.
    fn scan(&self, cache_bytes: usize) -> io::Result<Found> {
        let transaction = self.database.begin_read().map_err(failure)?;
        let meta = transaction.open_table(META).map_err(failure)?;
        let format = meta.get(FORMAT).map_err(failure)?.ok_or_else(|| damaged("log.redb has no format mark"))?;
        codec::open_seal(codec::Kind::LogFormat, format.value())?;
        for item in meta.iter().map_err(failure)? {
            let (name, _) = item.map_err(failure)?;
            if ![VOTE, PURGED, COMMITTED, FORMAT].contains(&name.value()) {
                return Err(damaged(format!("the log has a mark named {:?}", name.value())));
            }
        }
        let mut found = Found {
            vote: meta.get(VOTE).map_err(failure)?.map(|sealed| codec::decode_vote(sealed.value())).transpose()?,
            purged: meta.get(PURGED).map_err(failure)?.map(|id| codec::decode_log_id(id.value())).transpose()?,
            committed: meta.get(COMMITTED).map_err(failure)?.map(|id| codec::decode_log_id(id.value())).transpose()?,
            ..Found::default()
        };
        let table = transaction.open_table(ENTRIES).map_err(failure)?;
        let mut expected = found.purged.map(|purged| purged.index + 1);
        for item in table.iter().map_err(failure)? {
            let (key, value) = item.map_err(failure)?;
            let meta = codec::decode_entry_meta(value.value())?;
            if meta.log_id.index != key.value() {
                return Err(damaged(format!("the log has entry {} under index {}", meta.log_id, key.value())));
            }
            if expected.is_some_and(|expected| expected != key.value()) {
                let expected = expected.unwrap_or_default();
                return Err(damaged(format!("the log has a hole: after index {expected} comes {}", key.value())));
            }
            if found.entries.last().is_some_and(|before| before.log_id.leader_id > meta.log_id.leader_id) {
                return Err(damaged(format!("the log's terms go back at entry {}", meta.log_id)));
            }
            expected = Some(key.value() + 1);
            found.entries.push(meta);
        }
        let mut bytes = 0;
        for item in table.iter().map_err(failure)?.rev() {
            let (_, value) = item.map_err(failure)?;
            bytes += value.value().len();
            if bytes > cache_bytes {
                break;
            }
            found.newest.push((codec::decode_entry(value.value())?, value.value().len()));
        }
        Ok(found)
    }

    /// Makes `changes` durable in one transaction and one sync.
    pub fn commit(&self, changes: &[Change]) -> io::Result<Committed> {
        let mut done = Committed::default();
        if planted!("purge-mark-late") {
            self.remove_purged(changes)?;
        }
        // redb frees what a commit replaced in a second, non-durable commit right behind it, whose pages the next one has
        // to write. A reader of the state before puts that off to the next commit, which then does it for nothing.
        let _before = self.database.begin_read().map_err(failure)?;
        let mut transaction = self.database.begin_write().map_err(failure)?;
        if planted!("vote-not-synced") && matches!(changes, [Change::Vote(_)] | [Change::Vote(_), Change::Committed(_)])
        {
            transaction.set_durability(Durability::None).map_err(failure)?;
        }
        let appends = changes.iter().filter(|change| matches!(change, Change::Append(_))).count();
        if planted!("group-commit-not-synced") && appends > 1 {
            transaction.set_durability(Durability::None).map_err(failure)?;
        }
        {
            // A table is opened when it is changed: most transactions append, and a table that stays closed costs no page.
            let (mut entries, mut meta) = (None, None);
            for change in changes {
                match change {
                    Change::Append(batch) => {
                        let entries = opened(&mut entries, &transaction, ENTRIES)?;
                        let mut start = 0;
                        for (index, end) in &batch.entries {
                            entries.insert(index, &batch.bytes[start..*end]).map_err(failure)?;
                            start = *end;
                        }
                        done.entries += batch.entries.len() as u64;
                    }
                    Change::Vote(vote) => {
                        let meta = opened(&mut meta, &transaction, META)?;
                        meta.insert(VOTE, codec::encode_vote(vote).as_slice()).map_err(failure)?;
                    }
                    Change::Truncate { from } => {
                        let entries = opened(&mut entries, &transaction, ENTRIES)?;
                        let last = entries.last().map_err(failure)?.map(|(index, _)| index.value());
                        let end = last.map_or(*from, |last| last + 1);
                        let end = if planted!("truncate-leaves-hole") { end.min(*from + 1) } else { end };
                        for index in (*from..end).rev() {
                            entries.remove(index).map_err(failure)?;
                            done.truncated += 1;
                        }
                    }
                    Change::Purge { upto } => {
                        let entries = opened(&mut entries, &transaction, ENTRIES)?;
                        let meta = opened(&mut meta, &transaction, META)?;
                        meta.insert(PURGED, codec::encode_log_id(upto).as_slice()).map_err(failure)?;
                        let first = entries.first().map_err(failure)?.map(|(index, _)| index.value());
                        for index in first.unwrap_or(upto.index + 1)..=upto.index {
                            if entries.remove(index).map_err(failure)?.is_none() {
                                break;
                            }
                            done.purged += 1;
                        }
                    }
                    Change::Committed(id) => {
                        let meta = opened(&mut meta, &transaction, META)?;
                        meta.insert(COMMITTED, codec::encode_log_id(id).as_slice()).map_err(failure)?;
                    }
                }
            }
        }
        transaction.commit().map_err(failure)?;
        Ok(done)
    }

    /// The purges of `changes` without their mark, in a transaction of their own: for a planted defect.
    fn remove_purged(&self, changes: &[Change]) -> io::Result<()> {
        for change in changes {
            let Change::Purge { upto } = change else { continue };
            let transaction = self.database.begin_write().map_err(failure)?;
            transaction
                .open_table(ENTRIES)
                .map_err(failure)?
                .retain_in(..=upto.index, |_, _| false)
                .map_err(failure)?;
            transaction.commit().map_err(failure)?;
        }
        Ok(())
    }

    /// Reads the entries of `range`, in order, until one would exceed `bytes_max` (at least one). Stops at the first
    /// index that is not there.
    pub fn read(&self, range: Range<u64>, bytes_max: Option<usize>) -> io::Result<Vec<Entry>> {
        let transaction = self.database.begin_read().map_err(failure)?;
        let table = transaction.open_table(ENTRIES).map_err(failure)?;
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for item in table.range(range).map_err(failure)? {
            let (key, value) = item.map_err(failure)?;
            bytes += value.value().len();
            if !entries.is_empty() && bytes_max.is_some_and(|max| bytes > max) {
                break;
            }
            let entry = codec::decode_entry(value.value())?;
            if entry.log_id.index != key.value() {
                return Err(damaged(format!("the log has entry {} under index {}", entry.log_id, key.value())));
            }
            if entries.last().is_some_and(|before| before.log_id.index + 1 != entry.log_id.index) {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

/// redb 4.4.0 believes the lengths in a page before it has verified the page, and panics when they lead out of it. Damage is
/// an error here like any other.
fn unless_panicked<T>(read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        buggify::assert_reachable!("redb panicked at a damaged page", owed_by = "");
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(damaged(format!("a page of log.redb cannot be read: {}", text.unwrap_or("redb panicked"))))
    })
}

/// Opens a table unless it is open.
fn opened<'a, 't, K: Key + 'static, V: Value + 'static>(
    table: &'a mut Option<Table<'t, K, V>>,
    transaction: &'t WriteTransaction,
    definition: TableDefinition<'_, K, V>,
) -> io::Result<&'a mut Table<'t, K, V>> {
    match table {
        Some(table) => Ok(table),
        none => Ok(none.insert(transaction.open_table(definition).map_err(failure)?)),
    }
}

/// redb's own page cache. Small: the newest entries are cached decoded.
const REDB_CACHE_BYTES: usize = 16 << 20;

fn failure(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        error @ redb::Error::Corrupted(_) => io::Error::new(io::ErrorKind::InvalidData, error),
        error => io::Error::other(error),
    }
}

pub(crate) fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
