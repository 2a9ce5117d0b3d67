//! How the device behaves: how long each operation takes and whether it fails.
//!
//! Chance comes as one draw per operation, which a [`Dice`] expands, so that a configuration with one more feature
//! reshuffles no other operation. Faults are drawn at the configured rates or armed for one operation. Each fault is
//! counted when it was done (`injected`) and when the engine was told (`noticed`).

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use super::config::{DiskConfig, OpKind, Role};
use super::file::{Interval, Nanos};
use super::image::{FILE_BYTES_MAX, SECTOR_BYTES};
use crate::world::draws::Dice;

/// What an operation fails with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskError {
    /// `EIO`. On a sync: once, and the data since the last sync is gone.
    Io,
    /// `ENOSPC`. On a sync as `Io` (delayed allocation found no space).
    Full,
}

impl DiskError {
    pub fn to_io(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            DiskError::Io => libc::EIO,
            DiskError::Full => libc::ENOSPC,
        })
    }
}

/// One fault, waiting for its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultPoint {
    pub kind: OpKind,
    /// `None` = any file. Names have no role: leave it out for [`OpKind::Name`].
    pub role: Option<Role>,
    /// How many such operations pass first.
    pub skip: u64,
    pub error: DiskError,
}

/// Kinds of fault that the disk counts, by name.
pub mod fault {
    pub const READ_ERROR: &str = "disk-read-error";
    pub const WRITE_ERROR: &str = "disk-write-error";
    pub const SYNC_ERROR: &str = "disk-sync-error";
    pub const NAME_ERROR: &str = "disk-name-error";
    pub const FULL: &str = "disk-full";
    /// Noticed when the operation took at least the tail's factor.
    pub const SLOW: &str = "disk-slow";
    /// Noticed for each operation that waited.
    pub const STALL: &str = "disk-stall";
    /// Noticed for each sync that waited.
    pub const SYNC_HANG: &str = "sync-hang";
    /// Noticed when at least one sector was lost.
    pub const POWER_LOSS: &str = "power-loss";
    /// Never noticed by itself; that is what makes it a lie.
    pub const LYING_SYNC: &str = "disk-lying-sync";
    /// A sync that had to wait for the device's IOPS or bandwidth longer than it takes anyway.
    pub const THROTTLE: &str = "disk-throttle";
    /// Sectors that cannot be read any more; noticed when the engine was told.
    pub const LATENT_SECTOR: &str = "latent-sector";
    /// Sectors with a flipped bit; noticed when one was read.
    pub const BIT_ROT: &str = "bit-rot";
    /// Sectors whose last write went nowhere; noticed when one was read.
    pub const LOST_WRITE: &str = "lost-write";
    /// Sectors whose last write went to another place, which is damaged too; noticed when either was read.
    pub const MISDIRECTED_WRITE: &str = "misdirected-write";
    /// A name operation that a power loss undid.
    pub const NAME_LOST: &str = "disk-name-lost";
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCount {
    pub injected: u64,
    pub noticed: u64,
}

/// Operations on files of one role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoleCount {
    pub reads: u64,
    /// Asked for.
    pub bytes_read: u64,
    pub writes: u64,
    pub bytes_written: u64,
    pub syncs: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub faults: BTreeMap<&'static str, FaultCount>,
    roles: [RoleCount; 4],
    /// Operations of any kind, over all boots.
    pub operations: u64,
    /// Operations that had to wait in virtual time for another section's operation on the same file. Sections of one
    /// database share a lane, so this stays 0 unless somebody forgot.
    pub overlapped: u64,
}

impl Counters {
    pub fn role(&self, role: Role) -> RoleCount {
        self.roles[role as usize]
    }

    pub(super) fn role_mut(&mut self, role: Role) -> &mut RoleCount {
        &mut self.roles[role as usize]
    }

    pub(super) fn injected(&mut self, kind: &'static str) {
        self.faults.entry(kind).or_default().injected += 1;
    }

    pub(super) fn noticed(&mut self, kind: &'static str) {
        self.faults.entry(kind).or_default().noticed += 1;
    }
}

/// An operation about to be done.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub kind: OpKind,
    pub role: Role,
    /// What the file grows by, in bytes.
    pub growth: u64,
    /// What is moved, in bytes.
    pub bytes: u64,
    /// When the caller asks, in virtual ns.
    pub now: Nanos,
    /// When the file is free.
    pub busy_until: Nanos,
    /// Outside blocking sections nothing takes time.
    pub timed: bool,
}

