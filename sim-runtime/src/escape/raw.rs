//! `syscall()`, libc's way around its own functions.
//!
//! getrandom 0.2 asks for entropy through it, and std's locks, condition variables and parking wait through it
//! (`futex`). In a process that exists for one simulation a futex wait that would block can never end, so it is fatal
//! there and names the place. Elsewhere (a unit test beside other tests) it may be a lock of the process and goes
//! through.

use std::backtrace::Backtrace;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_int, c_long, c_uint, c_void};

use super::next::forward;
use super::refusals::named;
use super::state::{is_alone, refuse, simulating, suspend};

/// The variadic arguments of `syscall` arrive like named ones (see [`super::refusals`]). The sixth is on the stack, where
/// a caller that passed fewer left something readable.
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    if simulating() {
        // SAFETY: the arguments are those of the system call named by `number`.
        if let Some(answer) = unsafe { answer(number, [a, b, c, d]) } {
            return answer;
        }
    }
    forward!(c"syscall", (
        number => c_long, a => c_long, b => c_long, c => c_long, d => c_long, e => c_long, f => c_long
    ) -> c_long)
}

/// `None`: the call is harmless and goes through.
///
/// # Safety
/// `arguments` must be what the system call `number` takes.
unsafe fn answer(number: c_long, arguments: [c_long; 4]) -> Option<c_long> {
    let [a, b, c, d] = arguments;
    // SAFETY: promised by the caller; each call goes to our own definition of the libc function, which answers.
    unsafe {
        match number {
            libc::SYS_getrandom => {
                let length = usize::try_from(b).ok()?;
                Some(c_long::try_from(libc::getrandom(a as *mut c_void, length, c as c_uint)).unwrap_or(-1))
            }
            libc::SYS_clock_gettime => Some(libc::clock_gettime(a as c_int, b as *mut libc::timespec).into()),
            libc::SYS_nanosleep => Some(libc::nanosleep(a as *const libc::timespec, b as *mut libc::timespec).into()),
            libc::SYS_clock_nanosleep => {
                let error =
                    libc::clock_nanosleep(a as c_int, b as c_int, c as *const libc::timespec, std::ptr::null_mut());
                Some(if error == 0 { 0 } else { fail(error) })
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_gettimeofday => Some(libc::gettimeofday(a as *mut libc::timeval, std::ptr::null_mut()).into()),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_time => Some(libc::time(a as *mut libc::time_t)),
            libc::SYS_socket => Some(refused("syscall(socket)".to_owned())),
            libc::SYS_clone | libc::SYS_clone3 => Some(refused("syscall(clone)".to_owned())),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_fork | libc::SYS_vfork => Some(refused("syscall(fork)".to_owned())),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => Some(refused(named("syscall(open)", a as *const libc::c_char))),
            libc::SYS_openat => Some(refused(named("syscall(openat)", b as *const libc::c_char))),
            libc::SYS_futex if would_block(a as *const u32, b as c_int, c as u32) => {
                die_of_blocking(d != 0);
                None
            }
            _ => None,
        }
    }
}

fn refused(what: String) -> c_long {
    refuse(what, libc::EPERM);
    -1
}

fn fail(errno: c_int) -> c_long {
    super::state::set_errno(errno);
    -1
}

/// A wait returns at once when the word no longer holds the expected value.
///
/// # Safety
/// For the waiting operations `word` must point to the futex, as futex(2) demands.
unsafe fn would_block(word: *const u32, operation: c_int, expected: u32) -> bool {
    let command = operation & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME);
    let waits = command == libc::FUTEX_WAIT || command == libc::FUTEX_WAIT_BITSET;
    // SAFETY: promised by the caller; other threads change the word only atomically.
    waits && !word.is_null() && unsafe { AtomicU32::from_ptr(word.cast_mut()) }.load(Ordering::Relaxed) == expected
}

fn die_of_blocking(with_timeout: bool) {
    if !is_alone() {
        return;
    }
    let _suspended = suspend();
    let kind = if with_timeout { "with a timeout" } else { "without end" };
    eprintln!("{}, {kind}; the only thread would hang\n{}", super::BLOCKING_WAIT, Backtrace::force_capture());
    std::process::abort();
}
