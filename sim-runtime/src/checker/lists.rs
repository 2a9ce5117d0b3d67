//! Lists that transactions append to and read (Kingsbury and Alvaro, "Elle", VLDB 2020, section 4): every element is
//! appended once, so a read tells the whole order of the writes before it.
//!
//! From the reads follows, per list, the order of its elements; from that which transaction came before which; and the
//! rest is a search for [cycles](super::cycles). A transaction whose outcome is unknown counts once an element of its was
//! read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use super::cycles::{Dependencies, Why};

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Committed,
    /// It has no effect, ever.
    Aborted,
    Unknown,
}

/// One transaction.
#[derive(Clone, Debug)]
pub struct Transaction<K, E> {
    /// For people.
    pub id: u64,
    pub fate: Fate,
    /// Begin and end in one numbering of all moments.
    pub began: u64,
    pub ended: Option<u64>,
    /// Lists as they were before its own appends.
    pub reads: Vec<(K, Vec<E>)>,
    /// In order; of one list several.
    pub appends: Vec<(K, E)>,
}

/// Something that cannot be: what it is called, and the evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub anomaly: String,
    pub message: String,
    /// Place of the transaction that shows it.
    pub shown_by: usize,
}

/// Everything wrong with the history; of cycles the worst.
pub fn check<K: Ord + Clone + Debug, E: Ord + Clone + Debug>(history: &[Transaction<K, E>]) -> Vec<Wrong> {
    let lists = Lists::new(history);
    let mut wrong = lists.wrong.clone();
    if wrong.is_empty() {
        wrong.extend(lists.cycle());
    }
    wrong
}

struct Lists<'a, K, E> {
    history: &'a [Transaction<K, E>],
    /// Who appended an element, and which one of the same transaction follows it in the list.
    writers: BTreeMap<(&'a K, &'a E), (usize, Option<&'a E>)>,
    /// The longest that was read of each list.
    orders: BTreeMap<&'a K, &'a [E]>,
    wrong: Vec<Wrong>,
}

impl<'a, K: Ord + Clone + Debug, E: Ord + Clone + Debug> Lists<'a, K, E> {
    fn new(history: &'a [Transaction<K, E>]) -> Self {
        let mut lists = Lists { history, writers: BTreeMap::new(), orders: BTreeMap::new(), wrong: Vec::new() };
        for (at, transaction) in history.iter().enumerate() {
            for (place, (key, element)) in transaction.appends.iter().enumerate() {
                let follows = transaction.appends[place + 1..].iter().find(|(of, _)| of == key).map(|(_, next)| next);
                if lists.writers.insert((key, element), (at, follows)).is_some() {
                    lists.blame(at, "generator", format!("{element:?} was appended to {key:?} twice by the workload"));
                }
            }
            for (key, read) in &transaction.reads {
                let longest = lists.orders.entry(key).or_insert(read);
                if read.len() > longest.len() {
                    *longest = read;
                }
            }
        }
        for (at, transaction) in history.iter().enumerate() {
            for (key, read) in &transaction.reads {
                lists.look(at, key, read);
            }
        }
        lists
    }

    fn blame(&mut self, at: usize, anomaly: &str, message: String) {
        let message = format!("transaction {}: {message}", self.history[at].id);
        self.wrong.push(Wrong { anomaly: anomaly.to_owned(), message, shown_by: at });
    }

