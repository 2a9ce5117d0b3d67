//! Power loss at every I/O operation of a storage engine, judged against a model.
//!
//! 1. [`record`]: a booted host runs random transactions; a probe keeps the whole disk, copy on write, as it is *inside*
//!    each operation, together with how many transactions were promised and begun by then.
//! 2. [`judge`]: each kept disk loses its power there. What survives is chosen: only what was synced, everything, or a
//!    random legal subset of the pending sectors, lengths and names. The engine opens what is left.
//! 3. The engine must open, pass its own integrity check, and hold exactly the state after some number of transactions,
//!    at least what was promised and at most what was begun. Then it commits once more: a database that opens but cannot
//!    go on is broken too.
//!
//! A double crash loses the power again at each operation of that recovery.
//!
//! [`live`] does the same with one host whose power really goes, over and over.
#![allow(dead_code)] // Each test uses its part of the rig.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sim_runtime::disk::file::Interval;
use sim_runtime::disk::{
    self, Choice, Disk, DiskConfig, DiskError, FaultPoint, Moment, OpKind, OpReport, PowerLossOutcome, Shape, Volume,
};
use sim_runtime::world::draws::Dice;
use sim_runtime::world::section::{self, Lane};
use sim_runtime::world::{self, Cause, HostStatus, Purpose, World, WorldConfig};

pub type State = BTreeMap<u64, Vec<u8>>;

/// Sets or, with `None`, deletes.
pub type Transaction = Vec<(u64, Option<Vec<u8>>)>;

/// Whether everything committed so far is promised to survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promised {
    Yes,
    /// An unbroken prefix survives, at least up to the last promise.
    NotYet,
}

/// A storage engine under test, on the disk of the current host. Called inside blocking sections only.
pub trait Engine: Send + Sized + 'static {
    /// Opens the database, creating it when there is none.
    fn open() -> Result<Self, String>;
    /// Commits the `number`-th transaction, counted from 1, and stores the number with it.
    fn commit(&mut self, number: u64, transaction: &Transaction) -> Result<Promised, String>;
    /// The number of the last transaction (0 = none) and all pairs.
    fn contents(&mut self) -> Result<(u64, State), String>;
    /// The engine's own integrity check.
    fn check(&mut self) -> Result<(), String>;
    /// Work between transactions, for instance a checkpoint.
    fn rest(&mut self, _number: u64) -> Result<Promised, String> {
        Ok(Promised::NotYet)
    }
}

/// The disk inside one operation.
pub struct Point {
    pub number: u64,
    pub when: Interval,
    pub volume: Volume,
    /// Transactions up to this one were promised to survive.
    pub promised: u64,
    pub begun: u64,
}

pub struct Plan {
    pub seed: u64,
    /// Random subsets per point, beside the two extremes.
    pub subsets: u64,
    /// Instead of them every subset there is, where there are at most so many; 0 = never.
    pub exhaust_max: usize,
    /// Every n-th image loses its power again at each operation of its recovery; 0 = never.
    pub double_every: u64,
}

/// How much to try.
pub struct Trial {
    /// Operations at which the power goes, at least. `CRASH_POINTS` in the environment asks for more.
    pub points: u64,
    /// Per recorded run; further runs have other seeds.
    pub transactions: u64,
    pub config: DiskConfig,
    pub double_every: u64,
}

/// Records runs and loses the power at each of their operations, until enough was tried or something was found.
pub fn findings<E: Engine>(trial: &Trial) -> Findings {
    let points_min = from_environment("CRASH_POINTS").unwrap_or(0).max(trial.points);
    let mut total = Findings::default();
    for seed in 1.. {
        let points = record::<E>(seed, trial.transactions, trial.config);
        let subsets = from_environment("CRASH_SUBSETS").unwrap_or(1);
        let plan = Plan { seed, subsets, exhaust_max: 0, double_every: trial.double_every };
        total.add(judge::<E>(&points, &plan));
        if total.points >= points_min || !total.failures.is_empty() {
            break;
        }
    }
    total
}

/// Every legal subset at every operation of a short run at which there are few.
pub fn every_subset<E: Engine>(transactions: u64, exhaust_max: usize) -> Findings {
    let points = record::<E>(1, transactions, DiskConfig::default());
    judge::<E>(&points, &Plan { seed: 1, subsets: 0, exhaust_max, double_every: 0 })
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What [`judge`] did and found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Operations at which the power went.
    pub points: u64,
    /// Disks opened after that.
    pub images: u64,
    pub double_crashes: u64,
    /// Images that had lost at least one sector.
    pub lossy: u64,
    /// Operations at which every subset was tried.
    pub exhausted: u64,
    pub shapes: BTreeMap<Shape, u64>,
    /// Transactions that were gone, at most; none of them was promised.
    pub lost_transactions_max: u64,
    pub failures: Vec<String>,
}

