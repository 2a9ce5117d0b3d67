//! Replaces the whole state by a snapshot, atomically across a crash.
//!
//! 1. The rows go into the database of the next generation, which nobody uses. Then the checksum over the whole file and
//!    the state hash over all rows are compared, and the database is checkpointed: all of it is durable.
//! 2. The snapshot file gets its name, durably. It is the current snapshot from now on: after a crash here the old state
//!    is opened, and openraft installs the snapshot again.
//! 3. The pointer is switched, durably. A crash before leaves the old state, after it the new one.
//! 4. Connections move over; the old database is removed.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use buggify::{assert_always, assert_reachable, assert_sometimes, buggify};
use openraft::type_config::TypeConfigExt;

use super::directory::{self, Current};
use super::file::SnapshotFile;
use super::format::{Chunk, Header};
use super::read::Reader;
use crate::env::{Env, File as _};
use crate::log_store::damaged;
use crate::observe::Observation;
use crate::planted::planted;
use crate::state_machine::database::{CheckpointMode, Database, connect_reader};
use crate::state_machine::rows::MetaRow;
use crate::state_machine::{Shared, files};
use crate::types::{SnapshotMeta, TypeConfig};

pub(crate) const WHAT: &str = "a snapshot cannot be installed";

/// Installs `file`, which describes itself as `meta`.
pub(crate) async fn install<E: Env>(
    shared: &Arc<Shared<E>>,
    meta: &SnapshotMeta,
    file: SnapshotFile<E>,
) -> io::Result<()> {
    let generation = shared.view().generation + 1;
    let database = build(shared, meta, &file, generation).await?;
    if buggify!(at "install waits before the snapshot gets its name") {
        TypeConfig::<E>::sleep(Duration::from_millis(100)).await;
    }
    let current = name(shared, meta, file, database.meta.state_hash).await?;
    if buggify!(at "install waits before the switch") {
        TypeConfig::<E>::sleep(Duration::from_millis(100)).await;
    }
    let before = shared.view().applied;
    assert_sometimes!(before.is_some(), "a snapshot replaced a state that was not empty");
    let installed = database.meta.clone();
    switch(shared, database, generation).await?;
    shared.publish_install(&installed, generation);
    shared.publish_snapshot(current);
    assert_reachable!("a snapshot was installed");
    clean_up(shared, generation).await
}

/// Step 1: a new database with the rows of the snapshot.
async fn build<E: Env>(
    shared: &Arc<Shared<E>>,
    meta: &SnapshotMeta,
    file: &SnapshotFile<E>,
    generation: u64,
) -> io::Result<Database> {
    let create = move |shared: Arc<Shared<E>>| {
        // A build that failed before a restart may have left one.
        files::remove_database(&shared.env, &shared.dir, generation)?;
        Database::create(&shared.env, &files::database_path(&shared.dir, generation), generation)
    };
    let mut database = shared.section(WHAT, create).await?;
    let announced = file.clone();
    let open = move |shared: Arc<Shared<E>>| -> io::Result<(Reader<E::File>, Header)> {
        let mut reader = announced.reader(&shared.env)?;
        let header = reader.header()?;
        Ok((reader, header))
    };
    let (mut reader, header) = shared.file_section(WHAT, open).await?;
    if header.meta != *meta {
        return Err(damaged(format!("the snapshot says {}, expected {meta}", header.meta)));
    }
    loop {
        let next = move |_: Arc<Shared<E>>| {
            let chunk = reader.chunk()?;
            Ok((reader, chunk))
        };
        let (back, chunk) = shared.file_section(WHAT, next).await?;
        reader = back;
        let is_end = matches!(chunk, Chunk::End { .. });
        let load = move |_: Arc<Shared<E>>| {
            database.load(chunk)?;
            Ok(database)
        };
        database = shared.section(WHAT, load).await?;
        if is_end {
            break;
        }
        if buggify!(at "install pauses between chunks", 0.05) {
            TypeConfig::<E>::sleep(Duration::from_millis(20)).await;
        }
    }
    let checksum = shared.file_section(WHAT, move |_| reader.verify()).await?;
    if checksum != file.checksum() {
        return Err(damaged("the snapshot is not the one that was announced"));
    }
    let seal = move |shared: Arc<Shared<E>>| {
        database.seal(&header)?;
        if planted!("install-not-checkpointed") {
            return Ok(database);
        }
        let checkpoint = database.checkpoint(CheckpointMode::Truncate)?;
        if !checkpoint.is_complete() {
            return Err(io::Error::other(format!("the new state could not be made durable: {checkpoint:?}")));
        }
        shared.env.sync_dir(&shared.dir)?;
        Ok(database)
    };
    shared.section(WHAT, seal).await
}

