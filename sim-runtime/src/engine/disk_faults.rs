//! What happens to the disk of a server, beyond one error: as it stands in a plan, and how it is drawn.
//!
//! Damage costs the whole server: openraft has no protocol-aware recovery, so a store that finds one bad sector stops for
//! good. The nemesis therefore keeps a budget: servers that are damaged, wiped or lost never exceed what the system under
//! test can lose ([`System::losses_max`](super::system::System::losses_max)). The family `store-lost-beyond` ignores the
//! budget on purpose, and draws only losses that a server cannot fail to notice.

use serde::{Deserialize, Serialize};

use crate::disk::{Damage, Role};
use crate::world::Nanos;
use crate::world::draws::Stream;

/// See the variants. A target is a role, as in [`Fault`](super::plan::Fault).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskFault {
    /// The disk has so many bytes left. That changes `moves` times on the way, up and down, as other tenants come and go.
    Full { target: String, slack_bytes: u64, moves: u64, for_ns: Nanos },
    /// No sync of a role's files completes, everything else does: a drive that tries again and again, a journal that is busy.
    SyncHang { target: String, role: Role, for_ns: Nanos },
    /// Cold sectors of a role's files go bad. It shows when the machine is started again: `after_ns` later it loses power
    /// (or its process dies, if not `power`), for `down_ns`.
    Damage { target: String, damage: Damage, role: Role, sectors: u64, after_ns: Nanos, down_ns: Nanos, power: bool },
    /// The power goes, and again within the `nth` disk operation of the recovery.
    PowerLossTwice { target: String, down_ns: Nanos, nth: u64 },
    /// All that the server stored is gone, or cannot be opened. `beyond`: whether or not the system can bear it.
    StoreLost { target: String, how: Loss, down_ns: Nanos, beyond: bool },
    /// The machine comes back with the disk as it was `age_ns` before: a restored image. Calibration.
    OldImage { target: String, age_ns: Nanos, down_ns: Nanos },
    /// On every server a sync of a log says with this chance, in millionths, that it succeeded, and does nothing. Calibration.
    LyingSync { ppm: u32, for_ns: Nanos },
}

/// How a store is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// An empty disk.
    Gone,
    /// Files of this role begin with noise.
    Unopenable(Role),
}

/// Families, as in specs.
pub const FAMILIES: &[&str] = &[
    "disk-full",
    "sync-hang",
    "latent-sector",
    "bit-rot",
    "lost-write",
    "misdirected-write",
    "power-loss-twice",
    "store-lost",
    "store-lost-beyond",
    "old-image",
    "lying-sync",
];

impl DiskFault {
    pub fn family(&self) -> &'static str {
        match self {
            DiskFault::Full { .. } => "disk-full",
            DiskFault::SyncHang { .. } => "sync-hang",
            DiskFault::Damage { damage, .. } => damage.kind(),
            DiskFault::PowerLossTwice { .. } => "power-loss-twice",
            DiskFault::StoreLost { beyond: false, .. } => "store-lost",
            DiskFault::StoreLost { beyond: true, .. } => "store-lost-beyond",
            DiskFault::OldImage { .. } => "old-image",
            DiskFault::LyingSync { .. } => "lying-sync",
        }
    }

    pub fn target(&self) -> Option<&String> {
        match self {
            DiskFault::Full { target, .. }
            | DiskFault::SyncHang { target, .. }
            | DiskFault::Damage { target, .. }
            | DiskFault::PowerLossTwice { target, .. }
            | DiskFault::StoreLost { target, .. }
            | DiskFault::OldImage { target, .. } => Some(target),
            DiskFault::LyingSync { .. } => None,
        }
    }

    pub fn target_mut(&mut self) -> Option<&mut String> {
        match self {
            DiskFault::Full { target, .. }
            | DiskFault::SyncHang { target, .. }
            | DiskFault::Damage { target, .. }
            | DiskFault::PowerLossTwice { target, .. }
            | DiskFault::StoreLost { target, .. }
            | DiskFault::OldImage { target, .. } => Some(target),
            DiskFault::LyingSync { .. } => None,
        }
    }
}

/// What a family is drawn from.
pub(super) struct Draws<'a> {
    pub stream: &'a mut Stream,
    pub servers: u32,
    /// Which of its family it is in this run, from 0.
    pub nth: u64,
    /// A role that was drawn.
    pub target: String,
    pub for_ns: Nanos,
    /// In the unit of the family: bytes of slack, sectors, ms of age, ppm.
    pub strength: u64,
}

/// Draws a fault of one of the families here; `None` for another's.
pub(super) fn draw(family: &str, draws: Draws<'_>) -> Option<DiskFault> {
    let Draws { stream, servers, nth, target, for_ns, strength } = draws;
    let damage = match family {
        "latent-sector" => Some(Damage::LatentSector),
        "bit-rot" => Some(Damage::BitRot),
        "lost-write" => Some(Damage::LostWrite),
        "misdirected-write" => Some(Damage::MisdirectedWrite),
        _ => None,
    };
    if let Some(damage) = damage {
        let role = [Role::Log, Role::State, Role::State, Role::Snapshot][index(stream, 4)];
        let after_ns = DAMAGE_SHOWS_NS_MIN + stream.below(DAMAGE_SHOWS_NS_MAX - DAMAGE_SHOWS_NS_MIN);
        let power = stream.below(3) > 0;
        return Some(DiskFault::Damage {
            target,
            damage,
            role,
            sectors: strength.max(1),
            after_ns,
            down_ns: for_ns,
            power,
        });
    }
    Some(match family {
        "disk-full" => DiskFault::Full { target, slack_bytes: strength, moves: stream.below(6), for_ns },
        "sync-hang" => {
            let role = [Role::Log, Role::Log, Role::Log, Role::State, Role::Snapshot][index(stream, 5)];
            DiskFault::SyncHang { target, role, for_ns }
        }
        "power-loss-twice" => {
            DiskFault::PowerLossTwice { target, down_ns: for_ns, nth: 1 + stream.below(RECOVERY_OPS_AHEAD_MAX) }
        }
        "store-lost" | "store-lost-beyond" => {
            let how = [Loss::Gone, Loss::Gone, Loss::Unopenable(Role::Log), Loss::Unopenable(Role::State)];
            let how = how[index(stream, how.len())];
            let beyond = family == "store-lost-beyond";
            // Each of them another server, or the loss would not add up.
            let target = if beyond { format!("Server({})", nth % u64::from(servers.max(1))) } else { target };
            DiskFault::StoreLost { target, how, down_ns: for_ns, beyond }
        }
        "lying-sync" => DiskFault::LyingSync { ppm: u32::try_from(strength).unwrap_or(u32::MAX), for_ns },
        "old-image" => DiskFault::OldImage { target, age_ns: strength.saturating_mul(1_000_000), down_ns: for_ns },
        _ => return None,
    })
}

fn index(stream: &mut Stream, len: usize) -> usize {
    usize::try_from(stream.below(len as u64)).expect("below a usize")
}

/// Damage shows so long after it was done: long enough for some commits to follow.
const DAMAGE_SHOWS_NS_MIN: Nanos = 300_000_000;
const DAMAGE_SHOWS_NS_MAX: Nanos = 3_000_000_000;
/// A second power loss comes within one of so many operations of the recovery from the first.
const RECOVERY_OPS_AHEAD_MAX: u64 = 80;
