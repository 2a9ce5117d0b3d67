//! The log against a vector: random operations on both, everything read back and compared, and the log closed and opened
//! again now and then. Small caches and batches, so that reads mix memory and disk.

mod support;

use std::path::Path;
use std::time::Duration;

use aspen::health::Health;
use aspen::log_store::{LogRecovery, LogStore};
use aspen::observe::Observation;
use aspen::store::StoreConfig;
use aspen::types::{Entry, LeaderId, LogId, TypeConfig, Vote};
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use support::{Random, TokioEnv, log_id, run, set};

/// What the log should be.
#[derive(Default)]
struct Model {
    entries: Vec<Entry>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    term: u64,
}

impl Model {
    fn first(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index + 1)
    }

    fn end(&self) -> u64 {
        self.first() + self.entries.len() as u64
    }

    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.log_id).or(self.purged)
    }

    fn range(&self, start: u64, end: u64) -> Vec<Entry> {
        self.entries.iter().filter(|entry| (start..end).contains(&entry.log_id.index)).cloned().collect()
    }
}

#[test]
fn the_log_is_a_vector() {
    for seed in 0..12 {
        run(one_run(seed));
    }
}

async fn one_run(seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::new(seed);
    let mut model = Model { term: 1, ..Model::default() };
    let config = StoreConfig {
        cache_bytes: [0, 200, 2000, 1 << 20][random.below(4) as usize],
        flush_batch_entries_max: 1 + random.below(20) as usize,
        queue_operations_max: 1 + random.below(8) as usize,
        ..StoreConfig::default()
    };
    let (mut log, _) = open(dir.path(), &config).await;
    for _ in 0..150 {
        match random.below(20) {
            0..=8 => append(&mut random, &mut model, &mut log).await,
            9 | 10 => {
                model.term += 1;
                let vote =
                    Vote { leader_id: LeaderId { term: model.term, voted_for: random.below(3) }, committed: true };
                log.save_vote(&vote).await.unwrap();
                model.vote = Some(vote);
            }
            11 | 12 => {
                let from = model.committed.map_or(0, |committed| committed.index + 1).max(model.first());
                let keep = from + random.below((model.end() - from.min(model.end())).max(1));
                let after = (keep > model.first()).then(|| model.range(keep - 1, keep)[0].log_id).or(model.purged);
                log.truncate_after(after).await.unwrap();
                model.entries.retain(|entry| entry.log_id.index < keep);
                model.term += 1;
            }
            13 if !model.entries.is_empty() => {
                let upto = model.entries[random.below(model.entries.len() as u64) as usize].log_id;
                log.purge(upto).await.unwrap();
                model.entries.retain(|entry| entry.log_id.index > upto.index);
                model.purged = Some(upto);
            }
            14 if !model.entries.is_empty() => {
                let committed = model.entries[random.below(model.entries.len() as u64) as usize].log_id;
                log.save_committed(Some(committed)).await.unwrap();
                model.committed = model.committed.max(Some(committed));
            }
            15 => {
                log.close().await.unwrap();
                let (opened, recovery) = open(dir.path(), &config).await;
                log = opened;
                assert_eq!(recovery.committed, model.committed, "seed {seed}");
                assert_eq!((recovery.vote, recovery.purged, recovery.last()), (model.vote, model.purged, model.last()));
            }
            _ => check(&mut random, &model, &mut log, seed).await,
        }
    }
    check(&mut random, &model, &mut log, seed).await;
}

async fn open(dir: &Path, config: &StoreConfig) -> (LogStore<TokioEnv>, LogRecovery) {
    LogStore::open(&TokioEnv::observed(), dir, config.log(), Health::default(), None).await.unwrap()
}

async fn append(random: &mut Random, model: &mut Model, log: &mut LogStore<TokioEnv>) {
    let (mut waits, appends) = (Vec::new(), 1 + random.below(4));
    for _ in 0..appends {
        let entries: Vec<Entry> = (model.end()..)
            .take(1 + random.below(6) as usize)
            .map(|index| set(model.term, index, b"key", &vec![7; random.below(100) as usize]))
            .collect();
        model.entries.extend(entries.clone());
        let (done, flushed) = TypeConfig::<TokioEnv>::oneshot();
        log.append(entries, IOFlushed::signal(done)).await.unwrap();
        // Readable at once, flushed or not.
        let end = model.end();
        assert_eq!(log.try_get_log_entries(end - 1..end).await.unwrap(), model.range(end - 1, end));
        waits.push(flushed);
    }
    // Wait for some of them: the others overlap with what comes next.
    if random.one_in(2) {
        for flushed in waits {
            flushed.await.unwrap().unwrap();
        }
    }
}

