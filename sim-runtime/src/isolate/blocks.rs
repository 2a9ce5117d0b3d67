//! An allocator for processes that end soon: one list of free blocks per size, and nothing is ever given back.
//!
//! A run allocates and frees the same few sizes all the time (messages, tasks, pages), so taking a block is taking the
//! first of a list. glibc searches, splits and merges instead, which is a quarter of what a run costs.
//!
//! Every thread has lists of its own, so nothing is locked. A block may be freed by another thread; then it is that
//! thread's. What a thread leaves behind goes to the next thread that starts allocating.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, PoisonError};

/// Blocks up to here come in steps of 16 bytes, larger ones in four steps per doubling.
const FINE_BYTES_MAX: usize = 1024;
const STEP_BITS: u32 = 4;
const FINE_CLASSES: usize = FINE_BYTES_MAX >> STEP_BITS;
/// Larger blocks are the system's.
const BYTES_MAX: usize = 32 << 10;
const CLASSES: usize = FINE_CLASSES + 4 * (BYTES_MAX.ilog2() - FINE_BYTES_MAX.ilog2()) as usize;
/// All blocks are aligned to this.
const ALIGN: usize = 1 << STEP_BITS;
/// What is taken from the system at once. Pages that no block was cut from are not resident.
const CHUNK_BYTES: usize = 1 << 20;

/// The allocator. A program whose processes run simulations makes it the global one:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: sim_runtime::isolate::Allocator = sim_runtime::isolate::Allocator;
/// ```
///
/// No run depends on it: no decision looks at an address.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allocator;

/// A free block: where the next one is.
struct Free {
    next: Link,
}

type Link = Option<NonNull<Free>>;

/// What one thread has.
struct Blocks {
    free: [Link; CLASSES],
    /// The rest of the chunk that blocks are cut from.
    rest: *mut u8,
    rest_bytes: usize,
    /// Whether [`Heir`] will see to it when the thread ends.
    is_inherited: bool,
}

impl Blocks {
    const NONE: Blocks = Blocks { free: [None; CLASSES], rest: ptr::null_mut(), rest_bytes: 0, is_inherited: false };
}

// SAFETY: whoever holds the blocks is the only one to touch them; they are not tied to the thread that cut them.
unsafe impl Send for Blocks {}

thread_local! {
    // Without a destructor, so that it is there as long as the thread and costs no check.
    static BLOCKS: UnsafeCell<Blocks> = const { UnsafeCell::new(Blocks::NONE) };
    static HEIR: Heir = const { Heir };
}

/// Left behind by threads that ended.
static LEFT: Mutex<Blocks> = Mutex::new(Blocks::NONE);

struct Heir;

impl Drop for Heir {
    fn drop(&mut self) {
        let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        let own = with(|blocks| std::mem::replace(blocks, Blocks::NONE));
        left.adopt(own);
        // Later destructors of this thread may still allocate; nobody inherits that.
        with(|blocks| blocks.is_inherited = true);
    }
}

#[inline(always)]
fn with<R>(f: impl FnOnce(&mut Blocks) -> R) -> R {
    // SAFETY: only this thread reaches its blocks, and no `f` of this module allocates through this allocator.
    BLOCKS.with(|blocks| f(unsafe { &mut *blocks.get() }))
}

#[inline(always)]
fn class_of(size: usize) -> usize {
    let last = size.saturating_sub(1);
    if last < FINE_BYTES_MAX {
        return last >> STEP_BITS;
    }
    let bits = last.ilog2();
    FINE_CLASSES + 4 * (bits - FINE_BYTES_MAX.ilog2()) as usize + ((last >> (bits - 2)) & 3)
}

fn bytes_of(class: usize) -> usize {
    match class.checked_sub(FINE_CLASSES) {
        None => (class + 1) << STEP_BITS,
        Some(coarse) => (5 + coarse % 4) << (FINE_BYTES_MAX.ilog2() as usize + coarse / 4 - 2),
    }
}

