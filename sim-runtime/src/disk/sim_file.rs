//! An open file of one incarnation.
//!
//! It dies with its host: from then on every call is an error and none reaches the disk, also while destructors run.

use std::io;
use std::sync::Arc;

use super::config::OpKind;
use super::device::{DiskError, check_range, fault, partial};
use super::names::FileId;
use super::state::{Caller, Shared, Target};
use crate::world::Class;

/// Every call takes virtual time of the blocking section around it; outside one it takes none.
#[derive(Debug)]
pub struct SimFile {
    shared: Arc<Shared>,
    id: FileId,
    caller: Caller,
}

impl SimFile {
    pub(super) fn new(shared: Arc<Shared>, id: FileId, caller: Caller) -> SimFile {
        SimFile { shared, id, caller }
    }

    /// Stands for the file as long as it exists, whatever its name. Two handles of one file have the same.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Length in bytes, as readers see it. Takes no time.
    pub fn len(&self) -> io::Result<u64> {
        self.shared.look(self.caller, |volume| volume.file(self.id).current().len())
    }

    pub fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Reads from `offset` on and returns how many bytes there were: fewer than asked for only at the end of the file.
    pub fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let target = Target::File { id: self.id, end: 0, bytes: out.len() as u64 };
        let fields = [u64::from(self.id.0), offset, out.len() as u64];
        self.shared.operate(self.caller, OpKind::Read, target, (Class::DiskRead, &fields, &[]), |volume, verdict| {
            let file = volume.file_mut(self.id);
            file.read(verdict.when);
            if let Some(error) = verdict.error {
                return Err(error.to_io());
            }
            if file.defects.is_latent(offset, out.len() as u64) {
                verdict.met.push(fault::LATENT_SECTOR);
                return Err(DiskError::Io.to_io());
            }
            verdict.met = file.defects.met(offset, out.len() as u64);
            Ok(file.current().read_at(out, offset))
        })
    }

    /// Writes all bytes, growing the file when needed. After an error some leading part may have been written.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        check_range(offset, bytes.len() as u64)?;
        let target = Target::File { id: self.id, end: offset + bytes.len() as u64, bytes: bytes.len() as u64 };
        let fields = [u64::from(self.id.0), offset, bytes.len() as u64];
        self.shared.operate(
            self.caller,
            OpKind::Write,
            target,
            (Class::DiskWrite, &fields, bytes),
            |volume, verdict| {
                let file = volume.file_mut(self.id);
                match verdict.error {
                    Some(error) => {
                        let done = partial(offset, bytes.len(), &mut verdict.dice);
                        file.write(verdict.when, offset, &bytes[..done]);
                        Err(error.to_io())
                    }
                    None => {
                        file.write(verdict.when, offset, bytes);
                        Ok(())
                    }
                }
            },
        )
    }

    /// Cuts the file or grows it with zeros.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        check_range(0, len)?;
        let target = Target::File { id: self.id, end: len, bytes: 0 };
        let fields = [u64::from(self.id.0), len];
        self.shared.operate(self.caller, OpKind::SetLen, target, (Class::DiskWrite, &fields, &[]), |volume, verdict| {
            let file = volume.file_mut(self.id);
            match verdict.error {
                Some(error) => {
                    file.read(verdict.when);
                    Err(error.to_io())
                }
                None => {
                    file.set_len(verdict.when, len);
                    Ok(())
                }
            }
        })
    }

    /// Makes every byte written so far, and the length, survive a power loss. Not the name: see
    /// [`super::Disk::sync_dir`].
    ///
    /// After an error everything since the last successful sync is gone, and reads see that.
    pub fn sync(&self) -> io::Result<()> {
        let target = Target::File { id: self.id, end: 0, bytes: 0 };
        let fields = [u64::from(self.id.0)];
        self.shared.operate(self.caller, OpKind::Sync, target, (Class::DiskSync, &fields, &[]), |volume, verdict| {
            let file = volume.file_mut(self.id);
            match verdict.error {
                Some(error) => {
                    match verdict.stays_readable {
                        true => file.fail_sync_readable(verdict.when),
                        false => file.fail_sync(verdict.when),
                    }
                    Err(error.to_io())
                }
                None if verdict.lies => {
                    file.read(verdict.when);
                    Ok(())
                }
                None => {
                    file.sync(verdict.when);
                    Ok(())
                }
            }
        })
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.shared.release(self.caller, self.id);
    }
}
