//! A complete snapshot file, open for reading, and one that is being received.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::TRAILER_BYTES;
use crate::env::{Env, File, Lane};
use crate::log_store::damaged;

/// BLAKE3 of a snapshot: of every byte before its trailer.
pub type Checksum = [u8; TRAILER_BYTES];

/// A durable snapshot file whose checksum was verified. Clones share the open file; it is not removed while one lives.
pub struct SnapshotFile<E: Env> {
    inner: Arc<Inner<E>>,
}

struct Inner<E: Env> {
    lane: E::Lane,
    file: E::File,
    path: PathBuf,
    len: u64,
    checksum: Checksum,
}

impl<E: Env> Clone for SnapshotFile<E> {
    fn clone(&self) -> Self {
        SnapshotFile { inner: self.inner.clone() }
    }
}

impl<E: Env> fmt::Debug for SnapshotFile<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotFile").field("path", &self.inner.path).field("len", &self.inner.len).finish()
    }
}

impl<E: Env> SnapshotFile<E> {
    pub(super) fn new(lane: E::Lane, file: E::File, path: PathBuf, len: u64, checksum: Checksum) -> Self {
        SnapshotFile { inner: Arc::new(Inner { lane, file, path, len, checksum }) }
    }

    /// Bytes of the file, its trailer included.
    #[expect(clippy::len_without_is_empty, reason = "a snapshot is never empty")]
    pub fn len(&self) -> u64 {
        self.inner.len
    }

    /// BLAKE3 of everything before the trailer; also what the trailer says.
    pub fn checksum(&self) -> Checksum {
        self.inner.checksum
    }

    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The same file under the name it was given since.
    pub(super) fn renamed(&self, env: &E, path: PathBuf) -> io::Result<Self> {
        let file = env.open(&path)?;
        Ok(Self::new(self.inner.lane.clone(), file, path, self.inner.len, self.inner.checksum))
    }

    /// Whether anybody else has the file open.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
    }

    /// Reads up to `max` bytes at `offset`; fewer at the end of the file only, none past it.
    pub async fn read_chunk(&self, offset: u64, max: usize) -> io::Result<Vec<u8>> {
        let rest = self.inner.len.saturating_sub(offset);
        let len = usize::try_from(rest).map_or(max, |rest| rest.min(max));
        let inner = self.inner.clone();
        let read = move || -> io::Result<Vec<u8>> {
            let mut bytes = vec![0; len];
            inner.file.read_exact_at(&mut bytes, offset)?;
            Ok(bytes)
        };
        self.inner.lane.run(read).await?
    }
}

/// A snapshot that arrives in chunks. Nothing of it counts before [`Incoming::finish`] verified it. Dropped without
/// that, its file stays until the next install or start removes it; [`Incoming::abandon`] removes it at once.
pub struct Incoming<E: Env> {
    env: E,
    lane: E::Lane,
    file: Arc<E::File>,
    path: PathBuf,
    len: u64,
    checksum: Checksum,
    written: u64,
    hasher: blake3::Hasher,
    trailer: Vec<u8>,
}

/// Files of snapshots being received begin so.
pub(super) const INCOMING_PREFIX: &str = "incoming-";
/// Transfers of one snapshot that may be under way, or left over, at once.
const INCOMING_MAX: u32 = 4;

impl<E: Env> Incoming<E> {
    /// Begins to receive a snapshot of `len` bytes, trailer included. The limit on `len` is the caller's.
    pub async fn new(env: &E, dir: &Path, len: u64, checksum: Checksum) -> io::Result<Self> {
        if len < TRAILER_BYTES as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a snapshot is longer than that"));
        }
        let lane = env.lane("snapshot");
        let create = {
            let (env, dir) = (env.clone(), dir.to_owned());
            move || -> io::Result<(Arc<E::File>, PathBuf)> {
                let name = blake3::Hash::from_bytes(checksum).to_hex();
                for slot in 0..INCOMING_MAX {
                    let path = dir.join(format!("{INCOMING_PREFIX}{}-{slot}", &name[..16]));
                    if !env.exists(&path)? {
                        return Ok((Arc::new(env.create(&path)?), path));
                    }
                }
                Err(io::Error::other("too many transfers of one snapshot are under way"))
            }
        };
        let (file, path) = lane.run(create).await??;
        let (env, hasher) = (env.clone(), blake3::Hasher::new());
        Ok(Incoming { env, lane, file, path, len, checksum, written: 0, hasher, trailer: Vec::new() })
    }

    /// Bytes received so far; the next chunk begins here.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Takes the next chunk. What was received before may come again; a gap, or bytes past the end, are
    /// [`io::ErrorKind::InvalidInput`].
    pub async fn write_chunk(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        let known = self.written.checked_sub(offset);
        let known = known.ok_or_else(|| invalid(format!("a chunk at {offset}, expected {}", self.written)))?;
        let fresh = usize::try_from(known).ok().and_then(|known| bytes.get(known..)).unwrap_or_default();
        if self.written + fresh.len() as u64 > self.len {
            return Err(invalid(format!("the snapshot has {} bytes, a chunk ends past that", self.len)));
        }
        if fresh.is_empty() {
            return Ok(());
        }
        let write = {
            let (file, fresh, at) = (self.file.clone(), fresh.to_vec(), self.written);
            move || file.write_all_at(&fresh, at)
        };
        self.lane.run(write).await??;
        let hashed_end = self.len - TRAILER_BYTES as u64;
        let hashed = usize::try_from(hashed_end.saturating_sub(self.written)).unwrap_or(usize::MAX).min(fresh.len());
        self.hasher.update(&fresh[..hashed]);
        self.trailer.extend_from_slice(&fresh[hashed..]);
        self.written += fresh.len() as u64;
        Ok(())
    }

    /// Verifies that every byte arrived, and makes the file durable (its name becomes so when it is installed).
    /// [`io::ErrorKind::InvalidData`] if the checksum does not match; the file is removed then.
    pub async fn finish(self) -> io::Result<SnapshotFile<E>> {
        let found = *self.hasher.finalize().as_bytes();
        if self.written != self.len || found != self.checksum || self.trailer != self.checksum {
            buggify::assert_reachable!("a received snapshot was refused for its checksum", owed_by = "network");
            self.abandon().await?;
            return Err(damaged("the received snapshot does not match its checksum"));
        }
        let sync = {
            let file = self.file.clone();
            move || file.sync()
        };
        self.lane.run(sync).await??;
        let reopen = {
            let (env, path) = (self.env.clone(), self.path.clone());
            move || env.open(&path)
        };
        let file = self.lane.run(reopen).await??;
        Ok(SnapshotFile::new(self.lane, file, self.path, self.len, self.checksum))
    }

    /// Removes what was received.
    pub async fn abandon(self) -> io::Result<()> {
        let Incoming { env, lane, file, path, .. } = self;
        drop(file);
        lane.run(move || env.remove(&path)).await?
    }
}
