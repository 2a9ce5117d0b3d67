//! The SQLite database of one generation: connections, schema, and single rows in and out. Synchronous; runs in the
//! state's lane.
//!
//! Write-ahead log with `synchronous=NORMAL`: a commit is not synced, because the Raft log is; a power loss takes back
//! an unbroken suffix of the commits. Automatic checkpoints are off: the state machine runs its own.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use buggify::assert_reachable;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use super::rows::{MetaRow, SessionRow, kv_checksum, session_checksum};
use super::sessions::Sessions;
use crate::codec;
use crate::command::{KeyMeta, KeyValue};
use crate::env::Env;
use crate::log_store::damaged;
use crate::planted::planted;
use crate::snapshot::format::{Chunk, Header};
use crate::types::{CommittedLeaderId, LogId};

const SCHEMA: &str = "
    CREATE TABLE kv (
        id INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        value BLOB NOT NULL,
        create_revision INTEGER NOT NULL,
        mod_revision INTEGER NOT NULL,
        version INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE session (
        id INTEGER PRIMARY KEY,
        last_use_ms INTEGER NOT NULL,
        ttl_ms INTEGER NOT NULL,
        last_seq INTEGER NOT NULL,
        reply BLOB NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE meta (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        format INTEGER NOT NULL,
        applied_term INTEGER,
        applied_index INTEGER,
        membership BLOB NOT NULL,
        log_time_ms INTEGER NOT NULL,
        state_hash INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;
";

/// Version of the schema and of the rows.
const FORMAT: i64 = 1;
const STATEMENTS_CACHED: usize = 32;
/// Pages of write-ahead log at which a database that is being made from a snapshot is checkpointed.
const LOAD_CHECKPOINT_PAGES: u32 = 4096;
/// KiB of SQLite's page cache per connection.
const PAGE_CACHE_KIB: i64 = 8 << 10;

/// The writing connection of a database, with what it keeps in memory.
pub struct Database {
    pub(super) connection: Connection,
    pub(crate) generation: u64,
    pub(crate) meta: MetaRow,
    pub(super) sessions: Sessions,
    pub(super) scratch: Vec<u8>,
    /// Pages in the write-ahead log after the last commit.
    wal_pages: Arc<AtomicU32>,
    /// The node's own clock, for a planted defect.
    pub(super) local_clock_ms: Option<Box<dyn Fn() -> u64 + Send>>,
}

/// What a checkpoint found.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint {
    /// A reader kept it from finishing.
    pub busy: bool,
    /// Pages in the log, and how many of them are in the database now.
    pub log_pages: i64,
    pub checkpointed_pages: i64,
}

impl Checkpoint {
    /// Every commit so far is durable in the database.
    pub fn is_complete(&self) -> bool {
        !self.busy && self.log_pages == self.checkpointed_pages
    }
}

impl Database {
    /// Makes a new, empty database.
    pub fn create<E: Env>(env: &E, path: &Path, generation: u64) -> io::Result<Self> {
        let connection = connect(env, path)?;
        let database = Self::around(connection, generation)?;
        database.connection.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA}")).map_err(sqlite)?;
        let mut database = database;
        database.meta.state_hash = database.meta.hash_of_scalars();
        database.write_meta()?;
        database.connection.execute_batch("COMMIT").map_err(sqlite)?;
        Ok(database)
    }

    /// Opens a database, makes all of what it holds durable, and verifies every row.
    pub fn open<E: Env>(env: &E, path: &Path, generation: u64) -> io::Result<Self> {
        if !env.exists(path)? {
            return Err(damaged(format!("{} is missing", path.display())));
        }
        let mut database = Self::around(connect(env, path)?, generation)?;
        // Recovery of the write-ahead log syncs nothing: without this, what is reported as applied now could be gone
        // after the next power loss.
        let checkpoint = database.checkpoint(CheckpointMode::Truncate)?;
        if !checkpoint.is_complete() {
            return Err(io::Error::other(format!("the checkpoint at open did not complete: {checkpoint:?}")));
        }
        database.check_structure()?;
        database.meta = read_meta(&database.connection)?;
        database.load_sessions()?;
        database.verify()?;
        Ok(database)
    }

    /// Lets SQLite check its trees: a row that the index of keys does not lead to would be missing from every read, and the
    /// sum over the rows would not tell.
    fn check_structure(&self) -> io::Result<()> {
        let found: String =
            self.connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(sqlite)?;
        if found == "ok" { Ok(()) } else { Err(damaged(format!("the state database is damaged: {found}"))) }
    }

    fn around(mut connection: Connection, generation: u64) -> io::Result<Self> {
        let wal_pages = Arc::new(AtomicU32::new(0));
        let count = wal_pages.clone();
        let hook = move |_: &mut rusqlite::hooks::Wal, pages: std::ffi::c_int| {
            count.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        };
        // Takes the place of automatic checkpoints.
        connection.wal_hook(Some(hook)).map_err(sqlite)?;
        Ok(Database {
            connection,
            generation,
            meta: MetaRow::default(),
            sessions: Sessions::default(),
            scratch: Vec::new(),
            wal_pages,
            local_clock_ms: None,
        })
    }

    /// Pages in the write-ahead log after the last commit.
    pub fn wal_pages(&self) -> u32 {
        self.wal_pages.load(Ordering::Relaxed)
    }

    pub fn checkpoint(&self, mode: CheckpointMode) -> io::Result<Checkpoint> {
        let sql = match mode {
            CheckpointMode::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
            CheckpointMode::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
        };
        let read = |row: &Row<'_>| {
            Ok(Checkpoint { busy: row.get::<_, i64>(0)? != 0, log_pages: row.get(1)?, checkpointed_pages: row.get(2)? })
        };
        let checkpoint = self.connection.query_row(sql, [], read).map_err(sqlite)?;
        if checkpoint.is_complete() {
            self.wal_pages.store(0, Ordering::Relaxed);
        }
        Ok(checkpoint)
    }

    /// Recomputes the state hash from every row, and compares it with the one kept.
    pub fn verify(&self) -> io::Result<u64> {
        let mut sum = self.meta.hash_of_scalars();
        let mut scratch = Vec::new();
        let mut statement = self
            .connection
            .prepare("SELECT key, value, create_revision, mod_revision, version, checksum FROM kv")
            .map_err(sqlite)?;
        let mut rows = statement.query([]).map_err(sqlite)?;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let key = row.get_ref(0).and_then(|key| Ok(key.as_blob()?)).map_err(sqlite)?;
            let value = row.get_ref(1).and_then(|value| Ok(value.as_blob()?)).map_err(sqlite)?;
            let meta = key_meta(row, 2).map_err(sqlite)?;
            sum = sum.wrapping_add(checked_kv(key, value, &meta, unsigned(row, 5).map_err(sqlite)?, &mut scratch)?);
        }
        for row in read_sessions_after(&self.connection, None, usize::MAX)? {
            sum = sum.wrapping_add(session_checksum(&row, &mut scratch));
        }
        if sum != self.meta.state_hash {
            let kept = self.meta.state_hash;
            return Err(damaged(format!("the state hash is {kept:016x}, its rows sum up to {sum:016x}")));
        }
        Ok(sum)
    }

    /// Stores [`Database::meta`]; the caller has a transaction open.
    pub(super) fn write_meta(&self) -> io::Result<()> {
        write_meta(&self.connection, &self.meta)
    }

    /// Adds a part of a snapshot to a database that is being made from it.
    pub(crate) fn load(&mut self, chunk: Chunk) -> io::Result<()> {
        self.transaction(|database| match chunk {
            Chunk::Kv(rows) => database.load_kv(&rows),
            Chunk::Sessions(rows) => {
                rows.into_iter().for_each(|row| database.sessions.put(row));
                database.write_sessions()
            }
            Chunk::End { rows, sessions } => database.check_counts(rows, sessions),
        })?;
        if self.wal_pages() > LOAD_CHECKPOINT_PAGES {
            self.checkpoint(CheckpointMode::Passive)?;
        }
        Ok(())
    }

    /// Completes a database made from a snapshot, and verifies that its rows add up to what the snapshot says.
    pub(crate) fn seal(&mut self, header: &Header) -> io::Result<()> {
        self.meta = MetaRow {
            applied: header.meta.last_log_id,
            membership: header.meta.last_membership.clone(),
            log_time_ms: header.log_time_ms,
            state_hash: header.state_hash,
        };
        self.transaction(|database| database.write_meta())?;
        self.verify()?;
        Ok(())
    }

    fn check_counts(&self, rows: u64, sessions: u64) -> io::Result<()> {
        let count: i64 = self.connection.query_row("SELECT count(*) FROM kv", [], |row| row.get(0)).map_err(sqlite)?;
        let found = (count.cast_unsigned(), self.sessions.len() as u64);
        if found != (rows, sessions) {
            return Err(damaged(format!(
                "the snapshot announces {:?} rows and sessions, it has {found:?}",
                (rows, sessions)
            )));
        }
        Ok(())
    }

    fn load_kv(&mut self, rows: &[KeyValue]) -> io::Result<()> {
        let mut insert = self.connection.prepare_cached(INSERT_KV).map_err(sqlite)?;
        for KeyValue { key, value, meta } in rows {
            let checksum = kv_checksum(key, value, meta, &mut self.scratch);
            let KeyMeta { create_revision, mod_revision, version } = *meta;
            let numbers = [create_revision, mod_revision, version, checksum].map(u64::cast_signed);
            insert.execute(params![key, value, numbers[0], numbers[1], numbers[2], numbers[3]]).map_err(sqlite)?;
            self.meta.state_hash = self.meta.state_hash.wrapping_add(checksum);
        }
        Ok(())
    }

    /// Stores the sessions that changed; the caller has a transaction open.
    pub(super) fn write_sessions(&mut self) -> io::Result<()> {
        for (id, session) in self.sessions.take_dirty() {
            match session {
                Some((row, checksum)) => {
                    let numbers = [id, row.last_use_ms, row.ttl_ms, row.last_seq, checksum].map(u64::cast_signed);
                    let mut put = self.connection.prepare_cached(PUT_SESSION).map_err(sqlite)?;
                    put.execute(params![numbers[0], numbers[1], numbers[2], numbers[3], row.reply, numbers[4]])
                        .map_err(sqlite)?;
                }
                None => {
                    let mut remove = self.connection.prepare_cached(REMOVE_SESSION).map_err(sqlite)?;
                    remove.execute([id.cast_signed()]).map_err(sqlite)?;
                }
            }
        }
        Ok(())
    }

    fn load_sessions(&mut self) -> io::Result<()> {
        self.sessions = Sessions::load(read_sessions_after(&self.connection, None, usize::MAX)?);
        Ok(())
    }

    /// Runs `work` in one transaction.
    pub(crate) fn transaction<T>(&mut self, work: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        self.connection.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([])).map_err(sqlite)?;
        match work(self) {
            Ok(done) => {
                self.connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])).map_err(sqlite)?;
                Ok(done)
            }
            Err(error) => {
                // The first error is the one to report; the store is not used any more.
                let _ = self.connection.execute_batch("ROLLBACK");
                Err(error)
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointMode {
    /// Does what it can without waiting for anybody.
    Passive,
    /// Moves everything and empties the log; needs that nobody reads.
    Truncate,
}

pub(super) const INSERT_KV: &str =
    "INSERT INTO kv (key, value, create_revision, mod_revision, version, checksum) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const PUT_SESSION: &str = "INSERT OR REPLACE INTO session (id, last_use_ms, ttl_ms, last_seq, reply, checksum) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const REMOVE_SESSION: &str = "DELETE FROM session WHERE id = ?1";
const PUT_META: &str = "INSERT OR REPLACE INTO meta \
     (id, format, applied_term, applied_index, membership, log_time_ms, state_hash, checksum) \
     VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7)";

/// Opens a connection for writing.
fn connect<E: Env>(env: &E, path: &Path) -> io::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match env.sqlite_vfs() {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs),
        None => Connection::open_with_flags(path, flags),
    };
    let connection = connection.map_err(sqlite)?;
    // A blocking wait has no place in a lane, and there is never a second writer to wait for.
    connection.busy_timeout(Duration::ZERO).map_err(sqlite)?;
    // By itself SQLite checkpoints when the last connection is closed: after a failed sync that would copy pages into the
    // database that the log has lost.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(sqlite)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(sqlite)?;
    if mode != "wal" {
        return Err(io::Error::other(format!("SQLite keeps journal mode {mode} instead of wal")));
    }
    let synchronous = if planted!("state-not-synced") { "OFF" } else { "NORMAL" };
    let pragmas = format!(
        "PRAGMA synchronous = {synchronous}; PRAGMA cache_size = -{PAGE_CACHE_KIB}; PRAGMA temp_store = MEMORY"
    );
    connection.execute_batch(&pragmas).map_err(sqlite)?;
    Ok(connection)
}

