//! The course of one key, replayed in the order of revisions.
//!
//! Known are some modifications and removals, and what was seen in between. Unknown writes may fill what is missing:
//! each at most once, and only after the revision that had been told when it began. Gaps are filled from the first to
//! the last; what may fill an earlier gap may fill every later one too, so taking any that fits loses nothing.

use std::collections::BTreeMap;

use sim_runtime::engine::Judge;

use super::super::{Write, shown, would_write};
use super::facts::{Compared, Expected, Facts, Key, Modified, Seen};
use super::{Misfit, ended};

pub(super) fn check(facts: &Facts<'_>, misfits: &mut Vec<Misfit>, judge: &mut Judge<'_>) {
    let mut certain: BTreeMap<u64, (Compared<'_>, usize)> = BTreeMap::new();
    for (name, key) in &facts.keys {
        let mut course = Course::new(name, key);
        if let Err((teller, message)) = course.run(judge) {
            let at_ns = teller.map_or(0, ended);
            let by = teller.map_or(String::new(), |teller| format!("operation {}, ", teller.id));
            misfits.push(Misfit { at_ns, message: format!("{by}key {}: {message}", shown(name)) });
        }
        for compared in course.certain {
            certain.entry(compared.by.id).or_insert((compared, 0)).1 += 1;
        }
    }
    for (compared, held) in certain.into_values() {
        judge.evaluated(true);
        if held == compared.of {
            let message = format!(
                "operation {} at revision {} took the branch for a comparison that does not hold, but all held",
                compared.by.id, compared.revision
            );
            misfits.push(Misfit { at_ns: ended(compared.by), message });
        }
    }
    for stopped in &facts.stopped {
        judge.evaluated(true);
        let mut later = facts.keys.range(stopped.last..).skip_while(|(key, _)| **key == stopped.last);
        let in_range = |key: &[u8]| stopped.end.is_none_or(|end| key < end);
        if !later.any(|(key, facts)| in_range(key) && may_exist(facts, stopped.revision)) {
            let message = format!(
                "operation {} was told that there is more after {}, but at revision {} there is not",
                stopped.by.id,
                shown(stopped.last),
                stopped.revision
            );
            misfits.push(Misfit { at_ns: ended(stopped.by), message });
        }
    }
}

/// Whether a key can exist at a revision, as far as its own modifications and removals tell.
fn may_exist(key: &Key<'_>, revision: u64) -> bool {
    let modified = key.modified.range(..=revision).next_back().map(|(at, _)| *at);
    let removed = key.removed.range(..=revision).next_back().map(|(at, _)| *at);
    modified > removed || key.unknown.modifying.iter().any(|(floor, _)| *floor < Some(revision))
}

type Wrong<'a> = (Option<&'a Write>, String);

/// A key as it is after everything up to some revision that is known to have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Now {
    Absent,
    Present {
        mod_revision: u64,
        /// `None`: unknown writes make it uncertain.
        version: Option<u64>,
        create_revision: Option<u64>,
    },
}

struct Course<'k, 'a> {
    name: &'a [u8],
    key: &'k Key<'a>,
    now: Now,
    /// Revision of the last thing known to have happened or to have been seen absent.
    since: u64,
    /// Earliest first: from which revision on each unknown write may have its place.
    may_modify: Vec<u64>,
    may_remove: Vec<u64>,
    used_modifying: usize,
    used_removing: usize,
    /// Values of unknown writes that a compare found: those writes have their place.
    found: Vec<&'a [u8]>,
    /// Comparisons of transactions that took the other branch, which certainly did hold.
    certain: Vec<Compared<'a>>,
}

/// Something known, in the order of the replay.
enum Step<'k, 'a> {
    Modified(u64, &'k Modified<'a>),
    Removed(u64, &'a Write),
    Seen(&'k Seen<'a>),
    Compared(&'k Compared<'a>),
}

impl<'k, 'a> Course<'k, 'a> {
    fn new(name: &'a [u8], key: &'k Key<'a>) -> Course<'k, 'a> {
        let from = |list: &[(Option<u64>, &Write)]| {
            let mut from: Vec<u64> = list.iter().map(|(floor, _)| floor.map_or(0, |floor| floor + 1)).collect();
            from.sort_unstable();
            from
        };
        Course {
            name,
            key,
            now: Now::Absent,
            since: 0,
            may_modify: from(&key.unknown.modifying),
            may_remove: from(&key.unknown.removing),
            used_modifying: 0,
            used_removing: 0,
            found: Vec::new(),
            certain: Vec::new(),
        }
    }

