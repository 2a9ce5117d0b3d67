//! Faults that somebody begins and ends by hand. Calm ends what is left of them, as it does with planned ones.

use super::Nemesis;
use crate::engine::faults::clock::ClockChange;
use crate::world::network::{self, NetworkConfig};
use crate::world::{self, HostId};

impl<E: Clone + 'static> Nemesis<E> {
    /// Cuts the directed link between two hosts, unless it is cut. Returns whether it was not.
    pub fn cut_link(&self, from: HostId, to: HostId) -> bool {
        let fresh = !self.cuts.borrow().contains_key(&(from, to));
        if fresh {
            self.hold_cut(&[(from, to)]);
        }
        fresh
    }

    /// Heals the directed link between two hosts, if it is cut.
    pub fn heal_link(&self, from: HostId, to: HostId) {
        if self.cuts.borrow_mut().remove(&(from, to)).is_some() {
            network::heal(from, to);
        }
    }

    /// Changes how every link behaves from now on.
    pub fn change_links(&self, change: impl FnOnce(&mut NetworkConfig)) {
        self.weather.borrow_mut().rebase(change);
    }

    /// Suspends the process of a server.
    pub fn pause(&self, index: usize) {
        let host = self.fleet.hosts[index];
        self.ledger.injected("pause", 1);
        world::pause(host);
        self.paused.borrow_mut().insert(host);
    }

    pub fn is_paused(&self, index: usize) -> bool {
        self.paused.borrow().contains(&self.fleet.hosts[index])
    }

    /// Lets it go on. Does nothing if it was not suspended.
    pub fn resume(&self, index: usize) {
        let host = self.fleet.hosts[index];
        if self.paused.borrow_mut().remove(&host) {
            self.ledger.noticed("pause", u64::from(world::resume(host) > 0));
        }
    }

    /// Sets how far off a server's clock is: the wall clock in ns, the rate of both clocks in ppm.
    pub fn skew_clock(&self, index: usize, offset_ns: i64, rate_ppm: i64) {
        let step = (offset_ns != 0).then_some(ClockChange::Step { by_ns: offset_ns });
        let rate = (rate_ppm != 0).then_some(ClockChange::Rate { ppm: rate_ppm });
        let changes: Vec<ClockChange> = step.into_iter().chain(rate).collect();
        changes.iter().for_each(|change| self.ledger.injected(change.family(), 1));
        self.clocks.borrow_mut()[index].changes = changes;
        self.apply_clock(index);
    }
}