/// Opens a connection that only reads.
pub fn connect_reader<E: Env>(env: &E, path: &Path) -> io::Result<Connection> {
    let connection = connect(env, path)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA wal_autocheckpoint = 0").map_err(sqlite)?;
    Ok(connection)
}

fn write_meta(connection: &Connection, meta: &MetaRow) -> io::Result<()> {
    let membership = codec::encode_membership(&meta.membership);
    let checksum = meta.checksum(&membership).cast_signed();
    let term = meta.applied.map(|applied| applied.leader_id.term.cast_signed());
    let index = meta.applied.map(|applied| applied.index.cast_signed());
    let (time, hash) = (meta.log_time_ms.cast_signed(), meta.state_hash.cast_signed());
    let mut put = connection.prepare_cached(PUT_META).map_err(sqlite)?;
    put.execute(params![FORMAT, term, index, membership, time, hash, checksum]).map_err(sqlite)?;
    Ok(())
}

/// Reads and checks the row about the whole state.
pub fn read_meta(connection: &Connection) -> io::Result<MetaRow> {
    let mut select = connection
        .prepare_cached(
            "SELECT format, applied_term, applied_index, membership, log_time_ms, state_hash, checksum FROM meta",
        )
        .map_err(sqlite)?;
    let mut rows = select.query([]).map_err(sqlite)?;
    let row = rows.next().map_err(sqlite)?.ok_or_else(|| damaged("the state has no meta row"))?;
    let format: i64 = row.get(0).map_err(sqlite)?;
    if format != FORMAT {
        let text = format!("the state has format {format}, this program reads {FORMAT}; use a newer program");
        return Err(damaged(text));
    }
    let term: Option<i64> = row.get(1).map_err(sqlite)?;
    let index: Option<i64> = row.get(2).map_err(sqlite)?;
    let sealed: Vec<u8> = row.get(3).map_err(sqlite)?;
    let applied = term.zip(index).map(|(term, index)| LogId {
        leader_id: CommittedLeaderId::new(term.cast_unsigned()),
        index: index.cast_unsigned(),
    });
    let meta = MetaRow {
        applied,
        membership: codec::decode_membership(&sealed)?,
        log_time_ms: unsigned(row, 4).map_err(sqlite)?,
        state_hash: unsigned(row, 5).map_err(sqlite)?,
    };
    if meta.checksum(&sealed) != unsigned(row, 6).map_err(sqlite)? {
        return Err(damaged("the state's meta row is damaged: its checksum does not match"));
    }
    Ok(meta)
}

