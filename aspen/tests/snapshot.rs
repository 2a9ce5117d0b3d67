//! A snapshot is the state at one index, whatever is applied while it is being made; it replaces another state whole or
//! not at all; damage to it is found before anything is replaced.

mod support;

use std::path::Path;
use std::time::Duration;

use aspen::command::{Command, Query};
use aspen::floor::DurableFloor;
use aspen::health::Health;
use aspen::observe::Observation;
use aspen::snapshot::{Incoming, SnapshotFile};
use aspen::state_machine::{StateMachine, StateReader, StateRecovery};
use aspen::store::StoreConfig;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use support::{TokioEnv, log_id, membership, normal, run, set};

type Opened = (StateMachine<TokioEnv>, StateReader<TokioEnv>, StateRecovery);

async fn open(env: &TokioEnv, dir: &Path) -> Opened {
    let config = StoreConfig { snapshot_step_rows: 3, ..StoreConfig::default() };
    StateMachine::open(env, dir, config.state(), Health::default(), DurableFloor::default()).await.unwrap()
}

/// Rows under `rows` keys, a membership and a session.
async fn fill(state: &StateMachine<TokioEnv>, rows: u64) {
    let mut entries = vec![membership(1, 0, &[1, 2, 3]), normal(1, 1, 5, None, Command::OpenSession { ttl_ms: 1000 })];
    entries.extend((2..2 + rows).map(|index| set(2, index, &index.to_be_bytes(), &vec![index as u8; 2000])));
    state.apply_entries(entries).await.unwrap();
}

async fn receive(file: &SnapshotFile<TokioEnv>, dir: &Path) -> std::io::Result<SnapshotFile<TokioEnv>> {
    let mut incoming = Incoming::new(&TokioEnv::default(), dir, file.len(), file.checksum()).await?;
    while incoming.written() < file.len() {
        let chunk = file.read_chunk(incoming.written(), 4096).await?;
        // A chunk may come twice, and overlap with what came before.
        let at = incoming.written();
        incoming.write_chunk(at, &chunk).await?;
        incoming.write_chunk(at, &chunk).await?;
    }
    incoming.finish().await
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.ends_with("-wal") && !name.ends_with("-shm"));
    names.sort();
    names
}

/// openraft learns that entries are applied when the call returns. A snapshot that had some of them would be ahead of what
/// it takes for applied.
#[test]
fn a_snapshot_waits_for_the_end_of_an_apply() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let env = TokioEnv::default();
        let config = StoreConfig { apply_batch_entries_max: 1, ..StoreConfig::default() };
        let (mut state, reader, _) =
            StateMachine::open(&env, dir.path(), config.state(), Health::default(), DurableFloor::default())
                .await
                .unwrap();
        let mut builder = state.get_snapshot_builder().await;
        let (go_on, wait) = tokio::sync::oneshot::channel();
        let first = futures_util::stream::iter([Ok((membership(1, 0, &[1]), None)), Ok((set(1, 1, b"a", b"1"), None))]);
        let second = futures_util::stream::once(async move {
            wait.await.unwrap();
            Ok((set(1, 2, b"a", b"2"), None))
        });
        let applying = tokio::spawn(async move {
            let entries = Box::pin(futures_util::StreamExt::chain(first, second));
            state.apply(entries).await
        });
        while reader.applied() != Some(log_id(1, 1)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut building = tokio::spawn(async move { builder.build_snapshot().await.unwrap() });
        let early = tokio::time::timeout(Duration::from_millis(200), &mut building).await;
        assert!(early.is_err(), "a snapshot was made of half an apply");
        go_on.send(()).unwrap();
        applying.await.unwrap().unwrap();
        assert_eq!(building.await.unwrap().meta.last_log_id, Some(log_id(1, 2)));
    });
}

