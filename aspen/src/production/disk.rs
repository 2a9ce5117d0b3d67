//! The disk that the data directory is on, and the files in it, as operators are shown them. What a node does when there is
//! little room is decided in [`crate::room`].

use std::io;
use std::path::{Path, PathBuf};

pub use crate::room::{REFUSE_PERCENT as CRITICAL_PERCENT, Usage};

/// Percent of the disk in use.
pub const WARN_PERCENT: u64 = 80;
/// Bytes of SQLite's write-ahead log.
pub const WAL_WARN_BYTES: u64 = 100 << 20;
pub const WAL_CRITICAL_BYTES: u64 = 500 << 20;

/// How full the disk is that holds `dir`.
pub fn usage(dir: &Path) -> io::Result<Usage> {
    let stat = rustix::fs::statvfs(dir)?;
    let total = stat.f_blocks.saturating_mul(stat.f_frsize);
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    Ok(Usage { used: total.saturating_sub(free), total })
}

/// One data directory.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
}

impl Disk {
    pub fn new(dir: &Path) -> Self {
        Disk { dir: dir.to_owned() }
    }

    pub fn usage(&self) -> io::Result<Usage> {
        usage(&self.dir)
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

#[cfg(test)]
mod tests {
    use super::*;

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
