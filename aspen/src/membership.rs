//! Changes of the cluster's membership: what may be asked for, and when it is refused.
//!
//! A change is refused, before anything is proposed, unless afterwards a quorum is still there: members that the leader
//! heard of lately and whose logs are close to its own. One change happens at a time; one that was interrupted leaves a
//! joint configuration, which is legal and lasts until somebody finishes it ([`Change::Finish`]).
//!
//! Node ids are never reused. A new one is the index of a committed blank entry: no other index will ever be the same.
//! Founders chose their ids; they may leave only once the log has passed them. So an id that was ever in use is no newer
//! than the last change of the membership, and only newer ones are taken: who asks with an older one allocates another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::planted::planted;
use crate::types::{Address, NodeId};

/// A change of the membership, or of who leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The node is sent the log, but has no vote. Its id must come from
    /// [`Client::allocate_node_id`](crate::client::Client::allocate_node_id).
    AddLearner {
        id: NodeId,
        address: Address,
    },
    /// Learners become voters and voters leave, in one change. Who leaves stays on as a learner if `retain` says so.
    Voters {
        add: BTreeSet<NodeId>,
        remove: BTreeSet<NodeId>,
        retain: bool,
    },
    RemoveLearner {
        id: NodeId,
    },
    /// Ends a change that was interrupted: the newer of the two configurations alone is in force. Voters that are not part
    /// of it stay on as learners, whatever the change had wanted.
    Finish,
}

/// What a leader knows of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub leader: NodeId,
    /// One set of voters, or two in a joint configuration.
    pub voters: Vec<BTreeSet<NodeId>>,
    pub learners: BTreeSet<NodeId>,
    /// The latest configuration is committed.
    pub is_committed: bool,
    /// Index of the leader's last entry.
    pub last_index: u64,
    /// Index of the entry that holds the latest configuration.
    pub changed_at: u64,
    /// Up to where the other members' logs match, and how long ago they were heard.
    pub members: BTreeMap<NodeId, Seen>,
}

/// What a leader knows of another member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub matched: Option<u64>,
    pub silent_for: Option<Duration>,
}

/// Bounds of the guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A member whose log lacks more entries is not in sync.
    pub lag_entries_max: u64,
    /// A member that was silent for longer is not healthy.
    pub silence_max: Duration,
    pub voters_max: usize,
}

/// The change is not made, for this reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unmet(pub String);

impl View {
    /// Whether the leader is a member. One that removed itself leads on until it steps down, and openraft relies on it to
    /// change nothing more in that time.
    pub fn is_led_by_a_member(&self) -> bool {
        self.voters.iter().chain([&self.learners]).any(|members| members.contains(&self.leader))
    }

    /// The voters of a configuration that is not joint.
    fn uniform(&self) -> Result<&BTreeSet<NodeId>, Unmet> {
        match self.voters.as_slice() {
            [voters] if self.is_committed => Ok(voters),
            _ => Err(Unmet("a change is in progress: finish it first".to_owned())),
        }
    }

    /// The highest id of those that `change` expels which the log has not passed yet.
    pub fn to_be_passed(&self, change: &Change) -> Option<NodeId> {
        let leaving: Vec<NodeId> = match change {
            Change::Voters { remove, retain: false, .. } => remove.iter().copied().collect(),
            Change::RemoveLearner { id } => vec![*id],
            Change::Voters { .. } | Change::AddLearner { .. } | Change::Finish => Vec::new(),
        };
        leaving.into_iter().filter(|id| self.may_be_allocated(*id)).max()
    }

    /// Whether the id may have been that of a member that is gone.
    fn may_have_been_used(&self, id: NodeId) -> bool {
        // The entry that made a node a member, or removed a founder, came after the one whose index is its id.
        id <= self.changed_at && !planted!("node-id-reused")
    }

    /// Whether a new node may get this id, if it is not a member's. Of founders of a cluster that has hardly written.
    fn may_be_allocated(&self, id: NodeId) -> bool {
        id > self.last_index
    }

    /// Why a member should not be counted on, if so.
    fn ailing(&self, id: NodeId, rules: &Rules) -> Option<String> {
        if id == self.leader {
            return None;
        }
        let seen = self.members.get(&id).copied().unwrap_or_default();
        let silent = seen.silent_for.is_none_or(|silent| silent > rules.silence_max);
        let behind = self.last_index.saturating_sub(seen.matched.unwrap_or(0));
        if silent {
            let since = seen.silent_for.map_or("yet".to_owned(), |silent| format!("for {silent:?}"));
            Some(format!("node {id} was not heard {since}, {:?} are allowed", rules.silence_max))
        } else if behind > rules.lag_entries_max {
            Some(format!("node {id} lacks {behind} entries, {} are allowed", rules.lag_entries_max))
        } else {
            None
        }
    }