#[test]
fn entries_applied_meanwhile_are_not_in_a_snapshot() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let env = TokioEnv::observed();
        let (mut state, _reader, _) = open(&env, dir.path()).await;
        fill(&state, 300).await;
        let mut builder = state.get_snapshot_builder().await;
        let building = tokio::spawn(async move { builder.build_snapshot().await.unwrap() });
        for index in 302..500 {
            state.apply_entries(vec![set(2, index, b"meanwhile", &index.to_be_bytes())]).await.unwrap();
        }
        let snapshot = building.await.unwrap();
        let last = snapshot.meta.last_log_id.unwrap();
        let observed = env.take_observations();
        let hash_at = |wanted| {
            observed.iter().find_map(|observation| match observation {
                Observation::Applied { log_id, state_hash } if *log_id == wanted => Some(*state_hash),
                _ => None,
            })
        };
        let built = observed.iter().find_map(|observation| match observation {
            Observation::SnapshotBuilt { last, state_hash } => Some((last.unwrap(), *state_hash)),
            _ => None,
        });
        assert_eq!(built, Some((last, hash_at(last).unwrap())));

        let other = tempfile::tempdir().unwrap();
        let env = TokioEnv::observed();
        let (mut state, reader, _) = open(&env, other.path()).await;
        let received = receive(&snapshot.snapshot, other.path()).await.unwrap();
        state.install_snapshot(&snapshot.meta, received).await.unwrap();
        assert_eq!(reader.verify().await.unwrap(), (Some(last), hash_at(last).unwrap()));
    });
}

#[test]
fn an_install_replaces_everything_and_lasts() {
    run(async {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut source, source_reader, _) = open(&TokioEnv::default(), from.path()).await;
        fill(&source, 50).await;
        let snapshot = source.get_snapshot_builder().await.build_snapshot().await.unwrap();

        let (mut target, reader, _) = open(&TokioEnv::default(), to.path()).await;
        target.apply_entries(vec![set(1, 3, b"old", b"value")]).await.unwrap();
        let old = target.get_snapshot_builder().await.build_snapshot().await.unwrap();
        drop(old);
        let received = receive(&snapshot.snapshot, to.path()).await.unwrap();
        target.install_snapshot(&snapshot.meta, received).await.unwrap();

        let gone = reader.query(Query::Get { key: b"old".to_vec() }).await.unwrap();
        assert_eq!((gone.revision, gone.rows.len()), (51, 0));
        assert_eq!(target.applied_state().await.unwrap(), source.applied_state().await.unwrap());
        let current = target.get_current_snapshot().await.unwrap().unwrap();
        assert_eq!((&current.meta, current.snapshot.checksum()), (&snapshot.meta, snapshot.snapshot.checksum()));
        let snap = format!("snapshot-{:020}-{:020}.snap", 51, 2);
        assert_eq!(files(to.path()), [snap.as_str(), "state-2.db", "state.current"]);
        drop(current);

        let hash = source_reader.verify().await.unwrap();
        assert_eq!(reader.verify().await.unwrap(), hash);
        reader.close().await.unwrap();
        let (mut target, reader, recovery) = open(&TokioEnv::default(), to.path()).await;
        assert_eq!((recovery.applied, recovery.snapshot, recovery.state_hash), (hash.0, hash.0, hash.1));
        assert_eq!(target.get_current_snapshot().await.unwrap().unwrap().meta, snapshot.meta);

        // openraft installs the current snapshot again when the state is behind it.
        let current = target.get_current_snapshot().await.unwrap().unwrap();
        target.install_snapshot(&current.meta, current.snapshot).await.unwrap();
        assert_eq!(reader.verify().await.unwrap(), hash);
        assert_eq!(files(to.path()), [snap.as_str(), "state-3.db", "state.current"]);
    });
}

