//! How fast a disk is, how often it fails, how much it holds.
//!
//! Plain data, so that a plan can carry it. The default is quiet: fixed latencies, no error, no limit. Every operation in
//! a blocking section takes at least 1 ns, so that operations have an order in virtual time and a power loss can fall
//! inside one.

use serde::{Deserialize, Serialize};

use super::file::Nanos;

/// What an operation does to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpKind {
    Read,
    Write,
    SetLen,
    Sync,
    /// Create, remove, rename, and the sync of a directory.
    Name,
}

/// What a file is for, as the user of the disk sees it. Counters and armed faults speak of roles, not of paths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Synced at every commit.
    Log,
    /// Synced now and then: something is nearly always pending.
    State,
    Snapshot,
    #[default]
    Other,
}

impl Role {
    pub const ALL: [Role; 4] = [Role::Log, Role::State, Role::Snapshot, Role::Other];

    pub fn name(self) -> &'static str {
        match self {
            Role::Log => "log",
            Role::State => "state",
            Role::Snapshot => "snapshot",
            Role::Other => "other",
        }
    }
}

/// Uniform between two bounds in virtual ns, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    pub ns_min: Nanos,
    pub ns_max: Nanos,
}

impl Latency {
    pub const fn fixed(ns: Nanos) -> Latency {
        Latency { ns_min: ns, ns_max: ns }
    }
}

/// An episode in which nothing, or no sync, completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stalls {
    /// Chance per operation that an episode begins with it.
    pub ppm: u32,
    pub length: Latency,
    /// Only syncs wait for the end of the episode.
    pub syncs_only: bool,
}

/// Chance of an error per operation, in parts per million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorRates {
    pub read_ppm: u32,
    pub write_ppm: u32,
    /// The data since the last sync is gone when it happens.
    pub sync_ppm: u32,
    pub name_ppm: u32,
    /// A write or a growth finds the disk full.
    pub full_ppm: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskConfig {
    /// From the page cache.
    pub read: Latency,
    /// Into the page cache; also for a change of length.
    pub write: Latency,
    pub sync: Latency,
    pub name: Latency,
    /// Chance per operation of taking `tail_factor` times as long.
    pub tail_ppm: u32,
    pub tail_factor: u32,
    pub stalls: Stalls,
    pub errors: ErrorRates,
    /// Chance per sync, in parts per million, of claiming success without doing anything. Calibration: no system survives
    /// it, so an oracle must fire.
    pub lying_sync_ppm: u32,
    /// Only syncs of files of this role lie; `None` = all.
    pub lying_sync_role: Option<Role>,
    /// After a sync that failed the data stays readable until the power goes, although no later sync writes it. Calibration,
    /// as above: this is what ext4 in `data=ordered` mode does, and a process that is started again believes what it reads.
    pub failed_sync_stays_readable: bool,
    /// Bytes that all files together may have, by their lengths. `None` = no limit.
    pub quota_bytes: Option<u64>,
    /// Writes per second that the device takes, felt by the sync that waits for them. 0 = no limit.
    pub iops_max: u64,
    /// Bytes written per second, likewise. 0 = no limit.
    pub bytes_per_s_max: u64,
}

impl Default for DiskConfig {
    /// A fast NVMe drive without moods.
    fn default() -> DiskConfig {
        DiskConfig {
            read: Latency::fixed(1_000),
            write: Latency::fixed(4_000),
            sync: Latency::fixed(200_000),
            name: Latency::fixed(10_000),
            tail_ppm: 0,
            tail_factor: 1,
            stalls: Stalls { ppm: 0, length: Latency::fixed(0), syncs_only: false },
            errors: ErrorRates::default(),
            lying_sync_ppm: 0,
            lying_sync_role: None,
            failed_sync_stays_readable: false,
            quota_bytes: None,
            iops_max: 0,
            bytes_per_s_max: 0,
        }
    }
}

impl DiskConfig {
    /// Whether the latency of an operation needs no chance.
    pub(super) fn is_steady(&self, kind: OpKind) -> bool {
        let latency = self.latency(kind);
        latency.ns_min == latency.ns_max && self.tail_ppm == 0 && self.stalls.ppm == 0
    }

    pub(super) fn latency(&self, kind: OpKind) -> Latency {
        match kind {
            OpKind::Read => self.read,
            OpKind::Write | OpKind::SetLen => self.write,
            OpKind::Sync => self.sync,
            OpKind::Name => self.name,
        }
    }
}