impl Findings {
    fn add(&mut self, other: Findings) {
        self.points += other.points;
        self.images += other.images;
        self.double_crashes += other.double_crashes;
        self.lossy += other.lossy;
        self.exhausted += other.exhausted;
        for (shape, count) in other.shapes {
            *self.shapes.entry(shape).or_default() += count;
        }
        self.lost_transactions_max = self.lost_transactions_max.max(other.lost_transactions_max);
        self.failures.extend(other.failures);
    }

    /// Enough was tried, it hurt in every way, and the engine kept its promise.
    pub fn assert_sound(&self, points_min: u64) {
        println!("{self:?}");
        assert_eq!(self.failures, Vec::<String>::new());
        assert!(self.points >= points_min && self.double_crashes > 0, "too little was tried");
        assert!(self.lossy * 3 > self.images && self.shapes.len() == 6, "too little was lost");
    }
}

/// Keys are few, so that transactions overwrite and delete each other's.
const KEYS: u64 = 24;
const VALUE_BYTES_MAX: u64 = 700;
const FAILURES_MAX: usize = 4;

pub fn transaction(seed: u64, number: u64) -> Transaction {
    let mut dice = Dice::new(seed.wrapping_mul(1_000_003).wrapping_add(number));
    (0..dice.range(1, 6))
        .map(|_| {
            let key = dice.below(KEYS);
            let value = (dice.below(4) > 0).then(|| vec![(number % 251) as u8; dice.below(VALUE_BYTES_MAX) as usize]);
            (key, value)
        })
        .collect()
}

/// Committed after recovery.
fn further_transaction() -> Transaction {
    (0..3).map(|key| (key, Some(vec![42; 300]))).collect()
}

/// The state after each number of transactions, from 0 to `count`.
pub fn model(seed: u64, count: u64) -> Vec<State> {
    let mut states = vec![State::new()];
    for number in 1..=count {
        let mut state = states.last().expect("never empty").clone();
        apply(&mut state, &transaction(seed, number));
        states.push(state);
    }
    states
}

fn apply(state: &mut State, transaction: &Transaction) {
    for (key, value) in transaction {
        match value {
            Some(value) => state.insert(*key, value.clone()),
            None => state.remove(key),
        };
    }
}

/// How far a host came: transactions promised and begun.
#[derive(Default)]
struct Progress {
    promised: AtomicU64,
    begun: AtomicU64,
}

impl Progress {
    fn seen(&self) -> (u64, u64) {
        (self.promised.load(Ordering::Relaxed), self.begun.load(Ordering::Relaxed))
    }
}

