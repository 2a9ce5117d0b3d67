//! Carries out the faults of a plan.
//!
//! Each fault waits for its trigger in a task outside all machines, acts, and undoes itself when its time is over. The
//! calm phase undoes whatever is left. A fault whose target nobody plays at that moment does nothing and is not
//! counted.

mod by_hand;
mod clocks;
mod disk;
mod links;
mod processes;
mod weather;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::coverage::Coverage;
use super::faults::link::{Effect, Scope};
use super::faults::system::SystemFault;
use super::fleet::Fleet;
use super::ledger::Ledger;
use super::plan::{Fault, PartitionShape, PlannedFault, SlowPair, Trigger, WorldKnobs};
use super::tickets;
use crate::disk::{Disk, DiskError, FaultPoint};
use crate::world::network;
use crate::world::{self, HostId, Nanos, Purpose};

/// The faults of one run.
pub struct Nemesis<E> {
    fleet: Rc<Fleet<E>>,
    coverage: Rc<Coverage>,
    pub ledger: Ledger,
    clients: RefCell<Vec<HostId>>,
    weather: RefCell<weather::Weather>,
    clocks: RefCell<Vec<clocks::Clock>>,
    paused: RefCell<BTreeSet<HostId>>,
    /// How many faults cut a directed link.
    cuts: RefCell<BTreeMap<(HostId, HostId), u32>>,
    /// Numbers for actions within disk operations.
    tickets: Cell<u64>,
    calm: Cell<bool>,
    pub partitions: Cell<u64>,
}