    /// Says no unless a majority of these voters can be counted on.
    fn quorum_is_kept(&self, voters: &BTreeSet<NodeId>, rules: &Rules) -> Result<(), Unmet> {
        let ailing: Vec<String> = voters.iter().filter_map(|id| self.ailing(*id, rules)).collect();
        if (voters.len() - ailing.len()) * 2 > voters.len() {
            return Ok(());
        }
        Err(Unmet(format!("no quorum of {voters:?} would be left: {}", ailing.join("; "))))
    }
}

fn not_passed(id: NodeId, view: &View) -> String {
    format!("the log ends at {}: a new node could get its id once node {id} is gone", view.last_index)
}

/// Whether `change` may be proposed by a leader that sees its cluster so.
pub fn check(change: &Change, view: &View, rules: &Rules) -> Result<(), Unmet> {
    let unmet = |reason: String| Err(Unmet(reason));
    match change {
        Change::AddLearner { id, .. } => {
            let voters = view.uniform()?;
            if voters.contains(id) || view.learners.contains(id) {
                return unmet(format!("node {id} is a member already"));
            }
            if *id == 0 {
                return unmet("node ids begin with 1: allocate an id".to_owned());
            }
            if *id > view.last_index {
                return unmet(format!("{id} is not the index of any entry yet: allocate an id"));
            }
            if view.may_have_been_used(*id) {
                return unmet(format!(
                    "node {id} may have been a member before, and an id is never used again: have the cluster \
                     find a new one, or name the index of an entry after {}",
                    view.changed_at
                ));
            }
            Ok(())
        }
        Change::Voters { add, remove, retain } => {
            let voters = view.uniform()?;
            if let Some(id) = remove.iter().find(|id| !retain && view.may_be_allocated(**id)) {
                return unmet(not_passed(*id, view));
            }
            if let Some(id) = add.intersection(voters).next() {
                return unmet(format!("node {id} is a voter already"));
            }
            if let Some(stranger) = add.iter().find(|id| !view.learners.contains(id)) {
                return unmet(format!("node {stranger} is no learner"));
            }
            if let Some(stranger) = remove.iter().find(|id| !voters.contains(id)) {
                return unmet(format!("node {stranger} is no voter"));
            }
            let unfit = add.iter().find_map(|id| view.ailing(*id, rules));
            if let Some(reason) = unfit.filter(|_| !planted!("promotion-not-guarded")) {
                return unmet(reason);
            }
            let after: BTreeSet<NodeId> = voters.union(add).filter(|id| !remove.contains(id)).copied().collect();
            if after == *voters {
                return unmet(format!("the voters are {after:?} already"));
            }
            if after.is_empty() {
                return unmet(format!("no voter would be left of {voters:?}"));
            }
            if after.len() > rules.voters_max {
                return unmet(format!("{} voters are too many, {} are allowed", after.len(), rules.voters_max));
            }
            if planted!("quorum-counted-before-change") {
                return view.quorum_is_kept(voters, rules);
            }
            view.quorum_is_kept(&after, rules)
        }
        Change::RemoveLearner { id } => {
            view.uniform()?;
            if view.may_be_allocated(*id) {
                return unmet(not_passed(*id, view));
            }
            if view.learners.contains(id) { Ok(()) } else { unmet(format!("node {id} is no learner")) }
        }
        Change::Finish if view.voters.len() < 2 => unmet("no change is in progress".to_owned()),
        Change::Finish if !view.is_committed => unmet("the joint configuration is not committed yet".to_owned()),
        Change::Finish => Ok(()),
    }
}

