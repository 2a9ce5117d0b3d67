//! The second host, which never dies.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aspen::command::{Command, Proposal};
use aspen::snapshot::SnapshotFile;
use aspen::state_machine::{StateMachine, StateReader};
use aspen::store::{self, StoreConfig, Stores};
use aspen::types::{Entry, Payload};
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use sim_runtime::world;
use workloads::env::SimEnv;

use crate::truth::{DIR, Mailbox, Shared, entry, lock};

/// The others: apply what is committed, tell hashes, make snapshots that are ahead.
pub async fn others(truth: Shared, mailbox: Arc<Mutex<Mailbox>>) {
    let env = SimEnv::new(None);
    let Stores { mut state, reader, .. } = store::open(&env, Path::new(DIR), &StoreConfig::default()).await.unwrap();
    loop {
        let (next, wanted) = {
            let mut mailbox = mailbox.lock().unwrap();
            let next = mailbox.entries.pop_front();
            let wanted = if next.is_none() { mailbox.wanted.take() } else { None };
            (next, wanted)
        };
        if let Some(entry) = next {
            apply_and_tell(&state, &reader, entry, &truth).await;
        } else if let Some(ahead) = wanted {
            for _ in 0..ahead {
                let entry = {
                    let mut truth = lock(&truth);
                    let entry = entry(truth.term, truth.committed.len() as u64, &truth.sessions);
                    truth.committed.push(entry.clone());
                    entry
                };
                apply_and_tell(&state, &reader, entry, &truth).await;
            }
            let built = state.get_snapshot_builder().await.build_snapshot().await.unwrap();
            let file: SnapshotFile<SimEnv> = built.snapshot;
            let bytes = file.read_chunk(0, usize::MAX >> 1).await.unwrap();
            mailbox.lock().unwrap().snapshot = Some((built.meta, bytes, file.checksum()));
        } else {
            world::sleep(Duration::from_micros(200)).await;
        }
    }
}

async fn apply_and_tell(state: &StateMachine<SimEnv>, reader: &StateReader<SimEnv>, entry: Entry, truth: &Shared) {
    let index = entry.log_id.index;
    let opens = matches!(&entry.payload, Payload::Normal(Proposal { command: Command::OpenSession { .. }, .. }));
    state.apply_entries(vec![entry]).await.unwrap();
    let (applied, hash) = reader.verify().await.unwrap();
    assert_eq!(applied.map(|applied| applied.index), Some(index));
    let mut truth = lock(truth);
    truth.hashes.insert(index, hash);
    if opens {
        truth.sessions.push(index);
        let excess = truth.sessions.len().saturating_sub(3);
        truth.sessions.drain(..excess);
    }
}
