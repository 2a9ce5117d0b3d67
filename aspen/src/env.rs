//! The seam to the world: everything a node needs from outside, in one parameter.
//!
//! A node is generic over one [`Env`]. In production it is tokio, real files and iroh; in a simulation it is a virtual
//! clock, a simulated disk and a simulated network. The code between is the same.
//!
//! Storage engines are synchronous, so they run in [`Lane`]s: one closure at a time per lane, in order.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};

use openraft::AsyncRuntime;

use crate::observe::Observation;
use crate::room::Usage;
use crate::transport::Transport;

/// The world around one node or client.
pub trait Env: Clone + Send + Sync + Sized + 'static {
    type Runtime: AsyncRuntime;
    type Transport: Transport;
    type Lane: Lane;
    type File: File;
    type LogBackend: redb::StorageBackend;

    fn transport(&self) -> &Self::Transport;

    /// A new lane. Lanes do not wait for each other.
    fn lane(&self, name: &'static str) -> Self::Lane;

    /// Opens the backend of the log's database. `create` makes an empty file if there is none; without it a missing
    /// file is [`io::ErrorKind::NotFound`].
    fn open_log(&self, path: &Path, create: bool) -> io::Result<Self::LogBackend>;

    /// Name of the SQLite VFS to open databases with; `None` is SQLite's default.
    fn sqlite_vfs(&self) -> Option<&'static str> {
        None
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Creates the file, or empties it.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Self::File>;
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Names of the entries of a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes created, renamed and removed names of a directory survive a crash.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// How full the disk is that holds `dir`; `None` if that cannot be known. Quick: it is asked before proposals.
    fn disk_usage(&self, dir: &Path) -> Option<Usage> {
        let _ = dir;
        None
    }

    /// Wall clock, ms since the Unix epoch. For people only: nothing is decided by it.
    fn wall_clock_ms(&self) -> u64;

    /// Told of every change of a node's durable and applied state. Does nothing unless somebody listens.
    fn observe(&self, observation: Observation) {
        let _ = observation;
    }

    /// Whether [`Env::observe`] listens, so that costly observations are not built for nobody.
    fn is_observed(&self) -> bool {
        false
    }
}

/// Runs blocking closures one at a time, first in, first out.
pub trait Lane: Clone + Send + Sync + 'static {
    /// Runs `work` and returns its result. If the caller is dropped while waiting, work that has begun still completes.
    fn run<T, F>(&self, work: F) -> impl Future<Output = Result<T, LaneStopped>> + Send
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static;

    /// Runs `work` in its turn like [`Lane::run`], and says that it is short: it waits for no disk, and takes no longer than
    /// handing it to another thread and back. A lane with nothing else to do may run it where it is asked for, before this
    /// returns.
    fn run_short<T, F>(&self, work: F) -> impl Future<Output = Result<T, LaneStopped>> + Send
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        self.run(work)
    }
}

/// The lane's closure panicked or the lane is gone; its database must be reopened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the storage lane stopped")]
pub struct LaneStopped;

impl From<LaneStopped> for io::Error {
    fn from(stopped: LaneStopped) -> Self {
        io::Error::other(stopped)
    }
}

/// A plain file, used within a [`Lane`].
#[expect(clippy::len_without_is_empty, reason = "a length that can fail has no use for a second way to ask")]
pub trait File: Send + Sync + 'static {
    /// Reads exactly `buf.len()` bytes at `offset`; [`io::ErrorKind::UnexpectedEof`] if there are fewer.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    /// Makes every byte written so far survive a crash. Returns only once that is true. After an error nothing may be
    /// assumed about writes since the last success.
    fn sync(&self) -> io::Result<()>;
}
