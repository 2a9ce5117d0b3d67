//! What the handles of one disk share: the volume, the device, who may use them, and what is waiting to happen.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use super::config::{OpKind, Role};
use super::damage::Order;
use super::device::{Device, Request, Verdict, fault};
use super::file::{Interval, Nanos};
use super::names::FileId;
use super::power_loss::{Choice, Pending, Shape, Toll};
use super::volume::{Moment, Volume};
use crate::world::{self, Class, HostId, Incarnation, Purpose, section};

const LATENCY_AND_FAULTS: Purpose = Purpose("disk-operation");
const DAMAGE: Purpose = Purpose("disk-damage");

/// What one power loss did to one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerLossOutcome {
    pub host: u32,
    /// The boot that ended, or the last one before it.
    pub boot: u32,
    /// Virtual ns.
    pub at_ns: Nanos,
    pub moment: Moment,
    /// `None` when no sector was pending: such a power loss has no shape.
    pub shape: Option<Shape>,
    pub sectors_pending: u64,
    pub sectors_lost: u64,
    pub sectors_lost_by_role: BTreeMap<Role, u64>,
    /// Files whose length went back.
    pub lengths_lost: u64,
    /// Names that were created, removed or renamed, and are again as before.
    pub names_lost: u64,
}

/// One operation, as the probe of a crash test sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpReport {
    /// Position among all operations of this disk, from 0.
    pub number: u64,
    pub kind: OpKind,
    pub when: Interval,
}

/// Called after each operation with the disk as it is then, the operation still in the log.
pub type Probe = Box<dyn FnMut(OpReport, &Volume) + Send>;

/// Who opened a file. Not alive any more when the host died or the volume was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    incarnation: Incarnation,
    epoch: u64,
}

/// What an operation works on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// With the length in bytes that the file needs to have afterwards, 0 when any will do, and how many are moved.
    File {
        id: FileId,
        end: u64,
        bytes: u64,
    },
    Names,
}

pub(super) struct Trigger {
    pub skip: u64,
    pub fraction_ppm: u32,
    pub action: Box<dyn FnOnce() + Send>,
}

pub(super) type Attachments = BTreeMap<(u64, FileId), Weak<dyn Any + Send + Sync>>;

pub(super) struct Shared {
    state: Mutex<State>,
    #[cfg_attr(not(any(feature = "redb", feature = "sqlite")), expect(dead_code, reason = "for the adapters"))]
    pub attachments: Mutex<Attachments>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimulatedDisk")
    }
}

pub(super) struct State {
    pub host: HostId,
    pub volume: Volume,
    pub device: Device,
    pub boot: u32,
    /// Operations of this boot: the ordinal of the next one's draw.
    pub boot_operations: u64,
    /// Which boot declared itself recovered, and when.
    pub recovered: Option<(u32, Nanos)>,
    pub power_losses: u64,
    /// How often an engine asked for randomness.
    #[cfg_attr(not(any(feature = "redb", feature = "sqlite")), expect(dead_code, reason = "for the adapters"))]
    pub random_draws: u64,
    pub triggers: Vec<Trigger>,
    pub outcomes: Vec<PowerLossOutcome>,
    pub probe: Option<Probe>,
    /// Damage that was ordered and not yet done.
    pub orders: Vec<Order>,
    /// How often damage was done.
    pub damages: u64,
    /// Grows whenever all open files die.
    pub epoch: u64,
}

impl Shared {
    pub fn new(host: HostId) -> Shared {
        Shared { state: Mutex::new(State::new(host)), attachments: Mutex::default() }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The current incarnation, if it is alive.
    pub fn caller(&self) -> io::Result<Caller> {
        if !world::in_world() {
            return Err(dead());
        }
        let caller = Caller { incarnation: world::current(), epoch: self.lock().epoch };
        self.check(caller).map(|_| caller)
    }

    fn check(&self, caller: Caller) -> io::Result<MutexGuard<'_, State>> {
        let alive = world::in_world() && world::is_alive(caller.incarnation);
        let state = self.lock();
        if alive && state.epoch == caller.epoch { Ok(state) } else { Err(dead()) }
    }

