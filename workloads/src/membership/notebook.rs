//! What the operators of one cluster agree on among themselves, outside all machines: which machines shall serve, which
//! nodes have no vote for a while, and what became of the changes they asked for.
//!
//! They do not agree on who does what. Two may do the same thing at the same time, or decide on the same membership
//! to change it in different ways: then one change at most is made.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use aspen::message::{ClusterStatus, LogPoint};
use aspen::types::{NodeId, Term};

use super::duties::Machine;
use crate::machines;

thread_local! {
    static NOTEBOOK: RefCell<Notebook> = RefCell::default();
}

/// See the module.
#[derive(Debug, Default)]
pub struct Notebook {
    /// Machines that shall serve, once anybody said so; before that those that found the cluster.
    wanted: BTreeMap<u32, bool>,
    /// Nodes that shall have no vote, until a time in ns.
    demoted: BTreeMap<NodeId, u64>,
    /// The latest membership (term and index) that some operator saw a node in.
    seen_at: BTreeMap<NodeId, (Term, u64)>,
    /// Nodes that some operator saw in a committed membership.
    settled: BTreeSet<NodeId>,
    /// Changes by what they would do that were made, or may have been, or may yet be.
    adding: BTreeMap<NodeId, u32>,
    removing: BTreeMap<NodeId, u32>,
    /// Operators that had changes made and refused, by the membership (term and index) these were decided on.
    made: BTreeMap<(u64, u64), BTreeSet<u32>>,
    refused: BTreeMap<(u64, u64), BTreeSet<u32>>,
    /// What each membership that some operator's change made (term and index) must hold, and must not.
    done: BTreeMap<(u64, u64), Effect>,
    /// Identities that were given out.
    allocated: BTreeSet<NodeId>,
    /// Machines that were taken out of the cluster once.
    left: BTreeSet<u32>,
}

/// A new run begins.
pub fn reset() {
    NOTEBOOK.set(Notebook::default());
}

/// Looks into the notebook, or writes into it.
pub fn with<R>(f: impl FnOnce(&mut Notebook) -> R) -> R {
    NOTEBOOK.with_borrow_mut(f)
}

impl Notebook {
    /// Whether this machine shall serve.
    pub fn is_wanted(&self, server: u32) -> bool {
        self.wanted.get(&server).copied().unwrap_or_else(|| machines::is_founder(server))
    }

    /// The machines as they are and as they shall be.
    pub fn machines(&self, servers: u32) -> Vec<Machine> {
        let machine = |server| Machine {
            server,
            node: machines::node_on(server),
            is_wanted: self.is_wanted(server),
            was_member: machines::node_on(server).is_some_and(|id| self.seen_at.contains_key(&id)),
            is_retired: machines::is_retired(server),
        };
        (0..servers).map(machine).collect()
    }

    /// From now on so many machines shall serve, counted from this one on.
    pub fn place(&mut self, servers: u32, first: u32, voters: u32) {
        for nth in 0..servers {
            self.wanted.insert((first + nth) % servers, nth < voters.max(1));
        }
    }

    /// No fewer machines than so many shall serve.
    pub fn place_at_least(&mut self, servers: u32, voters: u32) {
        let wanted = (0..servers).filter(|at| self.is_wanted(*at)).count();
        let missing = usize::try_from(voters).expect("a u32 is a usize").saturating_sub(wanted);
        let others: Vec<u32> = (0..servers).filter(|at| !self.is_wanted(*at)).take(missing).collect();
        self.wanted.extend(others.into_iter().map(|server| (server, true)));
    }

    /// This machine shall not serve any more. With `replace` a spare takes its place, if there is one. The last one stays.
    pub fn dispense_with(&mut self, servers: u32, server: u32, replace: bool) {
        let wanted = |at: &u32| self.is_wanted(*at);
        if !wanted(&server) {
            return;
        }
        let heir = (0..servers).find(|at| replace && !wanted(at) && machines::node_on(*at).is_none());
        let others = (0..servers).filter(|at| *at != server && wanted(at)).count();
        if others > 0 || heir.is_some() {
            self.wanted.insert(server, false);
            self.wanted.extend(heir.map(|heir| (heir, true)));
        }
    }

    /// No machine may leave any more: those that have a node shall serve.
    pub fn keep_all(&mut self, servers: u32) {
        let kept = (0..servers).filter(|at| machines::node_on(*at).is_some() && !machines::is_retired(*at));
        self.wanted.extend(kept.map(|server| (server, true)));
    }

    /// The node shall have no vote until then.
    pub fn demote(&mut self, node: NodeId, until_ns: u64) {
        self.demoted.insert(node, until_ns);
    }

    /// Nodes that shall have no vote now.
    pub fn demoted(&mut self, now_ns: u64) -> BTreeSet<NodeId> {
        self.demoted.retain(|_, until_ns| now_ns < *until_ns);
        self.demoted.keys().copied().collect()
    }