/// Runs `count` transactions on a booted host and returns the disk inside each operation.
pub fn record<E: Engine>(seed: u64, count: u64, config: DiskConfig) -> Vec<Point> {
    let points: Arc<Mutex<Vec<Point>>> = Arc::default();
    let progress: Arc<Progress> = Arc::default();
    let world = World::new(WorldConfig::seeded(seed));
    let (kept, seen) = (points.clone(), progress.clone());
    let done = world.run(async move {
        let host = world::add_host("engine");
        let disk = Disk::of(host);
        disk.set_config(config);
        disk.set_probe(Some(Box::new(move |op: OpReport, volume: &Volume| {
            let (promised, begun) = seen.seen();
            let point = Point { number: op.number, when: op.when, volume: volume.clone(), promised, begun };
            kept.lock().unwrap().push(point);
        })));
        world::boot(host, move || async move {
            let lane = Lane::new("engine");
            let mut engine = lane.run(|| E::open().expect("opens on a quiet disk")).await;
            for number in 1..=count {
                let (engine, progress) = (&mut engine, &progress);
                lane.run(move || {
                    progress.begun.store(number, Ordering::Relaxed);
                    let committed = engine.commit(number, &transaction(seed, number)).expect("commits");
                    if committed == Promised::Yes {
                        progress.promised.store(number, Ordering::Relaxed);
                    }
                    if engine.rest(number).expect("works") == Promised::Yes {
                        progress.promised.store(number, Ordering::Relaxed);
                    }
                })
                .await;
            }
            lane.run(move || drop(engine)).await;
        });
        while world::running(host).is_some() {
            world::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(world::host_status(host), HostStatus::Exited);
        assert_eq!(disk.counters().overlapped, 0, "the lane keeps sections apart");
        disk.set_probe(None);
    });
    done.unwrap_or_else(|halt| panic!("{halt}"));
    Arc::into_inner(points).expect("the probe is gone").into_inner().unwrap()
}

/// What survives at a point.
#[derive(Clone, Debug)]
enum Survival {
    Synced,
    Everything,
    Subset(u64),
    Exactly(Choice),
}

/// Loses the power at every point and judges what the engine makes of what is left. Stops after a few failures.
pub fn judge<E: Engine>(points: &[Point], plan: &Plan) -> Findings {
    let count = points.iter().map(|point| point.begun).max().unwrap_or(0);
    let states = model(plan.seed, count);
    let world = World::new(WorldConfig::seeded(plan.seed));
    let done = world.run(async {
        let mut findings = Findings::default();
        for point in points {
            findings.points += 1;
            for survival in survivals(point, plan, &mut findings) {
                judge_one::<E>(point, survival, plan, &states, &mut findings).await;
                if findings.failures.len() >= FAILURES_MAX {
                    return findings;
                }
            }
        }
        findings
    });
    done.unwrap_or_else(|halt| panic!("{halt}"))
}

/// What is tried at a point.
fn survivals(point: &Point, plan: &Plan, findings: &mut Findings) -> Vec<Survival> {
    let pending = point.volume.clone().pending(middle(point.when));
    if let Some(all) = Choice::enumerate(&pending, plan.exhaust_max) {
        findings.exhausted += 1;
        return all.into_iter().map(Survival::Exactly).collect();
    }
    let subsets = (0..plan.subsets).map(|n| Survival::Subset(point.number * 1_000 + n));
    [Survival::Synced, Survival::Everything].into_iter().chain(subsets).collect()
}

async fn judge_one<E: Engine>(
    point: &Point,
    survival: Survival,
    plan: &Plan,
    states: &[State],
    findings: &mut Findings,
) {
    let place = format!("operation {}, {survival:?}", point.number);
    let Some(image) = lose_power(&point.volume, middle(point.when), survival, findings) else { return };
    findings.images += 1;
    let double = plan.double_every > 0 && findings.images.is_multiple_of(plan.double_every);
    let recovery: Arc<Mutex<Vec<(OpReport, Volume, bool)>>> = Arc::default();
    let promised: Arc<AtomicBool> = Arc::default();
    let disk = Disk::current();
    disk.mount(image);
    if double {
        let (kept, promised) = (recovery.clone(), promised.clone());
        disk.set_probe(Some(Box::new(move |op, volume: &Volume| {
            kept.lock().unwrap().push((op, volume.clone(), promised.load(Ordering::Relaxed)));
        })));
    }
    let found = section::run("recovery", || unless_it_panics(|| reopen::<E>(point, states, &promised))).await;
    disk.set_probe(None);
    let first = match found {
        Ok(number) => number,
        Err(failure) => return findings.failures.push(format!("{place}: {failure}")),
    };
    findings.lost_transactions_max = findings.lost_transactions_max.max(point.begun - first);
    let recovery = std::mem::take(&mut *recovery.lock().unwrap());
    for (op, volume, promised) in recovery {
        let second = Survival::Subset(point.number * 1_000 + op.number % 1_000);
        let Some(image) = lose_power(&volume, middle(op.when), second, findings) else { continue };
        findings.double_crashes += 1;
        disk.mount(image);
        let found =
            section::run("recovery", || unless_it_panics(|| reopen_again::<E>(point, states, first, promised))).await;
        if let Err(failure) = found {
            findings.failures.push(format!("{place}, then {:?} {} of recovery: {failure}", op.kind, op.number));
        }
    }
}

fn middle(when: Interval) -> u64 {
    when.issue + (when.complete - when.issue) / 2
}

/// The disk after a power loss at `at`; `None` when a random subset has nothing to choose from.
fn lose_power(volume: &Volume, at: u64, survival: Survival, findings: &mut Findings) -> Option<Volume> {
    let mut volume = volume.clone();
    let pending = volume.pending(at);
    let choice = match survival {
        Survival::Synced => Choice::none(&pending),
        Survival::Exactly(choice) => choice,
        _ if pending.is_empty() => return None,
        Survival::Everything => Choice::all(&pending),
        Survival::Subset(n) => {
            let mut dice = Dice::new(n);
            Choice::draw(&pending, &mut |bound| dice.below(bound))
        }
    };
    let (toll, _) = volume.lose_power(at, &pending, &choice);
    findings.lossy += u64::from(!toll.sectors_lost.is_empty());
    if let Some(shape) = toll.shape {
        *findings.shapes.entry(shape).or_default() += 1;
    }
    Some(volume)
}

/// Opens, checks and returns the number of the last transaction. Then commits once more and reads that back;
/// `promised` says when that commit was.
fn reopen<E: Engine>(point: &Point, states: &[State], promised: &AtomicBool) -> Result<u64, String> {
    let mut engine = E::open().map_err(|error| format!("does not open: {error}"))?;
    let (number, state) = inspect(&mut engine)?;
    if number > point.begun {
        return Err(format!("transaction {number} was never begun"));
    }
    if state != states[number as usize] {
        return Err(format!("not the state after {number} transactions"));
    }
    if number < point.promised {
        return Err(format!("transaction {number} is the last, but {} was promised", point.promised));
    }
    let further = point.begun + 1;
    let committed = engine.commit(further, &further_transaction()).map_err(|error| format!("cannot go on: {error}"))?;
    promised.store(committed == Promised::Yes, Ordering::Relaxed);
    let (after, _) = engine.contents().map_err(|error| format!("cannot be read again: {error}"))?;
    if after == further { Ok(number) } else { Err("the commit after recovery is not there".into()) }
}

/// After a second power loss: what the first recovery found, with its further commit or without it.
fn reopen_again<E: Engine>(point: &Point, states: &[State], first: u64, promised: bool) -> Result<(), String> {
    let mut engine = E::open().map_err(|error| format!("does not open: {error}"))?;
    let (number, state) = inspect(&mut engine)?;
    let mut expected = states[first as usize].clone();
    if number == point.begun + 1 {
        apply(&mut expected, &further_transaction());
    } else if number != first || promised {
        return Err(format!(
            "transaction {number} is the last; recovery found {first}, its commit promised: {promised}"
        ));
    }
    if state == expected { Ok(()) } else { Err(format!("not the state after transaction {number}")) }
}

/// A panic of the engine is a failure like any other.
fn unless_it_panics<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}

