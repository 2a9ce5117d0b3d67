//! The faults of a plan, carried out with what an operating system offers.
//!
//! A crash is SIGKILL, a pause SIGSTOP and SIGCONT, a stop SIGTERM, a loss of all power SIGKILL to all: the files stay as the
//! kernel has them. Partitions need [`namespaces`](super::namespaces); without them they are skipped, and counted as such.
//! Each fault happens at the earliest time that its trigger allows.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use sim_runtime::engine::Plan;
use sim_runtime::engine::faults::process::ProcessFault;
use sim_runtime::engine::plan::{Fault, PartitionShape};
use sim_runtime::engine::report::FaultCount;
use tokio::task::{JoinHandle, spawn_local};

use super::clients::Record;
use super::cluster::{Cluster, Node};

/// How often nodes that ended by themselves are looked for.
const WATCH: Duration = Duration::from_millis(100);
/// A node that was started again is given so long to be ready, before its crash counts as unnoticed.
const READY: Duration = Duration::from_secs(10);

pub struct Chaos {
    cluster: Rc<Cluster>,
    counts: Rc<RefCell<BTreeMap<String, FaultCount>>>,
    faults: Vec<JoinHandle<()>>,
}

impl Chaos {
    pub fn new(cluster: &Rc<Cluster>) -> Chaos {
        Chaos { cluster: cluster.clone(), counts: Rc::default(), faults: Vec::new() }
    }

    /// Carries out all faults while clients work; returns when the time for them is over.
    pub async fn unleash(&mut self, plan: &Plan, record: &Rc<Record>) {
        for planned in &plan.faults {
            let (one, fault) = (Strike::new(self, record), planned.fault.clone());
            let at = Duration::from_nanos(planned.when.not_before_ns());
            self.faults.push(spawn_local(async move {
                tokio::time::sleep(at).await;
                one.happen(fault).await;
            }));
        }
        while record.now_ns() < plan.duration_ns {
            tokio::time::sleep(WATCH).await;
            self.cluster.watch(record);
        }
    }

    /// Ends all faults: every node runs, every link carries.
    pub async fn calm(&mut self) {
        for fault in self.faults.drain(..) {
            fault.abort();
            // Aborted or done.
            let _ = fault.await;
        }
        let cluster = &self.cluster;
        if let Some(network) = &cluster.network {
            for node in &cluster.nodes {
                // A link that was never cut has nothing to heal.
                let _ = network.cut_clients(node.index, false);
                for other in cluster.nodes.iter().filter(|other| other.index != node.index) {
                    let _ = network.cut(node.index, other.index, false);
                }
            }
        }
        for node in &cluster.nodes {
            node.resume();
            // One that cannot be started does not become ready.
            let _ = cluster.start(node);
        }
    }

    pub fn counts(&self) -> BTreeMap<String, FaultCount> {
        self.counts.borrow().clone()
    }
}

/// One fault and what it needs.
struct Strike {
    cluster: Rc<Cluster>,
    counts: Rc<RefCell<BTreeMap<String, FaultCount>>>,
    record: Rc<Record>,
}

impl Strike {
    fn new(chaos: &Chaos, record: &Rc<Record>) -> Strike {
        Strike { cluster: chaos.cluster.clone(), counts: chaos.counts.clone(), record: record.clone() }
    }

    async fn happen(&self, fault: Fault) {
        let family = fault.family().to_owned();
        match fault {
            Fault::Crash { target, down_ns } => {
                if let Some(node) = self.node(&target).await
                    && node.kill()
                {
                    self.injected(&family);
                    self.back_after(node, down_ns, &family).await;
                }
            }
            Fault::Stop { target, down_ns } => {
                if let Some(node) = self.node(&target).await
                    && node.runs()
                {
                    self.injected(&family);
                    self.cluster.stop(node, &self.record).await;
                    self.back_after(node, down_ns, &family).await;
                }
            }
            Fault::ClusterPowerLoss { down_ns } => {
                let killed = self.cluster.nodes.iter().filter(|node| node.kill()).count();
                self.injected("crash-of-all");
                tokio::time::sleep(Duration::from_nanos(down_ns)).await;
                for node in &self.cluster.nodes {
                    // Faults of one node may be under way; whoever comes first starts it.
                    let _ = self.cluster.start(node);
                }
                if killed == self.cluster.nodes.len() {
                    self.noticed("crash-of-all");
                }
            }
            Fault::Process(ProcessFault::Pause { target, for_ns }) => {
                let before = self.cluster.leader().await;
                if let Some(node) = self.node(&target).await
                    && node.pause()
                {
                    self.injected(&family);
                    tokio::time::sleep(Duration::from_nanos(for_ns)).await;
                    let after = self.cluster.leader().await;
                    node.resume();
                    if after != before {
                        self.noticed(&family);
                    }
                }
            }
            Fault::Partition { shape, for_ns } => self.partition(&family, &shape, for_ns).await,
            // The spec names no others.
            other => self.count(other.family(), 0, 0),
        }
    }

