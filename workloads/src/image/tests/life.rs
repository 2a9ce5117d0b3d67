//! A node's stores live through power losses at drawn operations; at every moment the decoder sees what is true.
//!
//! Two independent witnesses: while the stores run, what they observed themselves (nothing that was reported durable is
//! missing, every applied state has the hash it had when it was applied); after a power loss, what they find when they are
//! opened again, which must be the decoded image, entry for entry and hash for hash.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use aspen::command::{Command, Pair, Proposal, SessionSeq};
use aspen::observe::{EntryMeta, Observation};
use aspen::store::{self, StoreConfig, Stores};
use aspen::types::{
    Address, CommittedLeaderId, Entry, LeaderId, LogId, Member, Membership, Payload, StoredMembership, TypeConfig, Vote,
};
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use sim_runtime::adapters::sqlite;
use sim_runtime::disk::{Disk, DiskConfig, Latency};
use sim_runtime::engine::run::Run;
use sim_runtime::engine::{Exit, Judge, Oracle, Process, Server, Stamped, System};
use sim_runtime::world::draws::Stream;
use sim_runtime::world::{self, Cause, HostId, HostStatus, Purpose, World, WorldConfig};

use super::super::state::hash_of_scalars;
use super::super::{DurableFiles, Files, decode};
use crate::env::SimEnv;
use crate::event::{DurableImage, Event};

pub const DIR: &str = "/data";

type Seen = Rc<RefCell<Vec<Observation>>>;

/// Keeps what the stores observe.
struct Listener(Seen);

impl Oracle<Event> for Listener {
    fn property(&self) -> &'static str {
        "observations"
    }

    fn on_event(&mut self, event: &Stamped<Event>, _: &mut Judge<'_>) {
        if let Event::Store { observation, .. } = &event.event {
            self.0.borrow_mut().push(observation.clone());
        }
    }

    fn finish(&mut self, _: u64, _: &mut Judge<'_>) {}
}

struct Listening(Seen);

impl System for Listening {
    type Event = Event;

    fn server(&self, _: Server<Event>) -> Process {
        Box::pin(async { Exit::Stopped })
    }

    fn oracles(&self) -> Vec<Box<dyn Oracle<Event>>> {
        vec![Box::new(Listener(Rc::clone(&self.0)))]
    }
}

/// Runs `main` outside the machines of a world with one host and SQLite on its disk.
pub fn in_world<T, F: Future<Output = T>>(seed: u64, main: impl FnOnce(HostId, Seen) -> F) -> T {
    judged_world(seed, main).0
}

/// With the digest of all that happened.
fn judged_world<T, F: Future<Output = T>>(seed: u64, main: impl FnOnce(HostId, Seen) -> F) -> (T, (u64, u64)) {
    let _sqlite = sqlite::install();
    let seen = Seen::default();
    let run = Run::new(Rc::new(Listening(Rc::clone(&seen))), &[]);
    let _installed = run.install();
    let world = World::new(WorldConfig::seeded(seed));
    let host = world.enter(|| world::add_host("node"));
    let result = world.run(main(host, seen)).unwrap_or_else(|halt| panic!("seed {seed}: {halt}"));
    (result, world.digest())
}

pub fn image_of(host: HostId) -> DurableImage {
    let disk = Disk::of(host);
    decode(&DurableFiles::new(&disk), Path::new(DIR))
}

/// Everything that is durable, to change and decode.
pub fn files_of(host: HostId) -> BTreeMap<PathBuf, Vec<u8>> {
    let disk = Disk::of(host);
    let files = DurableFiles::new(&disk);
    let paths = files.list(Path::new(DIR)).into_iter().map(|name| Path::new(DIR).join(name));
    paths.map(|path| (path.clone(), files.read(&path).unwrap().to_vec())).collect()
}

fn id(term: u64, index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(term), index }
}

/// Stores in use, and what whoever uses them knows.
pub struct Bench {
    pub stores: Stores<SimEnv>,
    chance: Stream,
    term: u64,
    /// First index not in the log.
    end: u64,
    applied: Option<LogId>,
    snapshot: Option<LogId>,
    purged: Option<LogId>,
}

