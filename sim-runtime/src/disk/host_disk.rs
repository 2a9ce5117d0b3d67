//! The disk of a host: where the pure core meets the host's clock, its chance and its death.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};

use super::config::{DiskConfig, OpKind, Role};
use super::damage::{Damage, Mark, Order};
use super::device::{Counters, FaultPoint};
use super::file::{Interval, Nanos};
use super::image::Image;
use super::names::FileId;
use super::power_loss::Choice;
use super::registry;
use super::sim_file::SimFile;
use super::state::{Caller, PowerLossOutcome, Probe, Shared, Target, Trigger, lock};
use super::volume::{FileState, OpenMode, Volume};
use crate::world::{self, Cause, Class, HostId, Purpose, section};

const ENGINE_RANDOMNESS: Purpose = Purpose("disk-engine-randomness");
const POWER_LOSS: Purpose = Purpose("power-loss");

/// The disk of one host. It outlives the host's boots; clones are the same disk.
#[derive(Clone, Debug)]
pub struct Disk {
    shared: Arc<Shared>,
}

/// Tells the disk that the current incarnation has recovered: a power loss from now on is not
/// [`Moment::InRecovery`](super::Moment::InRecovery).
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
        Disk { shared: Arc::new(Shared::new(host)) }
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

    /// What a fault that is meant for files of a role aims at: [`Role::Other`], which is every file there is, if the system
    /// gave no file a role.
    pub(crate) fn aimed(&self, role: Role) -> Role {
        self.shared.lock().volume.aimed(role)
    }

    /// Makes one operation fail.
    pub fn arm(&self, point: FaultPoint) {
        self.shared.lock().device.arm(point);
    }

    /// From now on no sync of files of a role completes, until `for_ns` later.
    pub fn hang_syncs(&self, role: Role, for_ns: Nanos) {
        self.shared.lock().device.hang_syncs(role, world::now_ns().saturating_add(for_ns));
    }

    /// Ends all that makes operations fail or wait: armed faults, error rates, stalls, hangs, the quota, damage not yet done.
    /// Latency stays, and so does what is damaged.
    pub fn heal(&self) {
        let mut state = self.shared.lock();
        state.device.heal();
        state.orders.clear();
    }

    /// Faults armed and not yet met.
    pub fn armed(&self) -> usize {
        self.shared.lock().device.armed().len()
    }

    /// Limits what all files together may have to what they have now and `slack_bytes` more; `None` lifts the limit.
    pub fn set_quota_above_used(&self, slack_bytes: Option<u64>) {
        let mut state = self.shared.lock();
        let used = state.volume.used_bytes();
        state.device.config.quota_bytes = slack_bytes.map(|slack| used.saturating_add(slack));
    }

    /// Bytes that all files together have, and may have; `None` for a disk without limit.
    pub fn usage_under_quota(&self) -> Option<(u64, u64)> {
        let state = self.shared.lock();
        let quota = state.device.config.quota_bytes?;
        Some((state.volume.used_bytes(), quota))
    }

    /// Orders damage to so many cold sectors of files of a role. `span` syncs from now belong to the writes that may be
    /// lost. See [`super::damage`].
    pub fn order_damage(&self, damage: Damage, role: Role, sectors: u64, span: u64) {
        let mut state = self.shared.lock();
        let syncs = state.device.counters.role(role).syncs;
        let before = Mark::of(&state.volume, role, syncs, world::now_ns());
        state.orders.push(Order { damage, role, sectors, span: span.max(1), before, after: None });
    }

    /// Does the damage that is due, to a host that is down. Returns how many sectors are bad now, by kind.
    pub fn carry_out_damage(&self) -> BTreeMap<&'static str, u64> {
        let done = self.shared.lock().carry_out(world::now_ns());
        for (kind, sectors) in &done {
            world::record(Class::DiskFault, &[*sectors], kind.as_bytes());
            world::note(|| format!("damage: {sectors} sectors with {kind}"));
        }
        done
    }

    /// Damage ordered and not yet done.
    pub fn ordered_damage(&self) -> usize {
        self.shared.lock().orders.len()
    }

    /// Removes every file and name, as a new disk does in the place of a broken one. Open files die.
    pub fn wipe(&self) {
        let mut state = self.shared.lock();
        let mut empty = Volume::default();
        empty.set_roles(state.volume.role_of());
        state.volume = empty;
        state.epoch += 1;
    }

    /// Makes the files of a role unusable: what was at the beginning of each is noise.
    pub fn scramble(&self, role: Role) {
        self.shared.lock().volume.scramble(role, world::now_ns());
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
        let (outcome, choice) = state.lose_power(at, |pending| Choice::draw(pending, &mut |bound| chance.below(bound)));
        drop(state);
        let fields = [
            u64::from(outcome.host),
            outcome.moment as u64,
            outcome.shape.map_or(u64::MAX, |shape| shape as u64),
            outcome.sectors_pending,
            outcome.sectors_lost,
            outcome.names_lost,
        ];
        world::record(Class::PowerLoss, &fields, format!("{choice:?}").as_bytes());
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

    /// Full paths of what readers see directly in a directory now, in order. Takes no time, and needs no caller that lives.
    pub fn current_list(&self, directory: &str) -> Vec<String> {
        self.shared.lock().volume.list(directory).unwrap_or_default()
    }

    /// The file as readers see it now.
    pub fn contents(&self, path: &str) -> Option<Image> {
        self.shared.lock().volume.current_at(path, world::now_ns())
    }

    /// Every named file now, by path.
    pub fn file_states(&self) -> Vec<FileState> {
        self.shared.lock().volume.file_states(world::now_ns())
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
    #[cfg_attr(not(any(feature = "redb", feature = "sqlite")), expect(dead_code, reason = "for the adapters"))]
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
    #[cfg_attr(not(any(feature = "redb", feature = "sqlite")), expect(dead_code, reason = "for the adapters"))]
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
