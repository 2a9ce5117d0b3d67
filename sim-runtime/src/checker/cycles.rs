//! Cycles in a graph of dependencies between transactions (Adya, "Weak Consistency", MIT 1999; Kingsbury and Alvaro,
//! "Elle", VLDB 2020): what came before what, for which reason, and whether that can all be true.
//!
//! A history is serialisable in an order only if the graph has no cycle. Which kinds of edges a cycle needs says what is
//! wrong, so the search asks for the worst kind first and, of one kind, for the smallest cycle.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Why one transaction is before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The second overwrote what the first wrote.
    WriteWrite,
    /// The second read what the first wrote.
    WriteRead,
    /// The first read what the second overwrote.
    ReadWrite,
    /// The first had ended when the second began.
    RealTime,
}

/// What kind of cycle it is; Adya's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    G0,
    G1c,
    GSingle,
    G2,
}

impl Anomaly {
    pub fn name(self) -> &'static str {
        match self {
            Anomaly::G0 => "G0 (write cycle)",
            Anomaly::G1c => "G1c (circular information flow)",
            Anomaly::GSingle => "G-single (read skew)",
            Anomaly::G2 => "G2 (anti-dependency cycle)",
        }
    }
}

/// Transactions in an order that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle {
    pub anomaly: Anomaly,
    /// Without the order of real time there is no cycle of this kind.
    pub needs_real_time: bool,
    /// Each is before the next for this reason, and the last before the first.
    pub steps: Vec<(usize, Why)>,
}

/// Transactions by number, and what is known of their order.
#[derive(Clone, Debug, Default)]
pub struct Dependencies {
    nodes: usize,
    /// Nodes from here on are moments, not transactions.
    edges: Vec<BTreeSet<(usize, Why)>>,
}

impl Dependencies {
    pub fn new(transactions: usize) -> Dependencies {
        Dependencies { nodes: transactions, edges: vec![BTreeSet::new(); transactions] }
    }

    /// `first` is before `second`. That something is before itself says nothing.
    pub fn add(&mut self, first: usize, second: usize, why: Why) {
        if first != second {
            self.edges[first].insert((second, why));
        }
    }

    /// Adds the order of real time: for each transaction when it began and, if that is known, ended, in one numbering of
    /// all moments. Takes one node per end instead of an edge per pair.
    pub fn add_real_time(&mut self, spans: &[(u64, Option<u64>)]) {
        let mut moments: Vec<(u64, bool, usize)> = Vec::new();
        for (at, (began, ended)) in spans.iter().enumerate() {
            moments.push((*began, false, at));
            moments.extend(ended.map(|ended| (ended, true, at)));
        }
        moments.sort_unstable();
        let mut latest: Option<usize> = None;
        for (_, is_end, at) in moments {
            if is_end {
                let moment = self.edges.len();
                self.edges.push(BTreeSet::new());
                self.edges[at].insert((moment, Why::RealTime));
                if let Some(before) = latest {
                    self.edges[before].insert((moment, Why::RealTime));
                }
                latest = Some(moment);
            } else if let Some(before) = latest {
                self.edges[before].insert((at, Why::RealTime));
            }
        }
    }

    /// The worst cycle there is, as small as it gets.
    pub fn worst(&self) -> Option<Cycle> {
        let kinds = [
            (Anomaly::G0, &[Why::WriteWrite][..]),
            (Anomaly::G1c, &[Why::WriteWrite, Why::WriteRead]),
            (Anomaly::GSingle, &[Why::WriteWrite, Why::WriteRead]),
            (Anomaly::G2, &[Why::WriteWrite, Why::WriteRead, Why::ReadWrite]),
        ];
        for needs_real_time in [false, true] {
            for (anomaly, allowed) in kinds {
                let mut allowed = allowed.to_vec();
                allowed.extend(needs_real_time.then_some(Why::RealTime));
                let first = match anomaly {
                    Anomaly::GSingle => vec![Why::ReadWrite],
                    // A cycle of real time alone would be a clock that goes back.
                    _ => allowed.iter().copied().filter(|why| *why != Why::RealTime).collect(),
                };
                if let Some(steps) = self.smallest(&first, &allowed) {
                    return Some(Cycle { anomaly, needs_real_time, steps });
                }
            }
        }
        None
    }

    /// The smallest cycle that begins with an edge of a kind in `first` and goes on with those in `allowed`.
    fn smallest(&self, first: &[Why], allowed: &[Why]) -> Option<Vec<(usize, Why)>> {
        let mut both = allowed.to_vec();
        both.extend(first);
        let components = self.components(&both);
        let mut best: Option<Vec<(usize, Why)>> = None;
        for (from, edges) in self.edges.iter().enumerate().take(self.nodes) {
            for (to, why) in edges {
                if !first.contains(why) || components[from] != components[*to] {
                    continue;
                }
                let Some(rest) = self.path(*to, from, allowed) else { continue };
                let mut steps = vec![(from, *why)];
                steps.extend(rest);
                if best.as_ref().is_none_or(|best| steps.len() < best.len()) {
                    best = Some(steps);
                }
                if best.as_ref().is_some_and(|best| best.len() == 2) {
                    return best;
                }
            }
        }
        best
    }

