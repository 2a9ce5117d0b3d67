//! Each kind of damage is named, and the rest of the image is still there.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use aspen::observe::Observation;
use aspen::store::StoreConfig;
use sim_runtime::disk::{Disk, Image, OpenMode};
use sim_runtime::world;

use super::super::{Files, decode};
use super::life::{Bench, DIR, files_of, in_world};
use crate::event::DurableImage;

const WAL: &str = "/data/state-1.db-wal";

impl Files for BTreeMap<PathBuf, Vec<u8>> {
    fn read(&self, path: &Path) -> Option<Image> {
        self.get(path).map(|bytes| Image::from_bytes(bytes))
    }

    fn list(&self, dir: &Path) -> Vec<String> {
        let names = self.keys().filter_map(|path| path.strip_prefix(dir).ok()?.to_str());
        names.map(str::to_owned).collect()
    }
}

/// A data directory and what the stores said of it.
struct Node {
    files: BTreeMap<PathBuf, Vec<u8>>,
    observed: Vec<Observation>,
}

impl Node {
    /// A node with entries, rows, sessions and a snapshot. Cleanly stopped, or, with `wal`, running, and every commit since
    /// its first start is in the write-ahead log only.
    fn new(wal: bool) -> Node {
        in_world(3, |host, seen| async move {
            let ready = Rc::new(Cell::new(false));
            let done = Rc::clone(&ready);
            world::boot(host, move || async move {
                // The mark of what is committed is looked at too.
                let config = StoreConfig { committed_lag_entries_max: 1, ..StoreConfig::default() };
                let mut bench = Bench::open(&config, 3).await;
                bench.vote().await;
                bench.append(60).await;
                bench.apply().await;
                bench.snapshot().await;
                bench.append(60).await;
                bench.apply().await;
                if wal {
                    // As a kernel does now and then: what was written is on disk, although nobody asked.
                    Disk::current().open(WAL, OpenMode::EXISTING).unwrap().sync().unwrap();
                } else {
                    bench.stores.log.close().await.unwrap();
                    bench.stores.reader.close().await.unwrap();
                    Disk::current().sync_dir(DIR).unwrap();
                }
                done.set(true);
                world::sleep(Duration::from_secs(3600)).await;
                drop(bench);
            });
            while !ready.get() {
                world::sleep(Duration::from_millis(1)).await;
            }
            let observed = seen.borrow().clone();
            let mut node = Node { files: files_of(host), observed };
            let frames = node.files.get(Path::new(WAL)).is_some_and(|bytes| !bytes.is_empty());
            assert!(frames || !wal);
            if !wal {
                // A node that stopped in order has copied its log into the database, which stands alone.
                node.files.remove(Path::new(WAL));
            }
            node
        })
    }

    fn image(&self) -> DurableImage {
        decode(&self.files, Path::new(DIR))
    }

    fn file(&mut self, name: &str) -> &mut Vec<u8> {
        self.files.get_mut(&Path::new(DIR).join(name)).unwrap()
    }

    fn snapshot_name(&self) -> String {
        let mut names = self.files.list(Path::new(DIR));
        names.retain(|name| name.starts_with("snapshot-"));
        let [name] = <[String; 1]>::try_from(names).unwrap();
        name
    }

    /// The state hash after the entry with this index.
    fn hash_at(&self, applied: u64) -> u64 {
        let hash = self.observed.iter().find_map(|observation| match observation {
            Observation::Applied { log_id, state_hash } if log_id.index == applied => Some(*state_hash),
            _ => None,
        });
        hash.unwrap()
    }

    /// The defects, each of which names the file.
    fn defects(&self, file: &str) -> Vec<String> {
        let defects = self.image().defects;
        assert!(!defects.is_empty(), "nothing was found");
        assert!(defects.iter().all(|defect| defect.contains(file)), "{defects:?}");
        defects
    }
}

fn position(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes.windows(wanted.len()).position(|window| window == wanted).unwrap()
}

