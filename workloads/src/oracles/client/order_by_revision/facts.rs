//! What replies say about keys, by revision.

use std::collections::{BTreeMap, BTreeSet};

use aspen::command::{Answer, Command, Compare, Expect, KeyMeta, KeyValue, Outcome, Query, Reply, TxnOp, TxnResult};

use super::super::{Fate, Write, Writers, branch_effects, effects, fate, happened, shown, transacted};
use super::{Misfit, ended};
use crate::event::Action;

/// Everything that is said, per key.
#[derive(Debug, Default)]
pub(super) struct Facts<'a> {
    pub keys: BTreeMap<&'a [u8], Key<'a>>,
    /// Scans that stopped at their limit.
    pub stopped: Vec<Stopped<'a>>,
    pub misfits: Vec<Misfit>,
}

/// A scan that was told that there are more rows.
#[derive(Debug)]
pub(super) struct Stopped<'a> {
    pub by: &'a Write,
    pub revision: u64,
    /// The last key that was returned.
    pub last: &'a [u8],
    pub end: Option<&'a [u8]>,
}

/// What is said about one key.
#[derive(Debug, Default)]
pub(super) struct Key<'a> {
    /// Modifications that did happen, by revision.
    pub modified: BTreeMap<u64, Modified<'a>>,
    /// Removals that did happen, with the operation.
    pub removed: BTreeMap<u64, &'a Write>,
    /// What was seen, by revision.
    pub seen: Vec<Seen<'a>>,
    /// What transactions compared with it, and whether all their comparisons held.
    pub compared: Vec<Compared<'a>>,
    pub unknown: Unknown<'a>,
}

/// Writes of a key that may have happened, without a known revision; each with the revision it must be after.
#[derive(Debug, Default)]
pub(super) struct Unknown<'a> {
    pub modifying: Vec<(Option<u64>, &'a Write)>,
    pub removing: Vec<(Option<u64>, &'a Write)>,
}

/// A modification of a key.
#[derive(Clone, Debug, Default)]
pub(super) struct Modified<'a> {
    /// `None`: only the revision is known, from what others tell.
    pub by: Option<&'a Write>,
    pub value: Option<&'a [u8]>,
    pub version: Option<u64>,
    pub create_revision: Option<u64>,
    /// The operation that tells of it first; for people.
    pub teller: Option<&'a Write>,
    /// Who wrote the value that a compare expected and found.
    pub expected: Option<Expected<'a>>,
}

/// What a compare found right before it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expected<'a> {
    Absent,
    Value(&'a [u8]),
    ModRevision(u64),
}

/// What a transaction compared with the state before its revision.
#[derive(Clone, Copy, Debug)]
pub(super) struct Compared<'a> {
    pub revision: u64,
    pub expected: Expected<'a>,
    /// All comparisons held. If not, one at least did not: which one is not known.
    pub held: bool,
    pub by: &'a Write,
    /// Comparisons of the transaction.
    pub of: usize,
}

/// What an operation saw of a key.
#[derive(Clone, Debug)]
pub(super) struct Seen<'a> {
    /// The state after all writes up to this revision.
    pub revision: u64,
    pub meta: Option<KeyMeta>,
    pub by: &'a Write,
    /// The operation expected this and was told that it is not so.
    pub refuted: Option<Expected<'a>>,
}

