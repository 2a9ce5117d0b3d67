//! The judge of fault points and assertions: fires by the run's seed, and a violation is a panic.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use buggify::{Kind, Simulator, Site};
use sim_runtime::world::{self, Purpose};

/// Fires fault points by the run's seed, and makes a violated assertion a panic.
pub struct Strict {
    pub visits: Cell<u64>,
    pub seen: Rc<RefCell<BTreeMap<String, u64>>>,
}

impl Simulator for Strict {
    fn visit(&self, site: &'static Site, holds: bool, details: Option<String>) {
        if !world::in_world() || !world::is_alive(world::current()) {
            return;
        }
        match site.kind {
            Kind::Always | Kind::Unreachable => assert!(holds, "violated: {} {details:?}", site.id()),
            _ if holds => *self.seen.borrow_mut().entry(site.id()).or_default() += 1,
            _ => {}
        }
    }

    fn fire(&self, site: &'static Site, probability: Option<f64>) -> bool {
        if !world::in_world() {
            return false;
        }
        self.visits.set(self.visits.get() + 1);
        // Not its line: a seed means the same after an edit elsewhere.
        let index = xxhash_rust::xxh3::xxh3_64(site.id().as_bytes());
        let live = world::draw(Purpose("live"), index, 0).is_multiple_of(4);
        let chance = (probability.unwrap_or(0.25) * 1e6) as u64;
        live && world::draw(Purpose("fire"), index, self.visits.get()) % 1_000_000 < chance
    }
}
