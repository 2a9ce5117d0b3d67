//! What happens to messages between hosts, beyond loss and latency.

use serde::{Deserialize, Serialize};

use super::{Draws, flapping_shape};
use crate::engine::plan::PartitionShape;
use crate::engine::spec::Range;
use crate::world::Nanos;
use crate::world::network::{NetworkConfig, NetworkCounts};

/// See the variants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkFault {
    /// Links behave otherwise for a while.
    Weather { effect: Effect, scope: Scope, for_ns: Nanos },
    /// A partition comes and goes: there for `down_ns`, gone for `up_ns`, and again.
    Flap { shape: PartitionShape, down_ns: Nanos, up_ns: Nanos, for_ns: Nanos },
    /// What the target sends and is sent waits until the end.
    Clog { target: String, for_ns: Nanos },
    /// A drawn set of servers is clogged one after the other, and unclogged in another order (FoundationDB's "swizzle").
    Swizzle { for_ns: Nanos },
}

/// A change of how messages travel. Probabilities per message, in millionths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    Loss {
        ppm: u32,
    },
    Latency {
        extra_ns: Nanos,
    },
    /// A second copy arrives.
    Duplicate {
        ppm: u32,
    },
    /// A message is held back, so that later ones overtake it.
    Reorder {
        ppm: u32,
        ns_max: Nanos,
    },
    /// One bit flips.
    Corrupt {
        ppm: u32,
    },
    Bandwidth {
        bytes_per_s: u64,
    },
    /// The message is refused as if nobody listened.
    Refuse {
        ppm: u32,
    },
    /// The message arrives, but its connection breaks.
    Reset {
        ppm: u32,
    },
    /// Messages are swallowed.
    Hang,
    /// As [`Effect::Hang`], in one direction: one end believes in the connection, the other has forgotten it.
    HalfOpen,
    /// A link that was idle for so long is dead when it is needed.
    IdleDead {
        idle_ns: Nanos,
    },
    /// Always slow.
    Slow {
        extra_ns: Nanos,
    },
}

/// The links that a weather is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    All,
    /// All links to and from one server, clients' too.
    Server {
        target: String,
    },
    /// Both directions between two servers.
    Pair {
        a: u32,
        b: u32,
    },
    OneWay {
        from: u32,
        to: u32,
    },
}

impl Effect {
    pub fn family(&self) -> &'static str {
        match self {
            Effect::Loss { .. } => "loss",
            Effect::Latency { .. } => "latency",
            Effect::Duplicate { .. } => "duplicate",
            Effect::Reorder { .. } => "reorder",
            Effect::Corrupt { .. } => "corrupt",
            Effect::Bandwidth { .. } => "bandwidth",
            Effect::Refuse { .. } => "refused",
            Effect::Reset { .. } => "reset",
            Effect::Hang => "hung",
            Effect::HalfOpen => "half-open",
            Effect::IdleDead { .. } => "idle-dead",
            Effect::Slow { .. } => "slow-pair",
        }
    }

    /// Adds this effect to what a link does already.
    pub fn change(&self, config: &mut NetworkConfig) {
        let sum = |one: u32, other: u32| one.saturating_add(other).min(1_000_000);
        match *self {
            Effect::Loss { ppm } => config.loss_ppm = sum(config.loss_ppm, ppm),
            Effect::Latency { extra_ns } => config.latency_ns = config.latency_ns.saturating_add(extra_ns),
            Effect::Duplicate { ppm } => config.duplicate_ppm = sum(config.duplicate_ppm, ppm),
            Effect::Reorder { ppm, ns_max } => {
                config.reorder_ppm = sum(config.reorder_ppm, ppm);
                config.reorder_ns_max = config.reorder_ns_max.max(ns_max);
            }
            Effect::Corrupt { ppm } => config.corrupt_ppm = sum(config.corrupt_ppm, ppm),
            Effect::Bandwidth { bytes_per_s } => {
                config.bytes_per_s =
                    if config.bytes_per_s == 0 { bytes_per_s } else { config.bytes_per_s.min(bytes_per_s) };
            }
            Effect::Refuse { ppm } => config.refuse_ppm = sum(config.refuse_ppm, ppm),
            Effect::Reset { ppm } => config.reset_ppm = sum(config.reset_ppm, ppm),
            Effect::Hang | Effect::HalfOpen => config.hangs = true,
            Effect::IdleDead { idle_ns } => {
                config.idle_dead_ns = if config.idle_dead_ns == 0 { idle_ns } else { config.idle_dead_ns.min(idle_ns) };
            }
            Effect::Slow { extra_ns } => config.slow_ns = config.slow_ns.saturating_add(extra_ns),
        }
    }

    /// The observable that shows that the effect was felt.
    pub fn felt(&self, counts: &NetworkCounts) -> u64 {
        match self {
            Effect::Loss { .. } => counts.lost,
            Effect::Latency { .. } => counts.delivered,
            Effect::Duplicate { .. } => counts.duplicates_delivered,
            Effect::Reorder { .. } => counts.overtaken,
            Effect::Corrupt { .. } => counts.damage_found,
            Effect::Bandwidth { .. } => counts.queued + counts.queue_drops,
            Effect::Refuse { .. } => counts.refused_by_fault,
            Effect::Reset { .. } => counts.resets,
            Effect::Hang | Effect::HalfOpen => counts.hung,
            Effect::IdleDead { .. } => counts.idle_drops,
            Effect::Slow { .. } => counts.slow_delivered,
        }
    }
}

