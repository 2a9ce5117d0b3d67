//! What may survive, exactly: small logs, all choices, compared with what the drive could have done.

use std::collections::BTreeSet;

use super::*;
use crate::disk::file::{Bytes, Interval};
use crate::disk::names::FileId;
use crate::world::draws::Dice;

const SECTOR: usize = SECTOR_BYTES as usize;

/// Applies changes one after the other, each taking 10 ns.
fn file(changes: &[Change]) -> File {
    let mut file = File::default();
    for (n, change) in (0..).zip(changes) {
        let when = Interval { issue: n * 10, complete: n * 10 + 10 };
        match change {
            Change::Write { offset, bytes } => file.write(when, *offset, bytes),
            Change::SetLen(len) => file.set_len(when, *len),
            Change::Sync => file.sync(when),
            Change::SyncFailed => file.fail_sync(when),
            Change::SyncFailedReadable => file.fail_sync_readable(when),
        }
    }
    file
}

fn write(sector: u64, letters: &str) -> Change {
    let bytes: Vec<u8> = letters.bytes().flat_map(|letter| [letter; SECTOR]).collect();
    Change::Write { offset: sector * SECTOR_BYTES, bytes: Bytes::Other(bytes.into()) }
}

fn pending(file: &mut File, at: Nanos) -> Pending {
    Pending::at(at, std::iter::once((FileId(0), file)), BTreeMap::new())
}

/// One letter per sector, `.` for zeros.
fn letters(image: &Image) -> String {
    let letter = |sector: &[u8]| {
        assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is never torn");
        if sector[0] == 0 { '.' } else { char::from(sector[0]) }
    };
    image.to_vec().chunks(SECTOR).map(letter).collect()
}

/// All images that a power loss at `at` may leave.
fn survivors(changes: &[Change], at: Nanos) -> BTreeSet<String> {
    let pending = pending(&mut file(changes), at);
    let choices = Choice::enumerate(&pending, 10_000).expect("few are pending");
    choices
        .iter()
        .map(|choice| pending.outcome(choice).first().map_or(String::new(), |(_, image)| letters(image)))
        .collect()
}

fn set(images: &[&str]) -> BTreeSet<String> {
    images.iter().map(|image| (*image).to_owned()).collect()
}

#[test]
fn an_overwrite_tears_anywhere() {
    let log = [write(0, "abc"), Change::Sync, write(0, "xy")];
    assert_eq!(survivors(&log, 100), set(&["abc", "xbc", "ayc", "xyc"]));
    assert_eq!(survivors(&log, 25), set(&["abc", "xbc", "ayc", "xyc"]), "in flight");
    assert_eq!(
        survivors(&log, 19),
        set(&["", ".", "..", "...", "a", "a.", "a..", ".b", "ab", "ab.", ".b.", "a.c", "..c", ".bc", "abc"]
            .iter()
            .filter(|image| [0, 3].contains(&image.len()))
            .copied()
            .collect::<Vec<_>>()),
        "the sync never completed"
    );
}

#[test]
fn writes_survive_in_any_order_and_in_any_version() {
    let log = [write(0, "ab"), Change::Sync, write(0, "x"), write(1, "y"), write(0, "z")];
    assert_eq!(survivors(&log, 100), set(&["ab", "xb", "zb", "ay", "xy", "zy"]));
    assert_eq!(survivors(&log, 35), set(&["ab", "xb", "ay", "xy"]), "z was not issued");
}

#[test]
fn growth_survives_before_or_after_its_data() {
    let log = [write(0, "a"), Change::Sync, write(1, "b")];
    assert_eq!(survivors(&log, 100), set(&["a", "a.", "ab"]));
    let log = [write(0, "a"), Change::Sync, Change::SetLen(2 * SECTOR_BYTES)];
    assert_eq!(survivors(&log, 100), set(&["a", "a."]));
}

#[test]
fn what_a_shrink_cut_off_does_not_return_with_later_growth() {
    let log = [write(0, "abc"), Change::Sync, Change::SetLen(SECTOR_BYTES), Change::SetLen(3 * SECTOR_BYTES)];
    assert_eq!(survivors(&log, 100), set(&["abc", "a", "a.."]));
    let log = [write(0, "ab"), Change::Sync, Change::SetLen(0), write(0, "x")];
    assert_eq!(survivors(&log, 100), set(&["ab", "xb", "", ".", "x"]));
}

