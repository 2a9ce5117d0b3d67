//! SQLite does the same work on the simulated VFS as on its own unix VFS: every call, with its arguments and its result.
//!
//! A shim stands between SQLite and either VFS and writes each call down. Contents are not compared: the salts of a
//! write-ahead log are random on both sides.
#![allow(unsafe_code)] // The shim is a VFS, and a VFS is C.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use libsqlite3_sys as ffi;
use rusqlite::{Connection, OpenFlags};
use sim_runtime::adapters::sqlite;
use sim_runtime::world::{World, WorldConfig, section};

thread_local! {
    static TRACE: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn log(line: String) {
    TRACE.with_borrow_mut(|trace| trace.push(line));
}

/// A file of the shim; the file of the VFS below follows it in memory.
#[repr(C)]
struct Shim {
    base: ffi::sqlite3_file,
    kind: &'static str,
}

const SHIM_SIZE: usize = size_of::<Shim>().next_multiple_of(16);

unsafe fn below(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: SQLite allocated the shim's size and that of the file below.
    unsafe { file.cast::<u8>().add(SHIM_SIZE).cast() }
}

/// Forwards one method and logs its arguments and result.
macro_rules! method {
    ($name:ident, $field:ident ( $($argument:ident : $type:ty),* ) logs ( $($logged:ident),* )) => {
        unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file $(, $argument: $type)*) -> c_int {
            // SAFETY: the file below is open while the shim is, and both VFSs have every method of version 2.
            let (kind, result) = unsafe {
                let real = below(file);
                let method = (*(*real).pMethods).$field.unwrap();
                ((*file.cast::<Shim>()).kind, method(real $(, $argument)*))
            };
            let arguments: Vec<String> = vec![$(format!("{:?}", $logged)),*];
            log(format!("{} {}({}) = {}", kind, stringify!($field), arguments.join(", "), result));
            result
        }
    };
}

method!(close, xClose() logs ());
method!(read, xRead(out: *mut c_void, amount: c_int, offset: i64) logs (amount, offset));
method!(write, xWrite(bytes: *const c_void, amount: c_int, offset: i64) logs (amount, offset));
method!(truncate, xTruncate(size: i64) logs (size));
method!(sync, xSync(flags: c_int) logs (flags));
method!(file_size, xFileSize(size: *mut i64) logs ());
method!(lock, xLock(level: c_int) logs (level));
method!(unlock, xUnlock(level: c_int) logs (level));
method!(check_reserved_lock, xCheckReservedLock(result: *mut c_int) logs ());
method!(sector_size, xSectorSize() logs ());
method!(device_characteristics, xDeviceCharacteristics() logs ());
method!(shm_map, xShmMap(region: c_int, bytes: c_int, extend: c_int, out: *mut *mut c_void) logs (region, bytes, extend));
method!(shm_lock, xShmLock(offset: c_int, count: c_int, flags: c_int) logs (offset, count, flags));
method!(shm_unmap, xShmUnmap(delete: c_int) logs (delete));