/// The row of a key, with the id SQLite gave it and its checksum.
pub(super) struct FoundKv {
    pub id: i64,
    pub value: Vec<u8>,
    pub meta: KeyMeta,
    pub checksum: u64,
}

/// Reads and checks the row of `key`.
pub(super) fn find_kv(connection: &Connection, key: &[u8], scratch: &mut Vec<u8>) -> io::Result<Option<FoundKv>> {
    let mut select = connection
        .prepare_cached("SELECT id, value, create_revision, mod_revision, version, checksum FROM kv WHERE key = ?1")
        .map_err(sqlite)?;
    let read = |row: &Row<'_>| {
        Ok(FoundKv { id: row.get(0)?, value: row.get(1)?, meta: key_meta(row, 2)?, checksum: unsigned(row, 5)? })
    };
    let found = select.query_row([key], read).optional().map_err(sqlite)?;
    if let Some(found) = &found {
        checked_kv(key, &found.value, &found.meta, found.checksum, scratch)?;
    }
    Ok(found)
}

/// A part of a table, in key order.
pub struct Page {
    pub rows: Vec<KeyValue>,
    /// There are rows past these.
    pub more: bool,
}

/// Where a page begins.
#[derive(Clone, Debug)]
pub enum From {
    Key(Vec<u8>),
    Past(Vec<u8>),
}

