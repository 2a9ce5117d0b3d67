//! Real nodes: one process each, in a directory of its own, started, signalled and asked.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aspen::production::client::{Caller, Method};
use aspen::production::http::status::RaftStatus;
use aspen::production::secret::{ClusterSecret, random, write};
use aspen::types::Address;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use sim_runtime::engine::report::Violation;

use super::PLANTED_VARIABLE;
use super::clients::Record;
use super::namespaces::Namespaces;
use crate::arguments::LiveArguments;

/// How long a node may take to form a cluster, to start, to stop.
const PATIENCE: Duration = Duration::from_secs(30);
/// One question to a node.
const ASK: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(50);
/// Small, so that a short run has snapshots and nodes that need one.
const SNAPSHOT_ENTRIES: &str = "400";

pub struct Cluster {
    pub nodes: Vec<Node>,
    pub network: Option<Namespaces>,
    pub secret: ClusterSecret,
    pub token: String,
    caller: Caller,
    /// What was seen that must not be, besides what oracles say.
    violations: RefCell<Vec<Violation>>,
}

pub struct Node {
    /// From 0; the Raft id is one more.
    pub index: u32,
    /// How the others dial it.
    pub address: Address,
    /// Where its HTTP interface listens.
    pub http: String,
    pub log: PathBuf,
    /// Everything it was started with.
    arguments: Vec<String>,
    binary: PathBuf,
    bug: Option<String>,
    child: RefCell<Option<Child>>,
    paused: Cell<bool>,
}

impl Cluster {
    /// Starts the nodes and makes a cluster of them.
    pub async fn form(
        arguments: &LiveArguments,
        count: u32,
        directory: &Path,
        network: Option<Namespaces>,
    ) -> Result<Cluster, String> {
        let failed = |error: std::io::Error| error.to_string();
        let (cookie, token) = (hex(&random::<32>()), hex(&random::<16>()));
        let (cookie_file, token_file) = (directory.join("cookie"), directory.join("http-token"));
        write(&cookie_file, &cookie).map_err(failed)?;
        write(&token_file, &token).map_err(failed)?;
        let mut nodes = Vec::new();
        for index in 0..count {
            let host = network.as_ref().map_or_else(|| own_address(index), |network| network.address(index));
            let (http, quic) = (format!("{host}:8080"), format!("{host}:7080"));
            let data = directory.join(format!("n{}", index + 1));
            let key = key_of(&arguments.node_bin, &data)?;
            let own = [
                ("--data-dir", data.display().to_string()),
                ("--node-id", (index + 1).to_string()),
                ("--http-addr", http.clone()),
                ("--bind-addr", quic.clone()),
                ("--cookie-file", cookie_file.display().to_string()),
                ("--http-token-file", token_file.display().to_string()),
                ("--heartbeat-interval-ms", "50".to_owned()),
                ("--election-timeout-min-ms", "250".to_owned()),
                ("--election-timeout-max-ms", "500".to_owned()),
                ("--snapshot-entries", SNAPSHOT_ENTRIES.to_owned()),
                ("--stop-timeout-ms", "3000".to_owned()),
            ];
            nodes.push(Node {
                index,
                address: Address(format!("{key}@{quic}")),
                http,
                log: directory.join(format!("n{}.log", index + 1)),
                arguments: own.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect(),
                binary: arguments.node_bin.canonicalize().map_err(failed)?,
                bug: arguments.bug.clone(),
                child: RefCell::default(),
                paused: Cell::new(false),
            });
        }
        let peers: Vec<String> = nodes.iter().map(|node| node.address.0.clone()).collect();
        for node in &mut nodes {
            node.arguments.extend(["--peers".to_owned(), peers.join(",")]);
        }
        let cluster = Cluster {
            nodes,
            network,
            secret: ClusterSecret::new(&cookie),
            token,
            caller: Caller::default(),
            violations: RefCell::default(),
        };
        cluster.nodes.iter().try_for_each(|node| cluster.start(node)).map_err(failed)?;
        cluster.init().await?;
        cluster.converged(PATIENCE).await?;
        Ok(cluster)
    }

    async fn init(&self) -> Result<(), String> {
        let member = |node: &Node| json!({"node_id": node.index + 1, "address": node.address.0});
        let members: Vec<_> = self.nodes.iter().map(member).collect();
        let body = serde_json::to_vec(&json!({ "members": members })).map_err(|error| error.to_string())?;
        let begun = Instant::now();
        loop {
            let last = match self.post(&self.nodes[0], "/init", body.clone(), PATIENCE).await {
                Ok((200, _)) => return Ok(()),
                Ok((_, said)) => String::from_utf8_lossy(&said).into_owned(),
                Err(error) => error,
            };
            if begun.elapsed() > PATIENCE {
                return Err(last);
            }
            tokio::time::sleep(TICK).await;
        }
    }

    pub async fn get(&self, node: &Node, path: &str, timeout: Duration) -> Result<(u16, Vec<u8>), String> {
        self.call(node, Method::GET, path, Vec::new(), timeout).await
    }

