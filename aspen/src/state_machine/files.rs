//! Which file is the state machine: `state.current` names the generation of the database in force.
//!
//! A database is replaced by building the next generation beside it and then switching the pointer, which is one rename
//! made durable by one directory sync. So a crash leaves the old state or the new one, and a database file with a live
//! write-ahead log is never touched.

use std::io;
use std::path::{Path, PathBuf};

use crate::codec::{self, Kind};
use crate::env::{Env, File as _};
use crate::log_store::damaged;

pub const POINTER_FILE: &str = "state.current";
const POINTER_FILE_NEW: &str = "state.current.tmp";

/// The database of a generation.
pub fn database_path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("state-{generation}.db"))
}

/// The generation in force, if a state machine was ever made here.
pub fn read_pointer<E: Env>(env: &E, dir: &Path) -> io::Result<Option<u64>> {
    let path = dir.join(POINTER_FILE);
    if !env.exists(&path)? {
        return Ok(None);
    }
    let file = env.open(&path)?;
    let len = usize::try_from(file.len()?).ok().filter(|len| *len <= POINTER_BYTES_MAX);
    let mut bytes = vec![0; len.ok_or_else(|| damaged("state.current is too long"))?];
    file.read_exact_at(&mut bytes, 0)?;
    let body = codec::open_seal(Kind::StatePointer, &bytes)?;
    let generation = body.try_into().map_err(|_| damaged("state.current has the wrong length"))?;
    Ok(Some(u64::from_le_bytes(generation)))
}

/// Puts `generation` in force, durably.
pub fn write_pointer<E: Env>(env: &E, dir: &Path, generation: u64) -> io::Result<()> {
    let mut bytes = Vec::new();
    codec::seal_into(Kind::StatePointer, &mut bytes, |out| out.extend_from_slice(&generation.to_le_bytes()));
    let temporary = dir.join(POINTER_FILE_NEW);
    let file = env.create(&temporary)?;
    file.write_all_at(&bytes, 0)?;
    file.sync()?;
    drop(file);
    env.rename(&temporary, &dir.join(POINTER_FILE))?;
    env.sync_dir(dir)
}

/// Removes databases of other generations and half-written files. Returns how many files of a *later* generation were
/// among them: what an install left that a crash interrupted.
pub fn remove_strays<E: Env>(env: &E, dir: &Path, generation: u64) -> io::Result<usize> {
    let mut later = 0;
    for path in env.list(dir)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let stray = match generation_of(name) {
            Some(found) => found != generation,
            None => name == POINTER_FILE_NEW,
        };
        if stray {
            later += usize::from(generation_of(name).is_some_and(|found| found > generation));
            env.remove(&dir.join(name))?;
        }
    }
    Ok(later)
}

/// Removes the files of one database that nobody has open any more.
pub fn remove_database<E: Env>(env: &E, dir: &Path, generation: u64) -> io::Result<()> {
    for path in env.list(dir)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if generation_of(name) == Some(generation) {
            env.remove(&dir.join(name))?;
        }
    }
    Ok(())
}

/// `state-7.db`, `state-7.db-wal` and `state-7.db-shm` belong to generation 7.
fn generation_of(name: &str) -> Option<u64> {
    let rest = name.strip_prefix("state-")?;
    let end = rest.find(".db")?;
    rest[..end].parse().ok()
}

const POINTER_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_tells_its_generation() {
        assert_eq!(generation_of("state-7.db"), Some(7));
        assert_eq!(generation_of("state-12.db-wal"), Some(12));
        assert_eq!(generation_of("state.current"), None);
        assert_eq!(generation_of("snapshot-7.db"), None);
    }
}