/// Step 2: the snapshot file gets its name, unless it has it already (a restart installs the current snapshot again).
async fn name<E: Env>(
    shared: &Arc<Shared<E>>,
    meta: &SnapshotMeta,
    file: SnapshotFile<E>,
    state_hash: u64,
) -> io::Result<Current<E>> {
    let name = directory::path_of(&shared.dir, meta.last_log_id);
    let meta = meta.clone();
    let rename = move |shared: Arc<Shared<E>>| {
        if file.path() == name {
            return Ok(Current { meta, state_hash, file });
        }
        if file.path().parent() == Some(shared.dir.as_path()) {
            shared.env.rename(file.path(), &name)?;
        } else {
            // It is another's: it stays there.
            let copy = directory::building_path(&shared.dir);
            copy_file(&shared.env, file.path(), &copy)?;
            shared.env.rename(&copy, &name)?;
        }
        shared.env.sync_dir(&shared.dir)?;
        let file = file.renamed(&shared.env, name)?;
        Ok(Current { meta, state_hash, file })
    };
    shared.file_section(WHAT, rename).await
}

/// Copies a file, durably. Synchronous.
fn copy_file<E: Env>(env: &E, from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (env.open(from)?, env.create(to)?);
    let len = from.len()?;
    let mut at = 0;
    while at < len {
        let part = (len - at).min(COPY_BYTES);
        let mut bytes = vec![0; usize::try_from(part).expect("a part fits in memory")];
        from.read_exact_at(&mut bytes, at)?;
        to.write_all_at(&bytes, at)?;
        at += part;
    }
    to.sync()
}

const COPY_BYTES: u64 = 1 << 20;

/// Steps 3 and 4: from here on the new database is the state.
async fn switch<E: Env>(shared: &Arc<Shared<E>>, database: Database, generation: u64) -> io::Result<()> {
    let switch = move |shared: Arc<Shared<E>>| {
        let reader = connect_reader(&shared.env, &files::database_path(&shared.dir, generation))?;
        files::write_pointer(&shared.env, &shared.dir, generation)?;
        if shared.env.is_observed() {
            let MetaRow { applied, state_hash, .. } = database.meta;
            shared.env.observe(Observation::SnapshotInstalled { last: applied, state_hash });
        }
        // A snapshot being built of the old state finds that it was superseded.
        drop(shared.pinned.lock().take());
        if !planted!("reader-kept-after-install") {
            drop(shared.reader.lock().replace(reader));
        }
        let old = shared.state.lock().replace(database);
        assert_always!(
            old.as_ref().is_none_or(|old| old.generation < generation),
            "generations of the state only go up"
        );
        Ok(())
    };
    shared.section(WHAT, switch).await
}

async fn clean_up<E: Env>(shared: &Arc<Shared<E>>, generation: u64) -> io::Result<()> {
    if buggify!(at "install leaves the old state for a while") {
        TypeConfig::<E>::sleep(Duration::from_millis(200)).await;
    }
    let remove = move |shared: Arc<Shared<E>>| {
        files::remove_database(&shared.env, &shared.dir, generation - 1)?;
        directory::remove_incoming(&shared.env, &shared.dir)
    };
    shared.section(WHAT, remove).await?;
    shared.remove_retired().await
}
