//! redb as an engine under test. The test that includes this supplies `Backend`: the file under redb's `StorageBackend`, of
//! whichever release the test is linked with.

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use sim_runtime::disk::{Disk, OpenMode};

use crate::Backend;
use crate::crash_rig::{Engine, Promised, State, Transaction};

const PAIRS: TableDefinition<u64, &[u8]> = TableDefinition::new("pairs");
const NUMBER: TableDefinition<(), u64> = TableDefinition::new("number");
const FINAL: &str = "/log.redb";
const TEMPORARY: &str = "/log.redb.new";

/// With `LAZY` only every fourth commit is durable.
pub struct Redb<const LAZY: bool>(Database);

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl<const LAZY: bool> Engine for Redb<LAZY> {
    /// A database is created under a temporary name: see `adapters::redb`.
    fn open() -> Result<Self, String> {
        let disk = Disk::current();
        if !disk.exists(FINAL).map_err(text)? {
            let file = Backend::open(TEMPORARY, OpenMode::TRUNCATE).map_err(text)?;
            drop(Database::builder().create_with_backend(file).map_err(text)?);
            disk.rename(TEMPORARY, FINAL).map_err(text)?;
            disk.sync_dir("/").map_err(text)?;
        }
        let file = Backend::open(FINAL, OpenMode::EXISTING).map_err(text)?;
        Database::builder().create_with_backend(file).map(Redb).map_err(text)
    }

    fn commit(&mut self, number: u64, transaction: &Transaction) -> Result<Promised, String> {
        let mut write = self.0.begin_write().map_err(text)?;
        let lazy = LAZY && !number.is_multiple_of(4);
        if lazy {
            write.set_durability(Durability::None).map_err(text)?;
        } else {
            write.set_two_phase_commit(number.is_multiple_of(3));
            write.set_quick_repair(number.is_multiple_of(5));
        }
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
        write.commit().map_err(text)?;
        Ok(if lazy { Promised::NotYet } else { Promised::Yes })
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
