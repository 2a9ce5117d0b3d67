//! `aspen` as a system under test: what boots on a server, who leads, when the cluster has recovered.
//!
//! What openraft says about itself is gathered by a task on the node's own host and kept in a view for role names
//! (`Leader`, `Follower(0)`) and for convergence. The view is outside all machines: it outlives a node that dies.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use aspen::node::{self, Node, StopReason};
use aspen::types::{Member, NodeId, TypeConfig};
use buggify::assert_reachable;
use futures_util::future::select;
use openraft::RaftMetrics;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::alias::WatchReceiverOf;
use sim_runtime::disk::{Disk, PowerLossOutcome, Role as FileRole, fault};
use sim_runtime::engine::Oracle;
use sim_runtime::engine::report::{Metrics, PowerLossReport};
use sim_runtime::engine::run;
use sim_runtime::engine::system::{Cluster, DownCause, Exit, Knob, Outside, Phase, Process, Server, System};
use sim_runtime::world::{self, HostId, Purpose};

use crate::byzantine;
use crate::config;
use crate::env::SimEnv;
use crate::event::{Down, DurableImage, Event, ImageReason, NodeMetrics, Role, Usage};
use crate::image;
use crate::machines;
use crate::membership::notebook;
use crate::metrics::{described, node_metrics};
use crate::oracles;
use crate::power;
use crate::told;
use crate::transport;

thread_local! {
    static VIEW: RefCell<View> = RefCell::default();
}

/// What is known of the cluster from outside.
#[derive(Default)]
struct View {
    nodes: BTreeMap<u32, Seen>,
    leaders: BTreeMap<u64, NodeId>,
    elections: u64,
    /// Highest index that any node reported as committed, for sampling images at commits.
    committed: u64,
    commit_images: u32,
    /// Entries after which a log is compacted.
    compacted_at: u64,
    /// The longest log and the fullest disk that were looked at.
    log_entries_max: u64,
    disk_bytes_max: u64,
    /// Servers whose node has started: it may vote from then on, so an empty data directory is a loss.
    started: BTreeSet<u32>,
}

#[derive(Clone)]
struct Seen {
    host: HostId,
    boot: u32,
    metrics: NodeMetrics,
}

/// `aspen`, simulated.
pub struct AspenCluster {
    quorum_images: bool,
}

impl AspenCluster {
    pub fn new() -> AspenCluster {
        VIEW.set(View::default());
        machines::reset();
        notebook::reset();
        byzantine::reset();
        told::reset();
        AspenCluster { quorum_images: true }
    }
}

impl Default for AspenCluster {
    fn default() -> Self {
        AspenCluster::new()
    }
}

impl System for AspenCluster {
    type Event = Event;

    fn server(&self, server: Server<Event>) -> Process {
        let sample_images = self.quorum_images;
        machines::found(config::founders(server.servers, |name| server.knob(name)));
        Box::pin(async move { serve(server, sample_images).await })
    }

    fn form<'a>(&'a self, cluster: &'a Cluster) -> Outside<'a, Result<(), String>> {
        Box::pin(async move {
            let outside = world::current();
            run::emit_about(outside.host, outside.boot, Event::ClocksSlow { ppm_max: cluster.clock_slow_ppm_max });
            let deadline = world::now_ns() + cluster.bound_ns;
            while leader().is_none() {
                if world::now_ns() > deadline {
                    return Err("no leader was elected".to_owned());
                }
                world::sleep(POLL).await;
            }
            Ok(())
        })
    }

    fn resolve(&self, role: &str) -> Option<u32> {
        let leader = leader();
        if role == "Leader" {
            return leader;
        }
        let nth: usize = role.strip_prefix("Follower(")?.strip_suffix(')')?.parse().ok()?;
        VIEW.with_borrow(|view| view.nodes.keys().copied().filter(|server| Some(*server) != leader).nth(nth))
    }

