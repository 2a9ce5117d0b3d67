//! Damage at rest: sectors that were written well, and are bad when somebody reads them again.
//!
//! Only *cold* sectors are damaged: those that did not change during the last [`SYNCS_AFTER_MIN`] syncs. A store that finds
//! its very last commit unreadable cannot tell a drive that lost it from a power loss that tore it, and rightly goes back to
//! the commit before; no checksum helps there, and Raft without protocol-aware recovery cannot either (Alagappan et al.,
//! "Protocol-Aware Recovery for Consensus-Based Storage", FAST 2018, section 2).
//!
//! A running process does not see the damage, since its kernel has the sectors in memory: it shows after the next restart
//! of the machine. So damage is *ordered* at one time, and *done* while the host is down.
//!
//! Pure: images in, sectors out; chance is an argument.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::Role;
use super::device::fault;
use super::image::{Image, SECTOR_BYTES};
use super::names::FileId;
use super::volume::Volume;
use crate::world::Nanos;
use crate::world::draws::Stream;

/// What is wrong with a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// It cannot be read until it is rewritten.
    LatentSector,
    /// One bit of it is flipped, on every read, until it is rewritten.
    BitRot,
    /// It holds what it held before its last write.
    LostWrite,
    /// Its last write went to another sector of the file: this one is as before, that one is overwritten.
    MisdirectedWrite,
}

impl Damage {
    /// As in specs and reports.
    pub fn kind(self) -> &'static str {
        match self {
            Damage::LatentSector => fault::LATENT_SECTOR,
            Damage::BitRot => fault::BIT_ROT,
            Damage::LostWrite => fault::LOST_WRITE,
            Damage::MisdirectedWrite => fault::MISDIRECTED_WRITE,
        }
    }
}

/// Syncs of a file after which a sector that did not change counts as cold: the last commit and the one before it, which a
/// store may fall back to, both rest on it.
pub const SYNCS_AFTER_MIN: u64 = 2;

/// Damage that was ordered.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub damage: Damage,
    pub role: Role,
    pub sectors: u64,
    /// How many syncs belong to the writes that may be lost.
    pub span: u64,
    pub before: Mark,
    pub after: Option<Mark>,
}

/// What was durable at one moment.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub syncs: u64,
    pub images: BTreeMap<FileId, Image>,
}

impl Mark {
    pub fn of(volume: &Volume, role: Role, syncs: u64, at: Nanos) -> Mark {
        Mark { syncs, images: volume.durable_by_role(role, at) }
    }
}

impl Order {
    /// Takes note that `syncs` syncs of files of the role are done.
    pub fn synced(&mut self, volume: &Volume, syncs: u64, at: Nanos) {
        if self.after.is_none() && syncs >= self.before.syncs + self.span {
            self.after = Some(Mark::of(volume, self.role, syncs, at));
        }
    }

    pub fn is_ripe(&self, syncs: u64) -> bool {
        self.after.as_ref().is_some_and(|after| syncs >= after.syncs + SYNCS_AFTER_MIN)
    }

    /// Damages the volume of a host that is down. Returns how many sectors are bad now.
    pub fn carry_out(&self, volume: &mut Volume, at: Nanos, chance: &mut Stream) -> u64 {
        let Some(after) = &self.after else { return 0 };
        let now = volume.durable_by_role(self.role, at);
        let kind = self.damage.kind();
        let mut cold: Vec<(FileId, u64)> = Vec::new();
        let mut targets: Vec<(FileId, u64)> = Vec::new();
        for (id, image) in &now {
            let (Some(then), Some(earlier)) = (after.images.get(id), self.before.images.get(id)) else { continue };
            for sector in 0..image.len() / SECTOR_BYTES {
                let bytes = image.sector(sector);
                if bytes != then.sector(sector) || bytes == ZEROS {
                    continue;
                }
                targets.push((*id, sector));
                let loses_write = matches!(self.damage, Damage::LostWrite | Damage::MisdirectedWrite);
                if !loses_write || earlier.sector(sector) != bytes {
                    cold.push((*id, sector));
                }
            }
        }
        let mut done = 0;
        for _ in 0..self.sectors {
            if cold.is_empty() {
                break;
            }
            let (id, sector) = cold.swap_remove(pick(chance, cold.len()));
            let (old, good) = (self.before.images[&id].sector(sector), now[&id].sector(sector));
            let file = volume.file_mut(id);
            done += u64::from(match self.damage {
                Damage::LatentSector => {
                    file.defects.add_latent(sector);
                    true
                }
                Damage::BitRot => {
                    let mut bytes = good;
                    let bit = pick(chance, bytes.len() * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    file.spoil(sector, &bytes, kind)
                }
                Damage::LostWrite => file.spoil(sector, &old, kind),
                Damage::MisdirectedWrite => {
                    let others: Vec<u64> =
                        targets.iter().filter(|(of, at)| *of == id && *at != sector).map(|(_, at)| *at).collect();
                    let hit = (!others.is_empty()).then(|| others[pick(chance, others.len())]);
                    hit.is_some_and(|hit| file.spoil(hit, &good, kind)) && file.spoil(sector, &old, kind)
                }
            });
        }
        done
    }
}

const ZEROS: [u8; SECTOR_BYTES as usize] = [0; SECTOR_BYTES as usize];

fn pick(chance: &mut Stream, len: usize) -> usize {
    usize::try_from(chance.below(len as u64)).expect("below a usize")
}
