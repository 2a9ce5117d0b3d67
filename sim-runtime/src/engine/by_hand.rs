//! A run that is made by hand: the same servers, faults, oracles and final checks as in a run of a plan, but somebody
//! outside says what happens next. Between two steps virtual time stands still.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::Future;
use std::rc::Rc;

use super::fleet::Fleet;
use super::nemesis::Nemesis;
use super::parts::Parts;
use super::plan::Plan;
use super::record::{RunRecord, RunRequest};
use super::report::Violation;
use super::simulation::Simulation;
use super::system::{Client, ClientProcess};
use crate::world::{self, Halt, HostId};

/// A run in progress. Ends with [`finish`](ByHand::finish) or [`abandon`](ByHand::abandon), on the thread that began it.
pub struct ByHand<E> {
    simulation: Simulation<E>,
    request: RunRequest,
    parts: Parts<E>,
    fleet: Rc<Fleet<E>>,
    nemesis: Rc<Nemesis<E>>,
    /// Why the run was given up.
    halt: RefCell<Option<Halt>>,
    away: RefCell<BTreeSet<u32>>,
}

impl<E: Clone + 'static> ByHand<E> {
    /// The plan of the request's seed, changed; its clients and faults are not used. All servers are down, and one that
    /// goes down later stays so.
    pub fn new(simulation: Simulation<E>, request: RunRequest, change: impl FnOnce(&mut Plan)) -> ByHand<E> {
        let (parts, (fleet, nemesis)) = simulation.set(&request, change);
        fleet.supervised.set(false);
        let (halt, away) = (RefCell::default(), RefCell::default());
        ByHand { simulation, request, parts, fleet, nemesis, halt, away }
    }

    /// Lets virtual time pass until `step` completes.
    ///
    /// # Errors
    /// When the run is given up, now or before; see [`World::run`](crate::world::World::run).
    pub fn drive<T>(&self, step: impl Future<Output = T>) -> Result<T, Halt> {
        if let Some(halt) = self.halt.borrow().as_ref() {
            return Err(halt.clone());
        }
        let outcome = self.parts.world.drive(step);
        if let Err(halt) = &outcome {
            self.halt.replace(Some(halt.clone()));
        }
        outcome
    }

    /// Does something that takes no virtual time.
    pub fn enter<R>(&self, action: impl FnOnce() -> R) -> R {
        self.parts.world.enter(action)
    }

    pub fn fleet(&self) -> &Rc<Fleet<E>> {
        &self.fleet
    }

    pub fn nemesis(&self) -> &Rc<Nemesis<E>> {
        &self.nemesis
    }

    /// Starts a client on a host of its own.
    pub fn client(&self, process: impl FnOnce(Client<E>) -> ClientProcess + 'static) -> HostId {
        let index = self.parts.clients.replace(self.parts.clients.get() + 1);
        let (servers, knobs) = (self.fleet.hosts.clone(), self.parts.plan.knobs.clone());
        self.enter(|| {
            let host = world::add_host(&format!("client-{index}"));
            world::boot(host, move || process(Client::new(index, servers, u64::MAX, knobs)));
            host
        })
    }

    /// Says whether somebody counts on a server at the end; everybody does unless told otherwise.
    pub fn count_on(&self, server: u32, counts: bool) {
        let mut away = self.away.borrow_mut();
        let _ = if counts { away.remove(&server) } else { away.insert(server) };
    }

    /// What oracles and assertions found so far.
    pub fn violations(&self) -> Vec<Violation> {
        let mut violations = self.parts.run.verdicts.borrow().violations().to_vec();
        violations.extend(self.parts.run.other_violations.borrow().iter().cloned());
        violations
    }

    /// Ends all faults, starts what is down, waits until the system has converged, lets the workloads of these `names`
    /// check what is left, and asks every oracle.
    pub fn finish(self, names: &[&str]) -> RunRecord {
        let ByHand { simulation, request, parts, fleet, halt, away, .. } = self;
        fleet.supervised.set(true);
        let (given_up, away) = (halt.take(), away.take());
        let settled = parts.world.run(async {
            if given_up.is_none() && !parts.is_over() {
                simulation.settle(&parts, names, &away).await;
            }
        });
        parts.into_record(&request, given_up.map_or(settled, Err))
    }

    /// Ends everything without asking anybody.
    pub fn abandon(self) {
        // Whether this is the second time that the run is given up is of no interest.
        let _ = self.parts.world.run(async {});
        self.nemesis.forget();
    }
}