/// Whether leadership may go to `heir`.
pub fn check_transfer(heir: NodeId, view: &View, rules: &Rules) -> Result<(), Unmet> {
    if !view.voters.iter().all(|voters| voters.contains(&heir)) {
        return Err(Unmet(format!("node {heir} is no voter")));
    }
    view.ailing(heir, rules).map_or(Ok(()), |reason| Err(Unmet(reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { lag_entries_max: 10, silence_max: Duration::from_secs(1), voters_max: 5 };

    fn set(ids: &[NodeId]) -> BTreeSet<NodeId> {
        ids.iter().copied().collect()
    }

    /// Node 1 leads 2 and 3; 40 is a learner. All are in sync.
    fn view() -> View {
        let seen = Seen { matched: Some(100), silent_for: Some(Duration::from_millis(50)) };
        View {
            leader: 1,
            voters: vec![set(&[1, 2, 3])],
            learners: set(&[40]),
            is_committed: true,
            last_index: 100,
            changed_at: 60,
            members: [2, 3, 40].map(|id| (id, seen)).into(),
        }
    }

    fn refused(change: &Change, view: &View, why: &str) {
        let unmet = check(change, view, &RULES).unwrap_err();
        assert!(unmet.0.contains(why), "{unmet}");
    }

    fn voters(add: &[NodeId], remove: &[NodeId]) -> Change {
        Change::Voters { add: set(add), remove: set(remove), retain: false }
    }

    #[test]
    fn a_new_id_is_nobodys_and_not_of_the_future() {
        let add = |id| Change::AddLearner { id, address: Address::default() };
        assert_eq!(check(&add(90), &view(), &RULES), Ok(()));
        refused(&add(40), &view(), "a member already");
        refused(&add(101), &view(), "allocate an id");
        refused(&add(0), &view(), "begin with 1");
        assert_eq!(check(&add(61), &view(), &RULES), Ok(()));
    }

    /// Founder 4 and the node 55 were removed: the membership is that of entry 60, which came after both ids.
    #[test]
    fn an_id_that_was_used_is_not_taken_again() {
        let add = |id| Change::AddLearner { id, address: Address::default() };
        for id in [4, 55, 60] {
            refused(&add(id), &view(), "never used again");
        }
        let unchanged = View { changed_at: 0, ..view() };
        assert_eq!(check(&add(4), &unchanged, &RULES), Ok(()));
    }

    #[test]
    fn only_a_learner_in_sync_becomes_a_voter() {
        assert_eq!(check(&voters(&[40], &[]), &view(), &RULES), Ok(()));
        assert_eq!(check(&voters(&[40], &[3]), &view(), &RULES), Ok(()));
        refused(&voters(&[41], &[]), &view(), "no learner");
        let mut lagging = view();
        lagging.members.insert(40, Seen { matched: Some(89), silent_for: Some(Duration::ZERO) });
        refused(&voters(&[40], &[3]), &lagging, "lacks 11 entries");
        lagging.members.insert(40, Seen { matched: Some(100), silent_for: None });
        refused(&voters(&[40], &[3]), &lagging, "was not heard");
    }

    #[test]
    fn a_leader_that_was_removed_is_no_member() {
        assert!(view().is_led_by_a_member());
        assert!(View { leader: 40, ..view() }.is_led_by_a_member());
        assert!(!View { leader: 7, ..view() }.is_led_by_a_member());
    }

    /// Founders 1 to 5 of an idle cluster: once 5 and 4 had left, the entries that this took made 5 the next id.
    #[test]
    fn a_founder_leaves_only_once_the_log_has_passed_its_id() {
        let young = View { last_index: 2, learners: set(&[4]), ..view() };
        refused(&voters(&[], &[3]), &young, "could get its id");
        refused(&Change::RemoveLearner { id: 4 }, &young, "could get its id");
        assert_eq!(check(&voters(&[], &[2]), &young, &RULES), Ok(()));
        let demotion = Change::Voters { add: set(&[]), remove: set(&[3]), retain: true };
        assert_eq!(check(&demotion, &young, &RULES), Ok(()));
    }

    #[test]
    fn a_quorum_is_kept() {
        assert_eq!(check(&voters(&[], &[3]), &view(), &RULES), Ok(()));
        let mut one_down = view();
        one_down.members.insert(2, Seen { matched: Some(100), silent_for: Some(Duration::from_secs(9)) });
        // The one that is down may go, a healthy one may not.
        assert_eq!(check(&voters(&[], &[2]), &one_down, &RULES), Ok(()));
        refused(&voters(&[], &[3]), &one_down, "no quorum");
        refused(&voters(&[], &[1, 2, 3]), &view(), "no voter would be left");
        refused(&voters(&[], &[]), &view(), "already");
        refused(&voters(&[2], &[]), &view(), "a voter already");
        refused(&voters(&[], &[7]), &view(), "no voter");
    }

    #[test]
    fn one_change_at_a_time_and_an_interrupted_one_is_finished() {
        let mut joint = view();
        joint.voters.push(set(&[1, 2, 40]));
        refused(&voters(&[], &[3]), &joint, "in progress");
        refused(&Change::RemoveLearner { id: 40 }, &joint, "in progress");
        assert_eq!(check(&Change::Finish, &joint, &RULES), Ok(()));
        joint.is_committed = false;
        refused(&Change::Finish, &joint, "not committed");
        refused(&Change::Finish, &view(), "no change");
        let mut uncommitted = view();
        uncommitted.is_committed = false;
        refused(&Change::RemoveLearner { id: 40 }, &uncommitted, "in progress");
    }

    #[test]
    fn leadership_goes_to_a_healthy_voter() {
        assert_eq!(check_transfer(2, &view(), &RULES), Ok(()));
        assert!(check_transfer(40, &view(), &RULES).is_err());
        let mut lagging = view();
        lagging.members.insert(2, Seen { matched: None, silent_for: Some(Duration::ZERO) });
        assert!(check_transfer(2, &lagging, &RULES).is_err());
    }
}
