//! Every guarded symbol, called as linked and as looked up, by C conventions and through std.

use std::collections::hash_map::RandomState;
use std::ffi::CStr;
use std::hash::BuildHasher;
use std::mem::transmute_copy;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use libc::{c_char, c_int, c_long, c_uint, c_void, timespec, timeval};

use super::*;

const WALL_NS: u64 = 1_700_000_000_123_456_789;
const MONOTONIC_NS: u64 = 42_000_000_007;

thread_local! {
    static SLEPT: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

fn answers() -> Answers {
    Answers {
        entropy: |bytes| bytes.fill(7),
        monotonic_ns: || MONOTONIC_NS,
        wall_ns: || WALL_NS,
        sleep: |ns| SLEPT.with(|slept| slept.set(slept.get() + ns)),
    }
}

fn slept() -> u64 {
    SLEPT.with(std::cell::Cell::take)
}

/// The function that the loader finds under this name.
///
/// # Safety
/// `F` must be its C signature.
unsafe fn looked_up<F>(name: &CStr) -> F {
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    assert!(!found.is_null() && size_of::<F>() == size_of_val(&found));
    unsafe { transmute_copy(&found) }
}

fn on_fresh_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(f).join().expect("the test thread panicked"))
}

#[test]
fn the_canary_sings() {
    assert_linked();
    let _guard = install(answers());
    assert_linked();
    assert_eq!(Instant::now(), Instant::now(), "the canary gave the answers back");
}

#[test]
fn std_clocks_are_virtual_only_while_simulating() {
    let before = SystemTime::now();
    {
        let _guard = install(answers());
        assert_eq!(SystemTime::now().duration_since(UNIX_EPOCH).unwrap(), Duration::from_nanos(WALL_NS));
        assert_eq!(Instant::now().duration_since(Instant::now()), Duration::ZERO);
        {
            let _real = suspend();
            assert!(SystemTime::now() >= before);
            assert_ne!(SystemTime::now().duration_since(UNIX_EPOCH).unwrap(), Duration::from_nanos(WALL_NS));
        }
        assert!(simulating());
        // Another thread of the process keeps the real clock.
        let _real = suspend();
        on_fresh_thread(move || assert!(SystemTime::now() >= before));
    }
    assert!(!simulating());
    assert!(SystemTime::now() >= before);
}

#[test]
fn hash_map_keys_come_from_the_seed_or_the_world() {
    let hash = || RandomState::new().hash_one("key");
    let seeded = |seed| {
        on_fresh_thread(move || {
            seed_hash_keys(seed);
            assert!(!simulating());
            hash()
        })
    };
    assert_eq!(seeded(1), seeded(1));
    assert_ne!(seeded(1), seeded(2));
    assert_ne!(on_fresh_thread(hash), on_fresh_thread(hash), "std's own keys are random");

    let in_world = || {
        on_fresh_thread(move || {
            let _guard = install(answers());
            hash()
        })
    };
    assert_eq!(in_world(), in_world());
}

#[test]
fn every_clock_symbol_answers_when_linked_and_when_looked_up() {
    let _guard = install(answers());
    let second = 1_000_000_000;
    let (wall_s, wall_ns) = ((WALL_NS / second) as i64, (WALL_NS % second) as i64);
    let mut time = timespec { tv_sec: 0, tv_nsec: 0 };
    let mut day = timeval { tv_sec: 0, tv_usec: 0 };
    unsafe {
        type ClockGettime = unsafe extern "C" fn(c_int, *mut timespec) -> c_int;
        for call in [libc::clock_gettime as ClockGettime, looked_up(c"clock_gettime")] {
            assert_eq!(call(libc::CLOCK_REALTIME, &mut time), 0);
            assert_eq!((time.tv_sec, time.tv_nsec), (wall_s, wall_ns));
            assert_eq!(call(libc::CLOCK_MONOTONIC, &mut time), 0);
            assert_eq!((time.tv_sec, time.tv_nsec), (42, 7));
        }
        type Gettimeofday = unsafe extern "C" fn(*mut timeval, *mut libc::timezone) -> c_int;
        for call in [libc::gettimeofday as Gettimeofday, looked_up(c"gettimeofday")] {
            assert_eq!(call(&mut day, std::ptr::null_mut()), 0);
            assert_eq!((day.tv_sec, day.tv_usec), (wall_s, wall_ns / 1000));
        }
        type Time = unsafe extern "C" fn(*mut i64) -> i64;
        for call in [libc::time as Time, looked_up(c"time")] {
            assert_eq!(call(std::ptr::null_mut()), wall_s);
        }
        for number in [libc::SYS_clock_gettime, libc::SYS_gettimeofday, libc::SYS_time] {
            time = timespec { tv_sec: 0, tv_nsec: 0 };
            match number {
                libc::SYS_clock_gettime => assert_eq!(libc::syscall(number, libc::CLOCK_REALTIME, &raw mut time), 0),
                libc::SYS_gettimeofday => {
                    assert_eq!(libc::syscall(number, &raw mut day, std::ptr::null_mut::<c_void>()), 0);
                    time.tv_sec = day.tv_sec;
                }
                _ => time.tv_sec = libc::syscall(number, std::ptr::null_mut::<c_void>()),
            }
            assert_eq!(time.tv_sec, wall_s, "system call {number}");
        }
    }
}

