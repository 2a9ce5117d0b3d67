//! Asking for random bytes.

use libc::{c_int, c_uint, c_void, size_t, ssize_t};

use super::next::forward;
use super::state::{answers, set_errno};

/// `getentropy(3)` refuses longer requests.
const ENTROPY_BYTES_MAX: usize = 256;

#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(out: *mut c_void, length: size_t, flags: c_uint) -> ssize_t {
    match answers() {
        Some(answers) => {
            if length > 0 {
                // SAFETY: the caller passes a buffer of `length` bytes to be overwritten.
                (answers.entropy)(unsafe { zeroed(out, length) });
            }
            ssize_t::try_from(length).unwrap_or(ssize_t::MAX)
        }
        None => forward!(c"getrandom", (out => *mut c_void, length => size_t, flags => c_uint) -> ssize_t),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getentropy(out: *mut c_void, length: size_t) -> c_int {
    match answers() {
        Some(_) if length > ENTROPY_BYTES_MAX => {
            set_errno(libc::EIO);
            -1
        }
        Some(answers) => {
            if length > 0 {
                // SAFETY: as for getrandom.
                (answers.entropy)(unsafe { zeroed(out, length) });
            }
            0
        }
        None => forward!(c"getentropy", (out => *mut c_void, length => size_t) -> c_int),
    }
}

/// The caller's buffer, initialised so that it may be looked at as bytes.
///
/// # Safety
/// `out` must be valid for writes of `length` bytes for the lifetime of the result.
unsafe fn zeroed<'a>(out: *mut c_void, length: usize) -> &'a mut [u8] {
    // SAFETY: promised by the caller; after the fill every byte is initialised.
    unsafe {
        out.write_bytes(0, length);
        std::slice::from_raw_parts_mut(out.cast::<u8>(), length)
    }
}
