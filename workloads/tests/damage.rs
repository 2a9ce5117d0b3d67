//! A node's directory with one bad sector: the node refuses it, or opens to exactly what it held. Every cold sector of every
//! file is tried, with a flipped bit and with a read error, after an orderly stop and after a crash.
//!
//! What this protects: a node that opens an older log has forgotten a vote, and one that misses a row answers wrongly.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aspen::command::{Command, Proposal};
use aspen::store::{self, StoreConfig, Stores};
use aspen::types::{CommittedLeaderId, Entry, LeaderId, LogId, Payload, TypeConfig, Vote};
use openraft::storage::{IOFlushed, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use sim_runtime::adapters::sqlite;
use sim_runtime::disk::{Disk, SECTOR_BYTES, Volume};
use sim_runtime::isolate::in_process;
use sim_runtime::world::{self, World, WorldConfig};
use workloads::env::SimEnv;

const DIR: &str = "/data";
const TERM: u64 = 3;

/// What a node knows of itself when it starts.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    vote_term: Option<u64>,
    purged: Option<LogId>,
    log: Vec<LogId>,
    applied: Option<LogId>,
    state_hash: u64,
}

fn known(stores: &Stores<SimEnv>) -> Known {
    let (log, state) = (&stores.recovery.log, &stores.recovery.state);
    Known {
        vote_term: log.vote.map(|vote| vote.leader_id.term),
        purged: log.purged,
        log: log.entries.iter().map(|entry| entry.log_id).collect(),
        applied: state.applied,
        state_hash: state.state_hash,
    }
}

fn log_id(index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(TERM), index }
}

fn entry(index: u64) -> Entry {
    let command = Command::Set { key: format!("key-{}", index % 23).into_bytes(), value: vec![index as u8; 400] };
    Entry { log_id: log_id(index), payload: Payload::Normal(Proposal { log_time_ms: index, session: None, command }) }
}

/// Appends and applies entries, one commit each.
async fn write(stores: &mut Stores<SimEnv>, indices: std::ops::Range<u64>) {
    for index in indices {
        let (done, flushed) = TypeConfig::<SimEnv>::oneshot();
        stores.log.append([entry(index)], IOFlushed::signal(done)).await.expect("appended");
        flushed.await.expect("told").expect("flushed");
        stores.state.apply_entries(vec![entry(index)]).await.expect("applied");
    }
}

async fn boot<F: Future<Output = ()> + Send + 'static>(main: impl FnOnce() -> F + 'static) -> world::HostId {
    let host = world::add_host("node");
    boot_on(host, main).await;
    host
}

async fn boot_on<F: Future<Output = ()> + Send + 'static>(host: world::HostId, main: impl FnOnce() -> F + 'static) {
    world::boot(host, main);
    while world::running(host).is_some() {
        world::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(world::host_status(host), world::HostStatus::Exited, "nothing panics");
}

/// The disk of a node with a log, a state and a snapshot, as it was some commits before the end and at the end.
async fn lived(orderly: bool) -> (Volume, Volume) {
    let before: Arc<Mutex<Option<Volume>>> = Arc::default();
    let kept = before.clone();
    let host = boot(move || async move {
        let env = SimEnv::new(None);
        let mut stores = store::open(&env, Path::new(DIR), &StoreConfig::default()).await.expect("opens");
        let vote = Vote { leader_id: LeaderId { term: TERM, voted_for: 1 }, committed: true };
        stores.log.save_vote(&vote).await.expect("saved");
        write(&mut stores, 0..40).await;
        stores.state.get_snapshot_builder().await.build_snapshot().await.expect("built");
        stores.log.purge(log_id(20)).await.expect("purged");
        write(&mut stores, 40..60).await;
        *kept.lock().expect("free") = Some(Disk::current().volume().durable_copy(world::now_ns()));
        write(&mut stores, 60..64).await;
        if orderly {
            stores.log.close().await.expect("closed");
        }
    })
    .await;
    let before = before.lock().expect("free").take().expect("it got there");
    (before, Disk::of(host).volume().durable_copy(world::now_ns()))
}

/// Opens a disk. `None` when the node refuses it.
async fn opened(volume: Volume) -> Option<Known> {
    let host = world::add_host("again");
    Disk::of(host).mount(volume);
    let found: Arc<Mutex<Option<Known>>> = Arc::default();
    let telling = found.clone();
    boot_on(host, move || async move {
        let env = SimEnv::new(None);
        let config = StoreConfig { must_exist: true, ..StoreConfig::default() };
        if let Ok(stores) = store::open(&env, Path::new(DIR), &config).await {
            *telling.lock().expect("free") = Some(known(&stores));
        }
    })
    .await;
    found.lock().expect("free").take()
}

/// Refused and harmless cases by file.
type Outcomes = BTreeMap<String, (u32, u32)>;

async fn one_bad_sector_each(orderly: bool, unreadable: bool) -> Outcomes {
    let (before, end) = lived(orderly).await;
    let sound = opened(end.clone()).await.expect("a sound disk opens");
    let mut outcomes = Outcomes::new();
    for path in end.list(DIR).expect("it is there") {
        let image = end.current_at(&path, u64::MAX).expect("it is a file");
        let earlier = before.current_at(&path, u64::MAX);
        for sector in 0..image.len() / SECTOR_BYTES {
            let bytes = image.sector(sector);
            let is_cold = earlier.as_ref().is_some_and(|earlier| earlier.sector(sector) == bytes);
            if !is_cold || bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            let mut volume = end.clone();
            let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
            let byte = used[(sector as usize * 7919) % used.len()] as u64;
            assert!(match unreadable {
                true => volume.lose_sector(&path, sector),
                false => volume.flip_bit(&path, sector * SECTOR_BYTES + byte, sector as u32),
            });
            let (refused, harmless) = outcomes.entry(path.clone()).or_default();
            match opened(volume).await {
                None => *refused += 1,
                Some(found) => {
                    *harmless += 1;
                    assert_eq!(
                        (found.vote_term, found.purged, &found.log),
                        (sound.vote_term, sound.purged, &sound.log),
                        "sector {sector} of {path}"
                    );
                    // The state may be older, for the log has the rest; but it must be one that was.
                    let same = found.applied == sound.applied;
                    assert!(!same || found.state_hash == sound.state_hash, "sector {sector} of {path}");
                }
            }
        }
    }
    outcomes
}

#[test]
fn a_bad_sector_is_refused_or_harmless() {
    for (orderly, unreadable) in [(true, false), (false, false), (true, true)] {
        let outcomes = in_process(move || {
            let _installed = sqlite::install();
            let world = World::new(WorldConfig::seeded(1));
            world.run(one_bad_sector_each(orderly, unreadable)).unwrap_or_else(|halt| panic!("{halt}"))
        });
        println!("orderly stop: {orderly}, read error: {unreadable}: {outcomes:?}");
        let refused: u32 = outcomes.values().map(|(refused, _)| refused).sum();
        assert!(refused > 30, "too little was found: {outcomes:?}");
    }
}

#[test]
fn a_directory_that_lost_its_log_is_refused() {
    in_process(|| {
        let _installed = sqlite::install();
        let world = World::new(WorldConfig::seeded(1));
        let opened = world.run(async { opened(Volume::default()).await });
        assert_eq!(opened.unwrap_or_else(|halt| panic!("{halt}")), None);
    });
}
