//! Faults that only the system under test can carry out, because they speak its language.

use serde::{Deserialize, Serialize};

use super::Draws;
use crate::world::Nanos;

/// For a while the system does as its family says; see [`System::misbehave`](crate::engine::System::misbehave).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SystemFault {
    /// As in specs, with [`MARK`] in it.
    pub family: String,
    /// In the unit of the family.
    pub strength: u64,
    pub for_ns: Nanos,
}

/// Families of a system under test have this in their name, and nobody else's do.
pub const MARK: char = '/';

pub(super) fn draw(family: &str, draws: &mut Draws<'_>) -> Option<SystemFault> {
    family.contains(MARK).then(|| SystemFault {
        family: family.to_owned(),
        strength: draws.strength,
        for_ns: draws.for_ns,
    })
}
