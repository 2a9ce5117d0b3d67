//! A data directory that cannot be right is refused, with what was found; one that a crash left in between is not.

mod support;

use std::path::Path;

use aspen::log_store::LOG_FILE;
use aspen::store::{self, StoreConfig, StoreError, Stores};
use aspen::types::{LeaderId, TypeConfig, Vote};
use openraft::StorageHelper;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use support::{TokioEnv, log_id, run, set};

async fn open(dir: &Path) -> Result<Stores<TokioEnv>, StoreError> {
    store::open(&TokioEnv::default(), dir, &StoreConfig::default()).await
}

async fn close(stores: Stores<TokioEnv>) {
    stores.log.close().await.unwrap();
    stores.reader.close().await.unwrap();
}

/// Ten entries, applied, with a vote; a snapshot and a purge to the fifth if asked for.
async fn fill(dir: &Path, purge: bool) {
    let mut stores = open(dir).await.unwrap();
    let vote = Vote { leader_id: LeaderId { term: 1, voted_for: 1 }, committed: true };
    stores.log.save_vote(&vote).await.unwrap();
    let (done, flushed) = TypeConfig::<TokioEnv>::oneshot();
    let entries: Vec<_> = (0..10).map(|index| set(1, index, &[index as u8], b"a value of some length")).collect();
    stores.log.append(entries.clone(), IOFlushed::signal(done)).await.unwrap();
    flushed.await.unwrap().unwrap();
    stores.log.save_committed(Some(log_id(1, 9))).await.unwrap();
    stores.state.apply_entries(entries).await.unwrap();
    if purge {
        stores.state.get_snapshot_builder().await.build_snapshot().await.unwrap();
        stores.log.purge(log_id(1, 5)).await.unwrap();
    }
    close(stores).await;
}

#[test]
fn what_was_written_is_found() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), true).await;
        let stores = open(dir.path()).await.unwrap();
        let (log, state) = (&stores.recovery.log, &stores.recovery.state);
        assert_eq!(
            (log.purged, log.last(), log.committed),
            (Some(log_id(1, 5)), Some(log_id(1, 9)), Some(log_id(1, 9)))
        );
        assert_eq!((state.applied, state.snapshot), (Some(log_id(1, 9)), Some(log_id(1, 9))));
        assert_eq!(log.vote.unwrap().leader_id.voted_for, 1);
        assert!(!log.created && !state.created && !state.interrupted_install);
        assert!(stores.health.reason().is_none());
    });
}

#[test]
fn a_lost_log_is_refused() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), false).await;
        std::fs::remove_file(dir.path().join(LOG_FILE)).unwrap();
        for attempt in ["the first", "the second"] {
            let error = open(dir.path()).await.unwrap_err();
            assert!(
                matches!(&error, StoreError::Inconsistent { found, .. } if found.contains("the vote is lost")),
                "{attempt}: {error}"
            );
        }
        assert!(!dir.path().join(LOG_FILE).exists(), "a refusal leaves no log that the next start would believe");
    });
}

#[test]
fn a_new_log_beside_an_old_state_is_refused() {
    run(async {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fill(dir.path(), false).await;
        close(open(other.path()).await.unwrap()).await;
        std::fs::copy(other.path().join(LOG_FILE), dir.path().join(LOG_FILE)).unwrap();
        let error = open(dir.path()).await.unwrap_err();
        assert!(matches!(&error, StoreError::Inconsistent { found, .. } if found.contains("no vote")), "{error}");
    });
}

#[test]
fn what_was_half_written_goes_first() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), false).await;
        let leftovers = ["building-snapshot", "incoming-0123456789abcdef-0"].map(|name| dir.path().join(name));
        leftovers.iter().for_each(|path| std::fs::write(path, b"half").unwrap());
        // The start fails, and has made room all the same.
        std::fs::write(dir.path().join(LOG_FILE), b"").unwrap();
        open(dir.path()).await.unwrap_err();
        assert!(leftovers.iter().all(|path| !path.exists()));
    });
}

#[test]
fn an_emptied_log_is_refused() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), false).await;
        std::fs::write(dir.path().join(LOG_FILE), b"").unwrap();
        let error = open(dir.path()).await.unwrap_err();
        assert!(matches!(&error, StoreError::Damaged { .. }), "{error}");
    });
}

