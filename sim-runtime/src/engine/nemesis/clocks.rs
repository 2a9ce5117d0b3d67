//! Faults of clocks, on top of how far off each server's clock is from the start.

use std::rc::Rc;

use super::Nemesis;
use crate::engine::faults::clock::{ClockChange, ClockFault};
use crate::engine::plan::ClockKnob;
use crate::world::clock;

/// The clock of one server: how it is off, always and for now.
#[derive(Default)]
pub(super) struct Clock {
    always: ClockKnob,
    pub changes: Vec<ClockChange>,
}

impl<E: Clone + 'static> Nemesis<E> {
    /// Sets every server's clock as far off as the plan says.
    pub(super) fn set_clocks(&self, knobs: &[ClockKnob]) {
        let mut clocks = self.clocks.borrow_mut();
        clocks.resize_with(self.fleet.hosts.len(), Clock::default);
        for (clock, knob) in clocks.iter_mut().zip(knobs) {
            clock.always = *knob;
            self.ledger.injected("clock-offset", u64::from(knob.offset_ns != 0));
            self.ledger.injected("clock-skew", u64::from(knob.rate_ppm != 0));
        }
        drop(clocks);
        for index in 0..self.fleet.hosts.len() {
            self.apply_clock(index);
        }
    }

    pub(super) fn act_on_clock(self: &Rc<Self>, fault: &ClockFault) {
        let Some(index) = self.fleet.resolve(&fault.target) else { return };
        let family = fault.change.family();
        self.ledger.injected(family, 1);
        let (host, change) = (self.fleet.hosts[index], fault.change.clone());
        let before = clock::skewed_reads(host);
        self.clocks.borrow_mut()[index].changes.push(change.clone());
        self.apply_clock(index);
        let nemesis = Rc::clone(self);
        self.undo(fault.for_ns, move || {
            super::remove_one(&mut nemesis.clocks.borrow_mut()[index].changes, &change);
            nemesis.apply_clock(index);
            let after = clock::skewed_reads(host);
            let noticed = match change {
                ClockChange::Rate { .. } => after.rate > before.rate,
                ClockChange::Step { .. } | ClockChange::Freeze => after.wall > before.wall,
            };
            nemesis.ledger.noticed(change.family(), u64::from(noticed));
        });
    }

    /// Ends what faults did to the clocks; what was off from the start stays so.
    pub(super) fn calm_clocks(&self) {
        for index in 0..self.fleet.hosts.len() {
            self.clocks.borrow_mut()[index].changes.clear();
            self.apply_clock(index);
        }
    }

    pub(super) fn apply_clock(&self, index: usize) {
        let host = self.fleet.hosts[index];
        let clocks = self.clocks.borrow();
        let clock = &clocks[index];
        let (mut offset_ns, mut rate_ppm, mut frozen) = (clock.always.offset_ns, clock.always.rate_ppm, false);
        for change in &clock.changes {
            match change {
                ClockChange::Step { by_ns } => offset_ns = offset_ns.saturating_add(*by_ns),
                ClockChange::Rate { ppm } => rate_ppm = rate_ppm.saturating_add(*ppm),
                ClockChange::Freeze => frozen = true,
            }
        }
        if clock::skew(host) != (offset_ns, rate_ppm) {
            clock::set_wall_offset_ns(host, offset_ns);
            clock::set_rate_ppm(host, rate_ppm);
        }
        if clock::is_wall_frozen(host) != frozen {
            clock::freeze_wall(host, frozen);
        }
    }

    /// At the end of a run: which clocks that were off from the start were read.
    pub fn notice_clocks(&self) {
        for (host, clock) in self.fleet.hosts.iter().zip(self.clocks.borrow().iter()) {
            let reads = clock::skewed_reads(*host);
            self.ledger.noticed("clock-offset", u64::from(clock.always.offset_ns != 0 && reads.wall > 0));
            self.ledger.noticed("clock-skew", u64::from(clock.always.rate_ppm != 0 && reads.rate > 0));
        }
    }
}