/// Reads and checks rows from `from` on and below `end`, in key order: at most `rows_max` of them, and no more once their
/// keys and values exceed `bytes_max`; at least one if there is any.
pub fn read_kv_page(
    connection: &Connection,
    from: &From,
    end: Option<&[u8]>,
    rows_max: usize,
    bytes_max: usize,
) -> io::Result<Page> {
    let mut select = connection
        .prepare_cached(match from {
            From::Key(_) => {
                "SELECT key, value, create_revision, mod_revision, version, checksum FROM kv \
                 WHERE key >= ?1 ORDER BY key"
            }
            From::Past(_) => {
                "SELECT key, value, create_revision, mod_revision, version, checksum FROM kv \
                 WHERE key > ?1 ORDER BY key"
            }
        })
        .map_err(sqlite)?;
    let (From::Key(start) | From::Past(start)) = from;
    let mut rows = select.query([start]).map_err(sqlite)?;
    let mut page = Page { rows: Vec::new(), more: false };
    let mut bytes = 0;
    let mut scratch = Vec::new();
    while let Some(row) = rows.next().map_err(sqlite)? {
        let key: Vec<u8> = row.get(0).map_err(sqlite)?;
        if end.is_some_and(|end| key.as_slice() >= end) {
            break;
        }
        let value: Vec<u8> = row.get(1).map_err(sqlite)?;
        bytes += key.len() + value.len();
        if page.rows.len() == rows_max || (!page.rows.is_empty() && bytes > bytes_max) {
            page.more = true;
            break;
        }
        let meta = key_meta(row, 2).map_err(sqlite)?;
        checked_kv(&key, &value, &meta, unsigned(row, 5).map_err(sqlite)?, &mut scratch)?;
        page.rows.push(KeyValue { key, value, meta });
    }
    Ok(page)
}

