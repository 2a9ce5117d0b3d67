//! The disk of a host: where the pure core meets the host's clock, its chance and its death.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use super::config::{DiskConfig, OpKind, Role};
use super::device::{Counters, Device, FaultPoint, Request, Verdict, fault};
use super::file::{Interval, Nanos};
use super::image::Image;
use super::names::FileId;
use super::power_loss::{Choice, Pending, Shape, Toll};
use super::registry;
use super::sim_file::SimFile;
use super::volume::{Moment, OpenMode, Volume};
use crate::world::{self, Cause, Class, HostId, Incarnation, Purpose, section};

const LATENCY_AND_FAULTS: Purpose = Purpose("disk-operation");
const ENGINE_RANDOMNESS: Purpose = Purpose("disk-engine-randomness");
const POWER_LOSS: Purpose = Purpose("power-loss");

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

/// The disk of one host. It outlives the host's boots; clones are the same disk.
#[derive(Clone, Debug)]
pub struct Disk {
    shared: Arc<Shared>,
}

/// Tells the disk that the current incarnation has recovered: a power loss from now on is not [`Moment::InRecovery`].
pub fn declare_recovered() {
    let caller = world::current();
    let disk = Disk::of(caller.host);
    disk.shared.lock().recovered = Some((caller.boot, world::now_ns()));
}

impl Disk {
    /// The disk of a host of the running world, made on first use.
    ///
    /// # Panics
    /// Outside a world.
    pub fn of(host: HostId) -> Disk {
        registry::disk_of(host)
    }

    /// The disk of the host whose task is running.
    pub fn current() -> Disk {
        Disk::of(world::current().host)
    }

    pub(super) fn new(host: HostId) -> Disk {
        let state = State {
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
            epoch: 0,
        };
        Disk { shared: Arc::new(Shared { state: Mutex::new(state), attachments: Mutex::default() }) }
    }

    // Files and names.

    /// Opens a file for reading and writing on behalf of the current incarnation.
    ///
    /// A created name is durable only after [`Disk::sync_dir`] on its directory.
    pub fn open(&self, path: &str, mode: OpenMode) -> io::Result<SimFile> {
        let caller = self.shared.caller()?;
        let found = self.shared.look(caller, |volume| volume.find_to_open(path, mode))??;
        let id = match found {
            Some(id) => id,
            None => self.name_op(caller, path, |volume, when| volume.create(when, path))?,
        };
        self.shared.lock().volume.opened(id);
        let file = SimFile::new(self.shared.clone(), id, caller);
        if found.is_some() && mode.truncate {
            file.set_len(0)?;
        }
        Ok(file)
    }

    /// Opens a file that has no name and is gone with its last handle.
    pub fn open_anonymous(&self) -> io::Result<SimFile> {
        let caller = self.shared.caller()?;
        let mut state = self.shared.lock();
        let id = state.volume.create_anonymous();
        state.volume.opened(id);
        drop(state);
        Ok(SimFile::new(self.shared.clone(), id, caller))
    }

