//! What a simulated node and client are configured with.
//!
//! The tunables are those of the product, under the names `raft.*`, `store.*`, `limits.*` and `client.*`. Some have other
//! defaults here: a snapshot every 5000 entries is right for an operator, and never happens in 20 simulated seconds.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use aspen::client::{ClientConfig, ClientTuning};
use aspen::config::RaftTuning;
use aspen::message::ClusterId;
use aspen::node::NodeConfig;
use aspen::store::StoreConfig;
use aspen::types::NodeId;
use sim_runtime::disk::Role;
use sim_runtime::engine::{Knob, Server};
use sim_runtime::world::draws::Dice;

use crate::event::Event;
use crate::transport;

/// Where a node keeps its data on its own disk.
pub const DATA_DIR: &str = "/data";

const CLUSTER: ClusterId = ClusterId(0xa5_9e17);

/// Defaults that differ from the product's.
const DEFAULTS: &[(&str, i64)] = &[
    ("raft.snapshot_entries", 80),
    ("raft.log_keep_entries", 10),
    ("raft.lag_entries", 100),
    ("client.deadline_ms", 2500),
    ("client.attempt_ms", 600),
];

/// Tunables of the stores and limits; the product's own tables have the others.
const STORE_KNOBS: &[Knob] = &[
    Knob { name: "store.cache_bytes", about: "log tail in memory", default: 8 << 20, extremes: &[0, 300, 20_000] },
    Knob { name: "store.flush_batch_entries_max", about: "entries per commit", default: 4096, extremes: &[1, 2] },
    Knob { name: "store.flush_batch_bytes_max", about: "bytes per commit", default: 8 << 20, extremes: &[1, 2000] },
    Knob { name: "store.queue_operations_max", about: "waiting log operations", default: 1024, extremes: &[1, 4] },
    Knob { name: "store.committed_idle_ms", about: "idle time before saving", default: 1000, extremes: &[10, 60_000] },
    Knob { name: "store.committed_lag_max", about: "entries before saving", default: 64, extremes: &[1, 8, 100_000] },
    Knob { name: "store.checkpoint_pages", about: "4 KiB pages of WAL", default: 1000, extremes: &[1, 8, 100_000] },
    Knob { name: "store.snapshot_step_rows", about: "rows per step", default: 1000, extremes: &[1, 3] },
    Knob { name: "store.snapshot_step_bytes", about: "bytes per step", default: 1 << 20, extremes: &[1, 500] },
    Knob { name: "store.apply_batch_entries_max", about: "entries per apply", default: 1000, extremes: &[1, 3] },
    Knob { name: "store.apply_batch_bytes_max", about: "bytes per apply", default: 4 << 20, extremes: &[1, 1000] },
    Knob { name: "store.scan_bytes_max", about: "bytes per answer to a scan", default: 4 << 20, extremes: &[0, 300] },
    Knob {
        name: "limits.replication_batch_bytes_max",
        about: "bytes per append",
        default: 4 << 20,
        extremes: &[500, 8000],
    },
    Knob { name: "limits.snapshot_chunk_bytes", about: "chunk on the wire", default: 1 << 20, extremes: &[1000, 8000] },
    Knob { name: "limits.proposals_in_flight_max", about: "admission", default: 1000, extremes: &[2, 5] },
];

/// Tunables of the cluster as a whole.
const CLUSTER_KNOBS: &[Knob] =
    &[Knob { name: "cluster.spares", about: "machines that do not found it", default: 0, extremes: &[] }];

/// Every tunable of a simulated cluster.
pub fn knobs() -> &'static [Knob] {
    static KNOBS: OnceLock<Vec<Knob>> = OnceLock::new();
    KNOBS.get_or_init(|| {
        let raft =
            RaftTuning::KNOBS.iter().map(|knob| product("raft", knob.name, knob.about, knob.default, knob.extremes));
        let client = ClientTuning::KNOBS
            .iter()
            .map(|knob| product("client", knob.name, knob.about, knob.default, knob.extremes));
        raft.chain(client).chain(STORE_KNOBS.iter().chain(CLUSTER_KNOBS).copied()).collect()
    })
}