#[test]
fn a_partial_sector_survives_with_what_the_cache_held_around_it() {
    // A frame header, then its page in the same sector: the sector is written with both or with the header alone.
    let half = |offset, letter| Change::Write { offset, bytes: Bytes::Other(vec![letter; SECTOR / 2].into()) };
    let mut file = file(&[write(0, "a"), Change::Sync, half(0, b'h'), half(SECTOR_BYTES / 2, b'p')]);
    let pending = pending(&mut file, 100);
    let images = Choice::enumerate(&pending, 10)
        .expect("one sector")
        .iter()
        .map(|choice| {
            let bytes = pending.outcome(choice)[0].1.to_vec();
            (char::from(bytes[0]), char::from(bytes[SECTOR - 1]))
        })
        .collect::<Vec<_>>();
    assert_eq!(images, [('a', 'a'), ('h', 'a'), ('h', 'p')]);
}

#[test]
fn a_failed_sync_leaves_nothing_pending() {
    let log = [write(0, "a"), Change::Sync, write(0, "b"), Change::SyncFailed];
    let pending = pending(&mut file(&log), 100);
    assert!(pending.is_empty());
    assert_eq!(survivors(&log, 35), set(&["a", "b"]), "before the failure it was pending");
}

#[test]
fn what_a_failed_sync_left_readable_does_not_survive() {
    let log = [write(0, "a"), Change::Sync, write(0, "b"), Change::SyncFailedReadable, write(1, "c")];
    assert_eq!(survivors(&log, 100), set(&["a", "a.", "ac"]));
    assert_eq!(letters(file(&log).current()), "bc");
}

#[test]
fn shapes_are_named_by_whole_writes() {
    let log = [write(0, "aaaaaaaa"), Change::Sync, write(0, "bb"), write(2, "cc"), write(4, "dd")];
    let pending = pending(&mut file(&log), 100);
    assert_eq!(pending.sector_count(), 6);
    let shape = |kept: [usize; 6]| {
        let toll = pending.toll(&Choice { versions: kept.to_vec(), ..Choice::none(&pending) });
        assert_eq!(toll.sectors_lost.values().sum::<u64>(), kept.iter().filter(|kept| **kept == 0).count() as u64);
        toll.shape.expect("sectors were pending")
    };
    assert_eq!(shape([0, 0, 0, 0, 0, 0]), Shape::None);
    assert_eq!(shape([1, 1, 1, 1, 1, 1]), Shape::All);
    assert_eq!(shape([1, 1, 1, 1, 0, 0]), Shape::Prefix);
    assert_eq!(shape([0, 0, 1, 1, 1, 1]), Shape::Suffix);
    assert_eq!(shape([1, 1, 0, 0, 1, 1]), Shape::Holes);
    assert_eq!(shape([0, 0, 1, 1, 0, 0]), Shape::Holes);
    assert_eq!(shape([1, 1, 1, 0, 0, 0]), Shape::Torn);
}

#[test]
fn drawn_choices_are_legal_and_every_shape_is_common() {
    // Growing writes, overwrites and shared sectors, as a write-ahead log has them.
    let mut log = vec![write(0, "abcdefgh"), Change::Sync];
    for n in 0..6 {
        log.push(Change::Write { offset: 4096 + n * 1100, bytes: Bytes::Other(vec![b'f'; 1100].into()) });
        log.push(write(n, "xy"));
    }
    let mut file = file(&log);
    let pending = pending(&mut file, 1000);
    let mut shapes: BTreeMap<Shape, u32> = BTreeMap::new();
    let mut dice = Dice::new(1);
    let runs = 2000;
    for _ in 0..runs {
        let choice = Choice::draw(&pending, &mut |bound| dice.below(bound));
        *shapes.entry(pending.toll(&choice).shape.expect("pending")).or_default() += 1;
    }
    assert_eq!(shapes.len(), 6, "{shapes:?}");
    assert!(shapes.values().all(|count| count * 100 >= runs * 7), "{shapes:?}");
    // The two extremes are what they say.
    assert_eq!(pending.outcome(&Choice::all(&pending))[0].1, *file.current());
    assert_eq!(pending.outcome(&Choice::none(&pending))[0].1, file.durable_at(1000));
}
