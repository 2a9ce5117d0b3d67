//! Carries out what happens to disks.

use std::rc::Rc;

use super::Nemesis;
use crate::disk::{Disk, DiskConfig, Moment, Role, Volume, fault};
use crate::engine::disk_faults::{DiskFault, Loss};
use crate::engine::plan::Fault;
use crate::world::{self, Nanos, Purpose};

impl<E: Clone + 'static> Nemesis<E> {
    pub(super) fn act_on_disk(self: &Rc<Self>, planned: &DiskFault) {
        if let DiskFault::LyingSync { ppm, for_ns } = planned {
            return self.lie(*ppm, *for_ns);
        }
        let Some(index) = planned.target().and_then(|target| self.fleet.resolve(target)) else {
            return;
        };
        let family = planned.family();
        let disk = Disk::of(self.fleet.hosts[index]);
        match planned {
            DiskFault::Full { slack_bytes, moves, for_ns, .. } => {
                self.ledger.injected(family, 1);
                self.full(index, *slack_bytes, *moves, *for_ns);
            }
            DiskFault::SyncHang { role, for_ns, .. } => disk.hang_syncs(disk.aimed(*role), *for_ns),
            DiskFault::Damage { damage, role, sectors, after_ns, down_ns, power, .. } => {
                if self.fleet.reserve_loss(index) {
                    let span =
                        1 + world::draw(Purpose("damage span"), u64::from(self.fleet.hosts[index].0), world::now_ns())
                            % 20;
                    disk.order_damage(*damage, disk.aimed(*role), *sectors, span);
                    self.show_damage(index, *after_ns, *down_ns, *power, SHOW_TRIES_MAX);
                }
            }
            DiskFault::PowerLossTwice { target, down_ns, nth } => {
                self.ledger.injected(family, 1);
                self.fleet.power_loss(index, *down_ns);
                let before = disk.power_losses().len();
                let again = Fault::PowerLoss { target: target.clone(), down_ns: *down_ns };
                self.arm_disk_op(super::aimed(again, index), *nth, 0);
                let nemesis = Rc::clone(self);
                self.undo(down_ns + RECOVERY_NS, move || {
                    let losses = disk.power_losses();
                    let again = losses[before..].iter().any(|loss| loss.moment == Moment::InRecovery);
                    nemesis.ledger.noticed("power-loss-twice", u64::from(again));
                });
            }
            DiskFault::StoreLost { how, down_ns, beyond, .. } => {
                let known = self.fleet.lost().contains(&u32::try_from(index).expect("servers are numbered by u32"));
                if !known && (*beyond || self.fleet.reserve_loss(index)) {
                    self.ledger.injected(family, 1);
                    self.take_down(index, *down_ns, false);
                    match how {
                        Loss::Gone => disk.wipe(),
                        Loss::Unopenable(role) => disk.scramble(disk.aimed(*role)),
                    }
                    let nemesis = Rc::clone(self);
                    self.fleet.lose(index, move || nemesis.ledger.noticed(family, 1));
                }
            }
            DiskFault::OldImage { age_ns, down_ns, .. } => {
                let image = disk.volume().durable_copy(world::now_ns());
                let (nemesis, down_ns) = (Rc::clone(self), *down_ns);
                self.undo(*age_ns, move || {
                    if nemesis.calm.get() {
                        return;
                    }
                    nemesis.ledger.injected("old-image", 1);
                    nemesis.take_down(index, down_ns, true);
                    let role = disk.aimed(Role::Log);
                    let log = |volume: &Volume| volume.contents_by_role(role);
                    nemesis.ledger.noticed("old-image", u64::from(log(&disk.volume()) != log(&image)));
                    disk.mount(image);
                    nemesis.fleet.swap(index);
                });
            }
            DiskFault::LyingSync { .. } => {}
        }
    }

    fn lie(self: &Rc<Self>, ppm: u32, for_ns: Nanos) {
        self.ledger.injected("lying-sync", 1);
        let disks: Vec<Disk> = self.fleet.hosts.iter().map(|host| Disk::of(*host)).collect();
        let lies = |disks: &[Disk]| -> u64 {
            let counts = disks.iter().map(Disk::counters);
            counts.map(|counters| counters.faults.get(fault::LYING_SYNC).map_or(0, |count| count.injected)).sum()
        };
        let set = |disks: &[Disk], lying_sync_ppm| {
            for disk in disks {
                let lying_sync_role = Some(disk.aimed(Role::Log));
                disk.set_config(DiskConfig { lying_sync_ppm, lying_sync_role, ..disk.config() });
            }
        };
        let before = lies(&disks);
        set(&disks, ppm);
        let nemesis = Rc::clone(self);
        self.undo(for_ns, move || {
            set(&disks, 0);
            nemesis.ledger.noticed("lying-sync", u64::from(lies(&disks) > before));
        });
    }

    fn full(self: &Rc<Self>, index: usize, slack_bytes: u64, moves: u64, for_ns: Nanos) {
        let host = self.fleet.hosts[index];
        let disk = Disk::of(host);
        let refused = {
            let disk = disk.clone();
            move || disk.counters().faults.get(fault::FULL).map_or(0, |count| count.noticed)
        };
        let before = refused();
        disk.set_quota_above_used(Some(slack_bytes));
        for nth in 1..=moves {
            let (nemesis, disk) = (Rc::clone(self), disk.clone());
            let slack = world::draw(Purpose("moving quota"), u64::from(host.0), world::now_ns() + nth);
            self.undo(for_ns / (moves + 1) * nth, move || {
                if !nemesis.calm.get() {
                    disk.set_quota_above_used(Some(slack % (slack_bytes * 2 + 1)));
                }
            });
        }
        let nemesis = Rc::clone(self);
        self.undo(for_ns, move || {
            disk.set_quota_above_used(None);
            nemesis.ledger.noticed("disk-full", u64::from(refused() > before));
        });
    }

    /// Restarts the machine, so that the damage shows; again later if too little was written since it was ordered.
    fn show_damage(self: &Rc<Self>, index: usize, after_ns: Nanos, down_ns: Nanos, power: bool, tries: u32) {
        let nemesis = Rc::clone(self);
        self.undo(after_ns, move || {
            let disk = Disk::of(nemesis.fleet.hosts[index]);
            if nemesis.calm.get() || disk.ordered_damage() == 0 {
                return;
            }
            nemesis.take_down(index, down_ns, power);
            let done = disk.carry_out_damage();
            if done.values().sum::<u64>() > 0 {
                nemesis.fleet.lose(index, || {});
            } else if disk.ordered_damage() == 0 {
                nemesis.fleet.release_loss(index);
            } else if tries > 1 {
                nemesis.show_damage(index, after_ns, down_ns, power, tries - 1);
            }
        });
    }

    /// Takes a server down, unless it is; it is started again `down_ns` later.
    fn take_down(self: &Rc<Self>, index: usize, down_ns: Nanos, power: bool) {
        if power {
            self.fleet.power_loss(index, down_ns);
        } else {
            self.fleet.crash(index, down_ns);
        }
    }
}

/// How often a machine is restarted so that damage may show.
const SHOW_TRIES_MAX: u32 = 4;
/// After so long it is looked whether a fault in a recovery was felt.
const RECOVERY_NS: Nanos = 2_000_000_000;