unsafe extern "C" fn file_control(file: *mut ffi::sqlite3_file, operation: c_int, argument: *mut c_void) -> c_int {
    // SAFETY: as in `method!`.
    let (kind, result) = unsafe {
        let real = below(file);
        ((*file.cast::<Shim>()).kind, (*(*real).pMethods).xFileControl.unwrap()(real, operation, argument))
    };
    // Unix answers some of them (size hint, persistent log) where the default answer is the same to SQLite.
    log(format!("{kind} xFileControl({operation})"));
    result
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    // SAFETY: as in `method!`.
    unsafe {
        let real = below(file);
        (*(*real).pMethods).xShmBarrier.unwrap()(real);
    }
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

unsafe fn real_vfs(shim: *mut ffi::sqlite3_vfs) -> *mut ffi::sqlite3_vfs {
    // SAFETY: set by `traced`.
    unsafe { (*shim).pAppData.cast() }
}

/// The last part of a path, or what stands for a temporary file.
unsafe fn name(path: *const c_char) -> String {
    if path.is_null() {
        return "temporary".to_owned();
    }
    // SAFETY: SQLite passes C strings.
    let path = unsafe { CStr::from_ptr(path) }.to_string_lossy().into_owned();
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    path: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes its own arguments; the file below lies behind the shim.
    unsafe {
        let real = real_vfs(vfs);
        let result = (*real).xOpen.unwrap()(real, path, below(file), flags, out_flags);
        let kind = if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
            "db"
        } else if flags & ffi::SQLITE_OPEN_WAL != 0 {
            "wal"
        } else {
            "other"
        };
        log(format!("xOpen({}, {flags:#x}) = {result}", name(path)));
        let methods = if (*below(file)).pMethods.is_null() { ptr::null() } else { ptr::from_ref(&METHODS) };
        file.cast::<Shim>().write(Shim { base: ffi::sqlite3_file { pMethods: methods }, kind });
        result
    }
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, path: *const c_char, sync: c_int) -> c_int {
    // SAFETY: as in `open`.
    let (name, result) = unsafe { (name(path), (*real_vfs(vfs)).xDelete.unwrap()(real_vfs(vfs), path, sync)) };
    log(format!("xDelete({name}, {sync}) = {result}"));
    result
}

unsafe extern "C" fn access(vfs: *mut ffi::sqlite3_vfs, path: *const c_char, flags: c_int, out: *mut c_int) -> c_int {
    // SAFETY: as in `open`.
    unsafe {
        let result = (*real_vfs(vfs)).xAccess.unwrap()(real_vfs(vfs), path, flags, out);
        log(format!("xAccess({}, {flags}) = {result}, {}", name(path), *out));
        result
    }
}

unsafe extern "C" fn full_pathname(
    vfs: *mut ffi::sqlite3_vfs,
    path: *const c_char,
    n: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: as in `open`.
    let (name, result) = unsafe { (name(path), (*real_vfs(vfs)).xFullPathname.unwrap()(real_vfs(vfs), path, n, out)) };
    log(format!("xFullPathname({name}) = {result}"));
    result
}

unsafe extern "C" fn randomness(vfs: *mut ffi::sqlite3_vfs, count: c_int, out: *mut c_char) -> c_int {
    log(format!("xRandomness({count})"));
    // SAFETY: as in `open`.
    unsafe { (*real_vfs(vfs)).xRandomness.unwrap()(real_vfs(vfs), count, out) }
}

unsafe extern "C" fn sleep(vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    log(format!("xSleep({microseconds})"));
    // SAFETY: as in `open`.
    unsafe { (*real_vfs(vfs)).xSleep.unwrap()(real_vfs(vfs), microseconds) }
}

unsafe extern "C" fn current_time_ms(vfs: *mut ffi::sqlite3_vfs, out: *mut i64) -> c_int {
    log("xCurrentTimeInt64".to_owned());
    // SAFETY: as in `open`.
    unsafe { (*real_vfs(vfs)).xCurrentTimeInt64.unwrap()(real_vfs(vfs), out) }
}

/// A VFS that traces `base`, for the rest of the process.
fn traced(base: &CStr) -> CString {
    let traced = CString::new(format!("traced-{}", base.to_string_lossy())).unwrap();
    // SAFETY: SQLite is initialised, `base` exists, and the new VFS and its name are never freed.
    unsafe {
        let real = ffi::sqlite3_vfs_find(base.as_ptr());
        assert!(!real.is_null());
        let mut shim = ptr::read(real);
        shim.iVersion = 2;
        shim.szOsFile += c_int::try_from(SHIM_SIZE).unwrap();
        shim.pNext = ptr::null_mut();
        shim.zName = traced.clone().into_raw();
        shim.pAppData = real.cast();
        shim.xOpen = Some(open);
        shim.xDelete = Some(delete);
        shim.xAccess = Some(access);
        shim.xFullPathname = Some(full_pathname);
        shim.xRandomness = Some(randomness);
        shim.xSleep = Some(sleep);
        shim.xCurrentTimeInt64 = Some(current_time_ms);
        assert_eq!(ffi::sqlite3_vfs_register(Box::into_raw(Box::new(shim)), 1), ffi::SQLITE_OK);
    }
    traced
}

