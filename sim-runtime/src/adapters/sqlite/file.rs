//! Open files of SQLite: `sqlite3_io_methods` over a [`SimFile`].
#![allow(unsafe_code)] // SQLite's interface is C: function pointers, out parameters and a struct that it allocates.

use std::ffi::{c_int, c_void};
use std::io;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libsqlite3_sys as ffi;

use super::locks::{FileLocks, Level, SLOTS, SlotLocks};
use crate::disk::names::parent;
use crate::disk::{Disk, SimFile};

/// What SQLite allocates for us, by `szOsFile`. `methods` comes first: SQLite reads it.
#[repr(C)]
pub(super) struct Handle {
    base: ffi::sqlite3_file,
    open: *mut OpenFile,
}

/// An open file behind a handle.
pub(super) struct OpenFile {
    pub disk: Disk,
    pub file: SimFile,
    /// `None` for a file without a name.
    pub path: Option<String>,
    pub delete_on_close: bool,
    /// The directory has to be synced with the first sync of this file: a new journal or write-ahead log.
    pub sync_directory: bool,
    pub shared: Arc<SharedFile>,
    /// Tells the connections to one file apart.
    pub who: u64,
}

/// What the connections to one file share within a process.
#[derive(Default)]
pub(super) struct SharedFile {
    state: Mutex<SharedState>,
}

#[derive(Default)]
struct SharedState {
    connections: u64,
    locks: FileLocks,
    slots: SlotLocks,
    /// Shared memory, in regions that never move. Atomics, because SQLite writes through pointers into them.
    regions: Vec<Box<[AtomicU64]>>,
    /// Connections that have mapped a region.
    mapped: Vec<u64>,
}

impl SharedFile {
    pub fn next_connection(&self) -> u64 {
        let mut state = self.lock();
        state.connections += 1;
        state.connections
    }

