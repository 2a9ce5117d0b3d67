//! The Raft log: redb opens a copy of its file, the rest is read here.
//!
//! redb's own format is not decoded by hand: the product hands redb bytes and gets them back, so nothing of the product
//! is shared. Opening repairs, as it would on the node, but only the copy.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aspen::observe::EntryMeta;
use aspen::types::{LogId, Vote};
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use sim_runtime::disk::Image;

use super::Files;
use super::bytes::{Seed, unseal};
use super::values;

pub const FILE: &str = "log.redb";
const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// redb's page cache. A small log fits, so that no page is read twice.
const CACHE_BYTES: usize = 4 << 20;

/// What the log holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
    pub committed: Option<LogId>,
    pub entries: BTreeMap<u64, EntryMeta>,
}

/// The log. `None` when there is no file.
pub fn read(files: &impl Files, dir: &Path, defects: &mut Vec<String>) -> Option<Log> {
    let image = files.read(&dir.join(FILE))?;
    let mut log = Log::default();
    if image.is_empty() {
        // redb would make a new database of it.
        defects.push(format!("{FILE} is empty"));
        return Some(log);
    }
    let mut found = Vec::new();
    // A panic of redb over damaged bytes says something about the bytes, and the run goes on.
    let decoded = catch_unwind(AssertUnwindSafe(|| log.decode(image, &mut found)));
    defects.extend(found.into_iter().map(|defect| format!("{FILE}: {defect}")));
    match decoded {
        Ok(Ok(())) => {}
        Ok(Err(error)) => defects.push(format!("{FILE}: redb says: {error}")),
        Err(_) => defects.push(format!("{FILE}: redb panics over it")),
    }
    Some(log)
}

impl Log {
    fn decode(&mut self, image: Image, defects: &mut Vec<String>) -> Result<(), redb::Error> {
        let copy = Memory(Arc::new(Mutex::new(Copy { image, done: false })));
        let database = redb::Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(copy.clone())?;
        let read = self.collect(&database, defects);
        copy.lock().done = true;
        read
    }

    fn collect(&mut self, database: &Database, defects: &mut Vec<String>) -> Result<(), redb::Error> {
        let transaction = database.begin_read()?;
        for item in transaction.open_table(META)?.iter()? {
            let (name, value) = item?;
            let name = name.value();
            if let Err(why) = self.mark(name, value.value()) {
                defects.push(format!("{name}: {why}"));
            }
        }
        let table = transaction.open_table(ENTRIES)?;
        for item in table.iter()? {
            let (index, value) = item?;
            match values::entry(value.value()) {
                Ok(entry) => {
                    if entry.log_id.index != index.value() {
                        defects.push(format!("entry {} stands under index {}", entry.log_id, index.value()));
                    }
                    self.entries.insert(index.value(), entry);
                }
                Err(why) => defects.push(format!("entry {}: {why}", index.value())),
            }
        }
        if transaction.open_table(META)?.get("format")?.is_none() {
            defects.push("it has no format mark".to_owned());
        }
        Ok(())
    }

    fn mark(&mut self, name: &str, sealed: &[u8]) -> Result<(), String> {
        match name {
            "format" => unseal(Seed::LogFormat, sealed)?.end().ok_or("it has a body")?,
            "vote" => self.vote = Some(values::vote(sealed)?),
            "purged" => self.purged = Some(values::log_id(sealed)?),
            "committed" => self.committed = Some(values::log_id(sealed)?),
            _ => return Err("nothing of this name is known".to_owned()),
        }
        Ok(())
    }

    /// Nothing was ever written to it.
    pub fn is_new(&self) -> bool {
        *self == Log::default()
    }
}

/// A copy of the file, in memory; pages are shared until written.
#[derive(Clone, Debug)]
struct Memory(Arc<Mutex<Copy>>);

#[derive(Debug)]
struct Copy {
    image: Image,
    /// Refuses changes from now on: closing in good order would write for a long time, and nobody reads it.
    done: bool,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Copy> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> io::Result<MutexGuard<'_, Copy>> {
        let copy = self.lock();
        if copy.done { Err(io::Error::other("the copy was read")) } else { Ok(copy) }
    }
}

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().image.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self.lock().image.read_at(out, offset) {
            read if read == out.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > COPY_BYTES_MAX {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.changing()?.image.set_len(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.changing().map(drop)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut copy = self.changing()?;
        let end = u64::try_from(data.len()).ok().and_then(|len| offset.checked_add(len));
        if end.is_none_or(|end| end > copy.image.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        copy.image.write(offset, data);
        Ok(())
    }
}

/// More than a log in a simulation has: a damaged header must not ask for all memory.
const COPY_BYTES_MAX: u64 = 1 << 30;
