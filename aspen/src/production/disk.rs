//! The disk that the data directory is on, and the files in it.
//!
//! Above 95 % commands that store something are refused here, before they are proposed; deletes, votes and appends go
//! on. The refusal ends by itself below 93 %.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;

use crate::command::{Command, TxnOp};
use crate::production::http::error::Failure;

/// Percent of the disk in use.
pub const WARN_PERCENT: u64 = 80;
pub const CRITICAL_PERCENT: u64 = 95;
const RELIEF_PERCENT: u64 = 93;
/// Bytes of SQLite's write-ahead log.
pub const WAL_WARN_BYTES: u64 = 100 << 20;
pub const WAL_CRITICAL_BYTES: u64 = 500 << 20;

/// Watches one data directory.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    full: AtomicBool,
}

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub used: u64,
    pub total: u64,
}

impl Usage {
    /// Rounded up; what a file system reserves for its administrator counts as used.
    pub fn percent(&self) -> u64 {
        if self.total == 0 {
            0
        } else {
            (u128::from(self.used) * 100).div_ceil(u128::from(self.total)).try_into().unwrap_or(100)
        }
    }
}

impl Disk {
    pub fn new(dir: &Path) -> Self {
        Disk { dir: dir.to_owned(), full: AtomicBool::new(false) }
    }

    pub fn usage(&self) -> io::Result<Usage> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        Ok(Usage { used: total.saturating_sub(free), total })
    }

    /// Looks again whether the disk is full.
    pub fn look(&self) {
        let Ok(usage) = self.usage() else { return };
        let full = self.full.load(Ordering::Relaxed);
        let now_full = is_full(full, usage.percent());
        if full != now_full {
            let percent = usage.percent();
            match now_full {
                true => tracing::error!("the disk is {percent} % full: writes are refused, deletes are not"),
                false => tracing::info!("the disk is {percent} % full: writes are taken again"),
            }
            self.full.store(now_full, Ordering::Relaxed);
        }
    }

    /// Why the command is not taken now, if it is not.
    pub fn refusal(&self, command: &Command) -> Option<Failure> {
        let stores = match command {
            Command::Set { .. } | Command::CompareAndSwap { .. } | Command::SetMulti { .. } => true,
            Command::Transaction { then, otherwise, .. } => {
                then.iter().chain(otherwise).any(|op| matches!(op, TxnOp::Set { .. }))
            }
            Command::Delete { .. } => false,
            Command::OpenSession { .. } | Command::RefreshSession { .. } | Command::CloseSession { .. } => false,
        };
        (stores && self.full.load(Ordering::Relaxed)).then(|| {
            let message = format!("the disk of this node is more than {CRITICAL_PERCENT} % full");
            let hint = "delete keys or make room on the disk; writes are taken again by themselves";
            Failure::definite(StatusCode::SERVICE_UNAVAILABLE, "disk-full", message, hint)
        })
    }

    /// Bytes of SQLite's write-ahead logs.
    pub fn wal_bytes(&self) -> io::Result<u64> {
        self.bytes_of(|name| name.ends_with(".db-wal"))
    }

    /// Bytes of all files of the node.
    pub fn data_bytes(&self) -> io::Result<u64> {
        self.bytes_of(|_| true)
    }

    fn bytes_of(&self, counts: impl Fn(&str) -> bool) -> io::Result<u64> {
        let mut bytes = 0;
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            // A file may vanish in between.
            if counts(&entry.file_name().to_string_lossy())
                && let Ok(meta) = entry.metadata()
            {
                bytes += meta.len();
            }
        }
        Ok(bytes)
    }

    /// Whether a file can be written and read back.
    pub fn probe(&self) -> io::Result<()> {
        let path = self.dir.join("probe");
        std::fs::write(&path, b"probe")?;
        let read = std::fs::read(&path)?;
        std::fs::remove_file(&path)?;
        if read == b"probe" { Ok(()) } else { Err(io::Error::other("what was written is not what is read")) }
    }
}

fn is_full(was_full: bool, percent: u64) -> bool {
    percent > if was_full { RELIEF_PERCENT } else { CRITICAL_PERCENT }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_until_there_is_room_again() {
        assert!(!is_full(false, 95) && is_full(false, 96));
        assert!(is_full(true, 94) && !is_full(true, 93));
        assert_eq!(Usage { used: 1, total: 3 }.percent(), 34);
        assert_eq!(Usage { used: 0, total: 0 }.percent(), 0);
    }

    #[test]
    fn a_full_disk_takes_deletes() {
        let disk = Disk::new(Path::new("/"));
        let set = Command::Set { key: vec![1], value: vec![1] };
        assert!(disk.refusal(&set).is_none());
        disk.full.store(true, Ordering::Relaxed);
        assert_eq!(disk.refusal(&set).unwrap().body.code, "disk-full");
        assert!(disk.refusal(&Command::Delete { key: vec![1] }).is_none());
        assert!(disk.refusal(&Command::CloseSession { session: 1 }).is_none());
    }

    #[test]
    fn files_are_counted_by_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("state-1.db-wal"), [0; 10]).unwrap();
        std::fs::write(dir.path().join("log.redb"), [0; 5]).unwrap();
        let disk = Disk::new(dir.path());
        assert_eq!((disk.wal_bytes().unwrap(), disk.data_bytes().unwrap()), (10, 15));
        disk.probe().unwrap();
        assert!(disk.usage().unwrap().total > 0);
    }
}