impl<E: Clone + 'static> Nemesis<E> {
    pub fn new(fleet: Rc<Fleet<E>>, coverage: Rc<Coverage>) -> Rc<Nemesis<E>> {
        let weather = RefCell::new(weather::Weather::new(network::config()));
        Rc::new(Nemesis {
            fleet,
            coverage,
            ledger: Ledger::default(),
            clients: RefCell::default(),
            weather,
            clocks: RefCell::default(),
            paused: RefCell::default(),
            cuts: RefCell::default(),
            tickets: Cell::new(0),
            calm: Cell::new(false),
            partitions: Cell::new(0),
        })
    }

    /// What is off from the start and stays so: clocks, and links that are always slow.
    pub fn prepare(self: &Rc<Self>, knobs: &WorldKnobs) {
        self.set_clocks(&knobs.clocks);
        for SlowPair { a, b, extra_ns } in knobs.slow_pairs.iter().copied().filter(|pair| pair.extra_ns > 0) {
            if let Some(links) = self.links_of(&Scope::Pair { a, b }) {
                self.ledger.injected("slow-pair", 1);
                self.weather.borrow_mut().begin(links, Effect::Slow { extra_ns });
            }
        }
    }

    /// The run is over: counts what only the end shows.
    pub fn notice_at_end(&self, slow_pairs: usize) {
        self.notice_clocks();
        let felt = network::counts().slow_delivered > 0;
        self.ledger.noticed("slow-pair", u64::try_from(slow_pairs).unwrap_or(0) * u64::from(felt));
    }

    /// Sets on their way the faults that meet servers which start for the first time: call it before they do.
    pub fn await_first_starts(self: &Rc<Self>, faults: &[PlannedFault]) {
        for PlannedFault { when, fault } in faults {
            if let Trigger::FirstStart { nth, then_ns } = when {
                self.arm_disk_op(fault.clone(), *nth, *then_ns);
            }
        }
    }

    /// Sets every other fault on its way. `clients` are the hosts that some partitions cut off as well.
    pub fn unleash(self: &Rc<Self>, faults: &[PlannedFault], clients: Vec<HostId>) {
        self.clients.replace(clients);
        for planned in faults {
            let nemesis = Rc::clone(self);
            let fault = planned.fault.clone();
            match planned.when.clone() {
                Trigger::At { ns } => world::at(ns, move || nemesis.act(&fault)),
                Trigger::DiskOp { after_ns, nth, then_ns } => {
                    world::at(after_ns, move || nemesis.arm_disk_op(fault, nth, then_ns));
                }
                Trigger::Site { after_ns, site, nth } => {
                    world::at(after_ns, move || nemesis.arm_site(fault, &site, nth));
                }
                Trigger::FirstStart { .. } => {}
            }
        }
    }

    /// Forgets what has not happened: the run is over.
    pub fn forget(&self) {
        self.coverage.calm();
        tickets::forget_all();
    }

    /// Ends all faults: links heal, latencies and losses end, armed faults are forgotten.
    pub fn calm(&self) {
        self.calm.set(true);
        self.coverage.calm();
        for (from, to) in self.cuts.take().into_keys() {
            network::heal(from, to);
        }
        self.weather.borrow_mut().calm();
        self.calm_processes();
        self.calm_clocks();
        self.fleet.misbehave_no_more();
        for host in &self.fleet.hosts {
            Disk::of(*host).heal();
        }
        self.fleet.release_losses();
    }

    fn arm_disk_op(self: &Rc<Self>, fault: Fault, nth: u64, then_ns: Nanos) {
        let Some(index) = fault.target().and_then(|target| self.fleet.resolve(target)) else {
            return;
        };
        if self.calm.get() {
            return;
        }
        // The fault was aimed when it was armed: who leads when it fires is another question.
        let (nemesis, fault) = (Rc::clone(self), aimed(fault, index));
        let ticket = self.tickets.replace(self.tickets.get() + 1);
        tickets::deposit(ticket, move || world::at(world::now_ns() + then_ns, move || nemesis.act(&fault)));
        // Anywhere within the operation.
        let fraction = world::draw(Purpose("fault within operation"), u64::from(self.fleet.hosts[index].0), ticket);
        let fraction_ppm = u32::try_from(fraction % 1_000_000).expect("below a million");
        Disk::of(self.fleet.hosts[index]).at_op(nth - 1, fraction_ppm, move || tickets::redeem(ticket));
    }

    fn arm_site(self: &Rc<Self>, fault: Fault, site: &str, nth: u64) {
        if self.calm.get() {
            return;
        }
        let nemesis = Rc::clone(self);
        let mut visits_left = nth;
        self.coverage.arm(site, move |at_ns, who| {
            let aim = fault.target().and_then(|target| nemesis.fleet.resolve(target));
            let Some(index) = aim.filter(|index| nemesis.fleet.hosts[*index] == who.host) else {
                return false;
            };
            visits_left -= 1;
            if visits_left > 0 {
                return false;
            }
            let acting = Rc::clone(&nemesis);
            let fault = aimed(fault.clone(), index);
            world::at(at_ns, move || acting.act(&fault));
            true
        });
    }

    fn act(self: &Rc<Self>, fault: &Fault) {
        if self.calm.get() {
            return;
        }
        let family = fault.family();
        world::note(|| format!("fault: {fault:?}"));
        world::record(world::Class::Fault, &[super::planner::name_entity(family)], &[]);
        match fault {
            Fault::Crash { target, down_ns } => {
                if let Some(index) = self.fleet.resolve(target) {
                    let missed_before = missed();
                    if self.fleet.crash(index, *down_ns) {
                        self.ledger.injected(family, 1);
                        let nemesis = Rc::clone(self);
                        world::at(world::now_ns() + down_ns, move || {
                            nemesis.ledger.noticed("crash", u64::from(missed() > missed_before));
                        });
                    }
                }
            }
            Fault::Stop { target, down_ns } => {
                if let Some(index) = self.fleet.resolve(target) {
                    let nemesis = Rc::clone(self);
                    // Noticed when the process has stopped by itself.
                    let stopped = move || nemesis.ledger.noticed("stop", 1);
                    self.ledger.injected(family, u64::from(self.fleet.stop(index, *down_ns, stopped)));
                }
            }
            Fault::PowerLoss { target, down_ns } => {
                if let Some(index) = self.fleet.resolve(target) {
                    self.ledger.injected(family, 1);
                    let lost = self.fleet.power_loss(index, *down_ns);
                    self.ledger.noticed(family, u64::from(lost > 0));
                }
            }
            Fault::ClusterPowerLoss { down_ns } => {
                self.ledger.injected(family, 1);
                let lost: u64 = (0..self.fleet.hosts.len()).map(|index| self.fleet.power_loss(index, *down_ns)).sum();
                self.ledger.noticed(family, u64::from(lost > 0));
            }
            Fault::Partition { shape, for_ns } => self.partition(shape, *for_ns),
            Fault::Loss { ppm, for_ns } => self.weather(&Effect::Loss { ppm: *ppm }, &Scope::All, *for_ns),
            Fault::Latency { extra_ns, for_ns } => {
                self.weather(&Effect::Latency { extra_ns: *extra_ns }, &Scope::All, *for_ns);
            }
            Fault::Process(fault) => self.act_on_processes(fault),
            Fault::Clock(fault) => self.act_on_clock(fault),
            Fault::Link(fault) => self.act_on_links(fault),
            Fault::System(fault) => self.act_on_system(fault),
            Fault::Disk(fault) => self.act_on_disk(fault),
            Fault::DiskError { target, op, role, skip } => {
                if let Some(index) = self.fleet.resolve(target) {
                    self.ledger.injected(family, 1);
                    let disk = Disk::of(self.fleet.hosts[index]);
                    let role = Some(disk.aimed(*role));
                    disk.arm(FaultPoint { kind: *op, role, skip: *skip, error: DiskError::Io });
                }
            }
        }
    }

    fn partition(self: &Rc<Self>, shape: &PartitionShape, for_ns: Nanos) {
        let links = self.links(shape);
        if links.is_empty() {
            return;
        }
        self.partitions.set(self.partitions.get() + 1);
        self.ledger.injected("partition", 1);
        let kind = shape.kind();
        self.ledger.injected(kind, 1);
        self.hold_cut(&links);
        let (nemesis, before) = (Rc::clone(self), network::counts().cut_drops);
        self.undo(for_ns, move || {
            let felt = u64::from(network::counts().cut_drops > before);
            nemesis.ledger.noticed("partition", felt);
            nemesis.ledger.noticed(kind, felt);
            nemesis.release_cut(&links);
        });
    }

    /// The system under test misbehaves; it tells the run how often that was felt.
    fn act_on_system(self: &Rc<Self>, fault: &SystemFault) {
        self.ledger.injected(&fault.family, 1);
        self.fleet.misbehave(&fault.family, fault.strength, true);
        let (nemesis, fault) = (Rc::clone(self), fault.clone());
        self.undo(fault.for_ns, move || nemesis.fleet.misbehave(&fault.family, fault.strength, false));
    }

    /// The directed links that a partition cuts.
    fn links(&self, shape: &PartitionShape) -> Vec<(HostId, HostId)> {
        let hosts = &self.fleet.hosts;
        let others = |index: usize| hosts.iter().copied().filter(move |host| *host != hosts[index]);
        let mut links = Vec::new();
        match shape {
            PartitionShape::Split { side } => {
                let inside = |index: usize| side.iter().any(|named| usize::try_from(*named) == Ok(index));
                for (i, one) in hosts.iter().enumerate() {
                    for (j, other) in hosts.iter().enumerate() {
                        if inside(i) != inside(j) {
                            links.push((*one, *other));
                        }
                    }
                }
            }
            PartitionShape::Isolate { target, clients } => {
                if let Some(index) = self.fleet.resolve(target) {
                    let clients = if *clients { self.clients.borrow().clone() } else { Vec::new() };
                    for other in others(index).chain(clients) {
                        links.push((hosts[index], other));
                        links.push((other, hosts[index]));
                    }
                }
            }
            PartitionShape::OneWay { target, inbound } => {
                if let Some(index) = self.fleet.resolve(target) {
                    for other in others(index) {
                        links.push(if *inbound { (other, hosts[index]) } else { (hosts[index], other) });
                    }
                }
            }
            PartitionShape::Bridge { bridge } => {
                // Without the bridge, the first half of the servers and the second.
                let bridge = usize::try_from(*bridge).unwrap_or(usize::MAX);
                let sides: Vec<HostId> =
                    (0..hosts.len()).filter(|index| *index != bridge).map(|index| hosts[index]).collect();
                let (left, right) = sides.split_at(sides.len() / 2);
                for (one, other) in left.iter().flat_map(|one| right.iter().map(move |other| (*one, *other))) {
                    links.extend([(one, other), (other, one)]);
                }
            }
            PartitionShape::Ring => {
                for (i, one) in hosts.iter().enumerate() {
                    for (j, other) in hosts.iter().enumerate() {
                        let apart = i.abs_diff(j);
                        if i != j && apart != 1 && apart != hosts.len() - 1 {
                            links.push((*one, *other));
                        }
                    }
                }
            }
        }
        links
    }

    fn undo(&self, after_ns: Nanos, action: impl FnOnce() + 'static) {
        world::at(world::now_ns() + after_ns, action);
    }
}

/// Messages that found nobody, so far.
fn missed() -> u64 {
    let counts = network::counts();
    counts.refused + counts.silent_drops
}

/// The same fault, at a server by its number.
fn aimed(mut fault: Fault, index: usize) -> Fault {
    fault.aim_at(&format!("Server({index})"));
    fault
}

fn remove_one<T: PartialEq>(list: &mut Vec<T>, value: &T) {
    if let Some(position) = list.iter().position(|candidate| candidate == value) {
        list.swap_remove(position);
    }
}
