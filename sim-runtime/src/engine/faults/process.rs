//! What happens to processes, beyond dying once.

use serde::{Deserialize, Serialize};

use super::Draws;
use crate::world::Nanos;

/// See the variants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessFault {
    /// The process stands still, as under `SIGSTOP` or while its virtual machine is moved: its clock goes on, what it is
    /// sent piles up.
    Pause { target: String, for_ns: Nanos },
    /// The process gets too little of its processor: each of its tasks, when woken, waits with this chance, in
    /// millionths, up to so long.
    Slow { target: String, ppm: u32, ns_max: Nanos, for_ns: Nanos },
    /// Servers are killed again and again, any one at drawn intervals of this mean, two thirds by a crash and one third
    /// by a loss of power.
    Attrition { mean_ns: Nanos, down_ns: Nanos, for_ns: Nanos },
    /// Every server is stopped in order and started again, one after the other, `gap_ns` apart: an upgrade.
    RollingRestart { down_ns: Nanos, gap_ns: Nanos },
    /// The machine loses its disk and everything on it. It boots with an empty one after `down_ns` and waits until an
    /// operator gives it a new identity. Does nothing when too many are lost already.
    Wipe { target: String, down_ns: Nanos },
}

impl ProcessFault {
    pub fn family(&self) -> &'static str {
        match self {
            ProcessFault::Pause { .. } => "pause",
            ProcessFault::Slow { .. } => "slow",
            ProcessFault::Attrition { .. } => "attrition",
            ProcessFault::RollingRestart { .. } => "rolling-restart",
            ProcessFault::Wipe { .. } => "wipe",
        }
    }

    pub(in crate::engine) fn target(&self) -> Option<&str> {
        match self {
            ProcessFault::Pause { target, .. }
            | ProcessFault::Slow { target, .. }
            | ProcessFault::Wipe { target, .. } => Some(target),
            ProcessFault::Attrition { .. } | ProcessFault::RollingRestart { .. } => None,
        }
    }

    pub(in crate::engine) fn target_mut(&mut self) -> Option<&mut String> {
        match self {
            ProcessFault::Pause { target, .. }
            | ProcessFault::Slow { target, .. }
            | ProcessFault::Wipe { target, .. } => Some(target),
            ProcessFault::Attrition { .. } | ProcessFault::RollingRestart { .. } => None,
        }
    }
}

/// Families, as in specs.
pub const FAMILIES: &[&str] = &["pause", "slow", "attrition", "rolling-restart", "wipe"];

pub(super) fn draw(family: &str, draws: &mut Draws<'_>) -> Option<ProcessFault> {
    let for_ns = draws.for_ns;
    Some(match family {
        "pause" => ProcessFault::Pause { target: draws.target(), for_ns },
        "slow" => ProcessFault::Slow {
            target: draws.target(),
            ppm: 50_000 + draws.below(450_000),
            ns_max: 1_000_000 + draws.stream.below(SLOW_NS_MAX),
            for_ns,
        },
        "attrition" => ProcessFault::Attrition {
            mean_ns: 500_000_000 + draws.stream.below(2_500_000_000),
            down_ns: 10_000_000 + draws.stream.below(1_000_000_000),
            for_ns,
        },
        "rolling-restart" => {
            ProcessFault::RollingRestart { down_ns: for_ns, gap_ns: 100_000_000 + draws.stream.below(1_500_000_000) }
        }
        "wipe" => ProcessFault::Wipe { target: draws.target(), down_ns: for_ns },
        _ => return None,
    })
}

/// A task of a slow process waits at most so long: the time slice of a few hungry neighbours.
const SLOW_NS_MAX: Nanos = 40_000_000;