    /// Takes note of who is a member. Returns whom nobody can have added or removed, with what is wrong.
    pub fn look(&mut self, status: &ClusterStatus, founders: &BTreeSet<NodeId>) -> Option<String> {
        let at = status.membership.map(|point| (point.term, point.index))?;
        let members: BTreeSet<NodeId> = status.members.keys().copied().collect();
        let is_possible =
            |changes: &BTreeMap<NodeId, u32>, id: &NodeId| changes.get(id).is_some_and(|count| *count > 0);
        let intruder = members.iter().find(|id| !founders.contains(id) && !is_possible(&self.adding, id)).copied();
        // Who was seen in a membership that was never committed goes without being removed.
        let gone = |id: &&NodeId| self.is_gone(status, **id);
        if let Some(effect) = self.done.get(&key(status.membership))
            && (!effect.adds.is_subset(&members) || !effect.removes.is_disjoint(&members))
        {
            return Some(format!("{effect:?} was done with {:?}, whose members are {members:?}", status.membership));
        }
        let missing = self.settled.iter().find(|id| gone(id) && !is_possible(&self.removing, id)).copied();
        for id in members {
            if status.is_committed {
                self.settled.insert(id);
            }
            let seen_at = self.seen_at.entry(id).or_default();
            *seen_at = at.max(*seen_at);
        }
        match (intruder, missing) {
            (Some(id), _) => Some(format!("node {id} is a member, but each request to add it was refused")),
            (None, Some(id)) => Some(format!("node {id} is no member, but each request to remove it was refused")),
            (None, None) => None,
        }
    }

    /// Whether a node is out of the cluster for good. A leader that was deposed may not know yet that it came in: only a
    /// committed membership later than every one it was seen in tells, or a leader of a later term, which has what was
    /// committed of those (Raft, section 5.4) and replaces what was not. What may still be added then is a learner, and none
    /// becomes a voter unseen.
    pub fn is_gone(&self, status: &ClusterStatus, id: NodeId) -> bool {
        // By term first: a membership that was seen at a deposed leader may be further on in a log that is no more.
        let seen_at = self.seen_at.get(&id).copied();
        let later = status.membership.map(|point| (point.term, point.index)) > seen_at
            || seen_at.is_some_and(|(term, _)| status.term > term);
        status.is_committed && later && !status.members.contains_key(&id)
    }

    /// A node that was a member and is gone for good, if there is one: the one with the highest id.
    pub fn gone(&self, status: &ClusterStatus) -> Option<NodeId> {
        self.seen_at.keys().rev().copied().find(|id| self.is_gone(status, *id))
    }

    /// A change is asked for that would add and remove these.
    pub fn asks(&mut self, effect: &Effect) {
        self.count(effect, |count| *count += 1);
    }

    /// It was refused for certain.
    pub fn was_refused(&mut self, effect: &Effect, on: Option<LogPoint>, operator: u32) {
        self.count(effect, |count| *count -= 1);
        self.refused.entry(key(on)).or_default().insert(operator);
    }

    /// It was made. Returns whether it is the only one that was decided on this membership and made.
    pub fn was_made(&mut self, on: Option<LogPoint>, operator: u32) -> bool {
        let made = self.made.entry(key(on)).or_default();
        // One operator asks for one change at a time, and looks before the next one.
        let is_first = made.is_empty();
        made.insert(operator);
        is_first
    }

    /// This membership is what came of it.
    pub fn was_done(&mut self, effect: &Effect, at: LogPoint) {
        self.done.insert(key(Some(at)), effect.clone());
    }

    /// An identity was given out. Returns whether for the first time.
    pub fn is_new(&mut self, id: NodeId) -> bool {
        self.allocated.insert(id)
    }

    /// Whether one operator had a change of this membership made, and another one was refused.
    pub fn was_contested(&self, on: Option<LogPoint>) -> bool {
        let none = BTreeSet::new();
        let of = |told: &BTreeMap<(u64, u64), BTreeSet<u32>>| told.get(&key(on)).unwrap_or(&none).clone();
        of(&self.made).iter().any(|winner| of(&self.refused).iter().any(|loser| loser != winner))
    }

    /// A machine was taken out of the cluster.
    pub fn leaves(&mut self, server: u32) {
        self.left.insert(server);
    }

    /// Whether this machine was a member once, was taken out and is in again.
    pub fn is_back(&self, server: u32) -> bool {
        self.left.contains(&server)
    }

    fn count(&mut self, effect: &Effect, change: impl Fn(&mut u32)) {
        effect.adds.iter().for_each(|id| change(self.adding.entry(*id).or_default()));
        effect.removes.iter().for_each(|id| change(self.removing.entry(*id).or_default()));
    }
}

/// Whom a change brings in as a member, and whom it takes out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    pub adds: BTreeSet<NodeId>,
    pub removes: BTreeSet<NodeId>,
}