    fn lock(&self) -> MutexGuard<'_, SharedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) const HANDLE_SIZE: usize = size_of::<Handle>();

/// Fills the memory that SQLite allocated for a file. Without a file SQLite must not call anything on it.
///
/// # Safety
/// `raw` points to `HANDLE_SIZE` writable bytes, aligned as SQLite aligns its files.
pub(super) unsafe fn fill(raw: *mut ffi::sqlite3_file, open: Option<OpenFile>) {
    let handle = raw.cast::<Handle>();
    let (methods, open) = match open {
        Some(open) => (ptr::from_ref(&METHODS), Box::into_raw(Box::new(open))),
        None => (ptr::null(), ptr::null_mut()),
    };
    // SAFETY: by this function's contract the memory is ours to write.
    unsafe { handle.write(Handle { base: ffi::sqlite3_file { pMethods: methods }, open }) };
}

/// The open file behind a handle.
///
/// # Safety
/// `raw` was filled with a file and not closed; no other reference into it lives. SQLite serialises calls on one file.
unsafe fn opened<'a>(raw: *mut ffi::sqlite3_file) -> &'a mut OpenFile {
    // SAFETY: by this function's contract `open` came from `Box::into_raw` and is not borrowed.
    unsafe { &mut *(*raw.cast::<Handle>()).open }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

unsafe extern "C" fn close(raw: *mut ffi::sqlite3_file) -> c_int {
    let handle = raw.cast::<Handle>();
    // SAFETY: SQLite closes a file once; the box came from `fill`, and nothing refers to it any more.
    let open = unsafe {
        (*handle).base.pMethods = ptr::null();
        Box::from_raw(std::mem::replace(&mut (*handle).open, ptr::null_mut()))
    };
    open.let_go();
    if let (true, Some(path)) = (open.delete_on_close, &open.path) {
        // Also on unix nobody learns of a temporary file that stays behind.
        let _ = open.disk.remove(path);
    }
    ffi::SQLITE_OK
}

impl OpenFile {
    fn let_go(&self) {
        let mut state = self.shared.lock();
        state.locks.unlock(self.who, Level::None);
        state.unmap(self.who);
    }

    fn sync(&mut self) -> c_int {
        if self.file.sync().is_err() {
            return ffi::SQLITE_IOERR_FSYNC;
        }
        if let (true, Some(path)) = (self.sync_directory, &self.path) {
            if self.disk.sync_dir(parent(path)).is_err() {
                return ffi::SQLITE_IOERR_DIR_FSYNC;
            }
            self.sync_directory = false;
        }
        ffi::SQLITE_OK
    }
}

impl SharedState {
    fn unmap(&mut self, who: u64) {
        self.slots.release_all(who);
        self.mapped.retain(|other| *other != who);
        // The first to map it again finds zeros and recovers, as on unix.
        if self.mapped.is_empty() {
            self.regions.clear();
        }
    }
}

unsafe extern "C" fn read(raw: *mut ffi::sqlite3_file, out: *mut c_void, amount: c_int, offset: i64) -> c_int {
    let (Ok(amount), Ok(offset)) = (usize::try_from(amount), u64::try_from(offset)) else {
        return ffi::SQLITE_IOERR_READ;
    };
    // SAFETY: SQLite passes an open file, and a buffer of `amount` bytes that it does not touch meanwhile. It may be
    // uninitialised, so it is zeroed before it becomes a slice; a short read has to leave zeros anyway.
    let (open, out) = unsafe {
        ptr::write_bytes(out.cast::<u8>(), 0, amount);
        (opened(raw), std::slice::from_raw_parts_mut(out.cast::<u8>(), amount))
    };
    match open.file.read_at(out, offset) {
        Ok(read) if read == amount => ffi::SQLITE_OK,
        Ok(_) => ffi::SQLITE_IOERR_SHORT_READ,
        Err(_) => ffi::SQLITE_IOERR_READ,
    }
}

unsafe extern "C" fn write(raw: *mut ffi::sqlite3_file, bytes: *const c_void, amount: c_int, offset: i64) -> c_int {
    let (Ok(amount), Ok(offset)) = (usize::try_from(amount), u64::try_from(offset)) else {
        return ffi::SQLITE_IOERR_WRITE;
    };
    // SAFETY: SQLite passes an open file and `amount` initialised bytes.
    let (open, bytes) = unsafe { (opened(raw), std::slice::from_raw_parts(bytes.cast::<u8>(), amount)) };
    match open.file.write_at(bytes, offset) {
        Ok(()) => ffi::SQLITE_OK,
        Err(error) if is_full(&error) => ffi::SQLITE_FULL,
        Err(_) => ffi::SQLITE_IOERR_WRITE,
    }
}

unsafe extern "C" fn truncate(raw: *mut ffi::sqlite3_file, size: i64) -> c_int {
    // SAFETY: SQLite passes an open file.
    let open = unsafe { opened(raw) };
    let done =
        u64::try_from(size).map_err(|_| io::ErrorKind::InvalidInput.into()).and_then(|len| open.file.set_len(len));
    done.map_or(ffi::SQLITE_IOERR_TRUNCATE, |()| ffi::SQLITE_OK)
}

unsafe extern "C" fn sync(raw: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: SQLite passes an open file.
    unsafe { opened(raw) }.sync()
}

unsafe extern "C" fn file_size(raw: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    // SAFETY: SQLite passes an open file.
    let len = unsafe { opened(raw) }.file.len().ok().and_then(|len| i64::try_from(len).ok());
    match len {
        // SAFETY: SQLite passes a place for the result.
        Some(len) => unsafe {
            *size = len;
            ffi::SQLITE_OK
        },
        None => ffi::SQLITE_IOERR_FSTAT,
    }
}

unsafe extern "C" fn lock(raw: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: SQLite passes an open file.
    let open = unsafe { opened(raw) };
    match Level::of(level) {
        Some(level) if open.shared.lock().locks.lock(open.who, level) => ffi::SQLITE_OK,
        Some(_) => ffi::SQLITE_BUSY,
        None => ffi::SQLITE_IOERR_LOCK,
    }
}

unsafe extern "C" fn unlock(raw: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: SQLite passes an open file.
    let open = unsafe { opened(raw) };
    match Level::of(level) {
        Some(level) => {
            open.shared.lock().locks.unlock(open.who, level);
            ffi::SQLITE_OK
        }
        None => ffi::SQLITE_IOERR_UNLOCK,
    }
}

unsafe extern "C" fn check_reserved_lock(raw: *mut ffi::sqlite3_file, result: *mut c_int) -> c_int {
    // SAFETY: SQLite passes an open file and a place for the result.
    unsafe { *result = c_int::from(opened(raw).shared.lock().locks.is_reserved()) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_raw: *mut ffi::sqlite3_file, _operation: c_int, _argument: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_raw: *mut ffi::sqlite3_file) -> c_int {
    4096
}

unsafe extern "C" fn device_characteristics(_raw: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE | SUBPAGE_READ
}

/// `SQLITE_IOCAP_SUBPAGE_READ`, newer than the bindings.
const SUBPAGE_READ: c_int = 0x8000;

unsafe extern "C" fn shm_map(
    raw: *mut ffi::sqlite3_file,
    region: c_int,
    region_bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: SQLite passes an open file.
    let open = unsafe { opened(raw) };
    let (Ok(region), Ok(bytes)) = (usize::try_from(region), usize::try_from(region_bytes)) else {
        return ffi::SQLITE_IOERR_SHMMAP;
    };
    let mut state = open.shared.lock();
    if !state.mapped.contains(&open.who) {
        state.mapped.push(open.who);
    }
    while extend != 0 && state.regions.len() <= region {
        state.regions.push((0..bytes / 8).map(|_| AtomicU64::new(0)).collect());
    }
    // Regions never move while a connection has mapped them: the boxes stay when the vector grows.
    let start = state.regions.get(region).map_or(ptr::null_mut(), |region| region.as_ptr().cast_mut().cast());
    // SAFETY: SQLite passes a place for the result. It writes through the pointer, which atomics allow.
    unsafe { *out = start };
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_lock(raw: *mut ffi::sqlite3_file, offset: c_int, count: c_int, flags: c_int) -> c_int {
    // SAFETY: SQLite passes an open file.
    let open = unsafe { opened(raw) };
    let Some(slots) = slots(offset, count) else { return ffi::SQLITE_IOERR_SHMLOCK };
    let mut state = open.shared.lock();
    let is_shared = flags & ffi::SQLITE_SHM_SHARED != 0;
    let locks = flags & ffi::SQLITE_SHM_LOCK != 0;
    let done = match (locks, is_shared) {
        (true, true) => state.slots.lock_shared(open.who, slots),
        (true, false) => state.slots.lock_exclusive(open.who, slots),
        (false, true) => {
            state.slots.unlock_shared(open.who, slots);
            true
        }
        (false, false) => {
            state.slots.unlock_exclusive(open.who, slots);
            true
        }
    };
    if done { ffi::SQLITE_OK } else { ffi::SQLITE_BUSY }
}

fn slots(offset: c_int, count: c_int) -> Option<Range<usize>> {
    let (offset, count) = (usize::try_from(offset).ok()?, usize::try_from(count).ok()?);
    let end = offset.checked_add(count)?;
    (end <= SLOTS).then_some(offset..end)
}

unsafe extern "C" fn shm_barrier(_raw: *mut ffi::sqlite3_file) {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(raw: *mut ffi::sqlite3_file, _delete: c_int) -> c_int {
    // SAFETY: SQLite passes an open file.
    let open = unsafe { opened(raw) };
    open.shared.lock().unmap(open.who);
    ffi::SQLITE_OK
}

fn is_full(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOSPC)
}
