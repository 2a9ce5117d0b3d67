//! Who is told when a site is visited.
//!
//! A simulation owns one thread and installs its [`Simulator`] there; other threads of the process are outside. The
//! process-wide count of simulations is the fast path: while it is zero, no site looks further.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{Site, outside};

/// Receives the visits of one simulation.
pub trait Simulator {
    /// An assertion was evaluated. `holds` is its condition (`true` for a reachable, `false` for an unreachable site);
    /// `details` is evaluated only on a violated *always* or *unreachable*.
    fn visit(&self, site: &'static Site, holds: bool, details: Option<String>);

    /// A fault point was visited: does it fire? `probability` overrides the default chance per visit of a live site.
    fn fire(&self, site: &'static Site, probability: Option<f64>) -> bool;
}

static SIMULATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static CURRENT: RefCell<Option<Rc<dyn Simulator>>> = const { RefCell::new(None) };
}

/// Makes `simulator` receive the visits of this thread until the returned guard is dropped.
pub fn install(simulator: Rc<dyn Simulator>) -> Installed {
    SIMULATIONS.fetch_add(1, Ordering::Relaxed);
    let previous = CURRENT.replace(Some(simulator));
    Installed { previous }
}

/// Whether this thread simulates.
#[inline]
pub fn is_simulating() -> bool {
    SIMULATIONS.load(Ordering::Relaxed) != 0 && current().is_some()
}

/// Keeps a [`Simulator`] installed; restores the previous one when dropped.
#[must_use = "the simulator is removed when this is dropped"]
pub struct Installed {
    previous: Option<Rc<dyn Simulator>>,
}

impl Drop for Installed {
    fn drop(&mut self) {
        let previous = self.previous.take();
        // The thread may be exiting; then nobody asks any more.
        let _ = CURRENT.try_with(|current| current.replace(previous));
        SIMULATIONS.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Installed")
    }
}

fn current() -> Option<Rc<dyn Simulator>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

#[doc(hidden)]
#[inline]
pub fn always(site: &'static Site, holds: bool, details: impl FnOnce() -> String) {
    if holds && SIMULATIONS.load(Ordering::Relaxed) == 0 {
        return;
    }
    always_slow(site, holds, details);
}

#[cold]
fn always_slow(site: &'static Site, holds: bool, details: impl FnOnce() -> String) {
    let details = (!holds).then(details);
    match current() {
        Some(simulator) => simulator.visit(site, holds, details),
        None if !holds => outside::report(site, details.unwrap_or_default()),
        None => {}
    }
}

#[doc(hidden)]
#[inline]
pub fn sometimes(site: &'static Site, holds: impl FnOnce() -> bool) {
    if SIMULATIONS.load(Ordering::Relaxed) == 0 {
        return;
    }
    if let Some(simulator) = current() {
        simulator.visit(site, holds(), None);
    }
}

#[doc(hidden)]
#[inline]
pub fn fire(site: &'static Site, probability: Option<f64>) -> bool {
    if SIMULATIONS.load(Ordering::Relaxed) == 0 {
        return false;
    }
    current().is_some_and(|simulator| simulator.fire(site, probability))
}
