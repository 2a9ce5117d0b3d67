//! The production world: tokio, real files, redb's file backend, SQLite's own VFS, iroh.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::production::runtime::RealRuntime;

use crate::env::{Env, File};
use crate::production::disk;
use crate::production::lane::ThreadLane;
use crate::production::transport::IrohTransport;
use crate::room::Usage;
use crate::transport::{Handler, Transport, TransportError};
use crate::types::Address;

/// The world around one node or client of this process.
#[derive(Clone)]
pub struct RealEnv<T = IrohTransport> {
    transport: T,
}

impl<T> RealEnv<T> {
    pub fn new(transport: T) -> Self {
        RealEnv { transport }
    }
}

/// Reaches nobody: for tools that only look at files.
#[derive(Clone, Copy, Debug)]
pub struct NoTransport;

impl Transport for NoTransport {
    async fn call(&self, to: &Address, _: Vec<u8>, _: Duration) -> Result<Vec<u8>, TransportError> {
        Err(TransportError::Unreachable(to.clone()))
    }

    fn serve(&self, _: Arc<dyn Handler>) {}

    fn close(&self) {}
}

impl<T: Transport> Env for RealEnv<T> {
    type Runtime = RealRuntime;
    type Transport = T;
    type Lane = ThreadLane;
    type File = RealFile;
    type LogBackend = redb::backends::FileBackend;

    fn transport(&self) -> &T {
        &self.transport
    }

    fn lane(&self, name: &'static str) -> ThreadLane {
        ThreadLane::new(name)
    }

    fn open_log(&self, path: &Path, create: bool) -> io::Result<Self::LogBackend> {
        let file = fs::OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path)?;
        redb::backends::FileBackend::new(file).map_err(io::Error::other)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn create(&self, path: &Path) -> io::Result<RealFile> {
        fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).map(RealFile)
    }

    fn open(&self, path: &Path) -> io::Result<RealFile> {
        fs::OpenOptions::new().read(true).write(true).open(path).map(RealFile)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path()));
        let mut names = entries.collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn disk_usage(&self, dir: &Path) -> Option<Usage> {
        disk::usage(dir).ok()
    }

    #[allow(clippy::disallowed_methods, reason = "where the clock of the system enters, for people only")]
    fn wall_clock_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A file of the operating system.
pub struct RealFile(fs::File);

impl File for RealFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
