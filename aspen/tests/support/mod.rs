//! An environment on tokio with real files: each lane is a thread of its own.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod cluster;
pub mod net;

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aspen::command::{Command, Proposal, SessionSeq};
use aspen::env::{Env, File, Lane, LaneStopped};
use aspen::observe::Observation;
use aspen::transport::{Handler, Transport, TransportError};
use aspen::types::{Address, CommittedLeaderId, Entry, LogId, Member, Membership, Payload};
use openraft::impls::TokioRuntime;

#[derive(Clone, Default)]
pub struct TokioEnv {
    observations: Option<Arc<Mutex<Vec<Observation>>>>,
}

impl TokioEnv {
    /// An environment that listens to its stores.
    pub fn observed() -> Self {
        TokioEnv { observations: Some(Arc::default()) }
    }

    pub fn take_observations(&self) -> Vec<Observation> {
        self.observations.as_ref().map(|kept| std::mem::take(&mut *kept.lock().unwrap())).unwrap_or_default()
    }
}

impl Env for TokioEnv {
    type Runtime = TokioRuntime;
    type Transport = NoTransport;
    type Lane = ThreadLane;
    type File = RealFile;
    type LogBackend = redb::backends::FileBackend;

    fn transport(&self) -> &NoTransport {
        &NoTransport
    }

    fn lane(&self, name: &'static str) -> ThreadLane {
        ThreadLane::new(name)
    }

    fn open_log(&self, path: &Path, create: bool) -> io::Result<Self::LogBackend> {
        let file = fs::OpenOptions::new().read(true).write(true).create(create).open(path)?;
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
        let mut names =
            fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
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

    fn wall_clock_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis().try_into().unwrap_or(0))
    }

    fn observe(&self, observation: Observation) {
        if let Some(kept) = &self.observations {
            kept.lock().unwrap().push(observation);
        }
    }

    fn is_observed(&self) -> bool {
        self.observations.is_some()
    }
}

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

type Work = Box<dyn FnOnce() + Send>;

/// One thread that runs closures in the order in which they were sent; it ends with the last handle.
#[derive(Clone)]
pub struct ThreadLane {
    queue: mpsc::Sender<Work>,
}

impl ThreadLane {
    fn new(name: &'static str) -> Self {
        let (queue, works) = mpsc::channel::<Work>();
        let run = move || works.into_iter().for_each(|work| work());
        std::thread::Builder::new().name(name.into()).spawn(run).expect("a thread can be spawned");
        ThreadLane { queue }
    }
}

impl Lane for ThreadLane {
    fn run<T, F>(&self, work: F) -> impl Future<Output = Result<T, LaneStopped>> + Send
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (done, result) = tokio::sync::oneshot::channel();
        let sent = self.queue.send(Box::new(move || drop(done.send(work()))));
        async move {
            sent.map_err(|_| LaneStopped)?;
            result.await.map_err(|_| LaneStopped)
        }
    }
}

/// Reaches nobody.
#[derive(Clone)]
pub struct NoTransport;

impl Transport for NoTransport {
    async fn call(&self, to: &Address, _: Vec<u8>, _: Duration) -> Result<Vec<u8>, TransportError> {
        Err(TransportError::Unreachable(to.clone()))
    }

    fn serve(&self, _: Arc<dyn Handler>) {}

    fn close(&self) {}
}

/// Makes a violated assertion of the product a panic where it happens.
pub fn be_strict() {
    buggify::set_violation_handler(|site, details| panic!("violated: {} {details}", site.message));
}

/// Runs `test` on a tokio runtime of its own.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    be_strict();
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(test)
}

/// A small, fast generator: a test names its seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_in(&mut self, chance: u64) -> bool {
        self.below(chance) == 0
    }
}

pub fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(term), index }
}

pub fn blank(term: u64, index: u64) -> Entry {
    Entry { log_id: log_id(term, index), payload: Payload::Blank }
}

pub fn normal(term: u64, index: u64, log_time_ms: u64, session: Option<SessionSeq>, command: Command) -> Entry {
    let proposal = Proposal { log_time_ms, session, command };
    Entry { log_id: log_id(term, index), payload: Payload::Normal(proposal) }
}

pub fn set(term: u64, index: u64, key: &[u8], value: &[u8]) -> Entry {
    normal(term, index, index, None, Command::Set { key: key.to_vec(), value: value.to_vec() })
}

pub fn membership(term: u64, index: u64, voters: &[u64]) -> Entry {
    let members: BTreeMap<u64, Member> =
        voters.iter().map(|id| (*id, Member { address: Address(format!("node-{id}:1")) })).collect();
    let membership = Membership::new(vec![voters.iter().copied().collect()], members).unwrap();
    Entry { log_id: log_id(term, index), payload: Payload::Membership(membership) }
}
