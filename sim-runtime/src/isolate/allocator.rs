//! glibc's allocator, for a process that ends soon: it keeps what it was given.
//!
//! The simulating thread has an arena of its own, whose contents and layout are the run's alone. By default that arena
//! gives memory back and takes it again by system calls, thousands of times in a run, and looks at files of the kernel.
//! Whatever it is told, it grows by a few pages at a time, unless it was large once.

use std::hint;

use libc::c_int;

/// Memory is given back beyond this many free bytes at the top: hardly ever in a run.
const TRIM_BYTES: c_int = 256 << 20;
/// What is taken from the kernel at once, in bytes.
const GROW_BYTES: c_int = 1 << 20;
/// Larger blocks are mapped on their own; the largest value that glibc takes.
const MAP_BYTES: c_int = 32 << 20;

/// Changes the settings of this process, for good.
pub(super) fn tune() {
    let settings =
        [(libc::M_TRIM_THRESHOLD, TRIM_BYTES), (libc::M_TOP_PAD, GROW_BYTES), (libc::M_MMAP_THRESHOLD, MAP_BYTES)];
    for (setting, value) in settings {
        // SAFETY: settings of the allocator. One that is refused costs time, nothing else.
        unsafe { libc::mallopt(setting, value) };
    }
}

/// Makes the arena of this thread large, before it is used. Takes address space, no memory.
pub(super) fn reserve() {
    // SAFETY: a block that nobody uses, or null, which may be freed too.
    unsafe { libc::free(hint::black_box(libc::malloc(RESERVED_BYTES))) };
}

/// Just not mapped on its own. Most runs stay below it.
const RESERVED_BYTES: usize = 31 << 20;