    async fn partition(&self, family: &str, shape: &PartitionShape, for_ns: u64) {
        let Some(network) = &self.cluster.network else { return self.count("partition-skipped", 1, 0) };
        let (cuts, clients) = self.cuts(shape).await;
        let before = self.cluster.leader().await;
        let set = |cut: bool| {
            // A node's interfaces are there as long as its namespace, which outlives it.
            cuts.iter().for_each(|(from, to)| drop(network.cut(*from, *to, cut)));
            clients.iter().for_each(|node| drop(network.cut_clients(*node, cut)));
        };
        set(true);
        self.injected(family);
        self.injected(shape.kind());
        tokio::time::sleep(Duration::from_nanos(for_ns)).await;
        let after = self.cluster.leader().await;
        set(false);
        if before != after {
            self.noticed(family);
            self.noticed(shape.kind());
        }
    }

    /// Directions that are cut between nodes, and nodes that are cut from clients.
    async fn cuts(&self, shape: &PartitionShape) -> (Vec<(u32, u32)>, Vec<u32>) {
        let count = u32::try_from(self.cluster.nodes.len()).unwrap_or(u32::MAX);
        let all = || (0..count).flat_map(|from| (0..count).map(move |to| (from, to))).filter(|(from, to)| from != to);
        match shape {
            PartitionShape::Split { side } => {
                (all().filter(|(from, to)| side.contains(from) != side.contains(to)).collect(), Vec::new())
            }
            PartitionShape::Isolate { target, clients } => {
                let Some(node) = self.node(target).await else { return Default::default() };
                let lonely = node.index;
                let cut_clients = if *clients { vec![lonely] } else { Vec::new() };
                (all().filter(|(from, to)| *from == lonely || *to == lonely).collect(), cut_clients)
            }
            PartitionShape::OneWay { target, inbound } => {
                let Some(node) = self.node(target).await else { return Default::default() };
                let hit = node.index;
                let is_cut = |(from, to): &(u32, u32)| if *inbound { *to == hit } else { *from == hit };
                (all().filter(is_cut).collect(), Vec::new())
            }
            PartitionShape::Bridge { bridge } => {
                let half = |node: u32| node.is_multiple_of(2);
                let is_cut = |(from, to): &(u32, u32)| from != bridge && to != bridge && half(*from) != half(*to);
                (all().filter(is_cut).collect(), Vec::new())
            }
            PartitionShape::Ring => {
                let near = |a: u32, b: u32| (a + 1) % count == b || (b + 1) % count == a;
                (all().filter(|(from, to)| !near(*from, *to)).collect(), Vec::new())
            }
        }
    }

    /// Who plays the role now.
    async fn node(&self, role: &str) -> Option<&Node> {
        let nth = |prefix: &str| role.strip_prefix(prefix)?.strip_suffix(')')?.parse::<usize>().ok();
        if let Some(index) = nth("Server(") {
            return self.cluster.nodes.get(index);
        }
        let leader = self.cluster.leader().await.map(|(index, _)| index);
        if role == "Leader" {
            return self.cluster.nodes.get(leader? as usize);
        }
        let follower = nth("Follower(")?;
        self.cluster.nodes.iter().filter(|node| Some(node.index) != leader).nth(follower)
    }

    /// Starts the node again later. It was felt when the node has recovered.
    async fn back_after(&self, node: &Node, down_ns: u64, family: &str) {
        tokio::time::sleep(Duration::from_nanos(down_ns)).await;
        if self.cluster.start(node).is_err() {
            return;
        }
        let deadline = tokio::time::Instant::now() + READY;
        while tokio::time::Instant::now() < deadline {
            if matches!(self.cluster.get(node, "/readyz", WATCH).await, Ok((200, _))) {
                return self.noticed(family);
            }
            tokio::time::sleep(WATCH).await;
        }
    }

    fn injected(&self, kind: &str) {
        self.count(kind, 1, 0);
    }

    fn noticed(&self, kind: &str) {
        self.count(kind, 0, 1);
    }

    fn count(&self, kind: &str, injected: u64, noticed: u64) {
        let mut counts = self.counts.borrow_mut();
        let count = counts.entry(kind.to_owned()).or_default();
        count.injected += injected;
        count.noticed += noticed;
    }
}
