//! The digest of everything that happened, and the part of it that is kept for people.
//!
//! Every event folds into a rolling 128-bit digest: class, time, host, fields, and a hash of the bytes involved. Two runs
//! are the same run if and only if their digests agree at every checkpoint. Events are kept raw (numbers and static
//! names) in a ring of the last ones and in a window asked for beforehand; rendering happens when somebody reads.
//!
//! Each event remembers its cause: the event that woke the task, sent the message or armed the timer.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{HostId, Nanos, hash, state};
use crate::engine::record::{Checkpoint, TraceEvent};

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Class {
    Poll,
    Timer,
    Spawn,
    Hold,
    Action,
    Send,
    Deliver,
    Drop,
    Refused,
    Section,
    DiskRead,
    DiskWrite,
    DiskSync,
    DiskName,
    DiskFault,
    PowerLoss,
    Boot,
    Exit,
    Kill,
    Pause,
    Resume,
    Draw,
    Fault,
    Site,
    Client,
    Observe,
    Entropy,
    Clock,
    Panic,
    Link,
}

impl Class {
    /// Every class, in order.
    pub const ALL: [Class; 30] = [
        Class::Poll,
        Class::Timer,
        Class::Spawn,
        Class::Hold,
        Class::Action,
        Class::Send,
        Class::Deliver,
        Class::Drop,
        Class::Refused,
        Class::Section,
        Class::DiskRead,
        Class::DiskWrite,
        Class::DiskSync,
        Class::DiskName,
        Class::DiskFault,
        Class::PowerLoss,
        Class::Boot,
        Class::Exit,
        Class::Kill,
        Class::Pause,
        Class::Resume,
        Class::Draw,
        Class::Fault,
        Class::Site,
        Class::Client,
        Class::Observe,
        Class::Entropy,
        Class::Clock,
        Class::Panic,
        Class::Link,
    ];

    /// Kebab-case name, as in traces.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Poll => "poll",
            Class::Timer => "timer",
            Class::Spawn => "spawn",
            Class::Hold => "hold",
            Class::Action => "action",
            Class::Send => "send",
            Class::Deliver => "deliver",
            Class::Drop => "drop",
            Class::Refused => "refused",
            Class::Section => "section",
            Class::DiskRead => "disk-read",
            Class::DiskWrite => "disk-write",
            Class::DiskSync => "disk-sync",
            Class::DiskName => "disk-name",
            Class::DiskFault => "disk-fault",
            Class::PowerLoss => "power-loss",
            Class::Boot => "boot",
            Class::Exit => "exit",
            Class::Kill => "kill",
            Class::Pause => "pause",
            Class::Resume => "resume",
            Class::Draw => "draw",
            Class::Fault => "fault",
            Class::Site => "site",
            Class::Client => "client",
            Class::Observe => "observe",
            Class::Entropy => "entropy",
            Class::Clock => "clock",
            Class::Panic => "panic",
            Class::Link => "link",
        }
    }
}

/// No event: the cause of what nothing caused.
pub(crate) const NO_EVENT: u64 = u64::MAX;

/// Fields of an event kept for people; all of them count for the digest.
const FIELDS_KEPT: usize = 5;
/// Events kept after a violation was marked.
const KEPT_AFTER_VIOLATION: usize = 64;

/// One event as it is recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event<'a> {
    pub class: Class,
    pub at: Nanos,
    pub host: HostId,
    /// A static name for people: the task, the lane. Not part of the digest.
    pub label: &'static str,
    pub cause: u64,
    pub fields: &'a [u64],
    /// Length and hash of the bytes involved.
    pub bytes: (usize, u64),
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    number: u64,
    class: Class,
    at: Nanos,
    host: HostId,
    label: &'static str,
    cause: u64,
    fields: [u64; FIELDS_KEPT],
    field_count: u8,
    bytes: (usize, u64),
}

impl Kept {
    /// No event: fills the ring until there are enough.
    const NONE: Kept = Kept {
        number: NO_EVENT,
        class: Class::Poll,
        at: 0,
        host: HostId::DRIVER,
        label: "",
        cause: NO_EVENT,
        fields: [0; FIELDS_KEPT],
        field_count: 0,
        bytes: (0, 0),
    };