    /// The path with the fewest transactions, moments left out: each with the reason why it is before the next one.
    fn path(&self, from: usize, to: usize, allowed: &[Why]) -> Option<Vec<(usize, Why)>> {
        let mut came_from: BTreeMap<usize, (usize, Why)> = BTreeMap::new();
        let mut distance: BTreeMap<usize, usize> = BTreeMap::from([(from, 0)]);
        let mut queue = VecDeque::from([from]);
        while let Some(at) = queue.pop_front() {
            if at == to {
                break;
            }
            let here = distance[&at];
            for (next, why) in self.edges[at].iter().filter(|(_, why)| allowed.contains(why)) {
                let is_moment = *next >= self.nodes;
                let there = here + usize::from(!is_moment);
                if distance.get(next).is_none_or(|known| there < *known) {
                    distance.insert(*next, there);
                    came_from.insert(*next, (at, *why));
                    if is_moment { queue.push_front(*next) } else { queue.push_back(*next) }
                }
            }
        }
        let mut steps = Vec::new();
        let mut at = to;
        while at != from {
            let (before, why) = *came_from.get(&at)?;
            if before < self.nodes {
                steps.push((before, why));
            }
            at = before;
        }
        steps.reverse();
        Some(steps)
    }

    /// Which strongly connected component each node is in (Tarjan, 1972; without recursion).
    fn components(&self, allowed: &[Why]) -> Vec<usize> {
        let count = self.edges.len();
        let out: Vec<Vec<usize>> = self
            .edges
            .iter()
            .map(|edges| edges.iter().filter(|(_, why)| allowed.contains(why)).map(|(to, _)| *to).collect())
            .collect();
        let (mut index, mut low) = (vec![usize::MAX; count], vec![0; count]);
        let (mut component, mut on_stack, mut stack) = (vec![usize::MAX; count], vec![false; count], Vec::new());
        let mut next_index = 0;
        for root in 0..count {
            let mut work = if index[root] == usize::MAX { vec![(root, 0)] } else { Vec::new() };
            while let Some((at, place)) = work.pop() {
                if place == 0 {
                    (index[at], low[at]) = (next_index, next_index);
                    next_index += 1;
                    stack.push(at);
                    on_stack[at] = true;
                } else {
                    low[at] = low[at].min(low[out[at][place - 1]]);
                }
                let mut deeper = None;
                for (offset, to) in out[at].iter().enumerate().skip(place) {
                    if index[*to] == usize::MAX {
                        deeper = Some((offset + 1, *to));
                        break;
                    }
                    if on_stack[*to] {
                        low[at] = low[at].min(index[*to]);
                    }
                }
                if let Some((resume, to)) = deeper {
                    work.push((at, resume));
                    work.push((to, 0));
                } else if low[at] == index[at] {
                    while let Some(member) = stack.pop() {
                        on_stack[member] = false;
                        component[member] = at;
                        if member == at {
                            break;
                        }
                    }
                }
            }
        }
        component
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(count: usize, edges: &[(usize, usize, Why)]) -> Dependencies {
        let mut graph = Dependencies::new(count);
        edges.iter().for_each(|(first, second, why)| graph.add(*first, *second, *why));
        graph
    }

    #[test]
    fn an_order_has_no_cycle() {
        use Why::{ReadWrite, WriteRead, WriteWrite};
        let mut order = graph(4, &[(0, 1, WriteWrite), (1, 2, WriteRead), (0, 2, ReadWrite), (2, 3, ReadWrite)]);
        order.add_real_time(&[(0, Some(1)), (2, Some(3)), (4, Some(5)), (6, None)]);
        assert_eq!(order.worst(), None);
    }

    #[test]
    fn cycles_are_named_by_what_they_need() {
        use Why::{ReadWrite, WriteRead, WriteWrite};
        let found = |edges: &[(usize, usize, Why)]| graph(3, edges).worst().map(|cycle| cycle.anomaly);
        assert_eq!(found(&[(0, 1, WriteWrite), (1, 0, WriteWrite)]), Some(Anomaly::G0));
        assert_eq!(found(&[(0, 1, WriteWrite), (1, 0, WriteRead)]), Some(Anomaly::G1c));
        assert_eq!(found(&[(0, 1, WriteRead), (1, 2, WriteRead), (2, 0, ReadWrite)]), Some(Anomaly::GSingle));
        assert_eq!(found(&[(0, 1, ReadWrite), (1, 0, ReadWrite)]), Some(Anomaly::G2));
    }

    #[test]
    fn the_smallest_cycle_is_shown() {
        use Why::{WriteRead, WriteWrite};
        let cycle =
            graph(5, &[(0, 1, WriteRead), (1, 2, WriteRead), (2, 0, WriteWrite), (3, 4, WriteRead), (4, 3, WriteRead)])
                .worst()
                .unwrap();
        assert_eq!(cycle.steps, [(3, WriteRead), (4, WriteRead)]);
    }

    #[test]
    fn real_time_alone_can_close_a_cycle() {
        // The reader missed a write that had ended before it began.
        let mut stale = graph(2, &[(1, 0, Why::ReadWrite)]);
        assert_eq!(stale.worst(), None);
        stale.add_real_time(&[(0, Some(1)), (2, Some(3))]);
        let cycle = stale.worst().unwrap();
        assert_eq!((cycle.anomaly, cycle.needs_real_time), (Anomaly::GSingle, true));
        assert_eq!(cycle.steps, [(1, Why::ReadWrite), (0, Why::RealTime)]);
    }
}
