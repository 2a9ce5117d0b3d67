//! The VFS itself: names, randomness, time; and how it becomes the default.
#![allow(unsafe_code)] // SQLite's interface is C: function pointers, strings without a length, out parameters.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int};
use std::io;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libsqlite3_sys as ffi;

use super::file::{HANDLE_SIZE, OpenFile, SharedFile, fill};
use crate::disk::names::parent;
use crate::disk::{Disk, OpenMode};
use crate::world::{self, section};

pub const VFS_NAME: &CStr = c"sim";

/// Longest path in bytes.
const PATH_BYTES_MAX: c_int = 512;

/// Held while the simulated VFS is the default one.
#[derive(Debug)]
pub struct Installed {
    _one_at_a_time: MutexGuard<'static, ()>,
}

thread_local! {
    /// This thread has it installed, or the one that waits for this thread.
    static HELD: Cell<bool> = const { Cell::new(false) };
}

/// Makes the simulated VFS the default and resets SQLite's random generator, which is then seeded from the run.
///
/// For worlds made by hand: a [`Simulation`](crate::engine::Simulation) does so by itself for as long as it runs. Waits
/// while another thread of this process has it installed. Every test that touches SQLite takes part, also one that uses
/// real files: see [`Installed`].
///
/// # Panics
/// If SQLite refuses to initialise, or if it would wait for ever: this thread has it installed already, or the one that
/// waits for this simulation has.
pub fn install() -> Installed {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    assert!(
        !HELD.get(),
        "the simulated VFS is installed already, by whoever waits for this: a simulation installs it by itself"
    );
    let lock = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the VFS is never freed and, behind the lock, registered by one thread at a time.
    let done = unsafe {
        match ffi::sqlite3_initialize() {
            ffi::SQLITE_OK => ffi::sqlite3_vfs_register(vfs(), 1),
            error => error,
        }
    };
    assert_eq!(done, ffi::SQLITE_OK, "SQLite did not take the simulated VFS");
    reset_randomness();
    HELD.set(true);
    Installed { _one_at_a_time: lock }
}

/// Whether an [`install`] here would wait for ever.
pub(crate) fn is_held() -> bool {
    HELD.get()
}

/// On a thread that somebody waits for who has it installed, if `held`.
pub(crate) fn inherit(held: bool) {
    HELD.set(held);
}

impl Drop for Installed {
    fn drop(&mut self) {
        // SAFETY: registered by `install`. Files that are still open keep their own methods.
        unsafe { ffi::sqlite3_vfs_unregister(vfs()) };
        reset_randomness();
        HELD.set(false);
    }
}

/// Forgets SQLite's process-global random state, so that the next use of it asks the default VFS. Each run begins so.
pub fn reset_randomness() {
    // SAFETY: documented use: no bytes asked for resets the generator.
    unsafe { ffi::sqlite3_randomness(0, std::ptr::null_mut()) };
}

fn vfs() -> *mut ffi::sqlite3_vfs {
    /// SQLite links its list of VFSs through this struct, behind its own mutex.
    struct Registered(*mut ffi::sqlite3_vfs);
    // SAFETY: nobody but SQLite dereferences the pointer, and SQLite locks.
    unsafe impl Send for Registered {}
    // SAFETY: as above.
    unsafe impl Sync for Registered {}
    static VFS: OnceLock<Registered> = OnceLock::new();
    VFS.get_or_init(|| Registered(Box::into_raw(Box::new(new_vfs())))).0
}