/// What becomes of it.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub when: Interval,
    pub error: Option<DiskError>,
    /// A sync that does nothing and says it succeeded.
    pub lies: bool,
    /// A sync that fails leaves the data readable.
    pub stays_readable: bool,
    /// Kinds of the defects that the operation met, to be counted as noticed.
    pub met: Vec<&'static str>,
    /// For what chance remains to decide about this operation.
    pub dice: Dice,
}

#[derive(Clone, Debug, Default)]
pub struct Device {
    pub config: DiskConfig,
    pub counters: Counters,
    armed: Vec<FaultPoint>,
    stalled_until: Nanos,
    /// Per role, when syncs complete again.
    hanging_until: [Nanos; 4],
    /// Per role, writes and bytes that the next sync must wait for.
    backlog: [(u64, u64); 4],
}

impl Device {
    pub fn arm(&mut self, point: FaultPoint) {
        self.armed.push(point);
    }

    /// No sync of files of this role completes before then.
    pub fn hang_syncs(&mut self, role: Role, until: Nanos) {
        self.counters.injected(fault::SYNC_HANG);
        let hanging_until = &mut self.hanging_until[role as usize];
        *hanging_until = until.max(*hanging_until);
    }

    /// Forgets armed faults and drawn errors; what has begun to stall or hang ends.
    pub fn heal(&mut self) {
        self.armed.clear();
        self.stalled_until = 0;
        self.hanging_until = Default::default();
        self.config.errors = Default::default();
        self.config.lying_sync_ppm = 0;
        self.config.failed_sync_stays_readable = false;
        self.config.stalls.ppm = 0;
        self.config.quota_bytes = None;
    }

    pub fn armed(&self) -> &[FaultPoint] {
        &self.armed
    }

    /// Decides about one operation. `draw` is asked at most once, and only when chance has a say. `used_bytes` is asked
    /// only for growth under a quota.
    pub fn judge(&mut self, request: Request, draw: impl FnOnce() -> u64, used_bytes: impl FnOnce() -> u64) -> Verdict {
        self.counters.operations += 1;
        let armed = self.take_armed(request);
        let (error_ppm, full_ppm) = self.error_rates(request);
        let steady = !request.timed || self.config.is_steady(request.kind);
        let may_lie =
            request.kind == OpKind::Sync && self.config.lying_sync_role.is_none_or(|role| role == request.role);
        let lying_ppm = if may_lie { self.config.lying_sync_ppm } else { 0 };
        let certain = armed.is_none() && error_ppm == 0 && full_ppm == 0 && lying_ppm == 0;
        let mut dice = Dice::new(if steady && certain { 0 } else { draw() });
        let when = self.time(request, &mut dice);
        let drawn = || {
            if dice.chance(error_ppm) {
                Some(DiskError::Io)
            } else if dice.chance(full_ppm) {
                Some(DiskError::Full)
            } else {
                None
            }
        };
        let error = armed.or_else(drawn).or_else(|| self.over_quota(request, used_bytes));
        if let Some(error) = error {
            let kind = fault_kind(request.kind, error);
            self.counters.injected(kind);
            self.counters.noticed(kind);
        }
        let lies = error.is_none() && dice.chance(lying_ppm);
        if lies {
            self.counters.injected(fault::LYING_SYNC);
        }
        Verdict { when, error, lies, stays_readable: self.config.failed_sync_stays_readable, met: Vec::new(), dice }
    }

    fn time(&mut self, request: Request, dice: &mut Dice) -> Interval {
        let mut issue = request.now;
        if request.busy_until > issue {
            issue = request.busy_until;
            self.counters.overlapped += 1;
        }
        if !request.timed {
            return Interval { issue, complete: issue };
        }
        let latency = self.config.latency(request.kind);
        let mut ns = dice.range(latency.ns_min, latency.ns_max.saturating_add(1));
        if dice.chance(self.config.tail_ppm) {
            ns = ns.saturating_mul(u64::from(self.config.tail_factor));
            self.counters.injected(fault::SLOW);
            self.counters.noticed(fault::SLOW);
        }
        let waits_ns = self.write_back_ns(request);
        if waits_ns > ns {
            self.counters.injected(fault::THROTTLE);
            self.counters.noticed(fault::THROTTLE);
        }
        ns = ns.saturating_add(waits_ns);
        let stalls = self.config.stalls;
        if dice.chance(stalls.ppm) {
            self.stalled_until = issue + dice.range(stalls.length.ns_min, stalls.length.ns_max.saturating_add(1));
            self.counters.injected(fault::STALL);
        }
        let mut complete = issue + ns.max(1);
        let waits = !stalls.syncs_only || request.kind == OpKind::Sync;
        if waits && self.stalled_until > complete {
            complete = self.stalled_until;
            self.counters.noticed(fault::STALL);
        }
        let hanging_until = self.hanging_until[request.role as usize];
        if request.kind == OpKind::Sync && hanging_until > complete {
            complete = hanging_until;
            self.counters.noticed(fault::SYNC_HANG);
        }
        Interval { issue, complete }
    }

