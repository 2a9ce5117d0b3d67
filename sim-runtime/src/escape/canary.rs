//! Proof that the guards of this module are the ones the executable calls.

use std::ffi::CStr;

use libc::c_void;

use super::state::{Answers, install};

/// A time that no clock shows: 2 s and 718 281 828 ns after its epoch.
const CANARY_NS: u64 = 2_718_281_828;
const CANARY_BYTE: u8 = 0xca;

/// Symbols that must lead here when looked up at run time.
const LOOKED_UP: [&CStr; 16] = [
    c"clock_gettime",
    c"gettimeofday",
    c"time",
    c"nanosleep",
    c"clock_nanosleep",
    c"getrandom",
    c"getentropy",
    c"syscall",
    c"pthread_create",
    c"fork",
    c"posix_spawn",
    c"posix_spawnp",
    c"socket",
    c"getaddrinfo",
    c"open64",
    c"openat",
];

/// Makes a canary call through the linker's and the loader's idea of each guarded function; called at the start of
/// every simulation.
///
/// # Panics
/// When a guard is not in effect: the executable does not link this crate's symbols, or another crate defines the
/// same ones. A simulation would silently read real clocks and real entropy.
pub fn assert_linked() {
    let _guard = install(Answers {
        entropy: |bytes| bytes.fill(CANARY_BYTE),
        monotonic_ns: || CANARY_NS,
        wall_ns: || CANARY_NS,
        sleep: |_| {},
    });
    assert_eq!(linked_clock(), CANARY_NS, "clock_gettime is libc's own: the guards of sim-runtime are not linked");
    assert_eq!(linked_entropy(), CANARY_BYTE, "getrandom is libc's own: the guards of sim-runtime are not linked");
    assert_same_object();
}

fn linked_clock() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

fn linked_entropy() -> u8 {
    let mut byte = 0u8;
    // SAFETY: the buffer is one byte of ours.
    unsafe { libc::getrandom((&raw mut byte).cast(), 1, 0) };
    byte
}

/// Every symbol, looked up as `dlsym` users do, must come from the object that holds this very function.
fn assert_same_object() {
    let here = object_of(assert_linked as *const c_void);
    for name in LOOKED_UP {
        // SAFETY: the name is a terminated string.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        assert!(
            !found.is_null() && object_of(found) == here,
            "{} is libc's own when looked up: the guards of sim-runtime are not exported",
            name.to_string_lossy()
        );
    }
}

/// Load address of the executable or library that contains `address`.
fn object_of(address: *const c_void) -> usize {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: dladdr only reads the loader's tables and fills our struct.
    unsafe { libc::dladdr(address, &raw mut info) };
    info.dli_fbase as usize
}