fn untraced(name: &CStr) {
    // SAFETY: registered by `traced`.
    unsafe { ffi::sqlite3_vfs_unregister(ffi::sqlite3_vfs_find(name.as_ptr())) };
}

/// Everything a store does to SQLite, and more: two connections, a log that grows and is truncated, a checkpoint that a
/// reader blocks, deletes, a rollback journal, `VACUUM`, a refused lock, closing and reopening.
fn work(path: &str, vfs: &CStr) -> rusqlite::Result<()> {
    let connect = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs)?;
        connection.busy_timeout(std::time::Duration::ZERO)?;
        Ok(connection)
    };
    {
        let writer = connect()?;
        writer.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 20;
             CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB); CREATE INDEX i ON t (v)",
        )?;
        let reader = connect()?;
        for n in 0..40 {
            writer.execute("INSERT INTO t VALUES (?1, printf('%d%0900d', ?1 * 7919 % 97, ?1))", [n])?;
            match n {
                10 => reader.execute_batch("BEGIN; SELECT count(*) FROM t")?,
                20 => assert!(reader.execute_batch("DELETE FROM t").is_err(), "its snapshot is old"),
                25 => reader.execute_batch("COMMIT")?,
                _ => {}
            }
        }
        writer.execute_batch(
            "PRAGMA synchronous = FULL; DELETE FROM t WHERE k % 3 = 0; PRAGMA wal_checkpoint(TRUNCATE)",
        )?;
        writer.execute_batch("BEGIN IMMEDIATE")?;
        assert!(reader.execute_batch("BEGIN IMMEDIATE").is_err(), "one writer at a time");
        writer.execute_batch("ROLLBACK; VACUUM; CREATE TEMP TABLE s AS SELECT * FROM t; SELECT datetime('now')")?;
    }
    {
        let again = connect()?;
        let check: String = again.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        assert_eq!(check, "ok");
        again.execute_batch(
            "PRAGMA journal_mode = DELETE; INSERT INTO t VALUES (1000, 'journal'); PRAGMA journal_mode = WAL",
        )
    }
}

fn trace_of(base: &CStr, path: &str) -> Vec<String> {
    let vfs = traced(base);
    sqlite::reset_randomness();
    TRACE.with_borrow_mut(Vec::clear);
    work(path, &vfs).expect("the work succeeds");
    untraced(&vfs);
    TRACE.take()
}

#[test]
fn the_simulated_vfs_is_used_exactly_as_the_unix_one() {
    let _installed = sqlite::install();
    let directory = tempfile::tempdir().unwrap();
    let real = trace_of(c"unix", directory.path().join("state.sqlite").to_str().unwrap());
    let simulated = World::new(WorldConfig::seeded(1))
        .run(async { section::run("sqlite", || trace_of(sqlite::VFS_NAME, "/state.sqlite")).await })
        .unwrap_or_else(|halt| panic!("{halt}"));
    println!("{} calls", real.len());
    for (n, (real, simulated)) in real.iter().zip(&simulated).enumerate() {
        assert_eq!(real, simulated, "call {n}");
    }
    assert_eq!(real.len(), simulated.len());
    assert!(real.len() > 1_000, "too little was done");
}

#[test]
#[should_panic(expected = "a simulation installs it by itself")]
fn a_simulation_below_an_installed_vfs_says_so_instead_of_waiting_for_ever() {
    let _installed = sqlite::install();
    sim_runtime::isolate::in_process(|| drop(sqlite::install()));
}