fn new_vfs() -> ffi::sqlite3_vfs {
    ffi::sqlite3_vfs {
        iVersion: 2,
        szOsFile: c_int::try_from(HANDLE_SIZE).expect("a few words"),
        mxPathname: PATH_BYTES_MAX,
        pNext: std::ptr::null_mut(),
        zName: VFS_NAME.as_ptr(),
        pAppData: std::ptr::null_mut(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        xDlOpen: None,
        xDlError: None,
        xDlSym: None,
        xDlClose: None,
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: Some(current_time),
        xGetLastError: Some(last_error),
        xCurrentTimeInt64: Some(current_time_ms),
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    }
}

/// A path as SQLite passes it; `None` when there is none.
///
/// # Safety
/// `raw` is null or a C string that outlives the result.
unsafe fn path<'a>(raw: *const c_char) -> Option<io::Result<&'a str>> {
    if raw.is_null() {
        return None;
    }
    // SAFETY: by this function's contract.
    let text = unsafe { CStr::from_ptr(raw) };
    Some(text.to_str().map_err(|_| io::ErrorKind::InvalidFilename.into()))
}

/// The disk of the host that runs.
fn disk() -> io::Result<Disk> {
    if world::in_world() { Ok(Disk::current()) } else { Err(io::Error::other("no simulation is running")) }
}

unsafe extern "C" fn open(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes a name that lives during the call, or null for a temporary file.
    let opened = unsafe { path(name) }.transpose().and_then(|name| open_file(name, flags));
    let result = if opened.is_ok() { ffi::SQLITE_OK } else { ffi::SQLITE_CANTOPEN };
    // SAFETY: SQLite passes `szOsFile` bytes for the file, and a place for the flags or null.
    unsafe {
        fill(file, opened.ok());
        if !out_flags.is_null() {
            *out_flags = flags;
        }
    }
    result
}

fn open_file(name: Option<&str>, flags: c_int) -> io::Result<OpenFile> {
    let disk = disk()?;
    let is = |flag| flags & flag != 0;
    let create = is(ffi::SQLITE_OPEN_CREATE);
    let file = match name {
        Some(path) => {
            let mode = OpenMode { create, create_new: create && is(ffi::SQLITE_OPEN_EXCLUSIVE), truncate: false };
            disk.open(path, mode)?
        }
        None => disk.open_anonymous()?,
    };
    let shared = disk.attachment(file.id(), SharedFile::default);
    let who = shared.next_connection();
    let journal = ffi::SQLITE_OPEN_SUPER_JOURNAL | ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_WAL;
    Ok(OpenFile {
        disk,
        file,
        path: name.map(str::to_owned),
        delete_on_close: is(ffi::SQLITE_OPEN_DELETEONCLOSE),
        sync_directory: create && is(journal),
        shared,
        who,
    })
}

unsafe extern "C" fn delete(_vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync_directory: c_int) -> c_int {
    // SAFETY: SQLite passes a name that lives during the call.
    let Some(Ok(path)) = (unsafe { path(name) }) else { return ffi::SQLITE_IOERR_DELETE };
    let removed = disk().and_then(|disk| disk.remove(path).map(|()| disk));
    match removed {
        Ok(disk) if sync_directory & 1 != 0 && disk.sync_dir(parent(path)).is_err() => ffi::SQLITE_IOERR_DIR_FSYNC,
        Ok(_) => ffi::SQLITE_OK,
        Err(error) if error.kind() == io::ErrorKind::NotFound => ffi::SQLITE_IOERR_DELETE_NOENT,
        Err(_) => ffi::SQLITE_IOERR_DELETE,
    }
}

unsafe extern "C" fn access(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    result: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes a name that lives during the call.
    let Some(Ok(path)) = (unsafe { path(name) }) else { return ffi::SQLITE_IOERR_ACCESS };
    let found = match disk().and_then(|disk| disk.len_of(path)) {
        // To unix an empty file does not exist: it is a journal that never was written.
        Ok(len) => flags != ffi::SQLITE_ACCESS_EXISTS || len > 0,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(_) => return ffi::SQLITE_IOERR_ACCESS,
    };
    // SAFETY: SQLite passes a place for the result.
    unsafe { *result = c_int::from(found) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    out_bytes: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite passes a name that lives during the call.
    let Some(Ok(path)) = (unsafe { path(name) }) else { return ffi::SQLITE_CANTOPEN };
    let full = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    if usize::try_from(out_bytes).map_or(true, |room| full.len() >= room) {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: SQLite passes `out_bytes` writable bytes, more than the path and its end take.
    unsafe {
        std::ptr::copy_nonoverlapping(full.as_ptr().cast(), out, full.len());
        *out.add(full.len()) = 0;
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn randomness(_vfs: *mut ffi::sqlite3_vfs, count: c_int, out: *mut c_char) -> c_int {
    let Ok(bytes) = usize::try_from(count) else { return 0 };
    // SAFETY: SQLite passes `count` writable bytes; they are initialised before they become a slice.
    let out = unsafe {
        std::ptr::write_bytes(out.cast::<u8>(), 0, bytes);
        std::slice::from_raw_parts_mut(out.cast::<u8>(), bytes)
    };
    if let Ok(disk) = disk() {
        disk.fill_random(out);
    }
    count
}

unsafe extern "C" fn sleep(_vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    section::spend(u64::try_from(microseconds).unwrap_or(0) * 1_000);
    microseconds
}

/// Milliseconds from noon on 24 November 4714 BC, where SQLite's calendar begins, to 1970.
const EPOCH_JULIAN_MS: i64 = 210_866_760_000_000;

fn julian_ms() -> i64 {
    let wall_ns = if world::in_world() { world::clock::wall_ns(world::current().host) } else { 0 };
    EPOCH_JULIAN_MS + i64::try_from(wall_ns / 1_000_000).unwrap_or(0)
}

unsafe extern "C" fn current_time_ms(_vfs: *mut ffi::sqlite3_vfs, result: *mut i64) -> c_int {
    // SAFETY: SQLite passes a place for the result.
    unsafe { *result = julian_ms() };
    ffi::SQLITE_OK
}

unsafe extern "C" fn current_time(_vfs: *mut ffi::sqlite3_vfs, result: *mut f64) -> c_int {
    // SAFETY: SQLite passes a place for the result. A Julian day in ms is far below 2^53: no bit is lost.
    unsafe { *result = julian_ms() as f64 / 86_400_000.0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn last_error(_vfs: *mut ffi::sqlite3_vfs, _bytes: c_int, _out: *mut c_char) -> c_int {
    0
}
