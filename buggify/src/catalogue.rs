//! The list of all sites of this executable, collected by the linker.
//!
//! The linker's order is its own business, so the catalogue sorts by place in the source. A crate that no code refers
//! to is not linked and its sites are absent; `use that_crate as _;` brings it in.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use linkme::distributed_slice;

use crate::Site;

#[doc(hidden)]
#[distributed_slice]
pub static SITES: [Site];

/// Every site linked into this executable, by file, line and column.
pub fn catalogue() -> &'static [&'static Site] {
    static SORTED: OnceLock<Vec<&'static Site>> = OnceLock::new();
    SORTED.get_or_init(|| {
        let mut sites: Vec<&'static Site> = SITES.iter().collect();
        sites.sort_by_key(|site| (site.file, site.line, site.column));
        for (index, site) in (0u32..).zip(&sites) {
            site.index.store(index, Ordering::Relaxed);
        }
        sites
    })
}

/// The position of `site` in [`catalogue`].
pub fn site_index(site: &'static Site) -> usize {
    let index = site.index.load(Ordering::Relaxed);
    if index != u32::MAX {
        return index as usize;
    }
    catalogue();
    site.index.load(Ordering::Relaxed) as usize
}
