//! The bytes of a file: pages shared until written.
//!
//! A crash test keeps one image per I/O operation and an oracle takes one per power loss, so a clone costs one reference
//! count per page. A page never written reads as zeros and takes no memory, because redb begins by growing its file to
//! 1 MiB.

use std::sync::Arc;

/// Bytes in a page. The page size of redb and SQLite, so that their writes seldom split one.
pub const PAGE_BYTES: u64 = 4096;
/// Bytes in a sector: what a disk writes whole or not at all.
pub const SECTOR_BYTES: u64 = 512;
/// No file grows past this many bytes: an offset beyond it is a bug of the engine, not a wish for memory.
pub const FILE_BYTES_MAX: u64 = 64 << 30;

const PAGE: usize = 4096;
pub(super) type Page = [u8; PAGE];

/// The contents of a file, copy on write.
#[derive(Clone, Default)]
pub struct Image {
    /// `None` reads as zeros. Never longer than `len` needs; may be shorter.
    pages: Vec<Option<Arc<Page>>>,
    /// In bytes. Everything past it inside the last page is zero.
    len: u64,
}

impl Image {
    pub fn new() -> Image {
        Image::default()
    }

    pub fn from_bytes(bytes: &[u8]) -> Image {
        let mut image = Image::new();
        image.write(0, bytes);
        image
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies from `offset` on and returns how many bytes there were; fewer than asked for only at the end of the file.
    pub fn read_at(&self, out: &mut [u8], offset: u64) -> usize {
        let available = self.len.saturating_sub(offset);
        let wanted = usize::try_from(available).map_or(out.len(), |n| n.min(out.len()));
        let mut done = 0;
        while done < wanted {
            let (page, within) = locate(offset + done as u64);
            let n = (PAGE - within).min(wanted - done);
            let target = &mut out[done..done + n];
            match self.pages.get(page) {
                Some(Some(bytes)) => target.copy_from_slice(&bytes[within..within + n]),
                _ => target.fill(0),
            }
            done += n;
        }
        wanted
    }

    /// The whole file. Meant for small files and tests.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).expect("a file fits into memory")];
        self.read_at(&mut bytes, 0);
        bytes
    }

    /// Writes, growing the file when the bytes reach past its end.
    ///
    /// Panics past [`FILE_BYTES_MAX`]: the caller refuses such an offset as an error.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len() as u64;
        assert!(end <= FILE_BYTES_MAX, "write past the size limit of a simulated file");
        let mut done = 0;
        while done < bytes.len() {
            let (page, within) = locate(offset + done as u64);
            let n = (PAGE - within).min(bytes.len() - done);
            let source = &bytes[done..done + n];
            if self.pages.len() <= page {
                self.pages.resize(page + 1, None);
            }
            match &mut self.pages[page] {
                Some(old) => Arc::make_mut(old)[within..within + n].copy_from_slice(source),
                slot => {
                    let mut fresh = Arc::new([0; PAGE]);
                    Arc::make_mut(&mut fresh)[within..within + n].copy_from_slice(source);
                    *slot = Some(fresh);
                }
            }
            done += n;
        }
        self.len = self.len.max(end);
    }

    /// As [`Image::write`] of a whole page, which is shared instead of copied. `offset` is that of a page.
    pub(super) fn put_page(&mut self, offset: u64, bytes: Arc<Page>) {
        assert!(offset < FILE_BYTES_MAX, "write past the size limit of a simulated file");
        let (page, within) = locate(offset);
        debug_assert_eq!(within, 0, "a page begins where pages begin");
        if self.pages.len() <= page {
            self.pages.resize(page + 1, None);
        }
        self.pages[page] = Some(bytes);
        self.len = self.len.max(offset + PAGE_BYTES);
    }

    /// Cuts the file or grows it with zeros. Panics past [`FILE_BYTES_MAX`].
    pub fn set_len(&mut self, len: u64) {
        assert!(len <= FILE_BYTES_MAX, "a simulated file grown past its size limit");
        if len < self.len {
            let (page, within) = locate(len);
            self.pages.truncate(if within == 0 { page } else { page + 1 });
            if within > 0
                && let Some(Some(last)) = self.pages.get_mut(page)
            {
                Arc::make_mut(last)[within..].fill(0);
            }
        }
        self.len = len;
    }

    /// One sector, with zeros for what lies past the end.
    pub fn sector(&self, sector: u64) -> [u8; SECTOR_BYTES as usize] {
        let mut bytes = [0; SECTOR_BYTES as usize];
        self.read_at(&mut bytes, sector * SECTOR_BYTES);
        bytes
    }

    /// Makes one whole sector equal to that of `source`, whatever the two lengths are; grows to hold it.
    pub(crate) fn copy_sector(&mut self, source: &Image, sector: u64) {
        self.write(sector * SECTOR_BYTES, &source.sector(sector));
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let held = self.pages.iter().filter(|page| page.is_some()).count();
        write!(f, "Image({} bytes, {held} pages held)", self.len)
    }
}

impl PartialEq for Image {
    fn eq(&self, other: &Image) -> bool {
        const ZEROS: Page = [0; PAGE];
        let pages = self.pages.len().max(other.pages.len());
        self.len == other.len
            && (0..pages).all(|i| {
                let (a, b) = (self.pages.get(i).and_then(Option::as_ref), other.pages.get(i).and_then(Option::as_ref));
                match (a, b) {
                    (None, None) => true,
                    (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
                    (Some(one), None) | (None, Some(one)) => **one == ZEROS,
                }
            })
    }
}

impl Eq for Image {}

fn locate(offset: u64) -> (usize, usize) {
    let page = usize::try_from(offset / PAGE_BYTES).expect("bounded by FILE_BYTES_MAX");
    (page, (offset % PAGE_BYTES) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_like_a_vector_of_bytes() {
        // A cheap generator: the property is about offsets around page ends, not about randomness.
        let mut state = 1u64;
        let mut next = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let (mut image, mut model) = (Image::new(), Vec::<u8>::new());
        for step in 0..2000 {
            if next(4) == 0 {
                let len = next(5 * PAGE_BYTES);
                image.set_len(len);
                model.resize(len as usize, 0);
            } else {
                let (offset, len) = (next(4 * PAGE_BYTES), next(2 * PAGE_BYTES));
                let bytes = vec![step as u8; len as usize];
                image.write(offset, &bytes);
                let end = (offset + len) as usize;
                model.resize(model.len().max(end), 0);
                model[offset as usize..end].copy_from_slice(&bytes);
            }
            assert_eq!(image.to_vec(), model, "after step {step}");
        }
    }

    #[test]
    fn a_clone_keeps_what_it_saw() {
        let mut image = Image::from_bytes(b"before");
        let kept = image.clone();
        image.write(0, b"after!");
        image.set_len(2);
        assert_eq!(kept.to_vec(), b"before");
        assert_eq!(image.to_vec(), b"af");
    }

    #[test]
    fn what_was_cut_off_reads_as_zeros_after_growing_again() {
        let mut image = Image::from_bytes(&[7; 100]);
        image.set_len(10);
        image.set_len(100);
        assert_eq!(image.to_vec()[10..], [0; 90]);
    }

    #[test]
    fn a_hole_takes_no_memory_and_equals_zeros() {
        let mut sparse = Image::new();
        sparse.set_len(1 << 30);
        assert!(sparse.pages.is_empty());
        let mut small = Image::new();
        small.set_len(PAGE_BYTES);
        assert_eq!(small, Image::from_bytes(&[0; PAGE]));
        assert_ne!(small, Image::from_bytes(&[1; PAGE]));
    }
}
