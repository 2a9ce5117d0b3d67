//! What happens to the clocks of a server.
//!
//! The monotonic clock gains or loses, but never goes back; the wall clock jumps either way or stands still. Timers are
//! measured by the monotonic clock.

use serde::{Deserialize, Serialize};

use super::Draws;
use crate::engine::spec::Range;
use crate::world::Nanos;

/// A clock of the target is off for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClockFault {
    pub target: String,
    pub change: ClockChange,
    pub for_ns: Nanos,
}

/// How it is off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockChange {
    /// The wall clock jumps by so much; afterwards it is set right, by a jump the other way.
    Step { by_ns: i64 },
    /// The wall clock stands still; afterwards it jumps to the right time.
    Freeze,
    /// The monotonic clock, and the wall clock with it, gains so many microseconds per second.
    Rate { ppm: i64 },
}

impl ClockChange {
    pub fn family(&self) -> &'static str {
        match self {
            ClockChange::Step { by_ns } if *by_ns < 0 => "clock-back",
            ClockChange::Step { .. } => "clock-step",
            ClockChange::Freeze => "clock-freeze",
            ClockChange::Rate { .. } => "clock-rate",
        }
    }
}

/// Families, as in specs.
pub const FAMILIES: &[&str] = &["clock-step", "clock-back", "clock-freeze", "clock-rate"];

/// Strengths: ms of a step, ppm of a rate.
pub(super) fn draw(family: &str, draws: &mut Draws<'_>) -> Option<ClockFault> {
    let strength = i64::try_from(draws.strength).unwrap_or(i64::MAX);
    let by_ns = strength.saturating_mul(1_000_000);
    let change = match family {
        "clock-step" => ClockChange::Step { by_ns },
        "clock-back" => ClockChange::Step { by_ns: -by_ns.max(1) },
        "clock-freeze" => ClockChange::Freeze,
        "clock-rate" => ClockChange::Rate { ppm: if draws.stream.below(2) == 0 { strength } else { -strength } },
        _ => return None,
    };
    Some(ClockFault { target: draws.target(), change, for_ns: draws.for_ns })
}

pub(super) fn strength_default(family: &str) -> Option<Range> {
    match family {
        "clock-step" | "clock-back" => Some([100, 3_600_000]),
        "clock-rate" => Some([100, 200_000]),
        _ => None,
    }
}