#[inline(always)]
fn is_ours(layout: Layout) -> bool {
    layout.size() <= BYTES_MAX && layout.align() <= ALIGN
}

impl Blocks {
    #[inline(always)]
    fn take(&mut self, class: usize) -> *mut u8 {
        match self.free[class] {
            Some(block) => {
                // SAFETY: a block in a list is free and begins with its link.
                self.free[class] = unsafe { block.as_ref().next };
                block.as_ptr().cast()
            }
            None => self.cut(class),
        }
    }

    /// # Safety
    /// `block` was taken with this class and nobody uses it any more.
    #[inline(always)]
    unsafe fn put(&mut self, class: usize, block: NonNull<u8>) {
        let block = block.cast::<Free>();
        // SAFETY: every block is large enough for a link, and aligned.
        unsafe { block.write(Free { next: self.free[class] }) };
        self.free[class] = Some(block);
    }

    #[cold]
    #[inline(never)]
    fn cut(&mut self, class: usize) -> *mut u8 {
        let bytes = bytes_of(class);
        if self.rest_bytes < bytes && !self.grow(class, bytes) {
            return ptr::null_mut();
        }
        if let Some(block) = self.free[class] {
            // It was inherited.
            // SAFETY: as in `take`.
            self.free[class] = unsafe { block.as_ref().next };
            return block.as_ptr().cast();
        }
        let block = self.rest;
        // SAFETY: so many bytes are left in the chunk.
        self.rest = unsafe { block.add(bytes) };
        self.rest_bytes -= bytes;
        block
    }

    /// Makes room for a block: in the list of its class, or in the rest of the chunk.
    fn grow(&mut self, class: usize, bytes: usize) -> bool {
        if !self.is_inherited {
            self.is_inherited = true;
            // Registers its destructor, which takes no memory from this allocator.
            let _ = HEIR.try_with(|_| ());
            let left = std::mem::replace(&mut *LEFT.lock().unwrap_or_else(PoisonError::into_inner), Blocks::NONE);
            self.adopt(left);
            if self.free[class].is_some() || self.rest_bytes >= bytes {
                return true;
            }
        }
        let Ok(layout) = Layout::from_size_align(CHUNK_BYTES, ALIGN) else { return false };
        // SAFETY: its size is not zero.
        let chunk = unsafe { System.alloc(layout) };
        if chunk.is_null() {
            return false;
        }
        (self.rest, self.rest_bytes) = (chunk, CHUNK_BYTES);
        true
    }

    /// Takes over what another thread had.
    fn adopt(&mut self, other: Blocks) {
        for (own, left) in self.free.iter_mut().zip(other.free) {
            let mut end = own;
            while let Some(mut block) = *end {
                // SAFETY: blocks in a list are free and begin with a link; the list is this thread's.
                end = unsafe { &mut block.as_mut().next };
            }
            *end = left;
        }
        if other.rest_bytes > self.rest_bytes {
            (self.rest, self.rest_bytes) = (other.rest, other.rest_bytes);
        }
    }
}