    #[inline(always)]
    fn set(&mut self, number: u64, event: &Event<'_>) {
        self.number = number;
        self.class = event.class;
        self.at = event.at;
        self.host = event.host;
        self.label = event.label;
        self.cause = event.cause;
        for (kept, field) in self.fields.iter_mut().zip(event.fields) {
            *kept = *field;
        }
        // At most FIELDS_KEPT.
        self.field_count = event.fields.len().min(FIELDS_KEPT) as u8;
        self.bytes = event.bytes;
    }
}

/// All 128 bits: of NH (Black et al., UMAC, CRYPTO 1999), which sums such products of keyed pairs, so that a change of one
/// word changes the sum unless its partner equals its key.
#[inline(always)]
fn product(left: u64, right: u64) -> u128 {
    u128::from(left) * u128::from(right)
}

/// Length and hash of some bytes, as an event carries them.
pub(crate) fn hash_bytes(bytes: &[u8]) -> (usize, u64) {
    if bytes.is_empty() { (0, 0) } else { (bytes.len(), xxh3_64(bytes)) }
}

pub(crate) struct Trace {
    events: u64,
    lanes: (u64, u64),
    checkpoint_mask: u64,
    checkpoints: Vec<Checkpoint>,
    /// The last events, each at its number modulo the length, which is a power of two.
    ring: Vec<Kept>,
    window: (u64, u64),
    windowed: Vec<Kept>,
    /// What surrounded the first violation.
    violation: Vec<Kept>,
    after_violation: usize,
    /// Whether events are kept outside the ring at all.
    keeps_more: bool,
    all_notes: bool,
    notes: BTreeMap<u64, String>,
    note_order: VecDeque<u64>,
}

impl Trace {
    pub fn new(checkpoint_every_log2: u8, window: Option<(u64, u64)>, ring_size: usize, all_notes: bool) -> Trace {
        Trace {
            events: 0,
            lanes: (hash::K0, hash::K1),
            checkpoint_mask: (1u64 << checkpoint_every_log2.min(63)) - 1,
            checkpoints: Vec::new(),
            ring: vec![Kept::NONE; ring_size.next_power_of_two()],
            window: window.unwrap_or((0, 0)),
            windowed: Vec::new(),
            violation: Vec::new(),
            after_violation: 0,
            keeps_more: window.is_some(),
            all_notes,
            notes: BTreeMap::new(),
            note_order: VecDeque::new(),
        }
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    pub fn digest(&self) -> (u64, u64) {
        self.lanes
    }

    pub fn checkpoints(&self) -> &[Checkpoint] {
        &self.checkpoints
    }

    /// Records one event and returns its number. Inlined, so that the loops over the fields have known lengths.
    #[inline(always)]
    pub fn record(&mut self, event: &Event<'_>) -> u64 {
        let number = self.events;
        let head = event.class as u64 | (event.fields.len() as u64) << 8 | u64::from(event.host.0) << 32;
        // The number of words follows from the head, so that no two events have the same words.
        let mut sum = product(head ^ hash::K0, event.at ^ hash::K1);
        let (pairs, last) = event.fields.as_chunks::<2>();
        let mut key = hash::K2;
        for [left, right] in pairs {
            sum = sum.wrapping_add(product(left ^ key, right ^ key.rotate_left(32)));
            key = key.wrapping_add(hash::K3);
        }
        if let [last] = last {
            sum = sum.wrapping_add(product(last ^ key, !key));
        }
        if event.bytes.0 > 0 {
            sum = sum.wrapping_add(product(event.bytes.1 ^ hash::K3, event.bytes.0 as u64 ^ hash::K2.rotate_left(17)));
        }
        self.absorb(sum as u64, (sum >> 64) as u64);
        self.events += 1;
        if self.events & self.checkpoint_mask == 0 {
            self.checkpoints.push(Checkpoint { events: self.events, digest: self.lanes });
        }
        // The length is a power of two, at least 1.
        let slot = number as usize & (self.ring.len() - 1);
        if let Some(slot) = self.ring.get_mut(slot) {
            slot.set(number, event);
        }
        if self.keeps_more {
            self.keep_more(number, slot);
        }
        number
    }

    /// Both words go into both lanes, with different partners; the sums keep a lane from being caught in zero.
    #[inline]
    fn absorb(&mut self, left: u64, right: u64) {
        let (first, second) = self.lanes;
        self.lanes = (
            hash::fold(first ^ left, hash::K2 ^ right).wrapping_add(second.rotate_left(23)),
            hash::fold(second ^ right, hash::K3 ^ left).wrapping_add(first),
        );
    }

    fn is_windowed(&self, number: u64) -> bool {
        self.window.0 <= number && number < self.window.1
    }

    /// Keeps the event in this place of the ring beyond it.
    #[cold]
    fn keep_more(&mut self, number: u64, slot: usize) {
        let Some(&kept) = self.ring.get(slot) else { return };
        if self.is_windowed(number) {
            self.windowed.push(kept);
        }
        if self.after_violation > 0 {
            self.after_violation -= 1;
            self.violation.push(kept);
        }
    }

    /// The last events, oldest first.
    fn recent(&self) -> impl Iterator<Item = &Kept> {
        let oldest = self.events as usize & (self.ring.len() - 1);
        let (newer, older) = self.ring.split_at(oldest);
        older.iter().chain(newer).filter(|event| event.number != NO_EVENT)
    }

    /// Attaches a text to the last event, if that event is kept with its notes.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        let Some(number) = self.events.checked_sub(1) else { return };
        let windowed = self.is_windowed(number);
        if !windowed && !self.all_notes && self.after_violation == 0 {
            return;
        }
        let text = text();
        let note = self.notes.entry(number).or_default();
        if !note.is_empty() {
            note.push_str("; ");
        }
        note.push_str(&text);
        if !windowed && self.note_order.back() != Some(&number) {
            self.note_order.push_back(number);
            let kept = self.ring.len() + KEPT_AFTER_VIOLATION;
            if self.note_order.len() > kept && self.violation.is_empty() {
                let oldest = self.note_order.pop_front().unwrap_or(number);
                self.notes.remove(&oldest);
            }
        }
    }