    pub async fn post(
        &self,
        node: &Node,
        path: &str,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<(u16, Vec<u8>), String> {
        self.call(node, Method::POST, path, body, timeout).await
    }

    async fn call(
        &self,
        node: &Node,
        method: Method,
        path: &str,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<(u16, Vec<u8>), String> {
        let url = format!("http://{}{path}", node.http);
        let called = self.caller.call(method, &url, Some(&self.token), body, timeout).await;
        called.map(|(status, bytes)| (status.as_u16(), bytes.to_vec())).map_err(|error| error.to_string())
    }

    async fn status(&self, node: &Node) -> Option<RaftStatus> {
        let (status, bytes) = self.get(node, "/raft-metrics", ASK).await.ok()?;
        (status == 200).then(|| serde_json::from_slice(&bytes).ok()).flatten()
    }

    /// The node that leads in the highest term, and that term.
    pub async fn leader(&self) -> Option<(u32, u64)> {
        let mut best = None;
        for node in self.nodes.iter().filter(|node| node.answers()) {
            if let Some(status) = self.status(node).await
                && status.role == "leader"
                && best.is_none_or(|(_, term)| status.term > term)
            {
                best = Some((node.index, status.term));
            }
        }
        best
    }

    /// Waits until every node is ready.
    pub async fn converged(&self, bound: Duration) -> Result<(), String> {
        let begun = Instant::now();
        for node in &self.nodes {
            loop {
                let answer = self.get(node, "/readyz", ASK).await;
                if matches!(answer, Ok((200, _))) {
                    break;
                }
                if begun.elapsed() > bound {
                    let said =
                        answer.map_or_else(|error| error, |(_, said)| String::from_utf8_lossy(&said).into_owned());
                    return Err(format!("node {} was not ready within {bound:?}: {said}", node.index + 1));
                }
                tokio::time::sleep(TICK).await;
            }
        }
        Ok(())
    }

    /// Starts a node that does not run.
    pub fn start(&self, node: &Node) -> std::io::Result<()> {
        if node.child.borrow().is_some() {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(&node.log)?;
        let mut command = match &self.network {
            Some(network) => network.command(node.index, &node.binary),
            None => Command::new(&node.binary),
        };
        command.args(&node.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.env("RUST_BACKTRACE", "1");
        if let Some(bug) = &node.bug {
            command.env(PLANTED_VARIABLE, bug);
        }
        node.child.replace(Some(command.spawn()?));
        Ok(())
    }

    /// A violation that no oracle reports.
    pub fn blame(&self, property: &str, message: String, record: &Record) {
        let at_ns = Some(record.now_ns());
        self.violations.borrow_mut().push(Violation { property: property.to_owned(), message, at_ns, node: None });
    }

    pub fn violations(&self) -> Vec<Violation> {
        self.violations.borrow().clone()
    }

    /// A node that ended though nobody asked it to is at fault; it is started again, as a supervisor would.
    pub fn watch(&self, record: &Record) {
        for node in &self.nodes {
            let ended = node.child.borrow_mut().as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                node.child.replace(None);
                let message = format!("node {} ended by itself: {status}; see {}", node.index + 1, node.log.display());
                self.blame("process", message, record);
                if let Err(error) = self.start(node) {
                    self.blame("process", error.to_string(), record);
                }
            }
        }
    }

    /// Stops every node in order; each must manage within its time.
    pub async fn stop_all(&self, record: &Record) {
        for node in &self.nodes {
            self.stop(node, record).await;
        }
    }

    /// SIGTERM, and waits.
    pub async fn stop(&self, node: &Node, record: &Record) {
        let Some(mut child) = node.child.replace(None) else { return };
        node.resume_child(&child);
        signal(&child, Signal::TERM);
        let begun = Instant::now();
        let ended = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Some(status),
                _ if begun.elapsed() > PATIENCE => break None,
                _ => tokio::time::sleep(TICK).await,
            }
        };
        match ended {
            Some(status) if status.success() => {}
            Some(status) => {
                let message = format!("node {} was asked to stop and ended with {status}", node.index + 1);
                self.blame("process", message, record);
            }
            None => {
                let _ = child.kill();
                let _ = child.wait();
                self.blame("process", format!("node {} did not stop within {PATIENCE:?}", node.index + 1), record);
            }
        }
    }
}

impl Node {
    pub fn runs(&self) -> bool {
        self.child.borrow().is_some()
    }

    /// It runs and is not paused.
    pub fn answers(&self) -> bool {
        self.runs() && !self.paused.get()
    }

    /// SIGKILL. Says whether there was something to kill.
    pub fn kill(&self) -> bool {
        let Some(mut child) = self.child.replace(None) else { return false };
        self.paused.set(false);
        let _ = child.kill();
        let _ = child.wait();
        true
    }

    /// SIGSTOP. Says whether there was something to stop.
    pub fn pause(&self) -> bool {
        match &*self.child.borrow() {
            Some(child) if !self.paused.get() => {
                signal(child, Signal::STOP);
                self.paused.set(true);
                true
            }
            _ => false,
        }
    }

    /// SIGCONT.
    pub fn resume(&self) {
        if let Some(child) = &*self.child.borrow() {
            self.resume_child(child);
        }
    }

    fn resume_child(&self, child: &Child) {
        if self.paused.replace(false) {
            signal(child, Signal::CONT);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn signal(child: &Child, signal: Signal) {
    // It may have ended a moment ago.
    let _ = kill_process(Pid::from_child(child), signal);
}

/// An address on loopback (127.0.0.0/8; RFC 1122, section 3.2.1.3) that no other cluster on this machine has.
fn own_address(index: u32) -> Ipv4Addr {
    let [high, low] = (std::process::id() as u16 | 0x8000).to_be_bytes();
    Ipv4Addr::new(127, high, low, index as u8 + 1)
}

/// The public key of a node, which makes it.
fn key_of(binary: &Path, data: &Path) -> Result<String, String> {
    fs::create_dir_all(data).map_err(|error| error.to_string())?;
    let output = Command::new(binary).arg("key").arg("--data-dir").arg(data).output();
    let output = output.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
