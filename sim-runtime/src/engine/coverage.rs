//! Which assertion and fault sites a run visited, and which of them made something happen.
//!
//! Installed as the thread's [`buggify::Simulator`]. A visit inside a blocking section counts at the I/O time that the
//! section has reached: if the machine loses power before, it never happened. A dead incarnation visits nothing.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use buggify::{Kind, Simulator, Site};

use super::plan::BuggifyPlan;
use super::planner::name_entity;
use super::report::{AssertionCount, BuggifyCount};
use crate::world::{self, Incarnation, Nanos, Purpose, section};

/// Called when an *always* or *unreachable* is violated: site, time, who, details.
type OnViolation = Box<dyn Fn(&'static Site, Nanos, Incarnation, String)>;
/// Asked at every visit of an armed site whether the armed action is meant: true disarms it.
type Armed = Box<dyn FnMut(Nanos, Incarnation) -> bool>;

/// The counters of one run.
pub struct Coverage {
    counts: RefCell<Vec<Count>>,
    fire_ppm: u32,
    armed: RefCell<Vec<(usize, Armed)>>,
    any_armed: Cell<bool>,
    on_violation: RefCell<Option<OnViolation>>,
}

#[derive(Clone, Default)]
struct Count {
    entity: u64,
    live: bool,
    visits: u64,
    fired: u64,
    hits: u64,
    passes: u64,
}

impl Coverage {
    pub fn new(plan: &BuggifyPlan) -> Rc<Coverage> {
        let counts = buggify::catalogue()
            .iter()
            .map(|site| {
                let id = site.id();
                Count { entity: name_entity(&id), live: plan.live.contains(&id), ..Count::default() }
            })
            .collect();
        Rc::new(Coverage {
            counts: RefCell::new(counts),
            fire_ppm: plan.fire_ppm,
            armed: RefCell::default(),
            any_armed: Cell::new(false),
            on_violation: RefCell::default(),
        })
    }

    pub fn on_violation(&self, handler: impl Fn(&'static Site, Nanos, Incarnation, String) + 'static) {
        self.on_violation.replace(Some(Box::new(handler)));
    }

    /// Asks `armed` at every visit of the site named `id`, until it says true. `false` if there is no such site.
    pub fn arm(&self, id: &str, armed: impl FnMut(Nanos, Incarnation) -> bool + 'static) -> bool {
        let Some(index) = buggify::catalogue().iter().position(|site| site.id() == id) else {
            return false;
        };
        self.armed.borrow_mut().push((index, Box::new(armed)));
        self.any_armed.set(true);
        true
    }

    /// Fault points stop firing: the calm phase begins.
    pub fn calm(&self) {
        for count in self.counts.borrow_mut().iter_mut() {
            count.live = false;
        }
        self.armed.borrow_mut().clear();
        self.any_armed.set(false);
    }

    pub fn assertions(&self) -> Vec<AssertionCount> {
        let counts = self.counts.borrow();
        let sites = buggify::catalogue().iter().zip(counts.iter());
        sites
            .filter(|(site, _)| site.kind != Kind::Buggify)
            .map(|(site, count)| AssertionCount {
                id: site.id(),
                kind: site.kind.name().to_owned(),
                file: site.file.to_owned(),
                line: site.line,
                hits: count.hits,
                passes: count.passes,
            })
            .collect()
    }

    /// Sites are listed as live if they were at the start of the run.
    pub fn buggify(&self, plan: &BuggifyPlan) -> Vec<BuggifyCount> {
        let counts = self.counts.borrow();
        let sites = buggify::catalogue().iter().zip(counts.iter());
        sites
            .filter(|(site, _)| site.kind == Kind::Buggify)
            .map(|(site, count)| {
                let id = site.id();
                let live = plan.live.contains(&id);
                BuggifyCount { id, live, visits: count.visits, fired: count.fired }
            })
            .collect()
    }

    fn ask_armed(&self, index: usize, at_ns: Nanos, who: Incarnation) {
        if !self.any_armed.get() {
            return;
        }
        let mut armed = self.armed.borrow_mut();
        armed.retain_mut(|(site, ask)| *site != index || !ask(at_ns, who));
        self.any_armed.set(!armed.is_empty());
    }

    fn count_visit(&self, site: &'static Site, at_ns: Nanos, who: Incarnation, holds: bool, details: Option<String>) {
        {
            let mut counts = self.counts.borrow_mut();
            let count = &mut counts[buggify::site_index(site)];
            count.hits += 1;
            count.passes += u64::from(holds);
        }
        if matches!(site.kind, Kind::Always | Kind::Unreachable)
            && !holds
            && let Some(report) = self.on_violation.borrow().as_ref()
        {
            report(site, at_ns, who, details.unwrap_or_default());
        }
    }
}

/// What is installed on the thread: the counters, shared with effects that wait for their section to end.
pub struct Hook(pub Rc<Coverage>);

impl Simulator for Hook {
    fn visit(&self, site: &'static Site, holds: bool, details: Option<String>) {
        if !world::in_world() {
            return;
        }
        let who = world::current();
        if !world::is_alive(who) {
            return;
        }
        let at_ns = world::now_ns();
        if section::active() {
            let coverage = Rc::clone(&self.0);
            section::buffer(move || coverage.count_visit(site, at_ns, who, holds, details));
        } else {
            self.0.count_visit(site, at_ns, who, holds, details);
        }
        self.0.ask_armed(buggify::site_index(site), at_ns, who);
    }

    fn fire(&self, site: &'static Site, probability: Option<f64>) -> bool {
        if !world::in_world() {
            return false;
        }
        let who = world::current();
        if !world::is_alive(who) {
            return false;
        }
        let index = buggify::site_index(site);
        self.0.ask_armed(index, world::now_ns(), who);
        let (entity, ordinal) = {
            let mut counts = self.0.counts.borrow_mut();
            let count = &mut counts[index];
            count.visits += 1;
            if !count.live {
                return false;
            }
            (count.entity, count.visits - 1)
        };
        let ppm = probability.map_or(u64::from(self.0.fire_ppm), millionths);
        let fires = world::draw(Purpose("buggify"), entity, ordinal) % 1_000_000 < ppm;
        self.0.counts.borrow_mut()[index].fired += u64::from(fires);
        fires
    }
}

/// A probability in millionths, at least 0 and at most all of them.
fn millionths(probability: f64) -> u64 {
    let clamped = probability.clamp(0.0, 1.0) * 1_000_000.0;
    // In range by the clamp; rounding towards zero is what is wanted.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let millionths = clamped as u64;
    millionths
}
