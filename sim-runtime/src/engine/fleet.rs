//! The servers of a run: booted, killed, restarted.
//!
//! A supervisor of the plainest kind: a server that goes down, whatever the reason, is started again after a while on
//! the same disk. One start is pending per server at a time; the earliest wins.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::plan::Plan;
use super::record::NodeState;
use super::report::Metrics;
use super::run::{self, Run};
use super::system::{DownCause, Exit, Server};
use crate::disk::{Disk, Volume};
use crate::sync::oneshot;
use crate::world::{self, Cause, HostId, Incarnation, Nanos};

/// All servers of one run.
pub struct Fleet<E> {
    pub hosts: Vec<HostId>,
    run: Rc<Run<E>>,
    plan: Rc<Plan>,
    slots: RefCell<Vec<Slot>>,
    /// Faults of the system's own that are in force.
    misbehaving: RefCell<Vec<(String, u64)>>,
    /// Servers whose disk is damaged or lost, or will be.
    losses: RefCell<BTreeMap<usize, Lost>>,
    /// When more were lost than the system can bear.
    pub beyond_at_ns: Cell<Option<Nanos>>,
    /// Servers that went down are started again. Off where somebody does that by hand.
    pub supervised: Cell<bool>,
    pub crashes: Cell<u64>,
    pub power_losses: Cell<u64>,
    pub restarts: Cell<u64>,
}

/// What became of a server with a bad disk.
enum Lost {
    /// It will be damaged.
    Reserved,
    /// It is damaged, and may not know. Called when it refuses to go on.
    Damaged(Option<Box<dyn FnOnce()>>),
    /// It refused to go on. Nobody starts it again.
    GivenUp,
}

#[derive(Default)]
struct Slot {
    /// The boot that runs, if one does.
    up: Option<u32>,
    /// Asks the boot that runs to stop.
    stop: Option<oneshot::Sender<()>>,
    /// It was asked: how long it stays down, and whom to tell when it is.
    stopping: Option<(Nanos, Box<dyn FnOnce()>)>,
    ever_up: bool,
    /// When the supervisor starts it again.
    start_at: Option<Nanos>,
}