#[test]
fn a_damaged_transfer_is_refused() {
    run(async {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut source, _reader, _) = open(&TokioEnv::default(), from.path()).await;
        fill(&source, 5).await;
        let file = source.get_snapshot_builder().await.build_snapshot().await.unwrap().snapshot;
        let good = file.read_chunk(0, usize::MAX >> 8).await.unwrap();
        assert_eq!(good.len() as u64, file.len());
        let step = good.len() / 97;
        for at in (0..good.len()).step_by(step).chain(good.len() - 40..good.len()) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let mut incoming =
                Incoming::new(&TokioEnv::default(), to.path(), file.len(), file.checksum()).await.unwrap();
            incoming.write_chunk(0, &bad).await.unwrap();
            assert!(incoming.finish().await.is_err(), "a flip at byte {at} went unnoticed");
        }
        // Cut short, too long, and with a gap.
        let mut incoming = Incoming::new(&TokioEnv::default(), to.path(), file.len(), file.checksum()).await.unwrap();
        assert!(incoming.write_chunk(1, &good).await.is_err());
        incoming.write_chunk(0, &good[..good.len() - 1]).await.unwrap();
        assert!(incoming.write_chunk(good.len() as u64 - 1, b"xx").await.is_err());
        assert!(incoming.finish().await.is_err());
        assert!(files(to.path()).is_empty(), "{:?}", files(to.path()));
    });
}

#[test]
fn damage_after_the_transfer_is_found_before_anything_is_replaced() {
    run(async {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut source, _reader, _) = open(&TokioEnv::default(), from.path()).await;
        fill(&source, 20).await;
        let snapshot = source.get_snapshot_builder().await.build_snapshot().await.unwrap();
        for at in [3, 20, 60, 100, 5000, 20_000, snapshot.snapshot.len() - 5] {
            let (mut target, reader, _) = open(&TokioEnv::default(), to.path()).await;
            target
                .apply_entries(vec![set(1, reader.applied().map_or(1, |id| id.index + 1), b"old", b"x")])
                .await
                .unwrap();
            let before = reader.verify().await.unwrap();
            let received = receive(&snapshot.snapshot, to.path()).await.unwrap();
            flip(received.path(), at);
            let error = target.install_snapshot(&snapshot.meta, received).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
            // The node stops. What it had is still there.
            assert!(target.applied_state().await.is_err());
            let _ = reader.close().await;
            let (_, reader, recovery) = open(&TokioEnv::default(), to.path()).await;
            assert_eq!((recovery.applied, recovery.state_hash, recovery.snapshot), (before.0, before.1, None));
            reader.close().await.unwrap();
        }
    });
}

#[test]
fn a_damaged_snapshot_is_set_aside_at_start() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let (mut state, reader, _) = open(&TokioEnv::default(), dir.path()).await;
        fill(&state, 20).await;
        let path = state.get_snapshot_builder().await.build_snapshot().await.unwrap().snapshot.path().to_owned();
        reader.close().await.unwrap();
        flip(&path, 777);
        let (mut state, _reader, recovery) = open(&TokioEnv::default(), dir.path()).await;
        assert_eq!(recovery.damaged_snapshots.len(), 1);
        assert_eq!((recovery.applied, recovery.snapshot), (Some(log_id(2, 21)), None));
        assert!(state.get_current_snapshot().await.unwrap().is_none());
    });
}

#[test]
fn an_old_snapshot_stays_while_it_is_read_and_goes_afterwards() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let (mut state, _reader, _) = open(&TokioEnv::default(), dir.path()).await;
        fill(&state, 10).await;
        let first = state.get_snapshot_builder().await.build_snapshot().await.unwrap().snapshot;
        state.apply_entries(vec![set(2, 12, b"k", b"v")]).await.unwrap();
        let second = state.get_snapshot_builder().await.build_snapshot().await.unwrap().snapshot;
        assert!(first.path().exists() && second.path().exists());
        let old = first.path().to_owned();
        drop(first);
        state.apply_entries(vec![set(2, 13, b"k", b"v")]).await.unwrap();
        drop(second);
        state.get_snapshot_builder().await.build_snapshot().await.unwrap();
        assert!(!old.exists());
        assert_eq!(files(dir.path()).iter().filter(|name| name.ends_with(".snap")).count(), 1);
    });
}

fn flip(path: &Path, at: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at as usize] ^= 1;
    std::fs::write(path, bytes).unwrap();
}
