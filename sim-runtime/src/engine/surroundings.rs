//! What the process around a run is told: libc's clocks and entropy, SQLite's default VFS.
//!
//! Installed for as long as the run lasts. Everything answered here is a function of the seed and of virtual time.

use std::cell::{Cell, RefCell};

use crate::escape::{self, Answers};
use crate::world::draws::Key;
use crate::world::{self, Purpose, clock, section};

thread_local! {
    static KEY: RefCell<Option<Key>> = const { RefCell::new(None) };
    static DRAWN: Cell<u64> = const { Cell::new(0) };
}

/// Keeps the surroundings of a run in place.
#[must_use = "the real surroundings return when this is dropped"]
pub struct Surroundings {
    _answers: escape::Guard,
    #[cfg(feature = "sqlite")]
    _sqlite: crate::adapters::sqlite::Installed,
}

/// Surrounds this thread with the answers of a run with this seed.
///
/// # Panics
/// If libc's symbols are not those of this crate: then nothing is deterministic.
pub fn install(seed: u64) -> Surroundings {
    KEY.set(Some(Key::of_seed(seed)));
    DRAWN.set(0);
    let answers = Answers { entropy, monotonic_ns, wall_ns, sleep };
    let surroundings = Surroundings {
        _answers: escape::install(answers),
        #[cfg(feature = "sqlite")]
        _sqlite: crate::adapters::sqlite::install(),
    };
    escape::assert_linked();
    surroundings
}

fn entropy(buffer: &mut [u8]) {
    for chunk in buffer.chunks_mut(8) {
        let ordinal = DRAWN.replace(DRAWN.get() + 1);
        let word = KEY.with_borrow(|key| key.as_ref().map_or(0, |key| key.draw(Purpose("entropy"), 0, ordinal)));
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
}

fn monotonic_ns() -> u64 {
    if world::in_world() { clock::monotonic_ns(world::current().host) } else { 0 }
}

fn wall_ns() -> u64 {
    if world::in_world() { clock::wall_ns(world::current().host) } else { 0 }
}

/// A blocking sleep takes virtual time inside a blocking section, and none elsewhere: nothing else could run meanwhile.
fn sleep(ns: u64) {
    if world::in_world() && section::active() {
        section::spend(ns);
    }
}