impl<E: Clone + 'static> Fleet<E> {
    pub fn new(plan: Rc<Plan>, run: Rc<Run<E>>) -> Rc<Fleet<E>> {
        let hosts: Vec<HostId> = (0..plan.servers).map(|index| world::add_host(&format!("server-{index}"))).collect();
        let slots = RefCell::new(hosts.iter().map(|_| Slot::default()).collect());
        let fleet = Rc::new(Fleet {
            hosts,
            run,
            plan,
            slots,
            misbehaving: RefCell::default(),
            losses: RefCell::default(),
            beyond_at_ns: Cell::new(None),
            supervised: Cell::new(true),
            crashes: Cell::new(0),
            power_losses: Cell::new(0),
            restarts: Cell::new(0),
        });
        let supervisor = Rc::downgrade(&fleet);
        fleet.run.on_exit(move |index, who, exit| {
            if let Some(fleet) = supervisor.upgrade() {
                fleet.exited(index, who, exit);
            }
        });
        fleet
    }

    /// Index of the server that plays a role now.
    pub fn resolve(&self, role: &str) -> Option<usize> {
        let numbered = role.strip_prefix("Server(").and_then(|rest| rest.strip_suffix(')'));
        let index = match numbered {
            Some(number) => number.parse().ok(),
            None => self.run.system.resolve(role),
        };
        index.and_then(|index: u32| usize::try_from(index).ok()).filter(|index| *index < self.hosts.len())
    }

    pub fn is_up(&self, index: usize) -> bool {
        self.slots.borrow()[index].up.is_some()
    }

    /// Every server as it is now. Leaves the run as it is.
    pub fn inspect(&self) -> Vec<NodeState> {
        let state = |(number, host): (u32, &HostId)| NodeState {
            server: world::host_name(*host),
            up: world::running(*host).is_some(),
            state: self.run.system.inspect(number),
            files: Disk::of(*host).file_states(),
        };
        (0u32..).zip(&self.hosts).map(state).collect()
    }

    /// The running incarnation of a server.
    pub fn incarnation(&self, index: usize) -> Option<Incarnation> {
        self.slots.borrow()[index].up.map(|boot| Incarnation { host: self.hosts[index], boot })
    }

    /// Starts a server that is down; does nothing to one that runs.
    pub fn boot(self: &Rc<Self>, index: usize) {
        if self.is_up(index) || matches!(self.losses.borrow().get(&index), Some(Lost::GivenUp)) {
            return;
        }
        if self.run.system.starts_anew(u32::try_from(index).expect("servers are numbered by u32")) {
            self.empty_disk(index);
        }
        let fleet = Rc::clone(self);
        let (stop, asked) = oneshot::channel();
        let incarnation = world::boot(self.hosts[index], move || {
            let who = world::current();
            let number = u32::try_from(index).expect("servers are numbered by u32");
            let server = Server::new(number, who.host, who.boot, fleet.hosts.clone(), fleet.plan.knobs.clone(), asked);
            let process = fleet.run.system.server(server);
            Box::pin(async move {
                let exit = process.await;
                run::exited::<E>(number, who, exit);
            })
        });
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[index];
        slot.up = Some(incarnation.boot);
        slot.stop = Some(stop);
        slot.stopping = None;
        slot.start_at = None;
        if std::mem::replace(&mut slot.ever_up, true) {
            self.restarts.set(self.restarts.get() + 1);
        }
    }

    /// Starts every server that is down, now.
    pub fn boot_all(self: &Rc<Self>) {
        for index in 0..self.hosts.len() {
            self.boot(index);
        }
    }

    /// Starts a server again `after_ns` from now, unless it is up by then, or nobody supervises.
    pub fn boot_after(self: &Rc<Self>, index: usize, after_ns: Nanos) {
        if !self.supervised.get() {
            return;
        }
        let at = world::now_ns() + after_ns;
        let earlier = self.slots.borrow()[index].start_at.is_some_and(|planned| planned <= at);
        if earlier {
            return;
        }
        self.slots.borrow_mut()[index].start_at = Some(at);
        let fleet = Rc::clone(self);
        world::at(at, move || {
            if fleet.slots.borrow()[index].start_at == Some(at) {
                fleet.boot(index);
            }
        });
    }

    /// Kills the process. Returns whether it ran.
    pub fn crash(self: &Rc<Self>, index: usize, down_ns: Nanos) -> bool {
        let killed = self.kill(index, Cause::Crash, DownCause::Crash);
        if killed {
            self.crashes.set(self.crashes.get() + 1);
            self.boot_after(index, down_ns);
        }
        killed
    }

    /// Asks the process to stop; `stopped` is called when it has. Returns whether it ran and was not asked before.
    pub fn stop(&self, index: usize, down_ns: Nanos, stopped: impl FnOnce() + 'static) -> bool {
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[index];
        let Some(stop) = slot.stop.take() else {
            return false;
        };
        slot.stopping = Some((down_ns, Box::new(stopped)));
        drop(slots);
        // A process that does not listen is not stopped.
        stop.send(()).is_ok()
    }

    /// Takes the power from a machine, whether or not its process runs. Returns the number of sectors lost.
    pub fn power_loss(self: &Rc<Self>, index: usize, down_ns: Nanos) -> u64 {
        let host = self.hosts[index];
        let disk = Disk::of(host);
        let before = disk.power_losses().len();
        if !self.kill(index, Cause::PowerLoss, DownCause::PowerLoss) {
            disk.lose_power(world::now_ns());
        }
        let lost = disk.power_losses()[before..].iter().map(|outcome| outcome.sectors_lost).sum();
        self.power_losses.set(self.power_losses.get() + 1);
        if lost > 0 {
            self.run.lost_unserved.borrow_mut().push((host, 1));
        }
        self.boot_after(index, down_ns);
        lost
    }

    /// Destroys a server's disk, if the system allows it. Returns whether it did.
    pub fn wipe(self: &Rc<Self>, index: usize, down_ns: Nanos) -> bool {
        let number = u32::try_from(index).expect("servers are numbered by u32");
        let losses = self.losses.borrow();
        // A disk that will be damaged is not known to the system yet; a server whose disk was stays down for good.
        let is_lost = losses.contains_key(&index) || losses.values().any(|lost| matches!(lost, Lost::Reserved));
        drop(losses);
        if is_lost || !self.run.system.may_be_wiped(number) {
            return false;
        }
        self.erase(index, down_ns);
        true
    }

    /// Destroys a server's disk without asking whether the system can bear it.
    pub fn erase(self: &Rc<Self>, index: usize, down_ns: Nanos) {
        self.power_loss(index, down_ns);
        self.empty_disk(index);
    }

    /// Gives a server that is down another disk.
    fn empty_disk(&self, index: usize) {
        let number = u32::try_from(index).expect("servers are numbered by u32");
        let host = self.hosts[index];
        Disk::of(host).mount(Volume::default());
        // A server that starts afresh is no witness of recovery.
        self.run.lost_unserved.borrow_mut().retain(|(of, _)| *of != host);
        self.run.system.wiped(number, host, world::boots(host));
    }

    /// Begins or ends a fault of the system's own.
    pub fn misbehave(&self, family: &str, strength: u64, on: bool) {
        let mut misbehaving = self.misbehaving.borrow_mut();
        if on {
            misbehaving.push((family.to_owned(), strength));
        } else {
            let Some(position) = misbehaving.iter().position(|(of, with)| of == family && *with == strength) else {
                return;
            };
            misbehaving.swap_remove(position);
        }
        drop(misbehaving);
        self.run.system.misbehave(family, strength, on);
    }

    /// Ends all faults of the system's own.
    pub fn misbehave_no_more(&self) {
        for (family, strength) in self.misbehaving.take() {
            self.run.system.misbehave(&family, strength, false);
        }
    }

    /// Whether the disk of one more server may be damaged: never more than the system can bear. A server that was counted
    /// may be damaged again.
    pub fn reserve_loss(&self, index: usize) -> bool {
        let servers = u32::try_from(self.hosts.len()).expect("servers are numbered by u32");
        let bearable = usize::try_from(self.run.system.losses_max(servers)).unwrap_or(usize::MAX);
        let mut losses = self.losses.borrow_mut();
        let number = u32::try_from(index).expect("servers are numbered by u32");
        if !losses.contains_key(&index) && losses.len() < bearable && self.run.system.may_be_damaged(number) {
            losses.insert(index, Lost::Reserved);
        }
        losses.contains_key(&index)
    }

    /// It was not damaged after all.
    pub fn release_loss(&self, index: usize) {
        let mut losses = self.losses.borrow_mut();
        if matches!(losses.get(&index), Some(Lost::Reserved)) {
            losses.remove(&index);
        }
    }

    pub fn release_losses(&self) {
        self.losses.borrow_mut().retain(|_, lost| !matches!(lost, Lost::Reserved));
    }

    /// The disk of a server that is down is damaged or lost. `refused` is called when the server refuses to go on with it,
    /// after which it stays down.
    pub fn lose(&self, index: usize, refused: impl FnOnce() + 'static) {
        let mut losses = self.losses.borrow_mut();
        let fresh = !matches!(losses.get(&index), Some(Lost::GivenUp));
        if fresh {
            losses.insert(index, Lost::Damaged(Some(Box::new(refused))));
        }
        let servers = u32::try_from(self.hosts.len()).expect("servers are numbered by u32");
        let lost = u32::try_from(losses.len()).expect("servers are numbered by u32");
        if lost > self.run.system.losses_max(servers) && self.beyond_at_ns.get().is_none() {
            self.beyond_at_ns.set(Some(world::now_ns()));
        }
        drop(losses);
        if fresh {
            let number = u32::try_from(index).expect("servers are numbered by u32");
            self.run.system.damaged(number, self.hosts[index]);
        }
    }

    /// The disk of a server that is down was swapped for another.
    pub fn swap(&self, index: usize) {
        let number = u32::try_from(index).expect("servers are numbered by u32");
        self.run.system.swapped(number, self.hosts[index]);
    }

    /// Servers whose disk is damaged or lost, by their numbers.
    pub fn lost(&self) -> BTreeSet<u32> {
        let losses = self.losses.borrow();
        let lost = losses.iter().filter(|(_, lost)| !matches!(lost, Lost::Reserved));
        lost.map(|(index, _)| u32::try_from(*index).expect("servers are numbered by u32")).collect()
    }

    /// A server failed by itself: whether it is one that was damaged, and stays down.
    fn gives_up(&self, index: usize) -> bool {
        let mut losses = self.losses.borrow_mut();
        let Some(Lost::Damaged(refused)) = losses.get_mut(&index) else {
            return false;
        };
        let refused = refused.take();
        losses.insert(index, Lost::GivenUp);
        drop(losses);
        if let Some(refused) = refused {
            refused();
        }
        true
    }

    fn kill(&self, index: usize, cause: Cause, down: DownCause) -> bool {
        let Some(boot) = self.slots.borrow_mut()[index].up.take() else {
            return false;
        };
        let forgotten = self.slots.borrow_mut()[index].stop.take();
        drop(forgotten);
        world::kill(self.hosts[index], cause);
        let number = u32::try_from(index).expect("servers are numbered by u32");
        self.run.system.down(number, self.hosts[index], boot, down);
        true
    }

    fn exited(self: &Rc<Self>, number: u32, who: Incarnation, exit: Exit) {
        let index = usize::try_from(number).expect("a u32 is a usize");
        world::note(|| format!("server-{number} exits: {exit:?}"));
        let down = match exit {
            Exit::Stopped => DownCause::Stopped,
            Exit::Failed(_) => DownCause::Failed,
        };
        if self.slots.borrow()[index].up == Some(who.boot) && self.kill(index, Cause::Stop, down) {
            if down == DownCause::Failed && self.gives_up(index) {
                return;
            }
            let asked = self.slots.borrow_mut()[index].stopping.take();
            let delay = match asked {
                Some((down_ns, stopped)) if down == DownCause::Stopped => {
                    stopped();
                    down_ns
                }
                _ => SUPERVISOR_DELAY_NS,
            };
            self.boot_after(index, delay);
        }
    }

    pub fn metrics(&self, metrics: &mut Metrics) {
        metrics.crashes = self.crashes.get();
        metrics.power_losses = self.power_losses.get();
        metrics.restarts = self.restarts.get();
    }
}

/// How long the supervisor waits before it starts a server that exited by itself.
const SUPERVISOR_DELAY_NS: Nanos = 300_000_000;