#[test]
fn an_undamaged_node_has_no_defects() {
    for wal in [false, true] {
        let node = Node::new(wal);
        let image = node.image();
        assert_eq!(image.defects, [""; 0]);
        assert_eq!((image.log.len(), image.applied.unwrap().index, image.snapshot.unwrap().index), (120, 119, 59));
        assert_eq!(image.state_hash, Some(node.hash_at(119)));
        assert!(image.vote.is_some() && image.committed.is_some() && image.purged.is_none());
    }
}

#[test]
fn a_flipped_byte_in_an_entry_is_named() {
    let mut node = Node::new(false);
    let whole = node.image();
    // Version, term, index: how entry 77 begins.
    let id = whole.log[&77].log_id;
    let begin = [&[1][..], &id.leader_id.term.to_le_bytes(), &77_u64.to_le_bytes()].concat();
    let log = node.file("log.redb");
    let at = position(log, &begin) + begin.len() + 1;
    log[at] ^= 0x10;
    let defects = node.defects("log.redb");
    assert!(defects.len() == 1 && defects[0].contains("entry 77: its checksum"), "{defects:?}");
    let image = node.image();
    assert_eq!((image.log.len(), image.vote, image.state_hash), (119, whole.vote, whole.state_hash));
}

#[test]
fn a_log_that_redb_refuses_is_a_defect() {
    let mut node = Node::new(false);
    node.file("log.redb")[..64].fill(7);
    assert!(node.defects("log.redb")[0].contains("redb"));
    node.file("log.redb").clear();
    assert!(node.defects("log.redb")[0].contains("empty"));
    node.files.remove(Path::new("/data/log.redb"));
    assert!(node.defects("log.redb")[0].contains("there is a state, but no"));
    assert!(node.image().state_hash.is_some(), "the rest still decodes");
}

#[test]
fn random_damage_to_the_log_never_ends_the_run() {
    let node = Node::new(false);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let pages = node.files[Path::new("/data/log.redb")].len() / 512;
    for at in (0..pages).step_by(7) {
        let mut node = Node { files: node.files.clone(), observed: Vec::new() };
        node.file("log.redb")[at * 512..(at + 1) * 512].fill(0xa5);
        let image = node.image();
        assert!(image.log.len() <= 120);
    }
    std::panic::set_hook(hook);
}

#[test]
fn a_cut_write_ahead_log_is_an_earlier_state() {
    let mut node = Node::new(true);
    let wal = node.file("state-1.db-wal").clone();
    let mut states = Vec::new();
    for frames in 0..=(wal.len() - 32) / 4120 {
        // In the middle of a frame: what does not end with a commit never happened.
        node.file("state-1.db-wal").truncate(32 + frames * 4120 + 1000);
        let image = node.image();
        assert_eq!(image.defects, [""; 0]);
        if let Some(applied) = image.applied {
            assert_eq!(image.state_hash, Some(node.hash_at(applied.index)), "after {frames} frames");
        }
        states.push(image.applied);
        node.file("state-1.db-wal").clone_from(&wal);
    }
    assert!(states.is_sorted() && states[0].is_none() && states.last().unwrap().unwrap().index == 119, "{states:?}");
}

#[test]
fn a_flipped_byte_in_the_write_ahead_log_ends_it() {
    let mut node = Node::new(true);
    let frames = (node.file("state-1.db-wal").len() - 32) / 4120;
    for at in [8, 12, 500] {
        let wal = node.file("state-1.db-wal").clone();
        node.file("state-1.db-wal")[32 + frames / 2 * 4120 + at] ^= 1;
        let image = node.image();
        assert_eq!(image.defects, [""; 0]);
        let applied = image.applied.unwrap().index;
        assert!(applied < 119 && image.state_hash == Some(node.hash_at(applied)));
        node.file("state-1.db-wal").clone_from(&wal);
    }
    node.file("state-1.db-wal")[20] ^= 1;
    assert_eq!(node.image().applied, None, "the header's checksum covers the salts");
}

