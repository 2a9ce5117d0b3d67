//! Who answers on this thread, and what was refused.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::RandomState;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::c_int;

/// What a simulating thread is told instead of the truth. Plain functions: a hook may run where nothing may allocate.
///
/// They must not panic (the caller is C) and must not ask for time or entropy themselves.
#[derive(Clone, Copy)]
pub struct Answers {
    /// Fills the buffer with bytes drawn from the seed.
    pub entropy: fn(&mut [u8]),
    /// Virtual monotonic time in ns.
    pub monotonic_ns: fn() -> u64,
    /// Virtual wall clock in ns since 1970.
    pub wall_ns: fn() -> u64,
    /// A blocking sleep of so many ns was asked for; the call returns at once.
    pub sleep: fn(u64),
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answers")
    }
}

thread_local! {
    // `const` and without a destructor: reading it neither allocates nor registers anything.
    static ANSWERS: Cell<Option<Answers>> = const { Cell::new(None) };
    static KEY_SEED: Cell<u64> = const { Cell::new(0) };
    static TAKEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Whether this process exists for one simulation only, so that a blocking wait can never end.
static ALONE: AtomicBool = AtomicBool::new(false);

/// Answers this thread's calls from `answers` until the guard is dropped.
pub fn install(answers: Answers) -> Guard {
    static HOOK: Once = Once::new();
    if !std::thread::panicking() {
        HOOK.call_once(keep_panic_reports_working);
    }
    replace(Some(answers))
}

/// Lets this thread talk to the system again until the guard is dropped, for instance to print a backtrace.
pub fn suspend() -> Guard {
    replace(None)
}

/// Whether this thread's calls are answered or refused.
#[inline]
pub fn simulating() -> bool {
    answers().is_some()
}

/// What this thread was refused since the last call: name of the function and, where known, of the thing asked for.
pub fn taken() -> Vec<String> {
    TAKEN.try_with(RefCell::take).unwrap_or_default()
}

/// Draws this thread's `HashMap` keys from `seed`, for good.
///
/// std draws them once per thread, at the first `HashMap`, so this must come first on a fresh thread; on a thread
/// that already has keys it changes nothing.
pub fn seed_hash_keys(seed: u64) {
    let _ = KEY_SEED.try_with(|cell| cell.set(seed));
    let _guard =
        replace(Some(Answers { entropy: fill_from_key_seed, monotonic_ns: || 0, wall_ns: || 0, sleep: |_| {} }));
    let _keys = RandomState::new();
}

/// Restores what was installed before when dropped. Belongs to the thread that made it.
#[must_use = "the previous answers return when this is dropped"]
pub struct Guard {
    previous: Option<Answers>,
    this_thread: PhantomData<*mut ()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The thread may be exiting; then nobody asks any more.
        let _ = ANSWERS.try_with(|cell| cell.set(self.previous));
        follow(self.previous);
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}

#[inline]
pub(super) fn answers() -> Option<Answers> {
    ANSWERS.try_with(Cell::get).ok().flatten()
}

/// Notes an escape and leaves `errno` behind.
pub(super) fn refuse(what: String, errno: c_int) {
    // A destructor may run after the list is gone; the refusal itself still stands.
    let _ = TAKEN.try_with(|taken| {
        if let Ok(mut taken) = taken.try_borrow_mut()
            && taken.len() < TAKEN_MAX
        {
            taken.push(what);
        }
    });
    set_errno(errno);
}

pub(super) fn set_errno(errno: c_int) {
    // SAFETY: glibc returns a valid pointer to this thread's errno.
    unsafe { *libc::__errno_location() = errno };
}

/// Says that this process runs one simulation and nothing else.
pub(crate) fn declare_alone() {
    ALONE.store(true, Ordering::Relaxed);
}

pub(super) fn is_alone() -> bool {
    ALONE.load(Ordering::Relaxed)
}

/// Enough to name the culprit; a loop that is refused for ever must not eat the memory.
const TAKEN_MAX: usize = 64;

fn replace(answers: Option<Answers>) -> Guard {
    let previous = ANSWERS.try_with(|cell| cell.replace(answers)).ok().flatten();
    follow(answers);
    Guard { previous, this_thread: PhantomData }
}

fn follow(answers: Option<Answers>) {
    #[cfg(target_arch = "x86_64")]
    super::filter::trap_counter(answers.is_some());
    #[cfg(not(target_arch = "x86_64"))]
    let _ = answers;
}

/// A panic report opens files to name functions and lines; that is no escape of the simulated program.
fn keep_panic_reports_working() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let _suspended = suspend();
        previous(info);
    }));
}

fn fill_from_key_seed(bytes: &mut [u8]) {
    let mut state = KEY_SEED.try_with(Cell::get).unwrap_or_default();
    for chunk in bytes.chunks_mut(8) {
        // SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): one well-mixed word per step, from any seed.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
}
