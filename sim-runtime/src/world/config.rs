//! What a world is told before it starts. The default is quiet: no holds, no loss, nothing injected.

use super::Nanos;
use super::network::NetworkConfig;

/// Which ready task runs next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The one with the smallest hash of (seed, task, its wake count): uniform, and unmoved by the removal of a task.
    #[default]
    Uniform,
    /// The one that has been ready longest.
    Fifo,
    /// Probabilistic concurrency testing: each task draws a priority, the highest runs, and at `depth` drawn points the
    /// running task falls below all others (Burckhardt et al., ASPLOS 2010).
    Pct { depth: u32 },
}

/// What a simulation draws from, what it injects, and when it gives up.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    pub seed: u64,
    pub order: Order,
    /// Polls among which the change points of [`Order::Pct`] are drawn.
    pub pct_polls: u64,
    /// Probability, per wake, that a ready task is held while virtual time advances.
    pub hold_probability_ppm: u32,
    /// Longest hold, in ns.
    pub hold_ns_max: Nanos,
    /// Virtual time, in ns, at which the run is given up.
    pub time_budget: Nanos,
    /// Number of events at which the run is given up.
    pub event_budget: u64,
    /// Polls at one virtual instant at which the run counts as a livelock.
    pub polls_per_instant_max: u64,
    /// A checkpoint of the digest every `2^k` events.
    pub checkpoint_every_log2: u8,
    /// Events (first, past the last) to keep in the trace, with their notes.
    pub window: Option<(u64, u64)>,
    /// How many of the last events the trace keeps besides the window.
    pub ring: usize,
    /// Keeps notes outside the window too. Rendering them costs more than most events do.
    pub notes: bool,
    /// Halts the run on a panic whose result no join handle takes. The panic is recorded in any case.
    pub halt_on_panic: bool,
    /// Wall clock of every host at virtual time 0, in ns since the Unix epoch.
    pub wall_epoch_ns: Nanos,
    pub network: NetworkConfig,
}

impl Default for WorldConfig {
    fn default() -> WorldConfig {
        WorldConfig {
            seed: 0,
            order: Order::Uniform,
            pct_polls: 1_000_000,
            hold_probability_ppm: 0,
            hold_ns_max: 0,
            time_budget: 24 * 3_600 * 1_000_000_000,
            event_budget: 1_000_000_000,
            polls_per_instant_max: 1_000_000,
            checkpoint_every_log2: 10,
            window: None,
            ring: 256,
            notes: false,
            halt_on_panic: true,
            // 2024-01-01T00:00:00Z
            wall_epoch_ns: 1_704_067_200_000_000_000,
            network: NetworkConfig::default(),
        }
    }
}

impl WorldConfig {
    /// The quiet default with this seed.
    pub fn seeded(seed: u64) -> WorldConfig {
        WorldConfig { seed, ..WorldConfig::default() }
    }
}