/// What came of errors at every operation.
#[derive(Debug, Default)]
pub struct ErrorFindings {
    /// Operations that failed.
    pub errors: u64,
    /// Errors that the engine reported to its caller. Others met it while it was closed, or were survived.
    pub reported: u64,
    pub failures: Vec<String>,
}

/// Fails each operation of a run of `transactions` transactions, one per run, with `EIO` and with `ENOSPC`. After the first
/// error that the engine reports it is dropped and opened again: it must hold all that was promised, and go on.
pub fn fail_everywhere<E: Engine>(transactions: u64) -> ErrorFindings {
    let mut findings = ErrorFindings::default();
    let kinds = [OpKind::Read, OpKind::Write, OpKind::SetLen, OpKind::Sync, OpKind::Name];
    for (kind, error) in kinds.into_iter().flat_map(|kind| [(kind, DiskError::Io), (kind, DiskError::Full)]) {
        if error == DiskError::Full && kind == OpKind::Read {
            continue;
        }
        for skip in 0.. {
            let armed = FaultPoint { kind, role: None, skip, error };
            match fail_once::<E>(transactions, armed) {
                // Past the last operation of this kind.
                None => break,
                Some(Ok(reported)) => {
                    findings.errors += 1;
                    findings.reported += u64::from(reported);
                }
                Some(Err(failure)) => findings.failures.push(format!("{armed:?}: {failure}")),
            }
            if findings.failures.len() >= FAILURES_MAX {
                return findings;
            }
        }
    }
    findings
}

/// `None` if the fault was never met; otherwise whether the engine reported it, or what it did wrong.
fn fail_once<E: Engine>(transactions: u64, armed: FaultPoint) -> Option<Result<bool, String>> {
    let seed = 1;
    let states = model(seed, transactions);
    let world = World::new(WorldConfig::seeded(seed));
    let done = world.run(async move {
        let disk = Disk::current();
        disk.arm(armed);
        let (mut promised, mut begun) = (0, 0);
        let mut run = || -> Result<(), String> {
            let mut engine = E::open()?;
            for number in 1..=transactions {
                begun = number;
                if engine.commit(number, &transaction(seed, number))? == Promised::Yes {
                    promised = number;
                }
                if engine.rest(number)? == Promised::Yes {
                    promised = number;
                }
            }
            Ok(())
        };
        let outcome = section::run("work", || unless_it_panics(|| Ok(run()))).await;
        let met = disk.armed() == 0;
        disk.heal();
        if !met {
            return None;
        }
        let reported = match outcome {
            Err(panic) => return Some(Err(panic)),
            Ok(outcome) => outcome.is_err(),
        };
        let again = section::run("again", || unless_it_panics(|| carry_on::<E>(&states, promised, begun))).await;
        Some(again.map(|()| reported))
    });
    done.unwrap_or_else(|halt| panic!("{halt}"))
}