    /// Renames a file within its directory, replacing what has the new name. Durable after [`Disk::sync_dir`].
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let caller = self.shared.caller()?;
        self.shared.look(caller, |volume| volume.check_rename(from, to))??;
        self.name_op(caller, to, |volume, when| volume.rename(when, from, to))
    }

    /// Removes the name of a file; open handles keep the file. Durable after [`Disk::sync_dir`].
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let caller = self.shared.caller()?;
        self.shared.look(caller, |volume| volume.check_remove(path))??;
        self.name_op(caller, path, |volume, when| volume.remove(when, path))
    }

    pub fn exists(&self, path: &str) -> io::Result<bool> {
        self.shared.look(self.shared.caller()?, |volume| volume.exists(path))
    }

    /// Length of a file in bytes, without opening it.
    pub fn len_of(&self, path: &str) -> io::Result<u64> {
        let found = self
            .shared
            .look(self.shared.caller()?, |volume| volume.lookup(path).map(|id| volume.file(id).current().len()))?;
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Full paths of what lies directly in a directory, in order.
    pub fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        self.shared.look(self.shared.caller()?, |volume| volume.list(directory))?
    }

    /// Makes a directory and those above it. Each name is durable only after a sync of the directory that holds it.
    pub fn create_dir_all(&self, path: &str) -> io::Result<()> {
        let caller = self.shared.caller()?;
        let missing = self.shared.look(caller, |volume| volume.missing_directories(path))??;
        missing.iter().try_for_each(|directory| {
            self.name_op(caller, directory, |volume, when| volume.create_directory(when, directory))
        })
    }

    /// Makes the names in a directory durable, as `fsync` on the directory does.
    pub fn sync_dir(&self, path: &str) -> io::Result<()> {
        let caller = self.shared.caller()?;
        self.shared.look(caller, |volume| volume.check_directory(path))??;
        self.name_op(caller, path, |volume, when| volume.sync_directory(when, path))?;
        let horizon = section::horizon_ns();
        self.shared.lock().volume.settle_names(horizon);
        Ok(())
    }

    fn name_op<R>(&self, caller: Caller, path: &str, change: impl FnOnce(&mut Volume, Interval) -> R) -> io::Result<R> {
        let event = (Class::DiskName, &[][..], path.as_bytes());
        self.shared.operate(caller, OpKind::Name, Target::Names, event, |volume, verdict| match verdict.error {
            Some(error) => Err(error.to_io()),
            None => Ok(change(volume, verdict.when)),
        })
    }

    // Behaviour.

    pub fn config(&self) -> DiskConfig {
        self.shared.lock().device.config
    }

    pub fn set_config(&self, config: DiskConfig) {
        self.shared.lock().device.config = config;
    }

    /// Says what files are for, by their paths. Counters and armed faults go by role.
    pub fn set_roles(&self, role_of: fn(&str) -> Role) {
        self.shared.lock().volume.set_roles(role_of);
    }

    /// Makes one operation fail.
    pub fn arm(&self, point: FaultPoint) {
        self.shared.lock().device.arm(point);
    }

    /// Ends all that makes operations fail or wait: armed faults, error rates, stalls, the quota. Latency stays.
    pub fn heal(&self) {
        self.shared.lock().device.heal();
    }

    /// Faults armed and not yet met.
    pub fn armed(&self) -> usize {
        self.shared.lock().device.armed().len()
    }

    /// Runs `action` as a world action in the middle of an operation: the one after the next `skip`, at
    /// `fraction_ppm` millionths of its interval. An action that kills the host with [`Cause::PowerLoss`] loses the power
    /// there.
    pub fn at_op(&self, skip: u64, fraction_ppm: u32, action: impl FnOnce() + Send + 'static) {
        let trigger = Trigger { skip, fraction_ppm: fraction_ppm.min(1_000_000), action: Box::new(action) };
        self.shared.lock().triggers.push(trigger);
    }

    /// Loses this host's power in the middle of an operation, as [`Disk::at_op`].
    pub fn arm_power_loss_at_op(&self, skip: u64, fraction_ppm: u32) {
        let host = self.shared.lock().host;
        self.at_op(skip, fraction_ppm, move || world::kill(host, Cause::PowerLoss));
    }

    /// Shows every operation to a test.
    pub fn set_probe(&self, probe: Option<Probe>) {
        self.shared.lock().probe = probe;
    }

    // Death.

    pub(super) fn host_died(&self, boot: u32, cause: Cause, at: Nanos) {
        self.shared.lock().booted(boot);
        match cause {
            Cause::PowerLoss => self.lose_power(at),
            _ => self.shared.lock().crash(at),
        }
    }

    /// What a power loss does to the disk, at the world's time `at`. The death of a host by power loss comes here by
    /// itself; call it for a host that is already down.
    pub fn lose_power(&self, at: Nanos) {
        let mut state = self.shared.lock();
        let entity = world::entity(&[u64::from(state.host.0), u64::from(state.boot), state.power_losses]);
        let mut chance = world::stream(POWER_LOSS, entity);
        let outcome = state.lose_power(at, |pending| Choice::draw(pending, &mut |bound| chance.below(bound)));
        drop(state);
        let fields = [
            u64::from(outcome.host),
            outcome.moment as u64,
            outcome.shape.map_or(u64::MAX, |shape| shape as u64),
            outcome.sectors_pending,
            outcome.sectors_lost,
            outcome.names_lost,
        ];
        world::record(Class::PowerLoss, &fields, &[]);
        world::note(|| format!("{outcome:?}"));
    }

    // What is on it.

    /// The file that a power loss now would surely leave under this name: only what was synced, name included.
    pub fn durable(&self, path: &str) -> Option<Image> {
        self.shared.lock().volume.durable_at(path, world::now_ns())
    }

    /// Full paths of what a power loss now would surely leave directly in a directory, in order.
    pub fn durable_list(&self, directory: &str) -> Vec<String> {
        self.shared.lock().volume.durable_list_at(directory, world::now_ns())
    }

    /// The file as readers see it now.
    pub fn contents(&self, path: &str) -> Option<Image> {
        self.shared.lock().volume.current_at(path, world::now_ns())
    }

    /// A copy of everything, log included.
    pub fn volume(&self) -> Volume {
        self.shared.lock().volume.clone()
    }

    /// Puts another volume in. Open files die.
    pub fn mount(&self, volume: Volume) {
        let mut state = self.shared.lock();
        state.volume = volume;
        state.epoch += 1;
    }

    pub fn counters(&self) -> Counters {
        self.shared.lock().device.counters.clone()
    }

    /// Every power loss so far, in order.
    pub fn power_losses(&self) -> Vec<PowerLossOutcome> {
        self.shared.lock().outcomes.clone()
    }

    /// Randomness for a storage engine on this disk: a function of host, boot and how much was asked for before.
    pub(crate) fn fill_random(&self, out: &mut [u8]) {
        let mut state = self.shared.lock();
        let entity = world::entity(&[u64::from(state.host.0), u64::from(world::current().boot), state.random_draws]);
        state.random_draws += 1;
        let mut stream = world::stream(ENGINE_RANDOMNESS, entity);
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&stream.next_u64().to_le_bytes()[..chunk.len()]);
        }
        drop(state);
        world::record(Class::Entropy, &[out.len() as u64], out);
    }

    /// What everybody who opened a file shares for as long as anyone does, kept by an adapter under a key of its own.
    pub(crate) fn attachment<T: Any + Send + Sync>(&self, key: FileId, make: impl FnOnce() -> T) -> Arc<T> {
        let epoch = self.shared.lock().epoch;
        let mut attachments = lock(&self.shared.attachments);
        let known = attachments.get(&(epoch, key)).and_then(Weak::upgrade);
        if let Some(known) = known.and_then(|any| any.downcast::<T>().ok()) {
            return known;
        }
        let fresh = Arc::new(make());
        let any: Arc<dyn Any + Send + Sync> = fresh.clone();
        attachments.retain(|_, weak| weak.strong_count() > 0);
        attachments.insert((epoch, key), Arc::downgrade(&any));
        fresh
    }
}