    /// One read by itself, and against the longest of its list.
    fn look(&mut self, at: usize, key: &'a K, read: &'a [E]) {
        let longest = self.orders[key];
        let distinct: BTreeSet<&E> = read.iter().collect();
        if distinct.len() < read.len() {
            self.blame(at, "duplicate element", format!("{key:?} has an element twice: {read:?}"));
        } else if !longest.starts_with(read) {
            let apart = longest.iter().zip(read).position(|(one, other)| one != other).unwrap_or(0);
            let message = format!(
                "{key:?} differs from what another read shows at place {apart}: {:?} and {:?}",
                read.get(apart),
                longest.get(apart)
            );
            self.blame(at, "incompatible orders", message);
        }
        for element in read {
            match self.writers.get(&(key, element)) {
                None => self.blame(at, "garbage", format!("{key:?} has {element:?}, which nobody appended")),
                Some((writer, _)) if self.history[*writer].fate == Fate::Aborted => {
                    let message = format!(
                        "{key:?} has {element:?} of transaction {}, which failed for good",
                        self.history[*writer].id
                    );
                    self.blame(at, "G1a (aborted read)", message);
                }
                Some(_) => {}
            }
        }
        if let Some((writer, Some(next))) = read.last().and_then(|last| self.writers.get(&(key, last)))
            && *writer != at
        {
            let message =
                format!("{key:?} ends before {next:?}, in the middle of transaction {}", self.history[*writer].id);
            self.blame(at, "G1b (intermediate read)", message);
        }
    }

    fn writer(&self, key: &'a K, element: &'a E) -> Option<usize> {
        self.writers.get(&(key, element)).map(|(writer, _)| *writer)
    }