    /// How long the device needs for what a sync makes it write, beyond the latency of the sync itself.
    fn write_back_ns(&mut self, request: Request) -> Nanos {
        let (writes, bytes) = &mut self.backlog[request.role as usize];
        match request.kind {
            OpKind::Write | OpKind::SetLen => {
                *writes += 1;
                *bytes += request.bytes;
                0
            }
            OpKind::Sync => {
                let (writes, bytes) = (std::mem::take(writes), std::mem::take(bytes));
                let at_rate = |amount: u64, per_s: u64| amount.saturating_mul(1_000_000_000).checked_div(per_s);
                let by_count = at_rate(writes, self.config.iops_max).unwrap_or(0);
                by_count.max(at_rate(bytes, self.config.bytes_per_s_max).unwrap_or(0))
            }
            OpKind::Read | OpKind::Name => 0,
        }
    }

    fn take_armed(&mut self, request: Request) -> Option<DiskError> {
        let mut fired = None;
        self.armed.retain_mut(|point| {
            let meant = point.kind == request.kind && point.role.is_none_or(|role| role == request.role);
            match point.skip.checked_sub(u64::from(meant)) {
                Some(left) => {
                    point.skip = left;
                    true
                }
                None => {
                    fired.get_or_insert(point.error);
                    false
                }
            }
        });
        fired
    }

    fn error_rates(&self, request: Request) -> (u32, u32) {
        let rates = self.config.errors;
        match request.kind {
            OpKind::Read => (rates.read_ppm, 0),
            OpKind::Write | OpKind::SetLen if request.growth > 0 => (rates.write_ppm, rates.full_ppm),
            OpKind::Write | OpKind::SetLen => (rates.write_ppm, 0),
            OpKind::Sync => (rates.sync_ppm, 0),
            OpKind::Name => (rates.name_ppm, 0),
        }
    }

    fn over_quota(&self, request: Request, used_bytes: impl FnOnce() -> u64) -> Option<DiskError> {
        let quota = self.config.quota_bytes.filter(|_| request.growth > 0)?;
        (used_bytes().saturating_add(request.growth) > quota).then_some(DiskError::Full)
    }
}

/// How many bytes of a failed write reached the file: any number of leading sectors, never all.
pub fn partial(offset: u64, len: usize, dice: &mut Dice) -> usize {
    let end = offset + len as u64;
    let first_boundary = (offset / SECTOR_BYTES + 1) * SECTOR_BYTES;
    let boundaries = if end > first_boundary { (end - first_boundary).div_ceil(SECTOR_BYTES) } else { 0 };
    match dice.below(boundaries + 1) {
        0 => 0,
        n => usize::try_from(first_boundary + (n - 1) * SECTOR_BYTES - offset).expect("shorter than the write"),
    }
}

/// Refuses what no file can hold.
pub fn check_range(offset: u64, len: u64) -> io::Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= FILE_BYTES_MAX => Ok(()),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