fn carry_on<E: Engine>(states: &[State], promised: u64, begun: u64) -> Result<(), String> {
    let mut engine = E::open().map_err(|error| format!("does not open: {error}"))?;
    let (number, state) = inspect(&mut engine)?;
    if !(promised..=begun).contains(&number) {
        return Err(format!("{promised} promised, {number} found, {begun} begun"));
    }
    if state != states[number as usize] {
        return Err(format!("not the state after {number} transactions"));
    }
    engine.commit(begun + 1, &further_transaction()).map(|_| ()).map_err(|error| format!("cannot go on: {error}"))
}

fn inspect<E: Engine>(engine: &mut E) -> Result<(u64, State), String> {
    engine.check().map_err(|error| format!("integrity: {error}"))?;
    engine.contents().map_err(|error| format!("cannot be read: {error}"))
}

/// What a host went through.
#[derive(Debug)]
pub struct Life {
    pub power_losses: Vec<PowerLossOutcome>,
    /// Transactions that were promised to survive, and did.
    pub transactions: u64,
    pub digest: (u64, u64),
}

impl Life {
    /// Some shape and some moment of every kind, or the life was too sheltered to prove anything.
    pub fn assert_eventful(&self) {
        let shapes: BTreeSet<Shape> = self.power_losses.iter().filter_map(|loss| loss.shape).collect();
        let moments: BTreeSet<Moment> = self.power_losses.iter().map(|loss| loss.moment).collect();
        assert_eq!((shapes.len(), moments.len()), (6, 4), "{shapes:?} {moments:?}");
        assert!(self.transactions as usize > self.power_losses.len() / 2, "{} transactions", self.transactions);
    }
}

/// One host that loses its power in the middle of a drawn operation, reboots on what is left, checks that against the
/// model and goes on, `boots` times. Here the handles really die, and a section is cut where the power went.
pub fn live<E: Engine>(seed: u64, boots: u64, operations_per_boot: u64) -> Life {
    let world = World::new(WorldConfig::seeded(seed));
    let states = Arc::new(model(seed, boots * operations_per_boot));
    let progress: Arc<Progress> = Arc::default();
    let done = world.run(async {
        let host = world::add_host("engine");
        let disk = Disk::of(host);
        let mut chance = world::stream(Purpose("crash-rig"), 0);
        for _ in 0..boots {
            disk.arm_power_loss_at_op(chance.below(operations_per_boot), chance.below(1_000_000) as u32);
            let (states, progress) = (states.clone(), progress.clone());
            world::boot(host, move || run_until_dark::<E>(seed, states, progress));
            while world::running(host).is_some() {
                world::sleep(Duration::from_micros(100)).await;
            }
            assert_eq!(world::host_status(host), HostStatus::Killed(Cause::PowerLoss));
        }
        disk.power_losses()
    });
    let power_losses = done.unwrap_or_else(|halt| panic!("{halt}"));
    Life { power_losses, transactions: progress.seen().0, digest: world.digest() }
}

async fn run_until_dark<E: Engine>(seed: u64, states: Arc<Vec<State>>, progress: Arc<Progress>) {
    let lane = Lane::new("engine");
    let found = lane.run(|| E::open().and_then(|mut engine| Ok((inspect(&mut engine)?, engine)))).await;
    let ((mut number, state), mut engine) = found.expect("opens and passes its check");
    let (promised, begun) = progress.seen();
    assert!((promised..=begun).contains(&number), "{promised} promised, {number} found, {begun} begun");
    assert!(state == states[number as usize], "not the state after {number} transactions");
    disk::declare_recovered();
    loop {
        number += 1;
        progress.begun.store(number, Ordering::Relaxed);
        let committing = &mut engine;
        let promised = lane.run(move || {
            let committed = committing.commit(number, &transaction(seed, number)).expect("commits");
            committed == Promised::Yes || committing.rest(number).expect("works") == Promised::Yes
        });
        // Reached only when the power was there until the section's virtual end.
        if promised.await {
            progress.promised.store(number, Ordering::Relaxed);
        }
    }
}
