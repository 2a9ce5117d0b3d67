//! Faults of processes: pauses, slowness, attrition, rolling restarts, lost disks.

use std::rc::Rc;

use super::{Nemesis, missed};
use crate::engine::faults::process::ProcessFault;
use crate::world::draws::Dice;
use crate::world::host::Slowness;
use crate::world::{self, Nanos, Purpose};

impl<E: Clone + 'static> Nemesis<E> {
    pub(super) fn act_on_processes(self: &Rc<Self>, fault: &ProcessFault) {
        match fault {
            ProcessFault::Pause { target, for_ns } => {
                if let Some(index) = self.fleet.resolve(target)
                    && self.fleet.is_up(index)
                {
                    self.ledger.injected("pause", 1);
                    let host = self.fleet.hosts[index];
                    let boot = self.fleet.incarnation(index);
                    world::pause(host);
                    self.paused.borrow_mut().insert(host);
                    let nemesis = Rc::clone(self);
                    self.undo(*for_ns, move || {
                        nemesis.paused.borrow_mut().remove(&host);
                        // A later boot is not the one that was paused; an overlapping pause ends with the first.
                        if nemesis.fleet.incarnation(index) == boot {
                            nemesis.ledger.noticed("pause", u64::from(world::resume(host) > 0));
                        }
                    });
                }
            }
            ProcessFault::Slow { target, ppm, ns_max, for_ns } => {
                if let Some(index) = self.fleet.resolve(target) {
                    self.ledger.injected("slow", 1);
                    let (host, before) = (self.fleet.hosts[index], world::slow_waits());
                    world::set_slowness(host, Slowness { ppm: *ppm, ns_max: *ns_max });
                    let nemesis = Rc::clone(self);
                    self.undo(*for_ns, move || {
                        world::set_slowness(host, Slowness::default());
                        nemesis.ledger.noticed("slow", u64::from(world::slow_waits() > before));
                    });
                }
            }
            ProcessFault::Attrition { mean_ns, down_ns, for_ns } => {
                let attrition = Attrition { mean_ns: *mean_ns, down_ns: *down_ns, until_ns: world::now_ns() + for_ns };
                self.attrition(Rc::new(attrition), 0);
            }
            ProcessFault::RollingRestart { down_ns, gap_ns } => {
                self.ledger.injected("rolling-restart", 1);
                self.roll(0, *down_ns, *gap_ns);
            }
            ProcessFault::Wipe { target, down_ns } => {
                if let Some(index) = self.fleet.resolve(target)
                    && self.fleet.wipe(index, *down_ns)
                {
                    self.ledger.injected("wipe", 1);
                }
            }
        }
    }

    /// Every process goes on, and at its usual pace.
    pub(super) fn calm_processes(&self) {
        for host in self.paused.take() {
            world::resume(host);
        }
        for host in &self.fleet.hosts {
            world::set_slowness(*host, Slowness::default());
        }
    }

    /// Kills one server after a drawn interval, and again.
    fn attrition(self: &Rc<Self>, attrition: Rc<Attrition>, nth: u64) {
        let mut dice = Dice::new(world::draw(Purpose("attrition"), attrition.until_ns, nth));
        let after_ns = dice.exponential(attrition.mean_ns).max(1);
        let nemesis = Rc::clone(self);
        self.undo(after_ns, move || {
            if nemesis.calm.get() || world::now_ns() >= attrition.until_ns {
                return;
            }
            let servers = u64::try_from(nemesis.fleet.hosts.len()).expect("a length is a u64");
            let index = usize::try_from(dice.below(servers)).expect("below the number of servers");
            nemesis.kill_one(index, dice.below(3) == 0, attrition.down_ns);
            nemesis.attrition(attrition, nth + 1);
        });
    }

    fn kill_one(self: &Rc<Self>, index: usize, by_power_loss: bool, down_ns: Nanos) {
        if !self.fleet.is_up(index) {
            return;
        }
        self.ledger.injected("attrition", 1);
        let missed_before = missed();
        if by_power_loss {
            self.fleet.power_loss(index, down_ns);
        } else {
            self.fleet.crash(index, down_ns);
        }
        let nemesis = Rc::clone(self);
        self.undo(down_ns, move || nemesis.ledger.noticed("attrition", u64::from(missed() > missed_before)));
    }

    /// Stops the server with this index, and after it is up again and a gap has passed, the next.
    fn roll(self: &Rc<Self>, index: usize, down_ns: Nanos, gap_ns: Nanos) {
        if self.calm.get() || index >= self.fleet.hosts.len() {
            return;
        }
        let nemesis = Rc::clone(self);
        // Noticed when the process has stopped by itself.
        let began = self.fleet.stop(index, down_ns, move || nemesis.ledger.noticed("rolling-restart", 1));
        let nemesis = Rc::clone(self);
        self.undo(if began { down_ns } else { 0 } + gap_ns, move || nemesis.roll(index + 1, down_ns, gap_ns));
    }
}

/// Kills that come at random.
struct Attrition {
    mean_ns: Nanos,
    down_ns: Nanos,
    until_ns: Nanos,
}