#[test]
fn every_sleep_returns_at_once_and_tells_the_world() {
    let real = Instant::now();
    {
        let _guard = install(answers());
        let hour = timespec { tv_sec: 3600, tv_nsec: 5 };
        let ns = 3_600_000_000_005;
        std::thread::sleep(Duration::from_secs(3600));
        assert_eq!(slept(), 3_600_000_000_000);
        unsafe {
            type Nanosleep = unsafe extern "C" fn(*const timespec, *mut timespec) -> c_int;
            for call in [libc::nanosleep as Nanosleep, looked_up(c"nanosleep")] {
                assert_eq!(call(&hour, std::ptr::null_mut()), 0);
                assert_eq!(slept(), ns);
            }
            let until = timespec { tv_sec: 43, tv_nsec: 7 };
            type ClockNanosleep = unsafe extern "C" fn(c_int, c_int, *const timespec, *mut timespec) -> c_int;
            for call in [libc::clock_nanosleep as ClockNanosleep, looked_up(c"clock_nanosleep")] {
                assert_eq!(call(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &until, std::ptr::null_mut()), 0);
                assert_eq!(slept(), 1_000_000_000);
            }
            libc::syscall(libc::SYS_nanosleep, &raw const hour, std::ptr::null_mut::<c_void>());
            assert_eq!(slept(), ns);
            let relative: c_int = 0;
            libc::syscall(libc::SYS_clock_nanosleep, libc::CLOCK_MONOTONIC, relative, &raw const hour, 0);
            assert_eq!(slept(), ns);
            let wrong = timespec { tv_sec: 0, tv_nsec: 1_000_000_000 };
            assert_eq!(libc::nanosleep(&wrong, std::ptr::null_mut()), -1);
        }
    }
    assert!(real.elapsed() < Duration::from_secs(60));
}

#[test]
fn every_entropy_symbol_answers_when_linked_and_when_looked_up() {
    let _guard = install(answers());
    let mut bytes = [0u8; 16];
    let out = (&raw mut bytes).cast::<c_void>();
    unsafe {
        type Getrandom = unsafe extern "C" fn(*mut c_void, usize, c_uint) -> isize;
        for call in [libc::getrandom as Getrandom, looked_up(c"getrandom")] {
            assert_eq!(call(out, 16, 0), 16);
            assert_eq!(std::mem::take(&mut bytes), [7; 16]);
        }
        type Getentropy = unsafe extern "C" fn(*mut c_void, usize) -> c_int;
        for call in [libc::getentropy as Getentropy, looked_up(c"getentropy")] {
            assert_eq!(call(out, 16), 0);
            assert_eq!(std::mem::take(&mut bytes), [7; 16]);
            assert_eq!(call(out, 257), -1);
        }
        type Syscall = unsafe extern "C" fn(c_long, ...) -> c_long;
        for call in [libc::syscall as Syscall, looked_up(c"syscall")] {
            let (length, flags): (usize, c_long) = (16, 0);
            assert_eq!(call(libc::SYS_getrandom, out, length, flags), 16);
            assert_eq!(std::mem::take(&mut bytes), [7; 16]);
        }
    }
}

#[test]
fn threads_processes_sockets_and_files_are_refused_by_name() {
    {
        let _guard = install(answers());
        assert!(std::thread::Builder::new().spawn(|| {}).is_err());
        assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_err());
        assert!(std::net::TcpStream::connect("127.0.0.1:1").is_err());
        assert!(std::fs::File::open("/etc/hostname").is_err());
        assert!(std::process::Command::new("/bin/true").status().is_err());
        assert!(std::net::ToSocketAddrs::to_socket_addrs(&("localhost", 1)).is_err());
        unsafe {
            let path = c"/etc/hostname".as_ptr();
            type Open = unsafe extern "C" fn(*const c_char, c_int, ...) -> c_int;
            for call in [libc::open as Open, libc::open64 as Open, looked_up(c"open"), looked_up(c"open64")] {
                assert_eq!(call(path, libc::O_RDONLY), -1);
                assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EPERM));
            }
            assert_eq!(libc::openat(libc::AT_FDCWD, path, libc::O_RDONLY), -1);
            assert_eq!(libc::openat64(libc::AT_FDCWD, path, libc::O_RDONLY), -1);
            assert_eq!(libc::fork(), -1);
            assert_eq!(libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, libc::O_RDONLY), -1);
            assert_eq!(libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0), -1);
        }
    }
    let taken = taken();
    for expected in [
        "pthread_create",
        "socket",
        "open64(/etc/hostname)",
        "open(/etc/hostname)",
        "getaddrinfo(localhost)",
        "openat(/etc/hostname)",
        "openat64(/etc/hostname)",
        "fork",
        "syscall(openat)(/etc/hostname)",
        "syscall(socket)",
    ] {
        assert!(taken.iter().any(|name| name == expected), "{expected} is missing in {taken:?}");
    }
    assert!(taken.iter().any(|name| name.starts_with("posix_spawn") || name == "fork"), "{taken:?}");
    assert!(super::taken().is_empty(), "taken drains");
    // Outside a simulation all of it works again.
    assert!(std::fs::File::open("/proc/self/stat").is_ok());
    on_fresh_thread(|| ());
    assert!(super::taken().is_empty());
}

#[test]
fn a_panic_report_is_no_escape() {
    on_fresh_thread(|| {
        let _guard = install(answers());
        let caught = std::panic::catch_unwind(|| {
            let backtrace = std::backtrace::Backtrace::disabled();
            panic!("reported: {backtrace}");
        });
        assert!(caught.is_err());
        assert_eq!(taken(), Vec::<String>::new());
        assert!(simulating());
    });
}

#[test]
fn uncontended_and_stale_futex_waits_go_through() {
    let _guard = install(answers());
    let word = 5u32;
    let (operation, stale) = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, 4u32);
    let answer =
        unsafe { libc::syscall(libc::SYS_futex, &raw const word, operation, stale, std::ptr::null::<timespec>()) };
    assert_eq!(answer, -1);
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EAGAIN));
    drop(std::sync::Mutex::new(()).lock());
}
