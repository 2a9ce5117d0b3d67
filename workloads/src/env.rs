//! The simulated world as `aspen`'s [`Env`]: the other implementation is the production one.
//!
//! A value belongs to one incarnation of one host. Everything in it is a number or a handle that the world mutes when
//! the incarnation dies.

use std::io;
use std::path::{Path, PathBuf};

use aspen::env::{Env, File, Lane, LaneStopped};
use aspen::observe::Observation;
use aspen::room::Usage;
use aspen::types::NodeId;
use sim_runtime::adapters::openraft::SimRuntime;
use sim_runtime::adapters::redb::RedbFile;
use sim_runtime::adapters::sqlite;
use sim_runtime::disk::{Disk, OpenMode, SimFile};
use sim_runtime::engine::run;
use sim_runtime::world::{self, Incarnation, clock, section};

use crate::cluster;
use crate::event::Event;
use crate::transport::SimTransport;

/// The world around one incarnation of a node or client.
#[derive(Clone)]
pub struct SimEnv {
    who: Incarnation,
    transport: SimTransport,
    /// The Raft node whose observations are passed on; clients have none.
    observed: Option<NodeId>,
}

impl SimEnv {
    /// The environment of the current incarnation. Binds its transport.
    pub fn new(observed: Option<NodeId>) -> SimEnv {
        SimEnv { who: world::current(), transport: SimTransport::bind(), observed }
    }

    fn disk(&self) -> Disk {
        Disk::of(self.who.host)
    }
}

impl Env for SimEnv {
    type Runtime = SimRuntime;
    type Transport = SimTransport;
    type Lane = SimLane;
    type File = NodeFile;
    type LogBackend = RedbFile;

    fn transport(&self) -> &SimTransport {
        &self.transport
    }

    fn lane(&self, name: &'static str) -> SimLane {
        SimLane(section::Lane::new(name))
    }

    fn open_log(&self, path: &Path, create: bool) -> io::Result<RedbFile> {
        let mode = OpenMode { create, create_new: false, truncate: false };
        RedbFile::open(text(path)?, mode)
    }

    fn sqlite_vfs(&self) -> Option<&'static str> {
        Some(sqlite::VFS_NAME.to_str().expect("the name is ASCII"))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk().create_dir_all(text(path)?)
    }

    fn create(&self, path: &Path) -> io::Result<NodeFile> {
        let mode = OpenMode { create: true, create_new: false, truncate: true };
        self.disk().open(text(path)?, mode).map(NodeFile)
    }

    fn open(&self, path: &Path) -> io::Result<NodeFile> {
        let mode = OpenMode { create: false, create_new: false, truncate: false };
        self.disk().open(text(path)?, mode).map(NodeFile)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk().exists(text(path)?)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.disk().list(text(dir)?)?.into_iter().map(PathBuf::from).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk().rename(text(from)?, text(to)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk().remove(text(path)?)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk().sync_dir(text(dir)?)
    }

    fn disk_usage(&self, _: &Path) -> Option<Usage> {
        self.disk().usage_under_quota().map(|(used, total)| Usage { used, total })
    }

    fn wall_clock_ms(&self) -> u64 {
        clock::wall_ns(self.who.host) / 1_000_000
    }

    fn observe(&self, observation: Observation) {
        if let Some(node) = self.observed {
            if matches!(observation, Observation::Truncated { .. }) {
                cluster::look_at_truncation(self.who.host, self.who.boot, node);
            }
            run::emit(self.who.host, self.who.boot, Event::Store { node, observation });
        }
    }

    fn is_observed(&self) -> bool {
        self.observed.is_some()
    }
}

fn text(path: &Path) -> io::Result<&str> {
    path.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "simulated paths are UTF-8"))
}

/// A blocking section of the world.
#[derive(Clone)]
pub struct SimLane(section::Lane);

impl Lane for SimLane {
    async fn run<T, F>(&self, work: F) -> Result<T, LaneStopped>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        Ok(self.0.run(work).await)
    }
}

/// A file of a node on its simulated disk.
pub struct NodeFile(SimFile);

impl File for NodeFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match self.0.read_at(buf, offset)? {
            read if read == buf.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}