fn key(on: Option<LogPoint>) -> (u64, u64) {
    on.map_or((0, 0), |point| (point.term, point.index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(index: u64) -> Option<LogPoint> {
        Some(LogPoint { term: 1, index })
    }

    /// A committed membership of these voters, at this index.
    fn status(index: u64, members: &[NodeId]) -> ClusterStatus {
        let member = |id: &NodeId| {
            let address = aspen::types::Address::default();
            (*id, aspen::message::MemberStatus { address, matched: None, silent_for_ms: None })
        };
        ClusterStatus {
            leader: 1,
            term: 1,
            membership: on(index),
            is_committed: true,
            voters: vec![members.iter().copied().collect()],
            learners: BTreeSet::new(),
            members: members.iter().map(member).collect(),
            last_index: 100,
            wall_clock_ms: 0,
        }
    }

    fn removal(id: NodeId) -> Effect {
        Effect { removes: [id].into(), ..Effect::default() }
    }

    #[test]
    fn of_two_changes_of_one_membership_one_is_made() {
        let mut notebook = Notebook::default();
        assert!(notebook.was_made(on(5), 1));
        assert!(notebook.was_made(on(6), 1));
        assert!(!notebook.was_contested(on(5)));
        notebook.was_refused(&Effect::default(), on(5), 2);
        assert!(notebook.was_contested(on(5)));
        assert!(!notebook.was_made(on(5), 2));
    }

    #[test]
    fn who_was_not_added_is_no_member() {
        let founders = [1, 2].into();
        let mut notebook = Notebook::default();
        assert_eq!(notebook.look(&status(0, &[1, 2]), &founders), None);
        assert!(notebook.look(&status(9, &[1, 2, 7]), &founders).unwrap().contains("node 7 is a member"));
        let add = Effect { adds: [7].into(), ..Effect::default() };
        notebook.asks(&add);
        assert_eq!(notebook.look(&status(9, &[1, 2, 7]), &founders), None);
        notebook.was_refused(&add, on(0), 1);
        assert!(notebook.look(&status(9, &[1, 2, 7]), &founders).is_some());
    }

    #[test]
    fn who_was_not_removed_is_a_member() {
        let founders = [1, 2].into();
        let mut notebook = Notebook::default();
        notebook.look(&status(0, &[1, 2]), &founders);
        notebook.asks(&removal(2));
        assert_eq!(notebook.look(&status(9, &[1]), &founders), None);
        notebook.was_refused(&removal(2), on(0), 1);
        assert!(notebook.look(&status(9, &[1]), &founders).unwrap().contains("node 2 is no member"));
    }

    #[test]
    fn a_deposed_leader_proves_nothing() {
        let mut notebook = Notebook::default();
        notebook.look(&status(9, &[1, 7]), &[1, 7].into());
        assert!(!notebook.is_gone(&status(5, &[1]), 7));
        assert!(notebook.is_gone(&status(10, &[1]), 7));
        let open = ClusterStatus { is_committed: false, ..status(10, &[1]) };
        assert!(!notebook.is_gone(&open, 7));
    }

    /// Node 7 was added by the leader of term 2, whose entry never was committed, though its index is higher.
    #[test]
    fn a_membership_that_was_never_committed_holds_nobody() {
        let founders = [1].into();
        let of_term = |term, point: (u64, u64), is_committed, members: &[NodeId]| ClusterStatus {
            term,
            membership: Some(LogPoint { term: point.0, index: point.1 }),
            is_committed,
            ..status(0, members)
        };
        let mut notebook = Notebook::default();
        notebook.asks(&Effect { adds: [7].into(), ..Effect::default() });
        assert_eq!(notebook.look(&of_term(2, (2, 20), false, &[1, 7]), &founders), None);
        assert!(!notebook.is_gone(&of_term(2, (1, 9), true, &[1]), 7), "the leader of that term may be asked again");
        assert!(notebook.is_gone(&of_term(3, (1, 9), true, &[1]), 7), "the next one does not have it");
        assert!(notebook.is_gone(&of_term(3, (3, 15), true, &[1]), 7), "a later term counts more than a higher index");
        assert_eq!(notebook.look(&of_term(3, (1, 9), true, &[1]), &founders), None, "nobody had to remove it");
    }

    #[test]
    fn the_last_machine_stays() {
        machines::reset();
        machines::found(2);
        let mut notebook = Notebook::default();
        let wanted =
            |notebook: &Notebook| notebook.machines(2).iter().map(|machine| machine.is_wanted).collect::<Vec<bool>>();
        notebook.dispense_with(2, 0, true);
        assert_eq!(wanted(&notebook), [false, true]);
        notebook.dispense_with(2, 1, true);
        assert_eq!(wanted(&notebook), [false, true]);
        notebook.place_at_least(2, 1);
        assert_eq!(wanted(&notebook), [false, true]);
        notebook.place_at_least(2, 3);
        assert_eq!(wanted(&notebook), [true, true]);
        notebook.place(2, 1, 1);
        assert_eq!(wanted(&notebook), [false, true]);
    }
}
