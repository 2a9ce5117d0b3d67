//! Faults of links: weather, partitions that flap, clogs.

use std::rc::Rc;

use super::Nemesis;
use super::weather::Link;
use crate::engine::faults::link::{Effect, LinkFault, Scope};
use crate::engine::plan::PartitionShape;
use crate::world::draws::Dice;
use crate::world::{self, HostId, Nanos, Purpose, network};

impl<E: Clone + 'static> Nemesis<E> {
    pub(super) fn act_on_links(self: &Rc<Self>, fault: &LinkFault) {
        match fault {
            LinkFault::Weather { effect, scope, for_ns } => self.weather(effect, scope, *for_ns),
            LinkFault::Flap { shape, down_ns, up_ns, for_ns } => {
                self.ledger.injected("flapping", 1);
                let flap = Flap { shape: shape.clone(), down_ns: (*down_ns).max(1), up_ns: (*up_ns).max(1) };
                self.flap(Rc::new(flap), world::now_ns() + for_ns, network::counts().cut_drops);
            }
            LinkFault::Clog { target, for_ns } => {
                if let Some(index) = self.fleet.resolve(target) {
                    self.ledger.injected("clog", 1);
                    let before = network::counts().clogged;
                    self.clog(index, *for_ns);
                    self.notice_clog("clog", before, *for_ns);
                }
            }
            LinkFault::Swizzle { for_ns } => self.swizzle(*for_ns),
        }
    }

    pub(super) fn weather(self: &Rc<Self>, effect: &Effect, scope: &Scope, for_ns: Nanos) {
        let Some(links) = self.links_of(scope) else { return };
        let family = effect.family();
        self.ledger.injected(family, 1);
        let before = effect.felt(&network::counts());
        let number = self.weather.borrow_mut().begin(links, effect.clone());
        let (nemesis, effect) = (Rc::clone(self), effect.clone());
        self.undo(for_ns, move || {
            nemesis.weather.borrow_mut().end(number);
            let felt = effect.felt(&network::counts()) > before;
            nemesis.ledger.noticed(effect.family(), u64::from(felt));
        });
    }

    /// The links of a scope: `None` inside for all of them, `None` outside for a target that nobody plays.
    #[expect(clippy::option_option, reason = "all links, some links, no fault: three answers")]
    pub(super) fn links_of(&self, scope: &Scope) -> Option<Option<Vec<Link>>> {
        let host = |server: u32| self.fleet.hosts.get(usize::try_from(server).ok()?).copied();
        Some(match scope {
            Scope::All => None,
            Scope::Server { target } => Some(self.links_around(self.fleet.resolve(target)?)),
            Scope::Pair { a, b } => {
                let (a, b) = (host(*a)?, host(*b)?);
                Some(vec![(a, b), (b, a)])
            }
            Scope::OneWay { from, to } => Some(vec![(host(*from)?, host(*to)?)]),
        })
    }

    /// All links of a server with the other servers and the clients.
    fn links_around(&self, index: usize) -> Vec<Link> {
        let host = self.fleet.hosts[index];
        let clients = self.clients.borrow();
        let others = self.fleet.hosts.iter().chain(clients.iter()).copied().filter(|other| *other != host);
        others.flat_map(|other| [(host, other), (other, host)]).collect()
    }

    fn flap(self: &Rc<Self>, flap: Rc<Flap>, until_ns: Nanos, drops_before: u64) {
        if self.calm.get() || world::now_ns() >= until_ns {
            let felt = network::counts().cut_drops > drops_before;
            self.ledger.noticed("flapping", u64::from(felt));
            return;
        }
        let links = self.links(&flap.shape);
        self.hold_cut(&links);
        let nemesis = Rc::clone(self);
        self.undo(flap.down_ns, move || {
            nemesis.release_cut(&links);
            let again = Rc::clone(&nemesis);
            nemesis.undo(flap.up_ns, move || again.flap(flap, until_ns, drops_before));
        });
    }

    fn clog(&self, index: usize, for_ns: Nanos) {
        let until_ns = world::now_ns() + for_ns;
        for (from, to) in self.links_around(index) {
            network::clog(from, to, until_ns);
        }
    }

    fn notice_clog(self: &Rc<Self>, family: &'static str, before: u64, after_ns: Nanos) {
        let nemesis = Rc::clone(self);
        self.undo(after_ns, move || {
            nemesis.ledger.noticed(family, u64::from(network::counts().clogged > before));
        });
    }

    /// Each chosen server is clogged at a time of its own in the first half, and unclogged at one in the second.
    fn swizzle(self: &Rc<Self>, for_ns: Nanos) {
        self.ledger.injected("swizzle", 1);
        let before = network::counts().clogged;
        let mut dice = Dice::new(world::draw(Purpose("swizzle"), 0, world::now_ns()));
        let half = for_ns / 2;
        for index in 0..self.fleet.hosts.len() {
            let (begins, ends) = (dice.below(half.max(1)), half + dice.below(half.max(1)));
            if dice.chance(500_000) {
                let nemesis = Rc::clone(self);
                self.undo(begins, move || {
                    if !nemesis.calm.get() {
                        nemesis.clog(index, ends - begins);
                    }
                });
            }
        }
        self.notice_clog("swizzle", before, for_ns);
    }

    pub(super) fn hold_cut(&self, links: &[Link]) {
        for (from, to) in links {
            let mut cuts = self.cuts.borrow_mut();
            let holders = cuts.entry((*from, *to)).or_default();
            *holders += 1;
            if *holders == 1 {
                network::cut(*from, *to);
            }
        }
    }

    /// Ends a cut unless somebody else holds it, or calm has ended it.
    pub(super) fn release_cut(&self, links: &[(HostId, HostId)]) {
        for (from, to) in links {
            let mut cuts = self.cuts.borrow_mut();
            if let Some(holders) = cuts.get_mut(&(*from, *to)) {
                *holders -= 1;
                if *holders == 0 {
                    cuts.remove(&(*from, *to));
                    network::heal(*from, *to);
                }
            }
        }
    }
}

/// A partition that comes and goes.
struct Flap {
    shape: PartitionShape,
    down_ns: Nanos,
    up_ns: Nanos,
}