    fn run(&mut self, judge: &mut Judge<'_>) -> Result<(), Wrong<'a>> {
        // At one revision: what was compared before it, what happened, then what was seen after it.
        let mut steps: Vec<(u64, u8, Step<'k, 'a>)> = Vec::new();
        let compared = self.key.compared.iter();
        steps.extend(compared.map(|compared| (compared.revision, 0, Step::Compared(compared))));
        steps.extend(self.key.modified.iter().map(|(at, modified)| (*at, 1, Step::Modified(*at, modified))));
        steps.extend(self.key.removed.iter().map(|(at, by)| (*at, 1, Step::Removed(*at, by))));
        steps.extend(self.key.seen.iter().map(|seen| (seen.revision, 2, Step::Seen(seen))));
        steps.sort_by_key(|(at, phase, _)| (*at, *phase));
        let mut something_happened = false;
        for (_, _, step) in steps {
            judge.evaluated(something_happened);
            match step {
                Step::Modified(at, modified) => {
                    something_happened = true;
                    self.modified(at, modified).map_err(|message| (modified.teller, message))?;
                }
                Step::Removed(at, by) => {
                    something_happened = true;
                    self.removed(at).map_err(|message| (Some(by), message))?;
                }
                Step::Compared(compared) => {
                    self.compared(compared).map_err(|message| (Some(compared.by), message))?;
                }
                Step::Seen(seen) => self.seen(seen).map_err(|message| (Some(seen.by), message))?,
            }
        }
        Ok(())
    }

    /// How many unknown modifications can have their place before `before`, beyond those already used.
    fn modifications_before(&self, before: u64) -> u64 {
        let fitting = self.may_modify.partition_point(|from| *from < before);
        let slots = before.saturating_sub(self.since + 1);
        u64::try_from(fitting.saturating_sub(self.used_modifying)).unwrap_or(u64::MAX).min(slots)
    }

    fn may_be_removed_before(&self, before: u64) -> bool {
        let fitting = self.may_remove.partition_point(|from| *from < before);
        fitting > self.used_removing && before > self.since + 1
    }

    fn use_modifications(&mut self, count: u64) {
        self.used_modifying += usize::try_from(count).expect("not more than there are operations");
    }

    /// Nothing unknown can have happened to the key between the last known thing and `before`.
    fn is_certain(&self, before: u64) -> bool {
        self.modifications_before(before) == 0 && !self.may_be_removed_before(before)
    }

    /// The key must be absent right before `before`.
    fn become_absent(&mut self, before: u64) -> Result<(), String> {
        if let Now::Present { mod_revision, .. } = self.now {
            if !self.may_be_removed_before(before) {
                return Err(format!(
                    "absent before revision {before}, but it was modified at revision {mod_revision} and nothing can have \
                     removed it since"
                ));
            }
            self.used_removing += 1;
            self.now = Now::Absent;
        }
        Ok(())
    }

    /// The key must exist right before `before`, with this version if it is given.
    fn become_present(&mut self, before: u64, wanted: Option<u64>) -> Result<(), String> {
        let available = self.modifications_before(before);
        let (unexplained, alternative) = match (self.now, wanted) {
            (Now::Absent, None) => (1, None),
            (Now::Absent, Some(version)) => (version, None),
            (Now::Present { version: Some(version), .. }, Some(wanted)) => {
                let removal = self.may_be_removed_before(before).then_some(wanted);
                match wanted.checked_sub(version) {
                    Some(missing) => (missing, removal),
                    None => (u64::MAX, removal),
                }
            }
            (Now::Present { .. }, _) => (0, None),
        };
        if unexplained <= available {
            self.use_modifications(unexplained);
        } else if let Some(again) = alternative.filter(|again| *again <= available) {
            self.used_removing += 1;
            self.use_modifications(again);
        } else {
            let version = wanted.map_or(String::new(), |wanted| format!(" with version {wanted}"));
            return Err(format!(
                "it existed{version} right before revision {before}, but as far as is known it was {}, and only \
                 {available} writes without a known outcome can have changed that",
                self.describe()
            ));
        }
        Ok(())
    }

    fn modified(&mut self, at: u64, modified: &Modified<'a>) -> Result<(), String> {
        let is_creation = modified.version == Some(1)
            || modified.create_revision == Some(at)
            || matches!(modified.expected, Some(Expected::Absent));
        match modified.expected {
            Some(Expected::Absent) if modified.version.is_some_and(|version| version != 1) => {
                return Err(format!(
                    "a compare with absence matched at revision {at}, but gave version {:?}",
                    modified.version
                ));
            }
            Some(Expected::Absent) | None => {}
            Some(expected) if is_creation => {
                return Err(format!("a compare with {expected:?} matched at revision {at}, but it gave version 1"));
            }
            Some(Expected::Value(value)) => self.compared_with_value(at, value, modified.version)?,
            Some(Expected::ModRevision(revision)) => self.compared_with_revision(at, revision, modified.version)?,
        }
        // Whether what is known until now determines the version afterwards, if nobody tells it.
        let derived = match self.now {
            _ if !self.is_certain(at) => None,
            Now::Absent => Some(1),
            Now::Present { version, .. } => version.map(|version| version + 1),
        };
        if is_creation {
            self.become_absent(at)?;
        } else if let Some(version) = modified.version {
            self.become_present(at, Some(version - 1))?;
        }
        // A modification of which nobody knows who did it takes one of the unknown writes.
        if modified.by.is_none() {
            let fitting = self.may_modify.partition_point(|from| *from <= at);
            if fitting <= self.used_modifying {
                return Err(format!("it was modified at revision {at}, but no operation can have done that"));
            }
            self.used_modifying += 1;
        }
        let created = if is_creation || derived == Some(1) { Some(at) } else { modified.create_revision };
        if let (Some(created), Now::Present { create_revision: Some(before), .. }) = (created, self.now)
            && !is_creation
            && created <= self.since
            && created != before
        {
            return Err(format!("at revision {at} it was created at {created}, but before at {before}"));
        }
        let version = modified.version.or(if is_creation { Some(1) } else { derived });
        self.now = Now::Present { mod_revision: at, version, create_revision: created };
        self.since = at;
        Ok(())
    }

    /// A transaction at this revision compared; that a comparison did not hold is judged with the others of it.
    fn compared(&mut self, compared: &Compared<'a>) -> Result<(), String> {
        let at = compared.revision;
        if compared.held {
            return match compared.expected {
                Expected::Absent => {
                    self.become_absent(at).map_err(|message| format!("a comparison with absence held: {message}"))
                }
                Expected::Value(value) => {
                    // It replaces nothing: the same may be found again.
                    let found = self.found.len();
                    let checked = self.compared_with_value(at, value, None);
                    self.found.truncate(found);
                    checked
                }
                Expected::ModRevision(revision) => self.compared_with_revision(at, revision, None),
            };
        }
        let holds = self.is_certain(at)
            && match (compared.expected, self.now) {
                (Expected::Absent, now) => now == Now::Absent,
                (Expected::ModRevision(expected), Now::Present { mod_revision, .. }) => mod_revision == expected,
                (Expected::Value(expected), Now::Present { mod_revision, .. }) => {
                    self.key.modified.get(&mod_revision).is_some_and(|modified| modified.value == Some(expected))
                }
                (_, Now::Absent) => false,
            };
        if holds {
            self.certain.push(*compared);
        }
        Ok(())
    }

    /// A compare found `value` right before `at`.
    fn compared_with_value(&mut self, at: u64, value: &'a [u8], version_after: Option<u64>) -> Result<(), String> {
        let known = self.key.modified.iter().find(|(_, modified)| modified.value == Some(value)).map(|(at, _)| *at);
        let claim = format!("a compare found value {} right before revision {at}", shown(value));
        match (known, self.now) {
            (Some(written), Now::Present { mod_revision, version, .. }) if written == mod_revision => {
                if let (Some(before), Some(after)) = (version, version_after)
                    && before + 1 != after
                {
                    return Err(format!("{claim}, of version {before}, and gave version {after}"));
                }
                Ok(())
            }
            (Some(written), _) => {
                Err(format!("{claim}, written at revision {written}, but it was {}", self.describe()))
            }
            (None, _) => {
                let mut unknown = self.key.unknown.modifying.iter();
                let writer = unknown.find(|(_, write)| would_write(write, self.name, value));
                let Some((floor, writer)) = writer else {
                    return Err(format!("{claim}, which nobody can have written"));
                };
                if self.found.contains(&value) {
                    return Err(format!("{claim}, and so did an earlier one, which replaced it"));
                }
                self.found.push(value);
                // The last modification may be that write: then only its revision was told until now.
                if let Now::Present { mod_revision, version, .. } = self.now
                    && self.key.modified.get(&mod_revision).is_some_and(|modified| modified.by.is_none())
                    && *floor < Some(mod_revision)
                    && version.zip(version_after).is_none_or(|(before, after)| before + 1 == after)
                {
                    return Ok(());
                }
                if floor.is_some_and(|floor| floor + 1 >= at) || self.since + 1 >= at {
                    return Err(format!("{claim}, but operation {}, which wrote it, has no place before", writer.id));
                }
                // At least that write happened in between.
                if let (Now::Present { version: Some(before), .. }, Some(after)) = (self.now, version_after)
                    && after < before + 2
                    && !self.may_be_removed_before(at)
                {
                    return Err(format!("{claim}, but versions {before} and {after} leave no room for that write"));
                }
                Ok(())
            }
        }
    }

    /// A compare found the key modified last at `revision` right before `at`.
    fn compared_with_revision(&mut self, at: u64, revision: u64, version_after: Option<u64>) -> Result<(), String> {
        match self.now {
            Now::Present { mod_revision, version, .. } if mod_revision == revision => match (version, version_after) {
                (Some(before), Some(after)) if before + 1 != after => Err(format!(
                    "a compare with revision {revision}, of version {before}, gave version {after} at {at}"
                )),
                _ => Ok(()),
            },
            _ => Err(format!(
                "a compare found mod revision {revision} right before revision {at}, but it was {}",
                self.describe()
            )),
        }
    }

    fn removed(&mut self, at: u64) -> Result<(), String> {
        if self.now == Now::Absent {
            self.become_present(at, None)?;
        }
        self.now = Now::Absent;
        self.since = at;
        Ok(())
    }

    fn seen(&mut self, seen: &Seen<'a>) -> Result<(), String> {
        self.check_refutation(seen)?;
        let revision = seen.revision;
        match seen.meta {
            Some(meta) => match self.now {
                Now::Present { mod_revision, .. } if mod_revision == meta.mod_revision => {
                    self.since = self.since.max(revision);
                    Ok(())
                }
                _ => Err(format!(
                    "seen at revision {revision} as modified last at {}, but it was {}",
                    meta.mod_revision,
                    self.describe()
                )),
            },
            None => {
                self.become_absent(revision + 1)
                    .map_err(|message| format!("not there at revision {revision}: {message}"))?;
                self.since = self.since.max(revision);
                Ok(())
            }
        }
    }

    /// A compare that did not match must not have had to.
    fn check_refutation(&self, seen: &Seen<'a>) -> Result<(), String> {
        let wrong = match (seen.refuted, seen.meta) {
            (None, _) => false,
            (Some(Expected::Absent), found) => found.is_none(),
            (Some(Expected::ModRevision(expected)), found) => found.is_some_and(|found| found.mod_revision == expected),
            (Some(Expected::Value(expected)), found) => {
                let at = found.and_then(|found| self.key.modified.get(&found.mod_revision));
                at.is_some_and(|modified| modified.value == Some(expected))
            }
        };
        if wrong {
            return Err(format!("a compare at revision {} did not match, but had to: {seen:?}", seen.revision));
        }
        Ok(())
    }

    fn describe(&self) -> String {
        match self.now {
            Now::Absent => format!("absent (since revision {})", self.since),
            Now::Present { mod_revision, version, .. } => {
                format!("modified last at {mod_revision} (version {version:?})")
            }
        }
    }
}
