//! glibc's allocator, for a process that ends soon: it keeps what it was given.
//!
//! By default the simulating thread gets an arena of its own, which takes memory from the kernel a few pages at a time
//! whatever it is told, gives it back and takes it again, by thousands of system calls in a run, and looks at files of the
//! kernel. The arena of the process grows by large steps.

use libc::c_int;

/// Memory is given back beyond this many free bytes at the top: hardly ever in a run.
const TRIM_BYTES: c_int = 256 << 20;
/// What is taken from the kernel at once, in bytes.
const GROW_BYTES: c_int = 1 << 20;
/// Larger blocks are mapped on their own; the largest value that glibc takes.
const MAP_BYTES: c_int = 32 << 20;

/// Changes the settings of this process, for good.
pub(super) fn tune() {
    let settings = [
        (libc::M_ARENA_MAX, 1),
        (libc::M_TRIM_THRESHOLD, TRIM_BYTES),
        (libc::M_TOP_PAD, GROW_BYTES),
        (libc::M_MMAP_THRESHOLD, MAP_BYTES),
    ];
    for (setting, value) in settings {
        // SAFETY: settings of the allocator. One that is refused costs time, nothing else.
        unsafe { libc::mallopt(setting, value) };
    }
}
