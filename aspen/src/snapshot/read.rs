//! Reads a snapshot file part by part and verifies it on the way.

use std::io;
use std::sync::Arc;

use super::file::{Checksum, SnapshotFile};
use super::format::{self, CHUNK_HEAD_BYTES, Chunk, Header, PREAMBLE_BYTES, TRAILER_BYTES};
use crate::env::{Env, File};
use crate::log_store::damaged;

/// Reads parts in order. Synchronous: each call runs in the caller's lane section.
pub struct Reader<F> {
    file: Arc<F>,
    offset: u64,
    len: u64,
    hasher: blake3::Hasher,
}

impl<F: File> Reader<F> {
    pub fn new(file: Arc<F>) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Reader { file, offset: 0, len, hasher: blake3::Hasher::new() })
    }

    /// The header; call it first.
    pub fn header(&mut self) -> io::Result<Header> {
        let mut preamble = [0; PREAMBLE_BYTES];
        self.take(&mut preamble)?;
        let mut body = vec![0; format::decode_preamble(&preamble)?];
        self.take(&mut body)?;
        format::decode_header_body(&body)
    }

    /// The next chunk.
    pub fn chunk(&mut self) -> io::Result<Chunk> {
        let mut head = [0; CHUNK_HEAD_BYTES];
        self.take(&mut head)?;
        let (tag, len) = format::decode_chunk_head(&head)?;
        let mut body = vec![0; len];
        self.take(&mut body)?;
        format::decode_chunk_body(tag, &body)
    }

    /// Compares the hash of what was read with the trailer, and that nothing follows. Call it after the end mark.
    pub fn verify(self) -> io::Result<Checksum> {
        let mut trailer = [0; TRAILER_BYTES];
        if self.offset + trailer.len() as u64 != self.len {
            return Err(damaged("a snapshot has the wrong length"));
        }
        self.file.read_exact_at(&mut trailer, self.offset)?;
        if *self.hasher.finalize().as_bytes() != trailer {
            return Err(damaged("a snapshot does not match its checksum"));
        }
        Ok(trailer)
    }

    fn take(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        if self.offset + bytes.len() as u64 > self.len {
            return Err(damaged("a snapshot is cut short"));
        }
        self.file.read_exact_at(bytes, self.offset)?;
        self.hasher.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

/// Verifies a whole file, its rows included. Returns its header and checksum.
pub fn verify_file<F: File>(file: Arc<F>) -> io::Result<(Header, Checksum, u64)> {
    let mut reader = Reader::new(file)?;
    let header = reader.header()?;
    while !matches!(reader.chunk()?, Chunk::End { .. }) {}
    let len = reader.len;
    Ok((header, reader.verify()?, len))
}

impl<E: Env> SnapshotFile<E> {
    /// Opens the file once more, to read it from the beginning.
    pub(super) fn reader(&self, env: &E) -> io::Result<Reader<E::File>> {
        Reader::new(Arc::new(env.open(self.path())?))
    }
}