impl Bench {
    /// Opens the stores of the current host, as a node does when it starts.
    pub async fn open(config: &StoreConfig, entropy: u64) -> Bench {
        let env = SimEnv::new(Some(1));
        let stores = store::open(&env, Path::new(DIR), config).await.unwrap();
        let (log, state) = (&stores.recovery.log, &stores.recovery.state);
        let last = log.last().max(state.applied).max(state.snapshot);
        let term = log.vote.map_or(0, |vote| vote.leader_id.term).max(last.map_or(0, |last| last.leader_id.term));
        let mut bench = Bench {
            term: term + 1,
            end: last.map_or(0, |last| last.index + 1),
            applied: state.applied,
            snapshot: state.snapshot,
            purged: log.purged,
            chance: world::stream(Purpose("bench"), entropy),
            stores,
        };
        if bench.snapshot > bench.applied {
            bench.install_own_snapshot().await;
        }
        if bench.stores.recovery.log.last() < bench.applied {
            // As openraft does: what the log lacks is in the state.
            bench.purge(bench.applied.unwrap()).await;
        }
        bench
    }

    pub async fn append(&mut self, count: u64) {
        let entries: Vec<Entry> = (0..count).map(|nth| self.entry(self.end + nth)).collect();
        self.end += count;
        let (done, flushed) = TypeConfig::<SimEnv>::oneshot();
        self.stores.log.append(entries, IOFlushed::signal(done)).await.unwrap();
        if self.chance.below(3) > 0 {
            flushed.await.unwrap().unwrap();
        }
    }

    fn entry(&mut self, index: u64) -> Entry {
        let key = |chance: &mut Stream| format!("key {}", chance.below(200)).into_bytes();
        let len = if self.chance.below(8) == 0 { self.chance.below(20_000) } else { self.chance.below(60) };
        let value = vec![u8::try_from(index % 256).unwrap(); usize::try_from(len).unwrap()];
        let mut session = None;
        let command = match self.chance.below(16) {
            0 => Command::OpenSession { ttl_ms: 1 << 40 },
            1 => Command::Delete { key: key(&mut self.chance) },
            2 => Command::SetMulti {
                pairs: (0..5).map(|_| Pair { key: key(&mut self.chance), value: value.clone() }).collect(),
            },
            3 => {
                session = Some(SessionSeq { session: self.chance.below(index + 1), seq: index });
                Command::Set { key: key(&mut self.chance), value }
            }
            4 => {
                let voters = BTreeSet::from([1, 2, 3 + self.chance.below(300)]);
                let members = voters.iter().map(|id| (*id, Member { address: Address(format!("host-{id}")) }));
                let members: BTreeMap<u64, Member> = members.collect();
                let membership = Membership::new(vec![voters], members).unwrap();
                return Entry { log_id: id(self.term, index), payload: Payload::Membership(membership) };
            }
            5 => return Entry { log_id: id(self.term, index), payload: Payload::Blank },
            _ => Command::Set { key: key(&mut self.chance), value },
        };
        let payload = Payload::Normal(Proposal { log_time_ms: index * 10, session, command });
        Entry { log_id: id(self.term, index), payload }
    }

    pub async fn vote(&mut self) {
        self.term += 1 + self.chance.below(2);
        let leader_id = LeaderId { term: self.term, voted_for: self.chance.below(3) };
        let committed = self.chance.below(2) == 0;
        self.stores.log.save_vote(&Vote { leader_id, committed }).await.unwrap();
    }

    /// Applies all of the log, in one batch or several.
    pub async fn apply(&mut self) {
        let start = self.applied.map_or(0, |applied| applied.index + 1);
        let entries = self.stores.log.try_get_log_entries(start..self.end).await.unwrap();
        let Some(last) = entries.last().map(|entry| entry.log_id) else { return };
        self.stores.log.save_committed(Some(last)).await.unwrap();
        for batch in entries.chunks(1 + usize::try_from(self.chance.below(6)).unwrap()) {
            self.stores.state.apply_entries(batch.to_vec()).await.unwrap();
        }
        self.applied = Some(last);
    }

    pub async fn snapshot(&mut self) {
        let mut builder = self.stores.state.get_snapshot_builder().await;
        self.snapshot = builder.build_snapshot().await.unwrap().meta.last_log_id;
    }

    pub async fn purge(&mut self, upto: LogId) {
        self.stores.log.purge(upto).await.unwrap();
        self.purged = Some(upto);
    }

    async fn truncate(&mut self) {
        let fixed = self.applied.max(self.snapshot).max(self.stores.recovery.log.committed);
        let keep = fixed.map_or(0, |fixed| fixed.index + 1);
        if keep >= self.end {
            return;
        }
        let keep = keep + self.chance.below(self.end - keep);
        let before = keep.checked_sub(1);
        let after = match before {
            Some(before) => {
                let found = self.stores.log.try_get_log_entries(before..keep).await.unwrap();
                found.first().map(|entry| entry.log_id).or(self.purged)
            }
            None => None,
        };
        self.stores.log.truncate_after(after).await.unwrap();
        self.end = keep;
        self.term += 1;
    }

