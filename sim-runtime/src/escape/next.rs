//! The real functions behind the symbols that this crate defines.

use std::ffi::CStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::c_void;

/// The next definition of a symbol after ours, looked up once.
pub(super) struct Next {
    name: &'static CStr,
    address: AtomicUsize,
}

impl Next {
    pub(super) const fn new(name: &'static CStr) -> Next {
        Next { name, address: AtomicUsize::new(0) }
    }

    /// Never null: a libc without the function would not have linked its callers.
    #[inline]
    pub(super) fn address(&self) -> *const c_void {
        match self.address.load(Ordering::Relaxed) {
            0 => self.look_up(),
            found => found as *const c_void,
        }
    }

    #[cold]
    fn look_up(&self) -> *const c_void {
        // SAFETY: the name is a terminated string, and RTLD_NEXT is meant for exactly this.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        if found.is_null() {
            // No unwinding and no allocation here: the caller may be libc itself.
            // SAFETY: abort has no preconditions.
            unsafe { libc::abort() }
        }
        self.address.store(found as usize, Ordering::Relaxed);
        found
    }
}

/// Calls the next definition of `$name` with `$argument`s of the given types.
macro_rules! forward {
    ($name:literal, ($($argument:expr => $type:ty),*) -> $result:ty) => {{
        static NEXT: $crate::escape::next::Next = $crate::escape::next::Next::new($name);
        // SAFETY: the address is that of libc's function of this name, whose C signature is the one given.
        unsafe {
            let function: unsafe extern "C" fn($($type),*) -> $result = ::std::mem::transmute(NEXT.address());
            function($($argument),*)
        }
    }};
}
pub(super) use forward;