    fn roles(&self, servers: u32) -> Vec<String> {
        let followers = (0..servers.saturating_sub(1)).map(|nth| format!("Follower({nth})"));
        // As likely as all followers together: most of what can go wrong goes wrong at the leader.
        let leaders = (1..servers).map(|_| "Leader".to_owned());
        leaders.chain(followers).collect()
    }

    fn knobs(&self) -> &'static [Knob] {
        config::knobs()
    }

    fn site_prefixes(&self) -> &'static [&'static str] {
        &["aspen::"]
    }

    fn file_role(&self) -> fn(&str) -> FileRole {
        config::file_role
    }

    fn converge<'a>(&'a self, cluster: &'a Cluster) -> Outside<'a, Result<(), String>> {
        Box::pin(async move {
            let begun = world::now_ns();
            let mut deadline = begun + cluster.bound_ns;
            let mut progress = (0, 0);
            loop {
                // A snapshot in tiny chunks over a slow link, or a long log entry by entry, takes long without anything
                // being wrong.
                let (received, held) = (bytes_received(&cluster.servers), held_by_the_last(&cluster.lost));
                if received > progress.0 || held > progress.1 {
                    let patient_until = begun + TRANSFERS_TIMES_BOUND * cluster.bound_ns;
                    deadline = deadline.max(world::now_ns() + cluster.bound_ns / 2).min(patient_until);
                }
                progress = (received, held);
                match apart(cluster.servers.len(), &cluster.lost).or_else(untended) {
                    None => return Ok(()),
                    Some(reason) if world::now_ns() > deadline => {
                        return Err(untended().map_or(reason.clone(), |said| format!("{reason}; {said}")));
                    }
                    Some(_) => world::sleep(POLL).await,
                }
            }
        })
    }

    fn down(&self, server: u32, host: HostId, boot: u32, cause: DownCause) {
        VIEW.with_borrow_mut(|view| view.nodes.remove(&server));
        let Some(node) = machines::node_on(server) else { return };
        let down = match cause {
            DownCause::Crash => Down::Crash,
            DownCause::PowerLoss => Down::PowerLoss,
            DownCause::Stopped => Down::Stopped,
            DownCause::Failed => Down::Fatal,
        };
        run::emit_about(host, boot, Event::Down { node, cause: down });
        if cause == DownCause::PowerLoss {
            emit_image(server, host, boot, ImageReason::PowerLoss);
        }
    }

    fn misbehave(&self, family: &str, strength: u64, on: bool) {
        assert!(byzantine::set(family, strength, on), "the spec names the fault family {family}, which nobody offers");
    }

    /// Only with an operator, and only if a quorum of every configuration that a running node knows is left.
    fn may_be_wiped(&self, server: u32) -> bool {
        machines::is_tended() && !machines::is_risky(world::now_ns()) && leaves_a_quorum(server)
    }

    fn starts_anew(&self, server: u32) -> bool {
        machines::is_retired(server)
    }

    fn wiped(&self, server: u32, host: HostId, boot: u32) {
        VIEW.with_borrow_mut(|view| view.started.remove(&server));
        if let Some(node) = machines::lose(server) {
            run::emit_about(host, boot, Event::Spent { node });
        }
    }

    /// Where nobody changes the membership the engine's count suffices.
    fn may_be_damaged(&self, server: u32) -> bool {
        if !machines::is_tended() {
            return true;
        }
        // A machine that leaves is set up anew, which one that stays down never is.
        let stays = notebook::with(|notebook| notebook.is_wanted(server));
        let is_possible = stays && !machines::is_risky(world::now_ns()) && leaves_a_quorum(server);
        if is_possible {
            // It may happen at any time from now on, and the node stays away for good.
            machines::forbid_demotions();
            machines::node_on(server).into_iter().for_each(machines::damage);
        }
        is_possible
    }

    fn damaged(&self, server: u32, host: HostId) {
        if let Some(node) = machines::node_on(server) {
            machines::damage(node);
            run::emit_about(host, 0, Event::Damaged { node });
        }
    }

    fn swapped(&self, server: u32, host: HostId) {
        emit_image(server, host, 0, ImageReason::PowerLoss);
    }

    fn phase(&self, phase: Phase) {
        let outside = world::current();
        match phase {
            Phase::Calm => run::emit_about(outside.host, outside.boot, Event::Calm),
            Phase::Converged(result) => {
                run::emit_about(outside.host, outside.boot, Event::Converged { result });
            }
            Phase::End => {
                let nodes = VIEW.with_borrow(|view| view.nodes.clone());
                for (server, seen) in nodes {
                    emit_usage(server, &seen);
                    emit_image(server, seen.host, seen.boot, ImageReason::End);
                }
            }
        }
    }

    fn oracles(&self) -> Vec<Box<dyn Oracle<Event>>> {
        oracles::all(&oracles::OracleConfig::default())
    }

    fn metrics(&self, metrics: &mut Metrics) {
        VIEW.with_borrow(|view| {
            metrics.elections = view.elections;
            let terms: Vec<NodeId> = view.leaders.values().copied().collect();
            let changes = terms.windows(2).filter(|pair| pair[0] != pair[1]).count();
            metrics.gauges.insert("log-entries-max".to_owned(), view.log_entries_max);
            metrics.gauges.insert("disk-bytes-max".to_owned(), view.disk_bytes_max);
            metrics.leader_changes = u64::try_from(changes).unwrap_or(u64::MAX);
        });
    }

    fn power_lost(&self, losses: &[PowerLossOutcome], report: &PowerLossReport) {
        power::assert_hard(losses, report);
    }

    fn inspect(&self, server: u32) -> BTreeMap<String, serde_json::Value> {
        let seen = VIEW.with_borrow(|view| view.nodes.get(&server).map(|seen| seen.metrics.clone()));
        let told = |(name, value): (&str, serde_json::Value)| (name.to_owned(), value);
        match (seen, machines::node_on(server)) {
            (Some(metrics), _) => described(&metrics).map(told).into(),
            (None, node) => node.map(|node| told(("node", node.into()))).into_iter().collect(),
        }
    }

    fn is_history(&self, event: &Event) -> bool {
        matches!(event, Event::Invoked { .. } | Event::Returned { .. } | Event::Down { .. } | Event::Serving { .. })
    }

    fn history(&self, event: &Event) -> serde_json::Value {
        match event {
            Event::Invoked { client, op, action } => {
                serde_json::json!({ "client": client, "op": op, "invoked": **action })
            }
            Event::Returned { client, op, result } => {
                serde_json::json!({ "client": client, "op": op, "returned": **result })
            }
            Event::Down { node, cause } => serde_json::json!({ "node": node, "down": format!("{cause:?}") }),
            Event::Serving { node } => serde_json::json!({ "node": node, "serving": true }),
            other => serde_json::json!(format!("{other:?}")),
        }
    }
}