impl<'a> Facts<'a> {
    pub fn new(operations: &'a [Write], writers: &Writers<'a>, floors: &[Option<u64>]) -> Facts<'a> {
        let mut facts = Facts::default();
        let universe: BTreeSet<&[u8]> = operations.iter().flat_map(changes).map(|(key, _)| key).collect();
        let mut owners = Owners::default();
        for operation in operations {
            if let (Action::Write { command, .. }, Fate::Acknowledged(reply)) = (&*operation.input, fate(operation)) {
                facts.own(&mut owners, reply.revision, operation);
                facts.acknowledged(operation, command, reply);
            }
        }
        let known = Known { operations, writers, floors };
        for reader in operations {
            if let (Action::Read(query) | Action::StaleRead { query, .. }, Fate::Answered(answer)) =
                (&*reader.input, fate(reader))
            {
                for row in &answer.rows {
                    facts.place(reader, row, known, &mut owners);
                }
                facts.answered(reader, query, answer, &universe);
            }
            for (_, result) in transacted(reader) {
                if let TxnResult::Got { row: Some(row) } = result {
                    facts.place(reader, row, known, &mut owners);
                }
            }
        }
        for (place, operation) in operations.iter().enumerate() {
            if matches!(fate(operation), Fate::Unknown) && !owners.placed.contains_key(&place) {
                for (key, value) in changes(operation) {
                    let unknown = &mut facts.keys.entry(key).or_default().unknown;
                    let list = if value.is_some() { &mut unknown.modifying } else { &mut unknown.removing };
                    // Both branches of a transaction may change the key; one of them runs.
                    if list.last().is_none_or(|(_, last)| last.id != operation.id) {
                        list.push((floors[place], operation));
                    }
                }
            }
        }
        facts.check_owners(&owners);
        facts
    }

    fn misfit(&mut self, by: &Write, message: String) {
        self.misfits.push(Misfit { at_ns: ended(by), message });
    }

    /// A revision is the place of one operation.
    fn own(&mut self, owners: &mut Owners<'a>, revision: u64, operation: &'a Write) {
        let owner = owners.of.entry(revision).or_insert(operation);
        if owner.id != operation.id {
            let message = format!("operations {} and {} both have revision {revision}", owner.id, operation.id);
            self.misfit(operation, message);
        }
    }

    /// A key can only be modified at the revision of an operation that modifies it.
    fn check_owners(&mut self, owners: &Owners<'a>) {
        let mut wrong = Vec::new();
        for (key, facts) in &self.keys {
            for (revision, modified) in &facts.modified {
                let (Some(owner), Some(teller)) = (owners.of.get(revision), modified.teller) else { continue };
                if modified.by.is_none() && !happened(owner).iter().any(|(changed, _)| *changed == *key) {
                    let message = format!(
                        "operation {} tells that key {} was modified at revision {revision}, but that is operation {}, \
                         which does not",
                        teller.id,
                        shown(key),
                        owner.id
                    );
                    wrong.push((teller, message));
                }
            }
        }
        wrong.into_iter().for_each(|(teller, message)| self.misfit(teller, message));
    }

    fn acknowledged(&mut self, operation: &'a Write, command: &'a Command, reply: &'a Reply) {
        match &reply.outcome {
            Outcome::Written { version } => {
                let first = match command {
                    Command::SetMulti { pairs } => pairs.first().map(|pair| pair.key.as_slice()),
                    _ => effects(command).first().map(|(key, _)| *key),
                };
                let expected = match command {
                    Command::CompareAndSwap { expect, .. } => Some(expectation(expect)),
                    _ => None,
                };
                for (key, value) in effects(command) {
                    let modified = Modified {
                        by: Some(operation),
                        value,
                        version: (first == Some(key)).then_some(*version),
                        create_revision: None,
                        teller: Some(operation),
                        expected,
                    };
                    self.modified(key, reply.revision, modified, operation);
                    if let Some(Expected::ModRevision(before)) = expected {
                        self.modified(key, before, Modified::default(), operation);
                    }
                }
            }
            Outcome::Deleted { existed } => {
                for (key, _) in effects(command) {
                    if *existed {
                        self.keys.entry(key).or_default().removed.insert(reply.revision, operation);
                    } else {
                        self.saw(key, operation, reply.revision, None, None);
                    }
                }
            }
            Outcome::NotMatched { found } => {
                if let Command::CompareAndSwap { key, expect, .. } = command {
                    self.saw(key, operation, reply.revision, *found, Some(expectation(expect)));
                }
            }
            Outcome::Transacted { matched, .. } => self.transacted(operation, command, reply.revision, *matched),
            _ => {}
        }
    }

    fn transacted(&mut self, operation: &'a Write, command: &'a Command, revision: u64, matched: bool) {
        self.compared(operation, command, revision, matched, operation);
        let mut changed: BTreeSet<&[u8]> = BTreeSet::new();
        for (op, result) in transacted(operation) {
            // A get that comes before the change sees the state before the transaction.
            let sees = if changed.contains(op.key()) { revision } else { revision.saturating_sub(1) };
            match (op, result) {
                (TxnOp::Set { key, value }, TxnResult::Written { version }) => {
                    let modified = Modified {
                        by: Some(operation),
                        value: Some(value),
                        version: Some(*version),
                        teller: Some(operation),
                        ..Modified::default()
                    };
                    self.modified(key, revision, modified, operation);
                    changed.insert(key);
                }
                (TxnOp::Delete { key }, TxnResult::Deleted { existed: true }) => {
                    self.keys.entry(key).or_default().removed.insert(revision, operation);
                    changed.insert(key);
                }
                (TxnOp::Delete { key }, TxnResult::Deleted { existed: false }) => {
                    self.saw(key, operation, sees, None, None);
                }
                (TxnOp::Get { key }, TxnResult::Got { row }) => {
                    self.saw(key, operation, sees, row.as_ref().map(|row| row.meta), None);
                }
                (TxnOp::Get { key }, TxnResult::Omitted { meta }) => self.saw(key, operation, sees, Some(*meta), None),
                // The reply does not fit the command: another oracle's matter.
                _ => {}
            }
        }
    }

    /// Notes the comparisons of a transaction that took effect at `revision`.
    fn compared(&mut self, by: &'a Write, command: &'a Command, revision: u64, held: bool, teller: &'a Write) {
        let Command::Transaction { compare, .. } = command else { return };
        for Compare { key, expect } in compare {
            let expected = expectation(expect);
            let compared = Compared { revision, expected, held, by, of: compare.len() };
            self.keys.entry(key).or_default().compared.push(compared);
            if let (true, Expected::ModRevision(before)) = (held, expected) {
                self.modified(key, before, Modified::default(), teller);
            }
        }
    }

    /// A row tells which operation wrote it, and where in the order.
    fn place(&mut self, reader: &'a Write, row: &'a KeyValue, known: Known<'a, '_>, owners: &mut Owners<'a>) {
        let Known { operations, writers, floors } = known;
        let revision = row.meta.mod_revision;
        let what = format!("operation {} saw {} under {}", reader.id, shown(&row.value), shown(&row.key));
        let writer = match writers.of(&row.key, &row.value) {
            Err(_) => return self.misfit(reader, format!("{what}, which nobody wrote")),
            Ok(None) => return,
            Ok(Some(writer)) => writer,
        };
        let operation = &operations[writer];
        match fate(operation) {
            Fate::Failed => self.misfit(reader, format!("{what}, but operation {} failed for good", operation.id)),
            Fate::Acknowledged(reply) => {
                let wrote = matches!(reply.outcome, Outcome::Written { .. } | Outcome::Transacted { .. })
                    && happened(operation).contains(&(row.key.as_slice(), Some(row.value.as_slice())));
                if !wrote || reply.revision != revision {
                    let message = format!(
                        "{what} of revision {revision}, but operation {} was told {:?} at revision {}",
                        operation.id, reply.outcome, reply.revision
                    );
                    self.misfit(reader, message);
                }
            }
            Fate::Unknown | Fate::Answered(_) => {
                let before = *owners.placed.entry(writer).or_insert(revision);
                if before != revision {
                    let message = format!(
                        "{what} of revision {revision}, but operation {} took effect at revision {before}",
                        operation.id
                    );
                    return self.misfit(reader, message);
                }
                if floors[writer] >= Some(revision) {
                    let message = format!(
                        "{what} of revision {revision}, but operation {} began when revision {:?} had been told",
                        operation.id, floors[writer]
                    );
                    self.misfit(reader, message);
                }
                self.own(owners, revision, operation);
                let expected = match &*operation.input {
                    Action::Write { command: Command::CompareAndSwap { expect, .. }, .. } => Some(expectation(expect)),
                    _ => None,
                };
                let mut changed: Vec<_> = changes(operation).collect();
                if let Action::Write { command: command @ Command::Transaction { then, otherwise, .. }, .. } =
                    &*operation.input
                {
                    // Every value is written once: this one tells which branch ran.
                    let written = (row.key.as_slice(), Some(row.value.as_slice()));
                    let matched = branch_effects(then).contains(&written);
                    changed = branch_effects(if matched { then } else { otherwise });
                    if owners.compared.insert(writer) {
                        self.compared(operation, command, revision, matched, reader);
                        // What it removes is gone after it; whether it was there before is not known.
                        for (key, _) in changed.iter().filter(|(_, value)| value.is_none()) {
                            let removing = &mut self.keys.entry(key).or_default().unknown.removing;
                            removing.push((floors[writer], operation));
                            self.saw(key, reader, revision, None, None);
                        }
                    }
                    changed.retain(|(_, value)| value.is_some());
                }
                for (key, value) in changed {
                    let modified =
                        Modified { by: Some(operation), value, teller: Some(reader), expected, ..Modified::default() };
                    self.modified(key, revision, modified, reader);
                    if let Some(Expected::ModRevision(before)) = expected {
                        self.modified(key, before, Modified::default(), reader);
                    }
                }
            }
        }
    }

    fn answered(&mut self, reader: &'a Write, query: &'a Query, answer: &'a Answer, universe: &BTreeSet<&'a [u8]>) {
        let rows: BTreeMap<&[u8], &KeyValue> = answer.rows.iter().map(|row| (row.key.as_slice(), row)).collect();
        let shape = match query {
            Query::Get { key } => {
                let shape = answer.rows.len() <= 1 && answer.rows.iter().all(|row| row.key == *key) && !answer.more;
                let row = rows.get(key.as_slice());
                self.saw(key, reader, answer.revision, row.map(|row| row.meta), None);
                shape
            }
            Query::Scan { start, end, limit } => {
                let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
                let inside =
                    |key: &[u8]| key >= start.as_slice() && end.as_ref().is_none_or(|end| key < end.as_slice());
                let shape = answer.rows.windows(2).all(|pair| pair[0].key < pair[1].key)
                    && answer.rows.iter().all(|row| inside(&row.key))
                    && answer.rows.len() <= limit
                    // A scan may stop early, at a bound of bytes, but not before its first row.
                    && (!answer.more || !answer.rows.is_empty());
                let last = answer.rows.last().filter(|_| answer.more).map(|row| row.key.as_slice());
                if let Some(last) = last {
                    let end = end.as_ref().map(|end| end.as_slice());
                    self.stopped.push(Stopped { by: reader, revision: answer.revision, last, end });
                }
                let in_range = universe.range(start.as_slice()..).filter(|key| inside(key));
                for key in in_range.filter(|key| last.is_none_or(|last| **key <= last)) {
                    let row = rows.get(key);
                    self.saw(key, reader, answer.revision, row.map(|row| row.meta), None);
                }
                shape
            }
        };
        if !shape {
            let keys: Vec<String> = answer.rows.iter().map(|row| shown(&row.key)).collect();
            let message =
                format!("operation {}: {query:?} was answered with rows {keys:?}, more: {}", reader.id, answer.more);
            self.misfit(reader, message);
        }
    }

    fn saw(
        &mut self,
        key: &'a [u8],
        by: &'a Write,
        revision: u64,
        meta: Option<KeyMeta>,
        refuted: Option<Expected<'a>>,
    ) {
        if let Some(meta) = meta {
            let sane = meta.create_revision <= meta.mod_revision
                && meta.mod_revision <= revision
                && meta.version >= 1
                && (meta.version == 1) == (meta.create_revision == meta.mod_revision)
                && meta.version - 1 <= meta.mod_revision - meta.create_revision;
            if !sane {
                let message = format!(
                    "operation {} at revision {revision} saw {meta:?} of key {}, which cannot be",
                    by.id,
                    shown(key)
                );
                return self.misfit(by, message);
            }
            let modified = Modified {
                version: Some(meta.version),
                create_revision: Some(meta.create_revision),
                teller: Some(by),
                ..Modified::default()
            };
            self.modified(key, meta.mod_revision, modified, by);
            let created = Modified {
                version: Some(1),
                create_revision: Some(meta.create_revision),
                teller: Some(by),
                ..Modified::default()
            };
            self.modified(key, meta.create_revision, created, by);
        }
        self.keys.entry(key).or_default().seen.push(Seen { revision, meta, by, refuted });
    }

    /// Adds what is known about one modification; what was known before must agree.
    fn modified(&mut self, key: &'a [u8], revision: u64, new: Modified<'a>, teller: &'a Write) {
        let facts = self.keys.entry(key).or_default();
        let known = facts.modified.entry(revision).or_default();
        let versions = (known.version, new.version);
        let creations = (known.create_revision, new.create_revision);
        known.by = known.by.or(new.by);
        known.value = known.value.or(new.value);
        known.version = known.version.or(new.version);
        known.create_revision = known.create_revision.or(new.create_revision);
        known.expected = known.expected.or(new.expected);
        known.teller = known.teller.or(Some(teller));
        let differ = |(was, is): (Option<u64>, Option<u64>)| was.is_some() && is.is_some() && was != is;
        for (what, pair) in [("version", versions), ("create revision", creations)] {
            if differ(pair) {
                let message = format!(
                    "the {what} of key {} at revision {revision} is {:?} (operation {} tells), but {:?} was told before",
                    shown(key),
                    pair.1,
                    teller.id,
                    pair.0
                );
                self.misfits.push(Misfit { at_ns: ended(teller), message });
            }
        }
    }
}

/// The operations, who wrote which value, and after which revision each operation has its place.
#[derive(Clone, Copy)]
struct Known<'a, 'w> {
    operations: &'a [Write],
    writers: &'w Writers<'a>,
    floors: &'w [Option<u64>],
}

/// Which operation has which revision.
#[derive(Debug, Default)]
struct Owners<'a> {
    of: BTreeMap<u64, &'a Write>,
    /// Unknown operations, by place, whose value was seen: the revision under which it was.
    placed: BTreeMap<usize, u64>,
    /// Those of them that are transactions whose comparisons are noted.
    compared: BTreeSet<usize>,
}

fn expectation(expect: &Expect) -> Expected<'_> {
    match expect {
        Expect::Absent => Expected::Absent,
        Expect::Value(value) => Expected::Value(value),
        Expect::ModRevision(revision) => Expected::ModRevision(*revision),
    }
}

/// What an operation would do to keys.
fn changes(operation: &Write) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    let effects = match &*operation.input {
        Action::Write { command, .. } => effects(command),
        Action::Read(_) | Action::StaleRead { .. } => Vec::new(),
    };
    effects.into_iter()
}