    pub async fn install_own_snapshot(&mut self) {
        let Some(current) = self.stores.state.get_current_snapshot().await.unwrap() else { return };
        if current.meta.last_log_id < self.applied {
            return;
        }
        self.applied = current.meta.last_log_id;
        self.stores.state.install_snapshot(&current.meta, current.snapshot).await.unwrap();
    }

    async fn step(&mut self) {
        match self.chance.below(24) {
            0 | 1 => self.vote().await,
            2..=12 => {
                let count = 1 + self.chance.below(6);
                self.append(count).await;
            }
            13..=18 => self.apply().await,
            19 => self.snapshot().await,
            20 => {
                if let Some(upto) = self.snapshot.filter(|snapshot| self.purged < Some(*snapshot)) {
                    self.purge(upto).await;
                }
            }
            21 => self.truncate().await,
            22 => {
                self.apply().await;
                self.snapshot().await;
                self.install_own_snapshot().await;
            }
            _ => world::sleep(Duration::from_micros(self.chance.below(3_000))).await,
        }
    }
}

/// Checks an image of running stores against what they said.
#[derive(Default)]
struct Witness {
    taken: usize,
    vote: Option<Vote>,
    /// What the log holds or may hold: every version of an entry since the last power loss.
    entries: BTreeMap<u64, Vec<EntryMeta>>,
    flushed: Option<LogId>,
    removed: BTreeSet<LogId>,
    states: BTreeSet<(Option<LogId>, u64)>,
    snapshots: BTreeSet<Option<LogId>>,
}

impl Witness {
    fn hear(&mut self, seen: &Seen) {
        let seen = seen.borrow();
        for observation in &seen[self.taken..] {
            match observation {
                Observation::LogOpened { vote, entries, .. } => {
                    self.vote = *vote;
                    self.entries.clear();
                    self.removed.clear();
                    self.note(entries);
                    self.flushed = entries.last().map(|entry| entry.log_id);
                }
                Observation::VoteSaved { vote } => self.vote = Some(*vote),
                Observation::Appended { entries } => self.note(entries),
                // One transaction may append entries and remove them again; it says that they are flushed.
                Observation::Flushed { upto } if self.removed.contains(upto) => {}
                Observation::Flushed { upto } => self.flushed = Some(*upto),
                Observation::Truncated { after } => {
                    self.flushed = self.flushed.min(*after);
                    let from = after.map_or(0, |after| after.index + 1);
                    let removed = self.entries.range(from..).flat_map(|(_, versions)| versions);
                    self.removed.extend(removed.map(|entry| entry.log_id));
                }
                Observation::Purged { .. } => {}
                Observation::StateOpened { applied, state_hash } => {
                    self.states.insert((*applied, *state_hash));
                }
                Observation::Applied { log_id, state_hash } => {
                    self.states.insert((Some(*log_id), *state_hash));
                }
                Observation::SnapshotBuilt { last, state_hash } => {
                    self.snapshots.insert(*last);
                    assert!(self.states.contains(&(*last, *state_hash)));
                }
                Observation::SnapshotInstalled { last, state_hash } => {
                    assert!(self.states.contains(&(*last, *state_hash)));
                }
            }
        }
        self.taken = seen.len();
    }

    fn note(&mut self, entries: &[EntryMeta]) {
        for entry in entries {
            self.entries.entry(entry.log_id.index).or_default().push(*entry);
        }
    }

    fn check(&self, image: &DurableImage) {
        assert_eq!(image.defects, [""; 0]);
        // A vote may be durable before it is reported.
        assert!(image.vote >= self.vote, "{:?} is durable, {:?} was saved", image.vote, self.vote);
        for (index, entry) in &image.log {
            let known = self.entries.get(index).is_some_and(|versions| versions.contains(entry));
            assert!(known, "entry {entry:?} was never appended");
        }
        if let Some(flushed) = self.flushed.filter(|flushed| image.purged < Some(*flushed)) {
            // A truncation may be durable before it is reported.
            let last = image.log.values().next_back().map(|entry| entry.log_id);
            let found = image.log.get(&flushed.index).map(|entry| entry.log_id) == Some(flushed);
            assert!(found || last < Some(flushed), "{flushed} was flushed, the log ends with {last:?}");
        }
        if let Some(hash) = image.state_hash {
            assert!(self.states.contains(&(image.applied, hash)), "{:?} {hash:x} was never applied", image.applied);
        }
    }
}

#[derive(Debug, Default, PartialEq)]
struct Met {
    images: u32,
    recoveries: u32,
    entries: usize,
    states_past_a_snapshot: u32,
    snapshots_past_the_state: u32,
    purged: u32,
}