    /// Looks without an operation: no time passes and nothing fails, unless the caller is dead.
    pub fn look<R>(&self, caller: Caller, f: impl FnOnce(&Volume) -> R) -> io::Result<R> {
        self.check(caller).map(|state| f(&state.volume))
    }

    /// One operation: judged, done, recorded, and its time spent.
    pub fn operate<R>(
        &self,
        caller: Caller,
        kind: OpKind,
        target: Target,
        (class, fields, bytes): (Class, &[u64], &[u8]),
        body: impl FnOnce(&mut Volume, &mut Verdict) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut guard = self.check(caller)?;
        let state = &mut *guard;
        let now = world::now_ns();
        let mut verdict = state.judge(caller, kind, target, now);
        let result = body(&mut state.volume, &mut verdict);
        for kind in &verdict.met {
            state.device.counters.noticed(kind);
        }
        if result.is_ok() {
            state.count(kind, target);
        }
        let fired = state.due_triggers(verdict.when);
        let report = OpReport { number: state.device.counters.operations - 1, kind, when: verdict.when };
        if let Some(probe) = &mut state.probe {
            probe(report, &state.volume);
        }
        drop(guard);
        world::record(class, fields, bytes);
        if verdict.error.is_some() || !verdict.met.is_empty() {
            world::record(Class::DiskFault, &[kind as u64], &[]);
        }
        for (at, action) in fired {
            world::at(at, action);
        }
        section::spend(verdict.when.complete - now);
        result
    }

    pub fn release(&self, caller: Caller, id: FileId) {
        if let Ok(mut state) = self.check(caller) {
            state.volume.closed(id);
        }
    }
}

impl State {
    fn new(host: HostId) -> State {
        State {
            host,
            volume: Volume::default(),
            device: Device::default(),
            boot: 0,
            boot_operations: 0,
            recovered: None,
            power_losses: 0,
            random_draws: 0,
            triggers: Vec::new(),
            outcomes: Vec::new(),
            probe: None,
            orders: Vec::new(),
            damages: 0,
            epoch: 0,
        }
    }

    fn judge(&mut self, caller: Caller, kind: OpKind, target: Target, now: Nanos) -> Verdict {
        let boot = caller.incarnation.boot;
        self.booted(boot);
        let ordinal = self.boot_operations;
        self.boot_operations += 1;
        let (role, growth, bytes, busy_until) = match target {
            Target::File { id, end, bytes } => {
                if kind == OpKind::Sync {
                    self.volume.file_mut(id).settle(section::horizon_ns());
                }
                let file = self.volume.file(id);
                (self.volume.role(id), end.saturating_sub(file.current().len()), bytes, file.busy_until())
            }
            Target::Names => (Role::Other, 0, 0, self.volume.names_busy_until()),
        };
        let request = Request { kind, role, growth, bytes, now, busy_until, timed: section::active() };
        let host = u64::from(self.host.0);
        let draw = || world::draw(LATENCY_AND_FAULTS, world::entity(&[host, u64::from(boot)]), ordinal);
        let volume = &self.volume;
        self.device.judge(request, draw, || volume.used_bytes())
    }

    pub fn booted(&mut self, boot: u32) {
        if self.boot != boot {
            self.boot = boot;
            self.boot_operations = 0;
        }
    }

    fn count(&mut self, kind: OpKind, target: Target) {
        let Target::File { id, bytes, .. } = target else { return };
        let count = self.device.counters.role_mut(self.volume.role(id));
        match kind {
            OpKind::Read => {
                count.reads += 1;
                count.bytes_read += bytes;
            }
            OpKind::Write => {
                count.writes += 1;
                count.bytes_written += bytes;
            }
            OpKind::Sync => {
                count.syncs += 1;
                self.ripen(self.volume.role(id), section::horizon_ns());
            }
            OpKind::SetLen | OpKind::Name => {}
        }
    }

