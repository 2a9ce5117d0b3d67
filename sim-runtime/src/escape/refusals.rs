//! What a simulated program must not do: start threads or processes, open sockets or real files.
//!
//! Each refusal is a clean error of the function in question, so that the program goes on and the run ends as a
//! violation that names the call.
//!
//! `open` and its siblings are variadic in C. On the calling conventions of Linux x86-64 and AArch64 an integer passed
//! as a variadic argument travels in the same register as a named one, so a third parameter receives it; when the
//! caller passed none it is garbage that the real function ignores as well.

use std::ffi::CStr;

use libc::{c_char, c_int, c_void, mode_t, pid_t};

use super::next::forward;
use super::state::{refuse, simulating};

#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    start: extern "C" fn(*mut c_void) -> *mut c_void,
    argument: *mut c_void,
) -> c_int {
    if simulating() {
        refuse("pthread_create".to_owned(), libc::EAGAIN);
        return libc::EAGAIN;
    }
    forward!(c"pthread_create", (
        thread => *mut libc::pthread_t,
        attributes => *const libc::pthread_attr_t,
        start => extern "C" fn(*mut c_void) -> *mut c_void,
        argument => *mut c_void
    ) -> c_int)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fork() -> pid_t {
    if simulating() {
        refuse("fork".to_owned(), libc::EAGAIN);
        return -1;
    }
    forward!(c"fork", () -> pid_t)
}

macro_rules! refuse_spawn {
    ($name:ident, $symbol:literal) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(
            pid: *mut pid_t,
            program: *const c_char,
            actions: *const libc::posix_spawn_file_actions_t,
            attributes: *const libc::posix_spawnattr_t,
            arguments: *const *mut c_char,
            environment: *const *mut c_char,
        ) -> c_int {
            if simulating() {
                refuse(named(stringify!($name), program), libc::EPERM);
                return libc::EPERM;
            }
            forward!($symbol, (
                pid => *mut pid_t,
                program => *const c_char,
                actions => *const libc::posix_spawn_file_actions_t,
                attributes => *const libc::posix_spawnattr_t,
                arguments => *const *mut c_char,
                environment => *const *mut c_char
            ) -> c_int)
        }
    };
}
refuse_spawn!(posix_spawn, c"posix_spawn");
refuse_spawn!(posix_spawnp, c"posix_spawnp");

#[unsafe(no_mangle)]
unsafe extern "C" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    if simulating() {
        refuse("socket".to_owned(), libc::EPERM);
        return -1;
    }
    forward!(c"socket", (domain => c_int, kind => c_int, protocol => c_int) -> c_int)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getaddrinfo(
    node: *const c_char,
    service: *const c_char,
    hints: *const libc::addrinfo,
    out: *mut *mut libc::addrinfo,
) -> c_int {
    if simulating() {
        refuse(named("getaddrinfo", node), libc::EPERM);
        return libc::EAI_FAIL;
    }
    forward!(c"getaddrinfo", (
        node => *const c_char,
        service => *const c_char,
        hints => *const libc::addrinfo,
        out => *mut *mut libc::addrinfo
    ) -> c_int)
}

macro_rules! refuse_open {
    ($name:ident, $symbol:literal) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
            if simulating() {
                refuse(named(stringify!($name), path), libc::EPERM);
                return -1;
            }
            forward!($symbol, (path => *const c_char, flags => c_int, mode => mode_t) -> c_int)
        }
    };
}
refuse_open!(open, c"open");
refuse_open!(open64, c"open64");

macro_rules! refuse_openat {
    ($name:ident, $symbol:literal) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(directory: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
            if simulating() {
                refuse(named(stringify!($name), path), libc::EPERM);
                return -1;
            }
            forward!($symbol, (directory => c_int, path => *const c_char, flags => c_int, mode => mode_t) -> c_int)
        }
    };
}
refuse_openat!(openat, c"openat");
refuse_openat!(openat64, c"openat64");

pub(super) fn named(function: &str, argument: *const c_char) -> String {
    if argument.is_null() {
        return function.to_owned();
    }
    // SAFETY: the functions above take terminated strings.
    let argument = unsafe { CStr::from_ptr(argument) };
    format!("{function}({})", argument.to_string_lossy())
}