#[test]
fn a_log_purged_past_the_state_is_refused() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), true).await;
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if !path.ends_with(LOG_FILE) {
                std::fs::remove_file(path).unwrap();
            }
        }
        let error = open(dir.path()).await.unwrap_err();
        assert!(matches!(&error, StoreError::Inconsistent { found, .. } if found.contains("purged")), "{error}");
        assert!(error.to_string().contains("add one with a new id"), "{error}");
    });
}

#[test]
fn a_lost_state_is_rebuilt_from_a_whole_log() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), false).await;
        for name in ["state.current", "state-1.db"] {
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
        let stores = open(dir.path()).await.unwrap();
        assert!(stores.recovery.state.created);
        assert_eq!(stores.recovery.log.last(), Some(log_id(1, 9)));
    });
}

/// Flips one bit of every byte in which `needle` stands, one at a time, and opens.
#[test]
fn a_damaged_entry_or_row_is_refused() {
    run(async {
        for (file, needle) in [(LOG_FILE, b"a value of some length".as_slice()), ("state-1.db", b"a value of some")] {
            let dir = tempfile::tempdir().unwrap();
            fill(dir.path(), false).await;
            let path = dir.path().join(file);
            let good = std::fs::read(&path).unwrap();
            let places: Vec<usize> = good
                .windows(needle.len())
                .enumerate()
                .filter(|(_, found)| *found == needle)
                .map(|(at, _)| at)
                .collect();
            assert!(places.len() >= 10, "{file} holds the values in the clear");
            let mut refused = 0;
            for at in &places {
                let mut bad = good.clone();
                bad[at + 3] ^= 4;
                std::fs::write(&path, &bad).unwrap();
                match open(dir.path()).await {
                    // A stale copy of a page.
                    Ok(stores) => close(stores).await,
                    Err(error) => {
                        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
                        refused += 1;
                    }
                }
                // Nothing is open now, after an error either: the next one finds the file unlocked.
                std::fs::write(&path, &good).unwrap();
            }
            assert!(refused >= 10, "{file}: {refused} of {} flips were refused", places.len());
        }
    });
}

#[test]
fn leftovers_of_a_crash_are_cleaned_up() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let leftovers = ["state-2.db", "state-2.db-wal", "state.current.tmp", "building-snapshot", "incoming-00-0"];
        fill(dir.path(), true).await;
        for name in leftovers {
            std::fs::write(dir.path().join(name), b"half").unwrap();
        }
        let stores = open(dir.path()).await.unwrap();
        assert!(stores.recovery.state.interrupted_install);
        assert!(leftovers.iter().all(|name| !dir.path().join(name).exists()));
        close(stores).await;

        // And those of the very first start.
        let dir = tempfile::tempdir().unwrap();
        for name in ["log.redb.tmp", "state-1.db"] {
            std::fs::write(dir.path().join(name), b"half").unwrap();
        }
        open(dir.path()).await.unwrap();
    });
}

/// Entries are applied once they are committed, which may be before they are durable here: a crash can leave the state
/// ahead of the log. openraft purges such a log up to what is applied; the snapshot must reach as far, or a leader could
/// not bring up a node that is in between.
#[test]
fn a_state_ahead_of_its_log_gets_a_snapshot() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), true).await;
        let stores = open(dir.path()).await.unwrap();
        stores.state.apply_entries((10..15).map(|index| set(1, index, b"key", b"value")).collect()).await.unwrap();
        close(stores).await;

        let mut stores = open(dir.path()).await.unwrap();
        let (log, state) = (&stores.recovery.log, &stores.recovery.state);
        assert_eq!((log.last(), state.applied), (Some(log_id(1, 9)), Some(log_id(1, 14))));
        assert_eq!(state.snapshot, Some(log_id(1, 9)), "the one found is older");
        assert_eq!(stores.reader.snapshot(), Some(log_id(1, 14)));
        let mut helper = StorageHelper::new(&mut stores.log, &mut stores.state).with_id(1);
        let raft = helper.get_initial_state().await.unwrap();
        assert_eq!(raft.snapshot_meta.last_log_id, Some(log_id(1, 14)));
        assert_eq!(stores.log.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(1, 14)));
        close(stores).await;
    });
}
