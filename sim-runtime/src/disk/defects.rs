//! What is wrong with the sectors of one file's platter.
//!
//! A *latent* sector cannot be read until it is rewritten. Any other defect is a sector that reads without an error and
//! holds the wrong bytes: the bytes themselves are in the file's images, here is only the record of it, so that it can be
//! counted when somebody meets it. See Bairavasundaram et al., "An Analysis of Latent Sector Errors in Disk Drives"
//! (SIGMETRICS 2007) and "An Analysis of Data Corruption in the Storage Stack" (FAST 2008).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::image::SECTOR_BYTES;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Defects {
    latent: BTreeSet<u64>,
    /// Kind of each defect that nobody has met.
    wrong: BTreeMap<u64, &'static str>,
}

impl Defects {
    pub fn add_latent(&mut self, sector: u64) {
        self.latent.insert(sector);
    }

    pub fn add(&mut self, sector: u64, kind: &'static str) {
        self.wrong.insert(sector, kind);
    }

    /// Whether any of these bytes cannot be read.
    pub fn is_latent(&self, offset: u64, len: u64) -> bool {
        !self.latent.is_empty() && self.latent.range(touched(offset, len)).next().is_some()
    }

    /// Kinds of the wrong sectors that a read of these bytes meets for the first time, one per sector.
    pub fn met(&mut self, offset: u64, len: u64) -> Vec<&'static str> {
        if self.wrong.is_empty() {
            return Vec::new();
        }
        let sectors: Vec<u64> = self.wrong.range(touched(offset, len)).map(|(sector, _)| *sector).collect();
        sectors.iter().filter_map(|sector| self.wrong.remove(sector)).collect()
    }

    /// These bytes were rewritten: the drive remaps a sector that it cannot read, and a wrong one is right again once all
    /// of it is new.
    pub fn written(&mut self, offset: u64, len: u64) {
        if self.latent.is_empty() && self.wrong.is_empty() {
            return;
        }
        for sector in touched(offset, len) {
            self.latent.remove(&sector);
            if offset <= sector * SECTOR_BYTES && (sector + 1) * SECTOR_BYTES <= offset + len {
                self.wrong.remove(&sector);
            }
        }
    }

    /// The file now ends after `len` bytes.
    pub fn cut(&mut self, len: u64) {
        let end = len.div_ceil(SECTOR_BYTES);
        self.latent.split_off(&end);
        self.wrong.split_off(&end);
    }
}

/// The sectors that hold some of these bytes.
pub fn touched(offset: u64, len: u64) -> Range<u64> {
    if len == 0 { 0..0 } else { offset / SECTOR_BYTES..(offset + len).div_ceil(SECTOR_BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latent_sector_is_readable_again_once_any_part_is_rewritten() {
        let mut defects = Defects::default();
        defects.add_latent(2);
        assert!(!defects.is_latent(0, 1024) && defects.is_latent(1000, 100) && !defects.is_latent(1024, 0));
        defects.written(1500, 1);
        assert!(!defects.is_latent(0, 4096));
    }

    #[test]
    fn what_is_cut_off_is_no_defect() {
        let mut defects = Defects::default();
        defects.add(1, "rot");
        defects.add_latent(1);
        defects.cut(513);
        assert!(defects.is_latent(512, 1));
        defects.cut(512);
        assert!(!defects.is_latent(0, 4096) && defects.met(0, 4096).is_empty());
    }
}