    fn cycle(&self) -> Option<Wrong> {
        let mut graph = Dependencies::new(self.history.len());
        let mut seen: BTreeSet<usize> = BTreeSet::new();
        for (key, order) in &self.orders {
            seen.extend(order.iter().filter_map(|element| self.writer(key, element)));
            for pair in order.windows(2) {
                if let (Some(first), Some(second)) = (self.writer(key, &pair[0]), self.writer(key, &pair[1])) {
                    graph.add(first, second, Why::WriteWrite);
                }
            }
        }
        // Elements that no read shows come after all that some read does.
        let mut unread: BTreeMap<&K, Vec<usize>> = BTreeMap::new();
        for ((key, element), (writer, _)) in &self.writers {
            let is_read = self.orders.get(key).is_some_and(|order| order.contains(element));
            if !is_read && self.history[*writer].fate == Fate::Committed {
                unread.entry(key).or_default().push(*writer);
            }
        }
        for (at, transaction) in self.history.iter().enumerate() {
            for (key, read) in &transaction.reads {
                if let Some(writer) = read.last().and_then(|last| self.writer(key, last)) {
                    graph.add(writer, at, Why::WriteRead);
                }
                match self.orders[key].get(read.len()).and_then(|next| self.writer(key, next)) {
                    Some(writer) => graph.add(at, writer, Why::ReadWrite),
                    None => {
                        unread.get(key).into_iter().flatten().for_each(|writer| graph.add(at, *writer, Why::ReadWrite))
                    }
                }
            }
        }
        let spans: Vec<(u64, Option<u64>)> = self
            .history
            .iter()
            .map(|transaction| match transaction.fate {
                Fate::Committed => (transaction.began, transaction.ended),
                Fate::Aborted | Fate::Unknown => (transaction.began, None),
            })
            .collect();
        graph.add_real_time(&spans);
        let cycle = graph.worst()?;
        let steps: Vec<String> = cycle
            .steps
            .iter()
            .enumerate()
            .map(|(place, (at, why))| {
                let next = cycle.steps[(place + 1) % cycle.steps.len()].0;
                let why = match why {
                    Why::WriteWrite => "appended before",
                    Why::WriteRead => "was read by",
                    Why::ReadWrite => "missed an append of",
                    Why::RealTime => "had ended when there began",
                };
                format!("  {} {why} {}", self.history[*at].id, self.history[next].id)
            })
            .collect();
        let real_time = if cycle.needs_real_time { ", given real time" } else { "" };
        let shown_by = cycle.steps.iter().map(|(at, _)| *at).max().unwrap_or(0);
        let message = format!("these transactions are in no order{real_time}:\n{}", steps.join("\n"));
        Some(Wrong { anomaly: cycle.anomaly.name().to_owned(), message, shown_by })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type T = Transaction<char, u32>;
    /// What a transaction read and what it appended.
    type Part<'a> = (&'a [(char, &'a [u32])], &'a [(char, u32)]);

    /// One after the other unless changed.
    fn history(parts: &[Part<'_>]) -> Vec<T> {
        let transaction = |(at, (reads, appends)): (u64, &Part<'_>)| T {
            id: at,
            fate: Fate::Committed,
            began: at * 10,
            ended: Some(at * 10 + 5),
            reads: reads.iter().map(|(key, list)| (*key, list.to_vec())).collect(),
            appends: appends.to_vec(),
        };
        (0..).zip(parts).map(transaction).collect()
    }

    fn at_once(mut history: Vec<T>) -> Vec<T> {
        history.iter_mut().for_each(|transaction| (transaction.began, transaction.ended) = (0, Some(1000)));
        history
    }

    fn anomaly(history: &[T]) -> String {
        check(history).into_iter().next().map_or("none".to_owned(), |wrong| wrong.anomaly)
    }

    #[test]
    fn a_serial_history_is_fine() {
        let serial = history(&[
            (&[('x', &[])], &[('x', 1)]),
            (&[('x', &[1])], &[('y', 2), ('x', 3)]),
            (&[('x', &[1, 3]), ('y', &[2])], &[]),
        ]);
        assert_eq!(anomaly(&serial), "none");
    }

    #[test]
    fn an_unknown_append_may_appear_late_and_a_lost_one_never() {
        let mut late = history(&[(&[], &[('x', 1)]), (&[('x', &[])], &[]), (&[('x', &[1])], &[])]);
        late[0].fate = Fate::Unknown;
        assert_eq!(anomaly(&late), "none");
        late[0].fate = Fate::Committed;
        assert!(anomaly(&late).starts_with("G-single"), "a read that misses what was acknowledged");
        let lost = history(&[(&[], &[('x', 1)]), (&[('x', &[])], &[])]);
        assert!(anomaly(&lost).starts_with("G-single"), "an element that no read ever shows");
    }

    #[test]
    fn what_no_database_may_show_is_found() {
        let mut aborted = history(&[(&[], &[('x', 1)]), (&[('x', &[1])], &[])]);
        aborted[0].fate = Fate::Aborted;
        assert!(anomaly(&aborted).starts_with("G1a"));
        assert!(anomaly(&history(&[(&[], &[('x', 1), ('x', 2)]), (&[('x', &[1])], &[])])).starts_with("G1b"));
        assert_eq!(anomaly(&history(&[(&[('x', &[7])], &[])])), "garbage");
        assert_eq!(anomaly(&history(&[(&[], &[('x', 1)]), (&[('x', &[1, 1])], &[])])), "duplicate element");
        let forked =
            history(&[(&[], &[('x', 1)]), (&[], &[('x', 2)]), (&[('x', &[1, 2])], &[]), (&[('x', &[2])], &[])]);
        assert_eq!(anomaly(&at_once(forked)), "incompatible orders");
    }

    #[test]
    fn cycles_are_found_and_named() {
        let writes = history(&[
            (&[], &[('x', 1), ('y', 1)]),
            (&[], &[('x', 2), ('y', 2)]),
            (&[('x', &[1, 2]), ('y', &[2, 1])], &[]),
        ]);
        assert!(anomaly(&at_once(writes)).starts_with("G0"));
        let circular = history(&[(&[('y', &[2])], &[('x', 1)]), (&[('x', &[1])], &[('y', 2)])]);
        assert!(anomaly(&at_once(circular)).starts_with("G1c"));
        let skew = history(&[(&[], &[('x', 1), ('y', 1)]), (&[('x', &[1]), ('y', &[])], &[]), (&[('y', &[1])], &[])]);
        assert!(anomaly(&at_once(skew)).starts_with("G-single"));
        let write_skew =
            history(&[(&[('x', &[])], &[('y', 1)]), (&[('y', &[])], &[('x', 2)]), (&[('x', &[2]), ('y', &[1])], &[])]);
        assert!(anomaly(&at_once(write_skew)).starts_with("G2"));
    }
}
