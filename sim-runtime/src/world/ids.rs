//! Names of things: plain, ordered, and the same in every run of a seed.

use serde::{Deserialize, Serialize};

/// Nanoseconds: virtual time since the start of the run, or a duration of it.
pub type Nanos = u64;

/// A machine. Servers and client machines alike are hosts; 0 is the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostId(pub u32);

impl HostId {
    /// The outside: where the run's main future and the engine live.
    pub const DRIVER: HostId = HostId(0);
}

/// One life of a host, from boot to death. Boots count from 1; the outside is boot 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation {
    pub host: HostId,
    pub boot: u32,
}

impl Incarnation {
    pub const DRIVER: Incarnation = Incarnation { host: HostId::DRIVER, boot: 0 };
}