// SAFETY: blocks do not overlap, are as large as their class and aligned to `ALIGN`; a block goes back to the class that it
// came from, since both follow from its layout.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_ours(layout) {
            return with(|blocks| blocks.take(class_of(layout.size())));
        }
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match NonNull::new(block) {
            // SAFETY: the caller gives back what it got for this layout.
            Some(block) if is_ours(layout) => with(|blocks| unsafe { blocks.put(class_of(layout.size()), block) }),
            // SAFETY: as above.
            _ => unsafe { System.dealloc(block, layout) },
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !is_ours(layout) {
            // SAFETY: the caller's promises are the same.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: as above.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: the block has so many bytes.
            unsafe { ptr::write_bytes(block, 0, layout.size()) };
        }
        block
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `size` fits the alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (is_ours(layout), is_ours(wanted)) {
            (true, true) if class_of(layout.size()) == class_of(size) => block,
            // SAFETY: it is the system's and stays there.
            (false, false) => unsafe { System.realloc(block, layout, size) },
            _ => {
                // SAFETY: the new block is another one, and both have the bytes that are copied.
                unsafe {
                    let moved = self.alloc(wanted);
                    if !moved.is_null() {
                        ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                        self.dealloc(block, layout);
                    }
                    moved
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_as_large_as_asked_for_and_not_much_larger() {
        for size in 1..=BYTES_MAX {
            let class = class_of(size);
            let bytes = bytes_of(class);
            assert!(bytes >= size && bytes % ALIGN == 0, "{size} bytes get {bytes}");
            assert!(bytes - size < ALIGN.max(size / 4 + 1), "{size} bytes get {bytes}");
            assert!(class == 0 || bytes_of(class - 1) < size, "{size} bytes would fit the class before");
        }
        assert_eq!(class_of(BYTES_MAX), CLASSES - 1);
    }

    /// Against a model: every live block keeps its contents.
    #[test]
    fn blocks_do_not_overlap() {
        let mut live: Vec<(*mut u8, Layout, u8)> = Vec::new();
        let mut dice = crate::world::draws::Dice::new(1);
        for step in 0..20_000u32 {
            let mark = step.to_le_bytes()[0];
            let size = 1 + usize::try_from(dice.below(1 << dice.below(17))).unwrap();
            let layout = Layout::from_size_align(size, 1 << dice.below(7)).unwrap();
            if live.is_empty() || dice.chance(550_000) {
                let zeroed = dice.chance(300_000);
                // SAFETY: the size is not zero.
                let block = unsafe { if zeroed { Allocator.alloc_zeroed(layout) } else { Allocator.alloc(layout) } };
                assert!(!block.is_null() && block.addr() % layout.align() == 0);
                // SAFETY: the block has so many bytes, which nobody else has.
                let bytes = unsafe {
                    if !zeroed {
                        ptr::write_bytes(block, 0, size);
                    }
                    std::slice::from_raw_parts_mut(block, size)
                };
                assert!(bytes.iter().all(|byte| *byte == 0), "step {step}");
                bytes.fill(mark);
                live.push((block, layout, mark));
                continue;
            }
            let at = usize::try_from(dice.below(live.len() as u64)).unwrap();
            let (block, before, was) = live.swap_remove(at);
            let all_are = |block: *mut u8, count: usize| {
                // SAFETY: the block has at least so many bytes.
                unsafe { std::slice::from_raw_parts(block, count) }.iter().all(|byte| *byte == was)
            };
            assert!(all_are(block, before.size()), "step {step}: a block of {before:?} was overwritten");
            if dice.chance(300_000) {
                // SAFETY: it was allocated with `before`, and `size` is not zero.
                let moved = unsafe { Allocator.realloc(block, before, size) };
                assert!(all_are(moved, size.min(before.size())), "step {step}: not everything moved");
                // SAFETY: it has so many bytes now.
                unsafe { ptr::write_bytes(moved, was, size) };
                live.push((moved, Layout::from_size_align(size, before.align()).unwrap(), was));
            } else {
                // SAFETY: it was allocated with this layout.
                unsafe { Allocator.dealloc(block, before) };
            }
        }
        for (block, layout, _) in live {
            // SAFETY: it was allocated with this layout.
            unsafe { Allocator.dealloc(block, layout) };
        }
    }

    #[test]
    fn a_thread_inherits_what_another_left() {
        let layout = Layout::from_size_align(24_000, 8).unwrap();
        let use_much = move || {
            // SAFETY: the size is not zero.
            let blocks: Vec<usize> = (0..200).map(|_| unsafe { Allocator.alloc(layout) }.expose_provenance()).collect();
            for block in &blocks {
                // SAFETY: it was allocated with this layout.
                unsafe { Allocator.dealloc(ptr::with_exposed_provenance_mut(*block), layout) };
            }
            blocks
        };
        let first = std::thread::spawn(use_much).join().unwrap();
        let second = std::thread::spawn(use_much).join().unwrap();
        let again = second.iter().filter(|block| first.contains(block)).count();
        assert!(again >= 150, "{again} of 200 blocks were used again");
    }
}
