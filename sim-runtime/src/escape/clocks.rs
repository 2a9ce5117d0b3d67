//! Reading clocks and sleeping.

use libc::{c_int, clockid_t, time_t, timespec, timeval};

use super::next::forward;
use super::state::{Answers, answers, set_errno};

const NS_PER_S: u64 = 1_000_000_000;

#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: clockid_t, out: *mut timespec) -> c_int {
    match answers() {
        // SAFETY: the caller passes what clock_gettime(2) wants: a pointer to a timespec.
        Some(answers) if !out.is_null() => unsafe { out.write(to_timespec(read(answers, clock))) },
        _ => return forward!(c"clock_gettime", (clock => clockid_t, out => *mut timespec) -> c_int),
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn gettimeofday(out: *mut timeval, zone: *mut libc::c_void) -> c_int {
    match answers() {
        Some(answers) if !out.is_null() => {
            let time = to_timespec((answers.wall_ns)());
            // SAFETY: the caller passes a pointer to a timeval. The obsolete time zone is left alone, as glibc does.
            unsafe { out.write(timeval { tv_sec: time.tv_sec, tv_usec: time.tv_nsec / 1000 }) };
            0
        }
        _ => forward!(c"gettimeofday", (out => *mut timeval, zone => *mut libc::c_void) -> c_int),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn time(out: *mut time_t) -> time_t {
    match answers() {
        Some(answers) => {
            let seconds = to_timespec((answers.wall_ns)()).tv_sec;
            if !out.is_null() {
                // SAFETY: a non-null argument of time(2) points to a time_t.
                unsafe { out.write(seconds) };
            }
            seconds
        }
        None => forward!(c"time", (out => *mut time_t) -> time_t),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nanosleep(wanted: *const timespec, left: *mut timespec) -> c_int {
    match answers() {
        Some(answers) => {
            // SAFETY: the caller passes a pointer to a timespec, or null.
            match unsafe { wanted.as_ref() }.and_then(to_ns) {
                Some(ns) => (answers.sleep)(ns),
                None => {
                    set_errno(libc::EINVAL);
                    return -1;
                }
            }
            0
        }
        None => forward!(c"nanosleep", (wanted => *const timespec, left => *mut timespec) -> c_int),
    }
}

/// Unlike the others this one returns its error instead of setting `errno`.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_nanosleep(
    clock: clockid_t,
    flags: c_int,
    wanted: *const timespec,
    left: *mut timespec,
) -> c_int {
    let Some(answers) = answers() else {
        return forward!(
            c"clock_nanosleep",
            (clock => clockid_t, flags => c_int, wanted => *const timespec, left => *mut timespec) -> c_int
        );
    };
    // SAFETY: the caller passes a pointer to a timespec, or null.
    let Some(mut ns) = unsafe { wanted.as_ref() }.and_then(to_ns) else {
        return libc::EINVAL;
    };
    if flags & libc::TIMER_ABSTIME != 0 {
        ns = ns.saturating_sub(read(answers, clock));
    }
    (answers.sleep)(ns);
    0
}

/// CPU clocks have no virtual meaning; they advance with the monotonic one, which is the same in every process.
fn read(answers: Answers, clock: clockid_t) -> u64 {
    match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE | libc::CLOCK_TAI => (answers.wall_ns)(),
        _ => (answers.monotonic_ns)(),
    }
}

fn to_timespec(ns: u64) -> timespec {
    // Both fit: a u64 of nanoseconds is under 2^35 seconds.
    timespec {
        tv_sec: time_t::try_from(ns / NS_PER_S).unwrap_or(time_t::MAX),
        tv_nsec: libc::c_long::try_from(ns % NS_PER_S).unwrap_or(0),
    }
}

fn to_ns(time: &timespec) -> Option<u64> {
    let seconds = u64::try_from(time.tv_sec).ok()?;
    let rest = u64::try_from(time.tv_nsec).ok().filter(|&ns| ns < NS_PER_S)?;
    Some(seconds.saturating_mul(NS_PER_S).saturating_add(rest))
}