/// One boot of one node, until it stops.
async fn serve(mut server: Server<Event>, sample_images: bool) -> Exit {
    let mut asked = Box::pin(server.stop_signal());
    let index = server.index;
    // A machine without an identity waits for the operator.
    let node = loop {
        if let Some(node) = machines::node_on(server.index) {
            break node;
        }
        if world::timeout(POLL, &mut asked).await.is_ok() {
            return Exit::Stopped;
        }
    };
    server.emit(Event::Booted { node });
    told::watch(server.host, node);
    let (host, boot) = (server.host, server.boot);
    let faults_before = disk_faults(host);
    let failed = move |reason: String| {
        let disk_faults = disk_faults(host) - faults_before;
        run::emit(host, boot, Event::Failed { node, disk_faults, reason: reason.clone() });
        Exit::Failed(reason)
    };
    let env = SimEnv::new(Some(node));
    let mut config = config::node_config(&server, node);
    let compacted_at = config.raft.snapshot_entries + config.raft.log_keep_entries;
    VIEW.with_borrow_mut(|view| view.compacted_at = compacted_at);
    config.store.must_exist = VIEW.with_borrow(|view| view.started.contains(&server.index));
    let started = match Node::start(env, config).await {
        Ok(started) => started,
        Err(error) => return failed(error.to_string()),
    };
    VIEW.with_borrow_mut(|view| view.started.insert(index));
    let view = watch(&server, node, started.raft().metrics(), sample_images);
    world::spawn("metrics", view);
    let stopping = started.clone();
    let retired = Box::pin(async move {
        machines::retirement(index).await;
        // Whoever takes a machine away comes when there is time. It knows only what it was told before it was removed.
        assert_reachable!("a node ran on after it was removed", owed_by = "membership");
        let linger_ns = world::draw(Purpose("a removed node lingers"), node, 0) % LINGER_NS_MAX;
        world::sleep(Duration::from_nanos(linger_ns)).await;
    });
    world::spawn("stop", async move {
        select(asked, retired).await;
        stopping.shutdown().await;
    });
    if server.index == 0 && node == machines::founder(0) {
        let members: BTreeMap<NodeId, Member> = (0u32..)
            .zip(&server.hosts)
            .filter(|(index, _)| machines::is_founder(*index))
            .map(|(index, host)| (machines::founder(index), Member { address: transport::address(*host) }))
            .collect();
        // Refused on every boot but the first, which is what is wanted.
        let _ = started.initialize(members).await;
    }
    let recovered = started.clone();
    world::spawn("recovery", async move {
        while !recovered.serving(RECOVERY_WATCH).await {
            if recovered.phase() == node::Phase::Stopping {
                return;
            }
        }
        server.emit(Event::Serving { node });
        server.serving();
    });
    match started.stopped().await {
        StopReason::Requested => Exit::Stopped,
        StopReason::Failed(reason) => failed(reason),
    }
}

