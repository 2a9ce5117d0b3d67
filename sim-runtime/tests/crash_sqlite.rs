//! SQLite alone on the simulated disk, in WAL mode with a second connection that reads: with `synchronous=FULL` no
//! acknowledged transaction is lost, with `NORMAL` what survives is an unbroken prefix.
//!
//! `CRASH_POINTS=10000 CRASH_SUBSETS=2 cargo test --release -p sim-runtime --test crash_sqlite -- --nocapture` loses the
//! power at 10 000 operations, with two random subsets at each.
mod crash_rig;

use crash_rig::{Engine, Findings, Promised, State, Transaction, Trial, every_subset, fail_everywhere, live};
use rusqlite::{Connection, OptionalExtension, params};
use sim_runtime::adapters::sqlite;
use sim_runtime::disk::{Disk, DiskConfig};

const PATH: &str = "/state.sqlite";

struct Sqlite<const FULL: bool> {
    writer: Connection,
    reader: Connection,
    reading: bool,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn connect() -> Result<Connection, String> {
    let connection = Connection::open(PATH).map_err(text)?;
    connection.busy_timeout(std::time::Duration::ZERO).map_err(text)?;
    Ok(connection)
}

impl<const FULL: bool> Engine for Sqlite<FULL> {
    fn open() -> Result<Self, String> {
        let writer = connect()?;
        let synchronous = if FULL { "FULL" } else { "NORMAL" };
        let setup = format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; PRAGMA wal_autocheckpoint = 12;
             CREATE TABLE IF NOT EXISTS pairs (key INTEGER PRIMARY KEY, value BLOB NOT NULL);
             CREATE TABLE IF NOT EXISTS number (id INTEGER PRIMARY KEY, number INTEGER NOT NULL);"
        );
        writer.execute_batch(&setup).map_err(text)?;
        // SQLite syncs the directory for its journals, never for the database itself.
        Disk::current().sync_dir("/").map_err(text)?;
        Ok(Sqlite { writer, reader: connect()?, reading: false })
    }

    fn commit(&mut self, number: u64, transaction: &Transaction) -> Result<Promised, String> {
        let write = self.writer.transaction().map_err(text)?;
        for (key, value) in transaction {
            match value {
                Some(value) => write.execute("REPLACE INTO pairs VALUES (?1, ?2)", params![*key as i64, value]),
                None => write.execute("DELETE FROM pairs WHERE key = ?1", [*key as i64]),
            }
            .map_err(text)?;
        }
        write.execute("REPLACE INTO number VALUES (0, ?1)", [number as i64]).map_err(text)?;
        write.commit().map_err(text)?;
        Ok(if FULL { Promised::Yes } else { Promised::NotYet })
    }

    fn contents(&mut self) -> Result<(u64, State), String> {
        let number = "SELECT number FROM number WHERE id = 0";
        let number: Option<i64> = self.writer.query_row(number, [], |row| row.get(0)).optional().map_err(text)?;
        let mut pairs = self.writer.prepare("SELECT key, value FROM pairs").map_err(text)?;
        let rows = pairs.query_map([], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?))).map_err(text)?;
        let state = rows.collect::<Result<State, _>>().map_err(text)?;
        Ok((number.unwrap_or(0) as u64, state))
    }

    fn check(&mut self) -> Result<(), String> {
        let result: String = self.writer.query_row("PRAGMA integrity_check", [], |row| row.get(0)).map_err(text)?;
        if result == "ok" { Ok(()) } else { Err(result) }
    }

    /// A reader that holds its snapshot for a while, and now and then a checkpoint that it may block. A checkpoint that
    /// came to the end of the log makes everything durable.
    fn rest(&mut self, number: u64) -> Result<Promised, String> {
        match (number % 9, self.reading) {
            (2, false) => {
                self.reader.execute_batch("BEGIN; SELECT count(*) FROM pairs").map_err(text)?;
                self.reading = true;
            }
            (6, true) => {
                self.reader.execute_batch("COMMIT").map_err(text)?;
                self.reading = false;
            }
            _ => {}
        }
        if !number.is_multiple_of(17) {
            return Ok(Promised::NotYet);
        }
        let mode = if number.is_multiple_of(2) { "TRUNCATE" } else { "PASSIVE" };
        let counts =
            |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
        let checkpoint = format!("PRAGMA wal_checkpoint({mode})");
        let (busy, log, checkpointed) = self.writer.query_row(&checkpoint, [], counts).map_err(text)?;
        Ok(if busy == 0 && log == checkpointed { Promised::Yes } else { Promised::NotYet })
    }
}

fn findings<const FULL: bool>(points: u64, transactions: u64, config: DiskConfig) -> Findings {
    let _installed = sqlite::install();
    crash_rig::findings::<Sqlite<FULL>>(&Trial { points, transactions, config, double_every: 100 })
}

#[test]
fn full_keeps_every_acknowledged_transaction() {
    let findings = findings::<true>(2_000, 210, DiskConfig::default());
    findings.assert_sound(2_000);
    assert!(findings.lost_transactions_max <= 1, "only the transaction being committed may be missing");
}

#[test]
fn normal_keeps_an_unbroken_prefix_and_all_up_to_a_checkpoint() {
    let findings = findings::<false>(2_000, 240, DiskConfig::default());
    findings.assert_sound(2_000);
    assert!(findings.lost_transactions_max > 1, "nothing was lost that was allowed to be");
}

#[test]
fn every_subset_of_a_few_sectors_is_survived() {
    let _installed = sqlite::install();
    let findings = every_subset::<Sqlite<true>>(12, 256);
    println!("{findings:?}");
    assert_eq!(findings.failures, Vec::<String>::new());
    assert!(findings.exhausted > 30 && findings.images > 300, "too little was tried");
}

#[test]
fn an_error_at_any_operation_is_reported_and_loses_nothing() {
    let _installed = sqlite::install();
    let findings = fail_everywhere::<Sqlite<true>>(10);
    println!("{findings:?}");
    assert_eq!(findings.failures, Vec::<String>::new());
    assert!(findings.errors > 100 && findings.reported * 2 > findings.errors, "too little was tried");
}

#[test]
fn a_dropped_sync_is_caught() {
    let findings = findings::<true>(500, 60, DiskConfig { lying_sync_ppm: 100_000, ..DiskConfig::default() });
    assert!(!findings.failures.is_empty(), "one sync in ten did nothing, and nobody noticed");
}

#[test]
fn a_host_lives_through_many_power_losses() {
    let _installed = sqlite::install();
    let life = live::<Sqlite<true>>(7, 150, 120);
    life.assert_eventful();
    sqlite::reset_randomness();
    assert_eq!(life.digest, live::<Sqlite<true>>(7, 150, 120).digest, "the same seed gives the same life");
}