#[test]
fn a_changed_row_is_named_and_changes_the_hash() {
    let mut node = Node::new(false);
    let whole = node.image();
    let bytes = node.file("state-1.db").clone();
    // Where a key stands in a row, and not in the index or in a place that is free.
    let mut places = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"key 1"));
    places.find(|at| {
        node.file("state-1.db").clone_from(&bytes);
        node.file("state-1.db")[at + 4] ^= 8;
        node.image().defects.iter().any(|defect| defect.contains("the checksum of key 9"))
    });
    let defects = node.defects("state-1.db");
    assert!(defects.iter().any(|defect| defect.contains("the checksum of key")), "{defects:?}");
    assert!(defects.iter().any(|defect| defect.contains("its state hash is")), "{defects:?}");
    assert!(defects.iter().any(|defect| defect.contains("its index by key")), "{defects:?}");
    let image = node.image();
    assert!(image.state_hash.is_some() && image.state_hash != whole.state_hash && image.applied == whole.applied);
}

#[test]
fn damage_to_pages_is_found_wherever_it_is() {
    let node = Node::new(false);
    let database = &node.files[Path::new("/data/state-1.db")];
    for page in 0..database.len() / 4096 {
        let mut node = Node { files: node.files.clone(), observed: Vec::new() };
        node.file("state-1.db")[page * 4096..(page + 1) * 4096].fill(0xee);
        // A page may be free.
        let image = node.image();
        assert!(page > 5 || !image.defects.is_empty(), "page {page}");
    }
    let mut node = Node { files: node.files.clone(), observed: Vec::new() };
    node.file("state-1.db").truncate(4096 * 3);
    node.defects("state-1.db");
}

#[test]
fn a_bad_snapshot_is_named_and_an_older_one_counts() {
    let mut node = Node::new(false);
    let name = node.snapshot_name();
    let bytes = node.file(&name).clone();
    for change in [
        (|bytes: &mut Vec<u8>| bytes[700] ^= 1) as fn(&mut Vec<u8>),
        |bytes| bytes.truncate(bytes.len() - 1),
        |bytes| bytes.clear(),
        |bytes| bytes.push(0),
    ] {
        change(node.file(&name));
        node.defects(&name);
        assert_eq!(node.image().snapshot, None);
        node.file(&name).clone_from(&bytes);
    }
    let newer = "snapshot-00000000000000000100-00000000000000000002.snap";
    node.files.insert(Path::new(DIR).join(newer), bytes);
    assert!(node.defects(newer)[0].contains("belongs under"));
    assert_eq!(node.image().snapshot.unwrap().index, 59);
}

/// The hash at the end says only that the file is as it was written, not that it was written right.
#[test]
fn a_snapshot_that_was_written_wrong_is_found_in_spite_of_its_hash() {
    let mut node = Node::new(false);
    let name = node.snapshot_name();
    let bytes = node.file(&name).clone();
    let mut rewrite = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut content = bytes[..bytes.len() - 32].to_vec();
        change(&mut content);
        let hash = blake3::hash(&content);
        content.extend_from_slice(hash.as_bytes());
        *node.file(&name) = content;
        node.defects(&name).remove(0)
    };
    let row = position(&bytes, b"key ") + 5;
    assert!(rewrite(&|content| content[row] ^= 4).contains("state hash") || bytes[row] == 0);
    // A session row is left out of the count.
    let count = bytes.len() - 32 - 8;
    assert!(rewrite(&|content| content[count] ^= 1).contains("end mark"));
    assert!(rewrite(&|content| content[8] = 2).contains("version"));
    assert!(rewrite(&|content| content[16] ^= 1).contains("state hash"), "the log time");
}

#[test]
fn a_bad_pointer_is_named() {
    let mut node = Node::new(false);
    node.file("state.current")[3] ^= 1;
    assert!(node.defects("state.current")[0].contains("checksum"));
    node.files.remove(Path::new("/data/state.current"));
    assert!(node.defects("state.current").iter().any(|defect| defect.contains("in use")));
    let mut node = Node::new(false);
    node.files.remove(Path::new("/data/state-1.db"));
    assert!(node.defects("state.current")[0].contains("generation 1"));
}
