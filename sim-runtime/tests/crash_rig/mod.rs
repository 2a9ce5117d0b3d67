//! Power loss at every I/O operation of a storage engine, judged against a model.
//!
//! 1. [`record`]: a booted host runs random transactions; a probe keeps the whole disk, copy on write, as it is *inside*
//!    each operation, together with how many commits had been acknowledged and begun by then.
//! 2. [`judge`]: each kept disk loses its power there. What survives is chosen: only what was synced, everything, or a
//!    random legal subset of the pending sectors, lengths and names. The engine opens what is left.
//! 3. The engine must open, pass its own integrity check, and hold exactly the state after some number of transactions,
//!    with that number inside the promise. The check then commits once more: a database that opens but cannot go on is
//!    broken too.
//!
//! A double crash loses the power again at an operation of that recovery.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sim_runtime::disk::file::Interval;
use sim_runtime::disk::{Choice, Disk, DiskConfig, OpReport, Shape, Volume};
use sim_runtime::world::draws::Dice;
use sim_runtime::world::section::{self, Lane};
use sim_runtime::world::{self, HostStatus, World, WorldConfig};

pub type State = BTreeMap<u64, Vec<u8>>;

/// Sets or, with `None`, deletes.
pub type Transaction = Vec<(u64, Option<Vec<u8>>)>;

/// A storage engine under test, on the disk of the current host. Called inside blocking sections only.
pub trait Engine: Send + Sized + 'static {
    /// Opens the database, creating it when there is none.
    fn open() -> Result<Self, String>;
    /// Commits the `number`-th transaction, counted from 1, and stores the number with it.
    fn commit(&mut self, number: u64, transaction: &Transaction) -> Result<(), String>;
    /// The number of the last transaction (0 = none) and all pairs.
    fn contents(&mut self) -> Result<(u64, State), String>;
    /// The engine's own integrity check.
    fn check(&mut self) -> Result<(), String>;
    /// Work between transactions, for instance a checkpoint.
    fn rest(&mut self, _number: u64) -> Result<(), String> {
        Ok(())
    }
}

/// What a commit promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Every acknowledged transaction survives.
    All,
    /// The survivors are an unbroken prefix.
    Prefix,
}

/// The disk inside one operation.
pub struct Point {
    pub number: u64,
    pub when: Interval,
    pub volume: Volume,
    pub acknowledged: u64,
    pub begun: u64,
}

/// What [`judge`] did and found.
#[derive(Debug, Default)]
pub struct Findings {
    pub images: u64,
    pub double_crashes: u64,
    /// Images that had lost at least one sector.
    pub lossy: u64,
    pub shapes: BTreeMap<Shape, u64>,
    /// Acknowledged transactions that were gone, at most. Allowed only under [`Promise::Prefix`].
    pub lost_transactions_max: u64,
    pub failures: Vec<String>,
}

/// Keys are few, so that transactions overwrite and delete each other's.
const KEYS: u64 = 24;
const VALUE_BYTES_MAX: u64 = 700;

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

