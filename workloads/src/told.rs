//! What nodes tell each other of their disks, looked at when they tell it.
//!
//! A vote that was given, entries that were taken, a snapshot that was installed: whoever hears of it relies on it, so it
//! has to be on the disk before the reply is sent. The disk is looked at the moment the reply is there; a power loss that
//! would show the same has to come within the few milliseconds before the disk catches up.

use std::cell::RefCell;
use std::collections::BTreeMap;

use aspen::codec;
use aspen::message::{
    AppendReply, AppendRequest, BallotReply, Envelope, Request, Response, SnapshotProgress, SnapshotReply,
    decode_request, decode_response,
};
use aspen::types::{LogId, NodeId, Vote};
use sim_runtime::disk::Disk;
use sim_runtime::engine::run;
use sim_runtime::world::{self, HostId};

use crate::cluster;
use crate::event::{Event, Told};

thread_local! {
    static WATCH: RefCell<Watch> = RefCell::default();
}

#[derive(Default)]
struct Watch {
    /// Which node runs on a host.
    nodes: BTreeMap<HostId, NodeId>,
    /// The last entry of each snapshot that was announced, by its checksum.
    snapshots: BTreeMap<[u8; 32], Option<LogId>>,
    /// Appends that were confirmed so far, and looks at disks because of one.
    appends: u64,
    append_looks: u32,
    /// Looks for any other reason.
    other_looks: u32,
}

/// A new run begins.
pub fn reset() {
    WATCH.set(Watch::default());
}

/// What this node tells from now on is looked at.
pub fn watch(host: HostId, node: NodeId) {
    WATCH.with_borrow_mut(|watch| watch.nodes.insert(host, node));
}

/// The node that runs here is about to send `reply`, its answer to `request`.
pub fn replies(request: &[u8], reply: &[u8]) {
    let here = world::current();
    let Some(node) = WATCH.with_borrow(|watch| watch.nodes.get(&here.host).copied()) else { return };
    // Those of nodes are short, and those of clients need not be decoded.
    if reply.len() > REPLY_BYTES_MAX {
        return;
    }
    let Ok(reply) = decode_response(reply, REPLY_BYTES_MAX) else { return };
    // Nor need the chunks of snapshots.
    if matches!(reply, Response::Snapshot(_)) && request.len() > CALL_BYTES_MAX {
        return;
    }
    if !WATCH.with_borrow_mut(|watch| watch.is_due(&reply)) {
        return;
    }
    let Ok(Envelope { request, .. }) = decode_request(request, usize::MAX) else { return };
    let Some(told) = WATCH.with_borrow_mut(|watch| watch.told(&request, &reply)) else { return };
    let disk = Disk::of(here.host);
    let log = cluster::log_image_of(&disk);
    let has_it = match &told {
        Told::Vote(_) => true,
        Told::Entries { last, .. } => log.holds(*last),
        Told::Snapshot { .. } => false,
    };
    // What the log lacks, of this or of what it calls committed, a snapshot may stand for.
    let is_whole = has_it && log.committed.map(|id| id.index) <= log.log_end();
    let image = if is_whole { log } else { cluster::image_of(&disk) };
    run::emit(here.host, here.boot, Event::Told { node, told, image: Box::new(image) });
}

impl Watch {
    /// Whether the disk should be looked at because of this reply, if its request is of the right kind.
    fn is_due(&mut self, reply: &Response) -> bool {
        match reply {
            Response::Append(AppendReply::Success) => {
                self.appends += 1;
                let due = self.append_looks < APPEND_LOOKS_MAX
                    && world::entity(&[self.appends]).is_multiple_of(APPEND_LOOK_ONE_IN);
                self.append_looks += u32::from(due);
                due
            }
            Response::Ballot(BallotReply { granted: true, .. }) => true,
            Response::Snapshot(_) => true,
            _ => false,
        }
    }

    fn told(&mut self, request: &Request, reply: &Response) -> Option<Told> {
        let told = match (request, reply) {
            (Request::Append(append), _) => return entries_of(append),
            (Request::Vote(ballot), _) => Told::Vote(Vote::from(ballot.vote)),
            (Request::SnapshotBegin(begin), _) => {
                let meta = codec::decode_snapshot_meta(&begin.meta).ok()?;
                self.snapshots.insert(begin.checksum, meta.last_log_id);
                return None;
            }
            (
                Request::SnapshotFinish(finish),
                Response::Snapshot(SnapshotReply { progress: SnapshotProgress::Installed, .. }),
            ) => {
                let last = self.snapshots.get(&finish.checksum).copied().flatten()?;
                Told::Snapshot { vote: Vote::from(finish.vote), last }
            }
            _ => return None,
        };
        let due = self.other_looks < OTHER_LOOKS_MAX;
        self.other_looks += u32::from(due);
        due.then_some(told)
    }
}

/// All entries of the request are durable, and so is what they follow.
fn entries_of(append: &AppendRequest) -> Option<Told> {
    let encoded = append.entries.unpack().ok()?;
    let last = match encoded.last() {
        Some(last) => codec::decode_entry(last).ok()?.log_id,
        None => append.prev?.into(),
    };
    Some(Told::Entries { vote: Vote::from(append.vote), last })
}

/// A longer reply is a client's.
const REPLY_BYTES_MAX: usize = 128;
/// A longer call about a snapshot carries a part of it.
const CALL_BYTES_MAX: usize = 4096;
/// Confirmed appends per run because of which a disk is looked at, and one in how many.
const APPEND_LOOKS_MAX: u32 = 24;
const APPEND_LOOK_ONE_IN: u64 = 41;
/// Votes and snapshots per run.
const OTHER_LOOKS_MAX: u32 = 24;
