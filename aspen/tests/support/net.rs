//! A network in memory whose messages a test can lose, and an environment that uses it with real files.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aspen::env::Env;
use aspen::message::{Envelope, decode_request};
use aspen::room::Usage;
use aspen::transport::{Handler, Transport, TransportError};
use aspen::types::Address;
use openraft::impls::TokioRuntime;
use redb::StorageBackend;

use super::{RealFile, ThreadLane, TokioEnv};

/// What becomes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Deliver,
    /// Silence: the request never arrives.
    LoseRequest,
    /// The request is handled; the caller hears nothing.
    LoseReply,
    Unreachable,
}

type Rule = Arc<dyn Fn(&Address, &Address, &Envelope) -> Fate + Send + Sync>;

/// Connects every [`MemTransport`] made from it.
#[derive(Clone, Default)]
pub struct MemNet {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    handlers: Mutex<BTreeMap<Address, Arc<dyn Handler>>>,
    rule: Mutex<Option<Rule>>,
    names: AtomicU64,
}

pub const MESSAGE_BYTES_MAX: usize = 10 << 20;

impl MemNet {
    pub fn endpoint(&self, name: &str) -> MemTransport {
        MemTransport { net: self.clone(), me: Address(name.to_owned()), closed: Arc::default() }
    }

    pub fn fresh_name(&self) -> String {
        format!("host-{}", self.inner.names.fetch_add(1, Ordering::SeqCst))
    }

    /// Decides the fate of every call from now on: from, to, and the request.
    pub fn rule(&self, rule: impl Fn(&Address, &Address, &Envelope) -> Fate + Send + Sync + 'static) {
        *self.inner.rule.lock().unwrap() = Some(Arc::new(rule));
    }

    pub fn heal(&self) {
        *self.inner.rule.lock().unwrap() = None;
    }

    /// Nothing goes between `alone` and everybody else.
    pub fn isolate(&self, alone: &str) {
        let alone = Address(alone.to_owned());
        self.rule(
            move |from, to, _| if (*from == alone) == (*to == alone) { Fate::Deliver } else { Fate::LoseRequest },
        );
    }

    fn fate(&self, from: &Address, to: &Address, request: &[u8]) -> Fate {
        let rule = self.inner.rule.lock().unwrap().clone();
        match (rule, decode_request(request, MESSAGE_BYTES_MAX)) {
            (Some(rule), Ok(envelope)) => rule(from, to, &envelope),
            _ => Fate::Deliver,
        }
    }
}

#[derive(Clone)]
pub struct MemTransport {
    net: MemNet,
    me: Address,
    closed: Arc<AtomicBool>,
}

impl MemTransport {
    pub fn address(&self) -> Address {
        self.me.clone()
    }

    async fn exchange(&self, to: &Address, request: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        let fate = self.net.fate(&self.me, to, &request);
        if fate == Fate::LoseRequest {
            return std::future::pending().await;
        }
        let handler = self.net.inner.handlers.lock().unwrap().get(to).cloned();
        let Some(handler) = handler.filter(|_| fate != Fate::Unreachable) else {
            return Err(TransportError::Unreachable(to.clone()));
        };
        let reply = tokio::spawn(async move { handler.handle(request).await }).await;
        match reply {
            Ok(reply) if fate == Fate::Deliver => Ok(reply),
            Ok(_) => std::future::pending().await,
            Err(_) => Err(TransportError::Reset(to.clone())),
        }
    }
}

impl Transport for MemTransport {
    async fn call(&self, to: &Address, request: Vec<u8>, timeout: Duration) -> Result<Vec<u8>, TransportError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(TransportError::Closed);
        }
        if request.len() > MESSAGE_BYTES_MAX {
            return Err(TransportError::TooLarge { actual: request.len(), max: MESSAGE_BYTES_MAX });
        }
        let exchanged = tokio::time::timeout(timeout, self.exchange(to, request)).await;
        exchanged.unwrap_or_else(|_| Err(TransportError::Timeout(to.clone(), timeout)))
    }

    fn serve(&self, handler: Arc<dyn Handler>) {
        self.net.inner.handlers.lock().unwrap().insert(self.me.clone(), handler);
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.net.inner.handlers.lock().unwrap().remove(&self.me);
    }
}

/// Real files, the network in memory, and a log whose disk can be broken.
#[derive(Clone)]
pub struct NetEnv {
    files: TokioEnv,
    transport: MemTransport,
    broken: Arc<AtomicBool>,
    used_percent: Arc<AtomicU64>,
}

impl NetEnv {
    pub fn new(transport: MemTransport) -> Self {
        NetEnv { files: TokioEnv::default(), transport, broken: Arc::default(), used_percent: Arc::default() }
    }

    /// So much of the disk seems to be in use.
    pub fn fill_disk(&self, percent: u64) {
        self.used_percent.store(percent, Ordering::SeqCst);
    }

    /// Every sync of the log fails from now on.
    pub fn break_log(&self) {
        self.broken.store(true, Ordering::SeqCst);
    }
}

impl Env for NetEnv {
    type Runtime = TokioRuntime;
    type Transport = MemTransport;
    type Lane = ThreadLane;
    type File = RealFile;
    type LogBackend = BreakableLog;

    fn transport(&self) -> &MemTransport {
        &self.transport
    }

    fn lane(&self, name: &'static str) -> ThreadLane {
        self.files.lane(name)
    }

    fn open_log(&self, path: &Path, create: bool) -> io::Result<BreakableLog> {
        let file = self.files.open_log(path, create)?;
        Ok(BreakableLog { file, broken: self.broken.clone() })
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.files.create_dir_all(path)
    }

    fn create(&self, path: &Path) -> io::Result<RealFile> {
        self.files.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<RealFile> {
        self.files.open(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.files.exists(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.files.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.files.sync_dir(dir)
    }

    fn disk_usage(&self, _: &Path) -> Option<Usage> {
        Some(Usage { used: self.used_percent.load(Ordering::SeqCst), total: 100 })
    }

    fn wall_clock_ms(&self) -> u64 {
        self.files.wall_clock_ms()
    }
}

#[derive(Debug)]
pub struct BreakableLog {
    file: redb::backends::FileBackend,
    broken: Arc<AtomicBool>,
}

impl StorageBackend for BreakableLog {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(io::Error::other("the disk is broken"));
        }
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