/// How often a disk failed whoever uses it: not where it was slow, or lost what no sync had made durable.
fn disk_faults(host: HostId) -> u64 {
    let harmless = [fault::SLOW, fault::STALL, fault::THROTTLE, fault::POWER_LOSS, fault::NAME_LOST];
    let faults = Disk::of(host).counters().faults;
    faults.iter().filter(|(kind, _)| !harmless.contains(kind)).map(|(_, count)| count.injected).sum()
}

/// Keeps the view of one node current, and tells the oracles.
fn watch(
    server: &Server<Event>,
    node: NodeId,
    mut metrics: WatchReceiverOf<TypeConfig<SimEnv>, RaftMetrics<TypeConfig<SimEnv>>>,
    sample: bool,
) -> impl Future<Output = ()> + Send + use<> {
    let (index, host, boot, servers) = (server.index, server.host, server.boot, server.hosts.clone());
    async move {
        let mut measured = 0;
        loop {
            let now = node_metrics(node, &metrics.borrow_watched());
            let seen = Seen { host, boot, metrics: now.clone() };
            let committed = now.committed.map_or(0, |id| id.index);
            if committed / USAGE_EVERY > measured {
                measured = committed / USAGE_EVERY;
                emit_usage(index, &seen);
            }
            let new_commit = VIEW.with_borrow_mut(|view| view.update(index, seen));
            run::emit(host, boot, Event::Metrics(Box::new(now)));
            if new_commit && sample {
                for (other, host) in (0u32..).zip(&servers) {
                    emit_image(other, *host, 0, ImageReason::Commit);
                }
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }
}

impl View {
    /// Takes note of a node's state. Returns whether the images of this moment should be looked at.
    fn update(&mut self, server: u32, seen: Seen) -> bool {
        let metrics = &seen.metrics;
        if metrics.role == Role::Leader && self.leaders.insert(metrics.term, metrics.node).is_none() {
            self.elections += 1;
        }
        let committed = metrics.committed.map_or(0, |id| id.index);
        self.nodes.insert(server, seen);
        if committed <= self.committed {
            return false;
        }
        self.committed = committed;
        // Early commits and then fewer and fewer: an image costs as much as many operations.
        let due =
            self.commit_images < COMMIT_IMAGES_MAX && world::entity(&[committed]).is_multiple_of(COMMIT_IMAGE_ONE_IN);
        self.commit_images += u32::from(due);
        due
    }
}

/// What the nodes that run say of themselves, by server.
pub fn running() -> BTreeMap<u32, NodeMetrics> {
    VIEW.with_borrow(|view| view.nodes.iter().map(|(server, seen)| (*server, seen.metrics.clone())).collect())
}

/// The server whose node leads in the highest term, as far as is known.
fn leader() -> Option<u32> {
    VIEW.with_borrow(|view| {
        let leaders = view.nodes.iter().filter(|(_, seen)| seen.metrics.role == Role::Leader);
        leaders.max_by_key(|(_, seen)| seen.metrics.term).map(|(server, _)| *server)
    })
}

/// Why the cluster has not converged; `None` when it has. Nodes on the `lost` servers may lead, but need not agree.
fn apart(servers: usize, lost: &BTreeSet<u32>) -> Option<String> {
    VIEW.with_borrow(|view| {
        let running: Vec<&NodeMetrics> = view.nodes.values().map(|seen| &seen.metrics).collect();
        // Machines without an identity have no part in it.
        let servers = machines::identified(servers);
        let core: Vec<&NodeMetrics> =
            view.nodes.iter().filter(|(server, _)| !lost.contains(server)).map(|(_, seen)| &seen.metrics).collect();
        if core.len() + lost.len() < servers {
            return Some(format!("only {} of {} nodes run", core.len(), servers - lost.len()));
        }
        let leaders: Vec<_> = running.iter().filter(|metrics| metrics.role == Role::Leader).collect();
        let [leader] = leaders.as_slice() else {
            return Some(format!("{} nodes lead", leaders.len()));
        };
        for metrics in core {
            if metrics.leader != Some(leader.node) || metrics.term != leader.term {
                return Some(format!("node {} does not follow node {}", metrics.node, leader.node));
            }
            if metrics.last_log_index != leader.last_log_index {
                return Some(format!(
                    "node {} has its log up to {:?}, the leader up to {:?}",
                    metrics.node, metrics.last_log_index, leader.last_log_index
                ));
            }
            if metrics.applied.map(|id| id.index) != leader.last_log_index {
                return Some(format!(
                    "node {} has applied up to {:?}, the log ends at {:?}",
                    metrics.node, metrics.applied, leader.last_log_index
                ));
            }
        }
        None
    })
}

/// Whether, without this server, a quorum is left of every configuration that a running node knows. Its node votes in all.
fn leaves_a_quorum(server: u32) -> bool {
    let Some(node) = machines::node_on(server) else { return false };
    VIEW.with_borrow(|view| {
        let views = view.nodes.values().flat_map(|seen| [&seen.metrics.membership, &seen.metrics.committed_membership]);
        let mut sets = views.flat_map(|membership| &membership.voters).peekable();
        sets.peek().is_some() && sets.all(|voters| voters.contains(&node) && machines::survives(voters, node))
    })
}

/// How much there is of the snapshots that servers are about to receive, in bytes.
fn bytes_received(servers: &[HostId]) -> u64 {
    let files = servers.iter().flat_map(|host| Disk::of(*host).file_states());
    files.filter(|file| file.path.contains("/incoming-")).map(|file| file.len_bytes).sum()
}

/// How far the node is that is the farthest behind: entries in its log, and those it has applied.
fn held_by_the_last(lost: &BTreeSet<u32>) -> u64 {
    VIEW.with_borrow(|view| {
        let core = view.nodes.iter().filter(|(server, _)| !lost.contains(server));
        let held = core.map(|(_, seen)| {
            let applied = seen.metrics.applied.map_or(0, |id| id.index);
            seen.metrics.last_log_index.unwrap_or(0) + applied
        });
        held.min().unwrap_or(0)
    })
}

/// Why the operator is not done, if there is one.
fn untended() -> Option<String> {
    machines::is_tended().then(|| format!("the operator is not done: {}", machines::operator_said()))
}

/// Looks at the disk of a server that has promised something.
pub fn look_at_promise(server: u32, host: HostId) {
    emit_image(server, host, 0, ImageReason::Promise);
}

/// Looks at a disk whose log is being truncated: soon after, when the tail must be gone, and while new entries take its
/// place.
pub fn look_at_truncation(host: HostId, boot: u32, node: NodeId) {
    for after_ns in TRUNCATION_LOOKS_NS {
        world::at(world::now_ns() + after_ns, move || emit_image_of(node, host, boot, ImageReason::Truncation));
    }
}

/// Decodes what a server's disk holds durably now and shows it to the oracles.
fn emit_image(server: u32, host: HostId, boot: u32, reason: ImageReason) {
    if let Some(node) = machines::node_on(server) {
        emit_image_of(node, host, boot, reason);
    }
}

/// Measures what a node keeps, and tells the oracles.
fn emit_usage(server: u32, seen: &Seen) {
    let Some(node) = machines::node_on(server) else { return };
    let last_index = seen.metrics.last_log_index.unwrap_or(0);
    // What is not applied yet cannot be compacted: a learner that catches up may hold all there ever was.
    let applied = seen.metrics.applied.map_or(0, |id| id.index);
    let log_entries = applied.saturating_sub(seen.metrics.purged.map_or(0, |id| id.index));
    let files = Disk::of(seen.host).file_states();
    let disk_bytes = files.iter().map(|file| file.len_bytes).sum();
    let snapshots = files.iter().filter(|file| file.path.contains("/snapshot-")).count();
    let snapshots = u64::try_from(snapshots).unwrap_or(u64::MAX);
    let compacted_at = VIEW.with_borrow_mut(|view| {
        view.log_entries_max = view.log_entries_max.max(log_entries);
        view.disk_bytes_max = view.disk_bytes_max.max(disk_bytes);
        view.compacted_at
    });
    let usage = Usage { log_entries, last_index, compacted_at, disk_bytes, snapshots };
    run::emit_about(seen.host, seen.boot, Event::Usage { node, usage });
}

fn emit_image_of(node: NodeId, host: HostId, boot: u32, reason: ImageReason) {
    let image = image_of(&Disk::of(host));
    run::emit_about(host, boot, Event::Image { node, image: Box::new(image), reason });
}

/// What a disk would hold if its power failed now.
pub(crate) fn image_of(disk: &Disk) -> DurableImage {
    image::decode(&image::DurableFiles::new(disk), &PathBuf::from(config::DATA_DIR))
}

/// Of that, what is in the log.
pub(crate) fn log_image_of(disk: &Disk) -> DurableImage {
    image::decode_log(&image::DurableFiles::new(disk), &PathBuf::from(config::DATA_DIR))
}

/// While something arrives convergence may take so many times its bound: the smallest chunks a run draws make hundreds of
/// calls of a snapshot, each as long as the slowest link.
const TRANSFERS_TIMES_BOUND: u64 = 5;
/// A node that was taken out of the cluster runs on for so long at most.
const LINGER_NS_MAX: u64 = 2_000_000_000;
/// How long one wait for a node's recovery takes.
const RECOVERY_WATCH: Duration = Duration::from_secs(1);
/// How often waiting code looks again.
const POLL: Duration = Duration::from_millis(20);
/// When a truncated log is looked at, after the truncation.
const TRUNCATION_LOOKS_NS: [u64; 4] = [1_000_000, 5_000_000, 20_000_000, 60_000_000];
/// Images at commits per run.
const COMMIT_IMAGES_MAX: u32 = 12;
/// What a node keeps is measured once in so many commits.
const USAGE_EVERY: u64 = 500;
/// One commit in so many is looked at.
const COMMIT_IMAGE_ONE_IN: u64 = 23;