impl LinkFault {
    pub fn family(&self) -> &'static str {
        match self {
            LinkFault::Weather { effect, .. } => effect.family(),
            LinkFault::Flap { .. } => "flapping",
            LinkFault::Clog { .. } => "clog",
            LinkFault::Swizzle { .. } => "swizzle",
        }
    }

    pub(in crate::engine) fn target(&self) -> Option<&str> {
        match self {
            LinkFault::Weather { scope: Scope::Server { target }, .. } | LinkFault::Clog { target, .. } => Some(target),
            _ => None,
        }
    }

    pub(in crate::engine) fn target_mut(&mut self) -> Option<&mut String> {
        match self {
            LinkFault::Weather { scope: Scope::Server { target }, .. } | LinkFault::Clog { target, .. } => Some(target),
            _ => None,
        }
    }
}

/// Families, as in specs.
pub const FAMILIES: &[&str] = &[
    "duplicate",
    "reorder",
    "corrupt",
    "bandwidth",
    "refused",
    "reset",
    "hung",
    "half-open",
    "idle-dead",
    "flapping",
    "clog",
    "swizzle",
];

/// Strengths: ppm, but ms of the longest hold for `reorder`, KiB per second for `bandwidth`, ms of idleness for
/// `idle-dead`.
pub(super) fn draw(family: &str, draws: &mut Draws<'_>) -> Option<LinkFault> {
    let (for_ns, strength) = (draws.for_ns, draws.strength);
    let ppm = u32::try_from(strength).unwrap_or(u32::MAX).min(1_000_000);
    let effect = match family {
        "duplicate" => Effect::Duplicate { ppm },
        "reorder" => Effect::Reorder { ppm: 20_000 + draws.below(400_000), ns_max: strength * 1_000_000 },
        "corrupt" => Effect::Corrupt { ppm },
        "bandwidth" => Effect::Bandwidth { bytes_per_s: strength.max(1) * 1024 },
        "refused" => Effect::Refuse { ppm },
        "reset" => Effect::Reset { ppm },
        "hung" => Effect::Hang,
        "half-open" => Effect::HalfOpen,
        "idle-dead" => Effect::IdleDead { idle_ns: strength.max(1) * 1_000_000 },
        "flapping" => {
            let (target, kind) = (draws.target(), draws.stream.below(3));
            let shape = flapping_shape(target, kind);
            let down_ns = 20_000_000 + draws.stream.below(1_500_000_000);
            let up_ns = 20_000_000 + draws.stream.below(1_500_000_000);
            return Some(LinkFault::Flap { shape, down_ns, up_ns, for_ns });
        }
        "clog" => return Some(LinkFault::Clog { target: draws.target(), for_ns }),
        "swizzle" => return Some(LinkFault::Swizzle { for_ns }),
        _ => return None,
    };
    let scope = scope(&effect, draws);
    Some(LinkFault::Weather { effect, scope, for_ns })
}

/// Connections hang between two hosts; the rest may be everywhere.
fn scope(effect: &Effect, draws: &mut Draws<'_>) -> Scope {
    let (a, b) = draws.pair();
    let target = draws.target();
    match (effect, draws.stream.below(4)) {
        (Effect::HalfOpen, _) => Scope::OneWay { from: a, to: b },
        (Effect::Hang, 0) => Scope::Server { target },
        (Effect::Hang, _) => Scope::Pair { a, b },
        (_, 0) => Scope::Server { target },
        (_, 1) => Scope::Pair { a, b },
        _ => Scope::All,
    }
}

pub(super) fn strength_default(family: &str) -> Option<Range> {
    match family {
        "loss" => Some([100_000, 400_000]),
        "latency" => Some([5_000, 50_000]),
        "duplicate" | "corrupt" | "refused" | "reset" => Some([10_000, 300_000]),
        "reorder" => Some([5, 300]),
        "bandwidth" => Some([16, 1024]),
        "idle-dead" => Some([20, 400]),
        _ => None,
    }
}