/// Reads and checks sessions with an id above `after`, in order, at most `rows_max`.
pub fn read_sessions_after(
    connection: &Connection,
    after: Option<u64>,
    rows_max: usize,
) -> io::Result<Vec<SessionRow>> {
    let mut select = connection
        .prepare_cached(
            "SELECT id, last_use_ms, ttl_ms, last_seq, reply, checksum FROM session WHERE id > ?1 ORDER BY id LIMIT ?2",
        )
        .map_err(sqlite)?;
    let limit = i64::try_from(rows_max).unwrap_or(i64::MAX);
    let mut rows = select.query([after.map_or(-1, u64::cast_signed), limit]).map_err(sqlite)?;
    let mut sessions = Vec::new();
    let mut scratch = Vec::new();
    while let Some(row) = rows.next().map_err(sqlite)? {
        let session = session_row(row).map_err(sqlite)?;
        if session_checksum(&session, &mut scratch) != unsigned(row, 5).map_err(sqlite)? {
            return Err(damaged(format!("the row of session {} is damaged: its checksum does not match", session.id)));
        }
        sessions.push(session);
    }
    Ok(sessions)
}

fn session_row(row: &Row<'_>) -> rusqlite::Result<SessionRow> {
    Ok(SessionRow {
        id: unsigned(row, 0)?,
        last_use_ms: unsigned(row, 1)?,
        ttl_ms: unsigned(row, 2)?,
        last_seq: unsigned(row, 3)?,
        reply: row.get(4)?,
    })
}

fn key_meta(row: &Row<'_>, first: usize) -> rusqlite::Result<KeyMeta> {
    Ok(KeyMeta {
        create_revision: unsigned(row, first)?,
        mod_revision: unsigned(row, first + 1)?,
        version: unsigned(row, first + 2)?,
    })
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

fn checked_kv(key: &[u8], value: &[u8], meta: &KeyMeta, checksum: u64, scratch: &mut Vec<u8>) -> io::Result<u64> {
    if kv_checksum(key, value, meta, scratch) != checksum && !planted!("row-checksum-not-verified") {
        assert_reachable!("a damaged row was found", owed_by = "");
        return Err(damaged(format!("the row of key {} is damaged: its checksum does not match", key.escape_ascii())));
    }
    Ok(checksum)
}

pub(crate) fn sqlite(error: rusqlite::Error) -> io::Error {
    use rusqlite::ErrorCode::{DatabaseCorrupt, DiskFull, NotADatabase};
    let kind = match error.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => io::ErrorKind::InvalidData,
        Some(DiskFull) => io::ErrorKind::StorageFull,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
