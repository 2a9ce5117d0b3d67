//! redb and SQLite with nothing around them: what the simulated disk costs with no fault family on.
//!
//! The same transactions on the simulated disk and on the engines' own memory backends (redb's `InMemoryBackend`, SQLite's
//! VFS `memdb`). Both keep SQLite's journal in memory, since `memdb` has no write-ahead log. The ratio of the two figures
//! is the model's: bytes kept as versions, a hash of what is written, a draw for each latency.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use redb::backends::InMemoryBackend;
use redb::{Builder, Database, TableDefinition};
use rusqlite::{Connection, OpenFlags, params};
use sim_runtime::adapters::redb::RedbFile;
use sim_runtime::adapters::sqlite;
use sim_runtime::disk::OpenMode;
use sim_runtime::world::section::Lane;
use sim_runtime::world::{self, World, WorldConfig};

use super::Figures;

/// Transactions on each engine.
const COMMITS: u64 = 3_000;
/// Entries, and rows, of a transaction.
const BATCH: u64 = 4;
const VALUE_BYTES: usize = 128;
/// Rows that the transactions write again and again.
const ROWS: u64 = 1_000;

const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");

/// What the engines write to.
pub trait Backend: 'static {
    fn redb() -> Database;
    fn sqlite() -> Connection;
}

/// The simulated disk.
pub struct Simulated;

impl Backend for Simulated {
    fn redb() -> Database {
        let file = RedbFile::open("/log.redb", OpenMode::CREATE).expect("an empty disk without faults can be used");
        Builder::new().create_with_backend(file).expect("a database in an empty file")
    }

    fn sqlite() -> Connection {
        Connection::open("/state.sqlite").expect("a database in an empty file")
    }
}

/// Memory of the engines' own.
pub struct Bare;

impl Backend for Bare {
    fn redb() -> Database {
        Builder::new().create_with_backend(InMemoryBackend::new()).expect("a database in memory")
    }

    fn sqlite() -> Connection {
        Connection::open_with_flags_and_vfs("state", OpenFlags::default(), c"memdb").expect("a database in memory")
    }
}

fn append(log: &Database, commit: u64) -> Result<(), redb::Error> {
    let transaction = log.begin_write()?;
    {
        let mut entries = transaction.open_table(ENTRIES)?;
        for index in commit * BATCH..(commit + 1) * BATCH {
            entries.insert(index, [commit.to_le_bytes()[0]; VALUE_BYTES].as_slice())?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn prepare(state: &Connection) -> rusqlite::Result<()> {
    state.execute_batch(
        "PRAGMA journal_mode = MEMORY; PRAGMA synchronous = FULL;
         CREATE TABLE kv (key INTEGER PRIMARY KEY, value BLOB NOT NULL) STRICT;",
    )
}

fn apply(state: &mut Connection, commit: u64) -> rusqlite::Result<()> {
    let transaction = state.transaction()?;
    {
        let mut set = transaction.prepare_cached("INSERT OR REPLACE INTO kv VALUES (?1, ?2)")?;
        for row in commit * BATCH..(commit + 1) * BATCH {
            set.execute(params![(row % ROWS).cast_signed(), [commit.to_le_bytes()[0]; VALUE_BYTES]])?;
        }
    }
    transaction.commit()
}

async fn play<B: Backend>(commits: Rc<Cell<u64>>) {
    let lane = Lane::new("engines");
    let log = Arc::new(lane.run(B::redb).await);
    for commit in 0..COMMITS {
        let log = log.clone();
        lane.run(move || append(&log, commit)).await.expect("redb commits");
        commits.set(commits.get() + 1);
    }
    let mut state = lane
        .run(|| {
            let state = B::sqlite();
            prepare(&state).map(|()| state)
        })
        .await
        .expect("a table can be made");
    for commit in 0..COMMITS {
        let run = move || apply(&mut state, commit).map(|()| state);
        state = lane.run(run).await.expect("SQLite commits");
        commits.set(commits.get() + 1);
    }
}

/// Runs it on this backend.
///
/// # Panics
/// If a transaction fails.
pub fn run<B: Backend>(seed: u64) -> Figures {
    let _sqlite = sqlite::install();
    let world = World::new(WorldConfig::seeded(seed));
    let commits = Rc::new(Cell::new(0));
    let counted = commits.clone();
    let main = async move {
        let host = world::add_host("engines");
        let (done, finished) = sim_runtime::sync::oneshot::channel();
        world::boot(host, move || async move {
            play::<B>(counted).await;
            let _ = done.send(());
            std::future::pending::<()>().await;
        });
        finished.await.expect("the host lives");
    };
    world.run(main).expect("the run reaches its end");
    Figures::of(&world, commits.get())
}