    /// Damage that was ordered takes its bearings from syncs.
    fn ripen(&mut self, role: Role, horizon: Nanos) {
        let syncs = self.device.counters.role(role).syncs;
        for order in self.orders.iter_mut().filter(|order| order.role == role) {
            order.synced(&self.volume, syncs, horizon);
        }
    }

    /// Does what damage is due to the disk of a host that is down. Returns how many sectors are bad now, by kind.
    pub fn carry_out(&mut self, at: Nanos) -> BTreeMap<&'static str, u64> {
        let mut done = BTreeMap::new();
        for order in std::mem::take(&mut self.orders) {
            if !order.is_ripe(self.device.counters.role(order.role).syncs) {
                self.orders.push(order);
                continue;
            }
            let entity = world::entity(&[u64::from(self.host.0), self.damages]);
            self.damages += 1;
            let mut chance = world::stream(DAMAGE, entity);
            let sectors = order.carry_out(&mut self.volume, at, &mut chance);
            let kind = order.damage.kind();
            (0..sectors).for_each(|_| self.device.counters.injected(kind));
            *done.entry(kind).or_default() += sectors;
        }
        done
    }

    fn due_triggers(&mut self, when: Interval) -> Vec<(Nanos, Box<dyn FnOnce() + Send>)> {
        let mut due = Vec::new();
        let mut n = 0;
        while n < self.triggers.len() {
            if self.triggers[n].skip > 0 {
                self.triggers[n].skip -= 1;
                n += 1;
                continue;
            }
            let trigger = self.triggers.remove(n);
            let part = (when.complete - when.issue) / 1_000_000 * u64::from(trigger.fraction_ppm)
                + (when.complete - when.issue) % 1_000_000 * u64::from(trigger.fraction_ppm) / 1_000_000;
            due.push((when.issue + part, trigger.action));
        }
        due
    }

    pub fn crash(&mut self, at: Nanos) {
        self.volume.crash(at);
        self.epoch += 1;
    }

    pub fn lose_power(&mut self, at: Nanos, choose: impl FnOnce(&Pending) -> Choice) -> (PowerLossOutcome, Choice) {
        let recovered = self.recovered.is_some_and(|(boot, since)| boot == self.boot && since <= at);
        let moment = if recovered { self.volume.moment(at) } else { Moment::InRecovery };
        let pending = self.volume.pending(at);
        let choice = choose(&pending);
        let roles: Vec<(FileId, Role)> = pending.files().map(|id| (id, self.volume.role(id))).collect();
        let (toll, names_lost) = self.volume.lose_power(at, &pending, &choice);
        self.epoch += 1;
        self.power_losses += 1;
        let outcome = self.outcome(at, moment, toll, &roles, names_lost);
        self.outcomes.push(outcome.clone());
        self.device.counters.injected(fault::POWER_LOSS);
        if outcome.sectors_lost > 0 {
            self.device.counters.noticed(fault::POWER_LOSS);
        }
        if names_lost > 0 {
            self.device.counters.injected(fault::NAME_LOST);
            self.device.counters.noticed(fault::NAME_LOST);
        }
        (outcome, choice)
    }

    fn outcome(
        &self,
        at_ns: Nanos,
        moment: Moment,
        toll: Toll,
        roles: &[(FileId, Role)],
        names_lost: u64,
    ) -> PowerLossOutcome {
        let mut by_role = BTreeMap::new();
        for (id, role) in roles {
            if let Some(lost) = toll.sectors_lost.get(id) {
                *by_role.entry(*role).or_default() += lost;
            }
        }
        PowerLossOutcome {
            host: self.host.0,
            boot: self.boot,
            at_ns,
            moment,
            shape: toll.shape,
            sectors_pending: toll.sectors_pending,
            sectors_lost: toll.sectors_lost.values().sum(),
            sectors_lost_by_role: by_role,
            lengths_lost: toll.lengths_lost,
            names_lost,
        }
    }
}

/// A poisoned lock means that a simulated program panicked; its disk goes on.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn dead() -> io::Error {
    io::Error::other("the host that opened this file is down")
}
