//! redb on the simulated disk: its `StorageBackend` over a [`SimFile`].
//!
//! Use it as redb's own file backend:
//!
//! ```no_run
//! # use sim_runtime::{adapters::redb::RedbFile, disk::OpenMode};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let file = RedbFile::open("/data/log.redb", OpenMode::CREATE)?;
//! let database = redb::Database::builder().create_with_backend(file)?;
//! # Ok(())
//! # }
//! ```
//!
//! Power loss during the *first* `create`, before its second sync, leaves a file that no later open accepts. A program
//! therefore creates its database under a temporary name, drops it, renames it, syncs the directory, and opens it under
//! the final name; a temporary file found at start is removed. `tests/crash_redb.rs` does so at every operation.

use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{BackendError, StorageBackend};

use crate::disk::{Disk, OpenMode, SimFile};

/// A file of the current host, for redb. Excludes a second database on the same file, as the real backend does.
#[derive(Debug)]
pub struct RedbFile {
    file: SimFile,
    locks: Arc<Locks>,
    /// Tells the handles of one file apart.
    owner: u64,
}

impl RedbFile {
    /// Opens a file of the host whose task is running.
    pub fn open(path: &str, mode: OpenMode) -> io::Result<RedbFile> {
        let disk = Disk::current();
        let file = disk.open(path, mode)?;
        let locks: Arc<Locks> = disk.attachment(file.id(), Locks::default);
        let owner = locks.lock().next_owner();
        Ok(RedbFile { file, locks, owner })
    }

    fn try_lock(&self, start: Bound<u64>, end: Bound<u64>, exclusive: bool) -> bool {
        let wanted = Held { owner: self.owner, range: (start, end), exclusive };
        let mut locks = self.locks.lock();
        let free = !locks.held.iter().any(|held| held.conflicts_with(&wanted));
        if free {
            locks.held.push(wanted);
        }
        free
    }
}

impl StorageBackend for RedbFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = self.file.read_at(out, offset)?;
        if read == out.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(data, offset)
    }

    fn close(&self) -> io::Result<()> {
        self.locks.lock().held.retain(|held| held.owner != self.owner);
        Ok(())
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        Ok(self.try_lock(start, end, true))
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        Ok(self.try_lock(start, end, false))
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        let mut locks = self.locks.lock();
        let mine = |held: &Held| held.owner == self.owner && held.range == (start, end);
        if let Some(position) = locks.held.iter().position(mine) {
            locks.held.remove(position);
        }
        Ok(())
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        let asked = Held { owner: self.owner, range: (start, end), exclusive: true };
        Ok(self.locks.lock().held.iter().any(|held| held.conflicts_with(&asked)))
    }
}

impl Drop for RedbFile {
    fn drop(&mut self) {
        self.locks.lock().held.retain(|held| held.owner != self.owner);
    }
}

/// Locks on one file. They die with the process: a rebooted host finds none.
#[derive(Debug, Default)]
struct Locks(Mutex<LockTable>);

#[derive(Debug, Default)]
struct LockTable {
    owners: u64,
    held: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    owner: u64,
    range: (Bound<u64>, Bound<u64>),
    exclusive: bool,
}

impl Locks {
    fn lock(&self) -> MutexGuard<'_, LockTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LockTable {
    fn next_owner(&mut self) -> u64 {
        self.owners += 1;
        self.owners
    }
}

impl Held {
    fn conflicts_with(&self, other: &Held) -> bool {
        let (mine, its) = (inclusive(self.range), inclusive(other.range));
        let overlap = mine.0 <= its.1 && its.0 <= mine.1;
        overlap && self.owner != other.owner && (self.exclusive || other.exclusive)
    }
}

/// First and last byte of a range that is not empty.
fn inclusive((start, end): (Bound<u64>, Bound<u64>)) -> (u64, u64) {
    let first = match start {
        Bound::Included(n) => n,
        Bound::Excluded(n) => n.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let last = match end {
        Bound::Included(n) => n,
        Bound::Excluded(n) => n.saturating_sub(1),
        Bound::Unbounded => u64::MAX,
    };
    (first, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(owner: u64, range: (Bound<u64>, Bound<u64>), exclusive: bool) -> Held {
        Held { owner, range, exclusive }
    }

    #[test]
    fn locks_conflict_when_they_overlap_and_one_is_exclusive() {
        let (all, low) = ((Bound::Unbounded, Bound::Unbounded), (Bound::Unbounded, Bound::Excluded(10)));
        let high = (Bound::Included(10), Bound::Unbounded);
        assert!(held(1, all, true).conflicts_with(&held(2, low, false)));
        assert!(!held(1, all, false).conflicts_with(&held(2, low, false)));
        assert!(!held(1, low, true).conflicts_with(&held(2, high, true)));
        assert!(!held(1, all, true).conflicts_with(&held(1, all, true)), "a handle does not exclude itself");
    }
}