async fn check(random: &mut Random, model: &Model, log: &mut LogStore<TokioEnv>, seed: u64) {
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (model.purged, model.last()), "seed {seed}");
    assert_eq!(log.read_vote().await.unwrap(), model.vote);
    assert_eq!(log.read_committed().await.unwrap(), model.committed);
    let start = random.below(model.end() + 3);
    let end = start + random.below(40);
    assert_eq!(log.try_get_log_entries(start..end).await.unwrap(), model.range(start, end), "seed {seed}");
    let limited = log.limited_get_log_entries(start, end).await.unwrap();
    assert!(model.range(start, end).starts_with(&limited), "seed {seed}");
    assert_eq!(limited.is_empty(), model.range(start, end).is_empty(), "seed {seed}");
    use futures_util::TryStreamExt;
    let streamed: Vec<Entry> = log.entries_stream(start..end).await.try_collect().await.unwrap();
    assert_eq!(streamed, model.range(start, end), "seed {seed}");
}

#[test]
fn appends_that_wait_share_a_sync() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path(), &StoreConfig::default()).await;
        let mut waits = Vec::new();
        for index in 0..200 {
            let (done, flushed) = TypeConfig::<TokioEnv>::oneshot();
            log.append([set(1, index, b"k", b"v")], IOFlushed::signal(done)).await.unwrap();
            waits.push(flushed);
        }
        for flushed in waits {
            flushed.await.unwrap().unwrap();
        }
        let stats = log.stats();
        assert_eq!((stats.entries, stats.operations), (200, 200));
        assert!(stats.commits < 100, "{stats:?}");
    });
}

#[test]
fn the_observer_hears_what_is_true_in_order() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let env = TokioEnv::observed();
        let config = StoreConfig::default();
        let (mut log, _) = LogStore::open(&env, dir.path(), config.log(), Health::default(), None).await.unwrap();
        let (done, flushed) = TypeConfig::<TokioEnv>::oneshot();
        log.append([set(1, 0, b"k", b"v"), set(1, 1, b"k", b"w")], IOFlushed::signal(done)).await.unwrap();
        flushed.await.unwrap().unwrap();
        log.truncate_after(Some(log_id(1, 0))).await.unwrap();
        log.purge(log_id(1, 0)).await.unwrap();
        let vote = Vote { leader_id: LeaderId { term: 2, voted_for: 1 }, committed: false };
        log.save_vote(&vote).await.unwrap();
        let kinds: Vec<Observation> = env.take_observations();
        assert!(matches!(&kinds[0], Observation::LogOpened { vote: None, entries, .. } if entries.is_empty()));
        assert!(matches!(&kinds[1], Observation::Appended { entries } if entries.len() == 2));
        assert_eq!(kinds[2], Observation::Flushed { upto: log_id(1, 1) });
        assert_eq!(kinds[3], Observation::Truncated { after: Some(log_id(1, 0)) });
        assert_eq!(kinds[4], Observation::Purged { upto: log_id(1, 0) });
        assert_eq!(kinds[5..], [Observation::VoteSaved { vote }]);
    });
}

#[test]
fn the_committed_mark_is_saved_when_the_log_is_idle() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig { committed_idle: Duration::from_millis(10), ..StoreConfig::default() };
        let (mut log, _) = open(dir.path(), &config).await;
        let (done, flushed) = TypeConfig::<TokioEnv>::oneshot();
        log.append([set(1, 0, b"k", b"v")], IOFlushed::signal(done)).await.unwrap();
        flushed.await.unwrap().unwrap();
        log.save_committed(Some(log_id(1, 0))).await.unwrap();
        while log.stats().commits < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(log);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (_, recovery) = open(dir.path(), &config).await;
        assert_eq!(recovery.committed, Some(log_id(1, 0)));
    });
}

#[test]
fn a_log_with_a_gap_refuses_everything_from_then_on() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path(), &StoreConfig::default()).await;
        log.append([set(1, 0, b"k", b"v")], IOFlushed::noop()).await.unwrap();
        let error = log.append([set(1, 2, b"k", b"v")], IOFlushed::noop()).await.unwrap_err();
        assert!(error.to_string().contains("ends before 1"), "{error}");
        assert!(log.append([set(1, 1, b"k", b"v")], IOFlushed::noop()).await.is_err());
        assert!(log.get_log_state().await.is_err());
    });
}

/// What a power loss, or a test that forgets the log, leaves: the mark of the last transaction that had reason to carry it.
#[test]
fn the_committed_mark_waits_for_a_reason() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            committed_idle: Duration::from_secs(3600),
            committed_lag_entries_max: 10,
            ..StoreConfig::default()
        };
        let (mut log, _) = open(dir.path(), &config).await;
        let mut saved = Vec::new();
        for index in 0..25 {
            let (done, flushed) = TypeConfig::<TokioEnv>::oneshot();
            log.append([set(1, index, b"k", b"v")], IOFlushed::signal(done)).await.unwrap();
            flushed.await.unwrap().unwrap();
            log.save_committed(Some(log_id(1, index))).await.unwrap();
            saved.push(log.committed_saved().map(|id| id.index));
        }
        // The mark of index 9 is the first that is ten entries past none; it travels with the next append.
        assert_eq!(saved[9], None);
        assert_eq!(saved[10..20], [Some(9); 10]);
        assert_eq!(saved[20..], [Some(19); 5]);
        let vote = Vote { leader_id: LeaderId { term: 2, voted_for: 1 }, committed: false };
        log.save_vote(&vote).await.unwrap();
        assert_eq!(log.committed_saved(), Some(log_id(1, 24)), "a vote takes it along");
    });
}