/// Runs `count` transactions on a booted host and returns the disk inside each operation.
pub fn record<E: Engine>(seed: u64, count: u64, config: DiskConfig) -> Vec<Point> {
    let points: Arc<Mutex<Vec<Point>>> = Arc::default();
    let progress: Arc<[AtomicU64; 2]> = Arc::default();
    let world = World::new(WorldConfig::seeded(seed));
    let (kept, seen) = (points.clone(), progress.clone());
    let done = world.run(async move {
        let host = world::add_host("engine");
        let disk = Disk::of(host);
        disk.set_config(config);
        disk.set_probe(Some(Box::new(move |op: OpReport, volume: &Volume| {
            let [acknowledged, begun] = [0, 1].map(|n: usize| seen[n].load(Ordering::Relaxed));
            let point = Point { number: op.number, when: op.when, volume: volume.clone(), acknowledged, begun };
            kept.lock().unwrap().push(point);
        })));
        world::boot(host, move || async move {
            let lane = Lane::new("engine");
            let mut engine = lane.run(|| E::open().expect("opens on a quiet disk")).await;
            for number in 1..=count {
                let progress = &progress;
                let committing = &mut engine;
                lane.run(move || {
                    progress[1].store(number, Ordering::Relaxed);
                    committing.commit(number, &transaction(seed, number)).expect("commits on a quiet disk");
                    progress[0].store(number, Ordering::Relaxed);
                    committing.rest(number).expect("works on a quiet disk");
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
    done.expect("the recorded run ends by itself");
    Arc::into_inner(points).expect("the probe is gone").into_inner().unwrap()
}

/// What survives at a point.
#[derive(Clone, Copy, Debug)]
pub enum Survival {
    Synced,
    Everything,
    Subset(u64),
}

pub struct Plan {
    pub seed: u64,
    pub promise: Promise,
    /// Random subsets per point, beside the two extremes.
    pub subsets: u64,
    /// Every n-th image loses its power again at each operation of its recovery; 0 = never.
    pub double_every: u64,
}

/// Loses the power at every point and judges what the engine makes of what is left. Stops after a few failures.
pub fn judge<E: Engine>(points: &[Point], plan: &Plan) -> Findings {
    let count = points.iter().map(|point| point.begun).max().unwrap_or(0);
    let states = model(plan.seed, count);
    let world = World::new(WorldConfig::seeded(plan.seed));
    let done = world.run(async {
        let mut findings = Findings::default();
        for point in points {
            let subsets = (0..plan.subsets).map(|n| Survival::Subset(point.number * 1_000 + n));
            for survival in [Survival::Synced, Survival::Everything].into_iter().chain(subsets) {
                judge_one::<E>(point, survival, plan, &states, &mut findings).await;
                if findings.failures.len() > 3 {
                    return findings;
                }
            }
        }
        findings
    });
    done.expect("judging ends by itself")
}

async fn judge_one<E: Engine>(
    point: &Point,
    survival: Survival,
    plan: &Plan,
    states: &[State],
    findings: &mut Findings,
) {
    let Some(image) = lose_power(&point.volume, middle(point.when), survival, findings) else { return };
    findings.images += 1;
    let double = plan.double_every > 0 && findings.images.is_multiple_of(plan.double_every);
    let place = format!("operation {}, {survival:?}", point.number);
    let recovery: Arc<Mutex<Vec<(OpReport, Volume, bool)>>> = Arc::default();
    let went_on: Arc<AtomicBool> = Arc::default();
    let disk = Disk::current();
    disk.mount(image);
    if double {
        let (kept, went_on) = (recovery.clone(), went_on.clone());
        disk.set_probe(Some(Box::new(move |op, volume: &Volume| {
            kept.lock().unwrap().push((op, volume.clone(), went_on.load(Ordering::Relaxed)));
        })));
    }
    let found = section::run("recovery", || reopen::<E>(point, plan.promise, states, &went_on)).await;
    disk.set_probe(None);
    let first = match found {
        Ok(number) => number,
        Err(failure) => return findings.failures.push(format!("{place}: {failure}")),
    };
    findings.lost_transactions_max = findings.lost_transactions_max.max(point.acknowledged.saturating_sub(first));
    for (op, volume, went_on) in std::mem::take(&mut *recovery.lock().unwrap()) {
        let second = Survival::Subset(point.number * 1_000 + op.number % 1_000);
        let Some(image) = lose_power(&volume, middle(op.when), second, findings) else { continue };
        findings.double_crashes += 1;
        disk.mount(image);
        let kept = went_on && plan.promise == Promise::All;
        let found = section::run("recovery", || reopen_again::<E>(point, states, first, kept)).await;
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

/// Opens, checks and returns the number of the last transaction. Then commits once more and reads that back; `went_on`
/// says when that commit was acknowledged.
fn reopen<E: Engine>(point: &Point, promise: Promise, states: &[State], went_on: &AtomicBool) -> Result<u64, String> {
    let mut engine = E::open().map_err(|error| format!("does not open: {error}"))?;
    let (number, state) = inspect(&mut engine)?;
    if number > point.begun {
        return Err(format!("transaction {number} was never begun"));
    }
    if state != states[number as usize] {
        return Err(format!("not the state after {number} transactions"));
    }
    let lost = point.acknowledged.saturating_sub(number);
    if promise == Promise::All && lost > 0 {
        return Err(format!("{lost} acknowledged transactions of {} lost", point.acknowledged));
    }
    let further = point.begun + 1;
    engine.commit(further, &further_transaction()).map_err(|error| format!("cannot go on: {error}"))?;
    went_on.store(true, Ordering::Relaxed);
    let (after, _) = engine.contents().map_err(|error| format!("cannot be read again: {error}"))?;
    if after == further { Ok(number) } else { Err("the commit after recovery is not there".into()) }
}

/// After a second power loss: what the first recovery found, with its further commit or without it.
fn reopen_again<E: Engine>(point: &Point, states: &[State], first: u64, kept: bool) -> Result<(), String> {
    let mut engine = E::open().map_err(|error| format!("does not open: {error}"))?;
    let (number, state) = inspect(&mut engine)?;
    let mut expected = states[first as usize].clone();
    if number == point.begun + 1 {
        apply(&mut expected, &further_transaction());
    } else if number != first || kept {
        return Err(format!("transaction {number} is the last; recovery had found {first}, its commit kept: {kept}"));
    }
    if state == expected { Ok(()) } else { Err(format!("not the state after transaction {number}")) }
}

fn inspect<E: Engine>(engine: &mut E) -> Result<(u64, State), String> {
    engine.check().map_err(|error| format!("integrity: {error}"))?;
    engine.contents().map_err(|error| format!("cannot be read: {error}"))
}

/// Committed after recovery.
fn further_transaction() -> Transaction {
    (0..3).map(|key| (key, Some(vec![42; 300]))).collect()
}