/// A tunable of the product under its name here. Made once per process.
fn product(family: &str, name: &str, about: &'static str, default: u64, extremes: &[u64]) -> Knob {
    let name: &'static str = Box::leak(format!("{family}.{name}").into_boxed_str());
    let signed = |value: u64| i64::try_from(value).expect("tunables are small");
    let default = DEFAULTS.iter().find(|(of, _)| *of == name).map_or(signed(default), |(_, value)| *value);
    let extremes: Vec<i64> = extremes.iter().map(|value| signed(*value)).collect();
    Knob { name, about, default, extremes: Box::leak(extremes.into_boxed_slice()) }
}

/// How many servers, the first ones, found the cluster: all but the spares, and one at least.
pub fn founders(servers: u32, knob: impl Fn(&str) -> i64) -> u32 {
    let spares = u32::try_from(knob("cluster.spares")).expect("tunables are not negative");
    servers.saturating_sub(spares).max(1)
}

/// The configuration of one boot of a node.
pub fn node_config(server: &Server<Event>, id: NodeId) -> NodeConfig {
    let size = |name: &str| usize::try_from(server.knob(name)).expect("tunables are sizes");
    let number = |name: &str| u64::try_from(server.knob(name)).expect("tunables are not negative");
    let mut store = StoreConfig {
        cache_bytes: size("store.cache_bytes"),
        flush_batch_entries_max: size("store.flush_batch_entries_max"),
        flush_batch_bytes_max: size("store.flush_batch_bytes_max"),
        queue_operations_max: size("store.queue_operations_max"),
        committed_idle: Duration::from_millis(number("store.committed_idle_ms")),
        committed_lag_entries_max: number("store.committed_lag_max"),
        checkpoint_pages: u32::try_from(number("store.checkpoint_pages")).expect("a small number"),
        snapshot_step_rows: size("store.snapshot_step_rows"),
        snapshot_step_bytes: size("store.snapshot_step_bytes"),
        apply_batch_entries_max: size("store.apply_batch_entries_max"),
        apply_batch_bytes_max: size("store.apply_batch_bytes_max"),
        scan_bytes_max: size("store.scan_bytes_max"),
        ..StoreConfig::default()
    };
    store.limits.snapshot_chunk_bytes = size("limits.snapshot_chunk_bytes");
    store.limits.replication_batch_bytes_max = size("limits.replication_batch_bytes_max");
    store.limits.proposals_in_flight_max = size("limits.proposals_in_flight_max");
    NodeConfig {
        id,
        cluster: CLUSTER,
        address: transport::address(server.host),
        data_dir: PathBuf::from(DATA_DIR),
        raft: raft_tuning(number),
        store,
    }
}

/// Each extreme is valid with the defaults, but not all of them together: one that does not fit those before it is left
/// out.
fn raft_tuning(number: impl Fn(&str) -> u64) -> RaftTuning {
    let mut tuning = RaftTuning::default();
    for knob in RaftTuning::KNOBS {
        let mut changed = tuning.clone();
        knob.set(&mut changed, number(&format!("raft.{}", knob.name)));
        if changed.validate().is_ok() {
            tuning = changed;
        }
    }
    tuning
}

/// The configuration of a client. `patient` ones outlast any disturbance.
pub fn client_config(knob: impl Fn(&str) -> i64, client: u32, session: bool, patient: bool) -> ClientConfig {
    let mut tuning = ClientTuning::default();
    for known in ClientTuning::KNOBS {
        let value = knob(&format!("client.{}", known.name));
        known.set(&mut tuning, u64::try_from(value).expect("tunables are not negative"));
    }
    // Clients of one run differ in patience: between half and twice the drawn deadline.
    let percent = Dice::new(u64::from(client)).range(50, 200);
    tuning.deadline_ms = (tuning.deadline_ms * percent / 100).max(tuning.attempt_ms / 2).clamp(100, PATIENCE_MS_MAX);
    if patient {
        tuning.deadline_ms = PATIENCE_MS_MAX;
        tuning.attempt_ms = 1000;
    }
    ClientConfig { cluster: CLUSTER, tuning, session }
}

/// Every operation ends within the calm phase of every spec, 30 s at least: one that does not, hangs.
const PATIENCE_MS_MAX: u64 = 15_000;

/// What a node's file is for.
pub fn file_role(path: &str) -> Role {
    let name = path.rsplit('/').next().unwrap_or(path);
    if name.starts_with("log.") {
        Role::Log
    } else if name.starts_with("state") {
        Role::State
    } else if name.contains("snapshot") || name.starts_with("incoming") {
        Role::Snapshot
    } else {
        Role::Other
    }
}