/// Who opened a file. Not alive any more when the host died or the volume was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    incarnation: Incarnation,
    epoch: u64,
}

/// What an operation works on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// With the length in bytes that the file needs to have afterwards, 0 when any will do.
    File {
        id: FileId,
        end: u64,
    },
    Names,
}

struct Trigger {
    skip: u64,
    fraction_ppm: u32,
    action: Box<dyn FnOnce() + Send>,
}

type Attachments = BTreeMap<(u64, FileId), Weak<dyn Any + Send + Sync>>;

pub(super) struct Shared {
    state: Mutex<State>,
    attachments: Mutex<Attachments>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimulatedDisk")
    }
}

struct State {
    host: HostId,
    volume: Volume,
    device: Device,
    boot: u32,
    /// Operations of this boot: the ordinal of the next one's draw.
    boot_operations: u64,
    /// Which boot declared itself recovered, and when.
    recovered: Option<(u32, Nanos)>,
    power_losses: u64,
    /// How often an engine asked for randomness.
    random_draws: u64,
    triggers: Vec<Trigger>,
    outcomes: Vec<PowerLossOutcome>,
    probe: Option<Probe>,
    /// Grows whenever all open files die.
    epoch: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The current incarnation, if it is alive.
    fn caller(&self) -> io::Result<Caller> {
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
        state.count(kind, target, bytes.len() as u64, &result);
        let fired = state.due_triggers(verdict.when);
        let report = OpReport { number: state.device.counters.operations - 1, kind, when: verdict.when };
        if let Some(probe) = &mut state.probe {
            probe(report, &state.volume);
        }
        drop(guard);
        world::record(class, fields, bytes);
        if verdict.error.is_some() {
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
    fn judge(&mut self, caller: Caller, kind: OpKind, target: Target, now: Nanos) -> Verdict {
        let boot = caller.incarnation.boot;
        self.booted(boot);
        let ordinal = self.boot_operations;
        self.boot_operations += 1;
        let (role, growth, busy_until) = match target {
            Target::File { id, end } => {
                if kind == OpKind::Sync {
                    self.volume.file_mut(id).settle(section::horizon_ns());
                }
                let file = self.volume.file(id);
                (self.volume.role(id), end.saturating_sub(file.current().len()), file.busy_until())
            }
            Target::Names => (Role::Other, 0, self.volume.names_busy_until()),
        };
        let request = Request { kind, role, growth, now, busy_until, timed: section::active() };
        let host = u64::from(self.host.0);
        let draw = || world::draw(LATENCY_AND_FAULTS, world::entity(&[host, u64::from(boot)]), ordinal);
        let volume = &self.volume;
        self.device.judge(request, draw, || volume.used_bytes())
    }

    fn booted(&mut self, boot: u32) {
        if self.boot != boot {
            self.boot = boot;
            self.boot_operations = 0;
        }
    }

    fn count<R>(&mut self, kind: OpKind, target: Target, written: u64, result: &io::Result<R>) {
        let Target::File { id, .. } = target else { return };
        if result.is_err() {
            return;
        }
        let count = self.device.counters.role_mut(self.volume.role(id));
        match kind {
            OpKind::Read => count.reads += 1,
            OpKind::Write => {
                count.writes += 1;
                count.bytes_written += written;
            }
            OpKind::Sync => count.syncs += 1,
            OpKind::SetLen | OpKind::Name => {}
        }
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

    fn crash(&mut self, at: Nanos) {
        self.volume.crash(at);
        self.epoch += 1;
    }

    fn lose_power(&mut self, at: Nanos, choose: impl FnOnce(&Pending) -> Choice) -> PowerLossOutcome {
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
        outcome
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
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn dead() -> io::Error {
    io::Error::other("the host that opened this file is down")
}