fn live(seed: u64, boots: u32) -> Met {
    in_world(seed, |host, seen| async move {
        let disk = Disk::of(host);
        let slow = DiskConfig { sync: Latency { ns_min: 10_000, ns_max: 900_000 }, ..DiskConfig::default() };
        disk.set_config(slow);
        let mut chance = world::stream(Purpose("life"), seed);
        let (mut witness, mut met) = (Witness::default(), Met::default());
        // A new state is durable before its section ends and says so.
        let membership = aspen::codec::encode_membership(&StoredMembership::default());
        witness.states.insert((None, hash_of_scalars(&membership, 0)));
        let mut survived = image_of(host);
        assert_eq!(survived, DurableImage::default());
        for boot in 0..boots {
            disk.arm_power_loss_at_op(chance.below(600), u32::try_from(chance.below(1_000_000)).unwrap());
            let before = seen.borrow().len();
            let config = StoreConfig {
                checkpoint_pages: [1, 8, 40, 1000][usize::try_from(chance.below(4)).unwrap()],
                ..StoreConfig::default()
            };
            let recovered: Rc<RefCell<Option<Option<LogId>>>> = Rc::default();
            let found = Rc::clone(&recovered);
            world::boot(host, move || async move {
                let mut bench = Bench::open(&config, seed * 1000 + u64::from(boot)).await;
                found.replace(Some(bench.stores.recovery.state.snapshot));
                loop {
                    bench.step().await;
                }
            });
            while world::running(host).is_some() {
                world::sleep(Duration::from_micros(100 + chance.below(4_000))).await;
                witness.hear(&seen);
                if world::running(host).is_some() {
                    witness.check(&image_of(host));
                    met.images += 1;
                }
            }
            assert_eq!(world::host_status(host), HostStatus::Killed(Cause::PowerLoss), "seed {seed}");
            compare(&survived, &seen.borrow()[before..], *recovered.borrow());
            met.recoveries += u32::from(recovered.borrow().is_some());
            survived = image_of(host);
            witness.hear(&seen);
            // A commit may survive although its section did not come to its end; the next start must find just this.
            witness.states.extend(survived.state_hash.map(|hash| (survived.applied, hash)));
            witness.check(&survived);
            met.entries += survived.log.len();
            met.states_past_a_snapshot +=
                u32::from(survived.snapshot.is_some() && survived.applied > survived.snapshot);
            met.snapshots_past_the_state += u32::from(survived.snapshot > survived.applied);
            met.purged += u32::from(survived.purged.is_some());
        }
        met
    })
}

/// What the stores found when they were opened is what the image had, as far as they came before the next power loss.
fn compare(image: &DurableImage, seen: &[Observation], snapshot: Option<Option<LogId>>) {
    for observation in seen {
        match observation {
            Observation::LogOpened { vote, purged, committed, entries } => {
                let log: Vec<EntryMeta> = image.log.values().copied().collect();
                assert_eq!(&log, entries);
                assert_eq!((image.vote, image.purged, image.committed), (*vote, *purged, *committed));
            }
            Observation::StateOpened { applied, state_hash } => {
                assert_eq!(image.applied, *applied);
                // A new database has been made if there was none.
                assert_eq!(image.state_hash.unwrap_or(*state_hash), *state_hash);
            }
            _ => {}
        }
    }
    if let Some(snapshot) = snapshot {
        assert_eq!(image.snapshot, snapshot);
    }
}

#[test]
fn the_image_is_what_a_node_finds_after_any_power_loss() {
    let mut all = Met::default();
    for seed in 0..LIVES {
        let met = live(seed, 25);
        all.images += met.images;
        all.recoveries += met.recoveries;
        all.entries += met.entries;
        all.states_past_a_snapshot += met.states_past_a_snapshot;
        all.snapshots_past_the_state += met.snapshots_past_the_state;
        all.purged += met.purged;
    }
    // Else this proves little.
    let Met { images, recoveries, entries, states_past_a_snapshot, snapshots_past_the_state, purged } = all;
    assert!(images > 300 && recoveries > 100 && entries > 1000 && purged > 30, "{all:?}");
    assert!(states_past_a_snapshot > 10 && snapshots_past_the_state > 10, "{all:?}");
}

#[test]
fn looking_changes_nothing() {
    let digest = |look: bool| {
        judged_world(7, |host, _| async move {
            world::boot(host, || async {
                let mut bench = Bench::open(&StoreConfig::default(), 7).await;
                for _ in 0..60 {
                    bench.step().await;
                }
            });
            while world::running(host).is_some() {
                if look {
                    image_of(host);
                }
                world::sleep(Duration::from_micros(700)).await;
            }
            image_of(host)
        })
    };
    assert_eq!(digest(true), digest(false));
}

const LIVES: u64 = 8;
