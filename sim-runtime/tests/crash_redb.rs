//! redb alone on the simulated disk: no acknowledged transaction is lost, whenever the power goes.
mod crash_rig;

use crash_rig::{Engine, Plan, Promise, State, Transaction, judge, record};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use sim_runtime::adapters::redb::RedbFile;
use sim_runtime::disk::{Disk, DiskConfig, OpenMode};

const PAIRS: TableDefinition<u64, &[u8]> = TableDefinition::new("pairs");
const NUMBER: TableDefinition<(), u64> = TableDefinition::new("number");
const FINAL: &str = "/log.redb";
const TEMPORARY: &str = "/log.redb.new";

struct Redb(Database);

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Engine for Redb {
    /// A database is created under a temporary name: see `adapters::redb`.
    fn open() -> Result<Redb, String> {
        let disk = Disk::current();
        if !disk.exists(FINAL).map_err(text)? {
            let file = RedbFile::open(TEMPORARY, OpenMode::TRUNCATE).map_err(text)?;
            drop(Database::builder().create_with_backend(file).map_err(text)?);
            disk.rename(TEMPORARY, FINAL).map_err(text)?;
            disk.sync_dir("/").map_err(text)?;
        }
        let file = RedbFile::open(FINAL, OpenMode::EXISTING).map_err(text)?;
        Database::builder().create_with_backend(file).map(Redb).map_err(text)
    }

    fn commit(&mut self, number: u64, transaction: &Transaction) -> Result<(), String> {
        let write = self.0.begin_write().map_err(text)?;
        {
            let mut pairs = write.open_table(PAIRS).map_err(text)?;
            for (key, value) in transaction {
                match value {
                    Some(value) => pairs.insert(key, value.as_slice()).map_err(text)?,
                    None => pairs.remove(key).map_err(text)?,
                };
            }
            write.open_table(NUMBER).map_err(text)?.insert((), number).map_err(text)?;
        }
        write.commit().map_err(text)
    }

    fn contents(&mut self) -> Result<(u64, State), String> {
        let read = self.0.begin_read().map_err(text)?;
        let number = match read.open_table(NUMBER) {
            Ok(table) => table.get(()).map_err(text)?.map_or(0, |number| number.value()),
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok((0, State::new())),
            Err(error) => return Err(text(error)),
        };
        let pairs = read.open_table(PAIRS).map_err(text)?;
        let mut state = State::new();
        for pair in pairs.iter().map_err(text)? {
            let (key, value) = pair.map_err(text)?;
            state.insert(key.value(), value.value().to_vec());
        }
        Ok((number, state))
    }

    fn check(&mut self) -> Result<(), String> {
        match self.0.check_integrity() {
            Ok(true) => Ok(()),
            Ok(false) => Err("check_integrity had to repair".into()),
            Err(error) => Err(text(error)),
        }
    }
}

#[test]
fn redb_keeps_every_acknowledged_transaction() {
    let begin = std::time::Instant::now();
    let points = record::<Redb>(1, 200, DiskConfig::default());
    println!("{} operations recorded in {:?}", points.len(), begin.elapsed());
    let plan = Plan { seed: 1, promise: Promise::All, subsets: 1, double_every: 100 };
    let begin = std::time::Instant::now();
    let findings = judge::<Redb>(&points, &plan);
    println!("{findings:?} in {:?}", begin.elapsed());
    assert!(findings.failures.is_empty());
}
