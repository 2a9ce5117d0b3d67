//! Fault families that need more than a line: what each does, as it stands in a plan, and how it is drawn.
//!
//! - [`process`]: what happens to processes; [`clock`]: to their clocks; [`link`]: to the messages between them
//! - [`system`]: faults that only the system under test can carry out
//!
//! The nemesis carries them out. Targets are roles, as in [`Fault`].
pub mod clock;
pub mod link;
pub mod process;
pub mod system;

use super::plan::{Fault, PartitionShape};
use super::spec::Range;
use crate::world::Nanos;
use crate::world::draws::Stream;

/// What a family is drawn from.
pub(super) struct Draws<'a> {
    pub stream: &'a mut Stream,
    pub servers: u32,
    pub for_ns: Nanos,
    /// In the unit of the family.
    pub strength: u64,
    /// Draws a role.
    pub target: &'a mut dyn FnMut(&mut Stream) -> String,
}

impl Draws<'_> {
    fn target(&mut self) -> String {
        (self.target)(self.stream)
    }

    /// Two different servers; the same one twice if there is only one.
    fn pair(&mut self) -> (u32, u32) {
        let first = self.below(self.servers);
        if self.servers < 2 {
            return (first, first);
        }
        let other = self.below(self.servers - 1);
        (first, if other >= first { other + 1 } else { other })
    }

    fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.stream.below(u64::from(bound.max(1)))).expect("below a u32")
    }
}

/// Draws a fault of one of the families here; `None` for another's.
pub(super) fn draw(family: &str, mut draws: Draws<'_>) -> Option<Fault> {
    process::draw(family, &mut draws)
        .map(Fault::Process)
        .or_else(|| clock::draw(family, &mut draws).map(Fault::Clock))
        .or_else(|| link::draw(family, &mut draws).map(Fault::Link))
        .or_else(|| system::draw(family, &mut draws).map(Fault::System))
}

/// A strength that is felt, for specs that name none.
pub(super) fn strength_default(family: &str) -> Range {
    clock::strength_default(family).or_else(|| link::strength_default(family)).unwrap_or([0, 0])
}

/// A shape that flaps: anything but a bridge or a ring, which are shapes of a standing network.
pub(super) fn flapping_shape(target: String, inbound: u64) -> PartitionShape {
    match inbound {
        0 => PartitionShape::Isolate { target, clients: false },
        other => PartitionShape::OneWay { target, inbound: other == 1 },
    }
}