    /// Keeps what led here and what follows. Only the first call counts.
    pub fn mark_violation(&mut self) {
        if self.violation.is_empty() {
            self.violation = self.recent().copied().collect();
            self.after_violation = KEPT_AFTER_VIOLATION;
            self.keeps_more = true;
        }
    }

    /// Everything kept, in order, once.
    pub fn render(&self, host_name: impl Fn(HostId) -> String) -> Vec<TraceEvent> {
        let mut kept: Vec<&Kept> = self.violation.iter().chain(&self.windowed).chain(self.recent()).collect();
        kept.sort_by_key(|event| event.number);
        kept.dedup_by_key(|event| event.number);
        kept.into_iter()
            .map(|event| TraceEvent {
                number: event.number,
                at_ns: event.at,
                node: if event.host == HostId::DRIVER { String::new() } else { host_name(event.host) },
                class: event.class.name().to_owned(),
                text: self.text(event),
                cause: (event.cause != NO_EVENT).then_some(event.cause),
            })
            .collect()
    }

    fn text(&self, event: &Kept) -> String {
        let mut parts = Vec::new();
        if !event.label.is_empty() {
            parts.push(event.label.to_owned());
        }
        let fields: Vec<String> = event.fields[..usize::from(event.field_count)].iter().map(field_text).collect();
        if !fields.is_empty() {
            parts.push(fields.join(" "));
        }
        if event.bytes.0 > 0 {
            parts.push(format!("{} bytes #{:016x}", event.bytes.0, event.bytes.1));
        }
        if let Some(note) = self.notes.get(&event.number) {
            parts.push(note.clone());
        }
        parts.join(" ")
    }
}

/// Small numbers are counts and ids, large ones are hashes.
fn field_text(field: &u64) -> String {
    if *field < 1 << 48 { field.to_string() } else { format!("#{field:016x}") }
}

/// Folds one event into the digest and returns its number: class, time, current host, fields, and length and hash of
/// the bytes. Ignored (and 0) outside a world and for a dead incarnation.
pub fn record(class: Class, fields: &[u64], bytes: &[u8]) -> u64 {
    state::try_with(|world| if world.is_mute() { 0 } else { world.record_slice(class, fields, hash_bytes(bytes)) })
        .unwrap_or(0)
}

/// Attaches a text to the last event when that event is being kept with its notes; otherwise the text is not rendered.
pub fn note(text: impl FnOnce() -> String) {
    state::try_with(|world| {
        if !world.is_mute() {
            world.trace.borrow_mut().note(text);
        }
    });
}

/// Keeps the events that led here and those that follow, however long the run goes on. Only the first call counts.
pub fn mark_violation() {
    state::try_with(|world| world.trace.borrow_mut().mark_violation());
}

/// Number of the event being processed: the poll, timer, delivery or action that everything now done is caused by.
pub fn current_event() -> Option<u64> {
    state::try_with(|world| world.cause.get()).filter(|&event| event != NO_EVENT)
}