fn fault_kind(kind: OpKind, error: DiskError) -> &'static str {
    match (kind, error) {
        (_, DiskError::Full) => fault::FULL,
        (OpKind::Read, _) => fault::READ_ERROR,
        (OpKind::Write | OpKind::SetLen, _) => fault::WRITE_ERROR,
        (OpKind::Sync, _) => fault::SYNC_ERROR,
        (OpKind::Name, _) => fault::NAME_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::config::{Latency, Stalls};

    fn write(now: Nanos) -> Request {
        Request { kind: OpKind::Write, role: Role::Log, growth: 10, bytes: 10, now, busy_until: 0, timed: true }
    }

    fn judge(device: &mut Device, request: Request) -> Verdict {
        device.judge(request, || 7, || 95)
    }

    #[test]
    fn a_quiet_disk_asks_for_no_draw() {
        let mut device = Device::default();
        for kind in [OpKind::Read, OpKind::Write, OpKind::SetLen, OpKind::Sync, OpKind::Name] {
            let verdict = device.judge(Request { kind, ..write(5) }, || panic!("quiet"), || panic!("no quota"));
            assert_eq!(verdict.error, None);
            assert_eq!(verdict.when.complete - verdict.when.issue, device.config.latency(kind).ns_min);
        }
        assert!(device.counters.faults.is_empty());
    }

    #[test]
    fn an_armed_fault_waits_for_its_operation_and_fires_once() {
        let mut device = Device::default();
        device.arm(FaultPoint { kind: OpKind::Write, role: Some(Role::Log), skip: 1, error: DiskError::Io });
        assert_eq!(judge(&mut device, Request { role: Role::State, ..write(0) }).error, None);
        assert_eq!(judge(&mut device, Request { kind: OpKind::Sync, ..write(0) }).error, None);
        assert_eq!(judge(&mut device, write(0)).error, None);
        assert_eq!(judge(&mut device, write(0)).error, Some(DiskError::Io));
        assert_eq!(judge(&mut device, write(0)).error, None);
        assert_eq!(device.counters.faults[fault::WRITE_ERROR], FaultCount { injected: 1, noticed: 1 });
    }

    #[test]
    fn a_quota_refuses_growth_only() {
        let mut device = Device::default();
        device.config.quota_bytes = Some(100);
        assert_eq!(judge(&mut device, write(0)).error, Some(DiskError::Full));
        assert_eq!(judge(&mut device, Request { growth: 5, ..write(0) }).error, None);
        assert_eq!(judge(&mut device, Request { growth: 0, ..write(0) }).error, None);
    }

    #[test]
    fn a_stall_holds_up_what_comes_after_it() {
        let mut device = Device::default();
        device.config.stalls = Stalls { ppm: 1_000_000, length: Latency::fixed(1_000_000), syncs_only: false };
        assert_eq!(judge(&mut device, write(0)).when.complete, 1_000_000);
        device.config.stalls.ppm = 0;
        assert_eq!(judge(&mut device, write(10)).when.complete, 1_000_000);
        assert_eq!(judge(&mut device, write(2_000_000)).when.complete, 2_004_000);
        assert_eq!(device.counters.faults[fault::STALL], FaultCount { injected: 1, noticed: 2 });
    }

    #[test]
    fn a_hang_holds_up_the_syncs_of_its_role() {
        let mut device = Device::default();
        let sync = |role, now| Request { kind: OpKind::Sync, role, growth: 0, ..write(now) };
        device.hang_syncs(Role::Log, 5_000_000);
        assert_eq!(judge(&mut device, sync(Role::Log, 0)).when.complete, 5_000_000);
        assert_eq!(judge(&mut device, sync(Role::Log, 4_000_000)).when.complete, 5_000_000);
        assert_eq!(judge(&mut device, sync(Role::State, 0)).when.complete, 200_000);
        assert_eq!(judge(&mut device, write(10)).when.complete, 4_010);
        assert_eq!(judge(&mut device, sync(Role::Log, 5_000_000)).when.complete, 5_200_000);
        device.hang_syncs(Role::Log, 9_000_000);
        device.heal();
        assert_eq!(judge(&mut device, sync(Role::Log, 6_000_000)).when.complete, 6_200_000);
        assert_eq!(device.counters.faults[fault::SYNC_HANG], FaultCount { injected: 2, noticed: 2 });
    }

    #[test]
    fn a_sync_waits_for_the_writes_before_it() {
        let mut device = Device::default();
        device.config.iops_max = 1000;
        device.config.bytes_per_s_max = 1_000_000;
        let sync = Request { kind: OpKind::Sync, growth: 0, bytes: 0, ..write(0) };
        let took = |verdict: Verdict| verdict.when.complete - verdict.when.issue;
        assert_eq!(took(judge(&mut device, write(0))), 4_000, "the page cache takes it at once");
        assert_eq!(took(judge(&mut device, write(0))), 4_000);
        assert_eq!(took(judge(&mut device, Request { role: Role::State, ..sync })), 200_000, "none of its own");
        assert_eq!(took(judge(&mut device, sync)), 200_000 + 2_000_000, "two writes at 1000 per second");
        assert_eq!(took(judge(&mut device, sync)), 200_000, "nothing is left");
        judge(&mut device, Request { bytes: 5_000, ..write(0) });
        assert_eq!(took(judge(&mut device, sync)), 200_000 + 5_000_000, "5 kB at 1 MB per second");
        assert_eq!(device.counters.faults[fault::THROTTLE], FaultCount { injected: 2, noticed: 2 });
    }

    #[test]
    fn operations_of_a_file_queue_up() {
        let mut device = Device::default();
        let verdict = judge(&mut device, Request { busy_until: 50, ..write(10) });
        assert_eq!(verdict.when.issue, 50);
        assert_eq!(device.counters.overlapped, 1);
    }

    #[test]
    fn a_failed_write_leaves_whole_sectors() {
        for draw in 0..100 {
            let done = partial(100, 2000, &mut Dice::new(draw)) as u64;
            assert!(done < 2000 && (done == 0 || (100 + done).is_multiple_of(SECTOR_BYTES)));
        }
        assert_eq!(partial(0, 24, &mut Dice::new(1)), 0);
    }
}
