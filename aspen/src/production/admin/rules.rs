//! Which changes of the membership are safe: decided from what the leader sees, without doing anything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::types::NodeId;

/// A learner that lags by more entries is not promoted.
pub const PROMOTE_LAG_MAX: u64 = 100;

/// The cluster as its leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub me: NodeId,
    pub voters: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
    /// The last entry of the leader's log.
    pub last_index: u64,
    /// Everybody but the leader.
    pub others: BTreeMap<NodeId, Other>,
    /// Who was not heard for so long does not respond.
    pub silence_max: Duration,
    /// A change of the membership is under way.
    pub joint: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Other {
    pub matched: u64,
    /// Since it last answered; `None` if it never did.
    pub silent: Option<Duration>,
}

/// Why a change is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("node {0} is not in the cluster")]
    Unknown(NodeId),
    #[error("node {0} is a voter already")]
    IsVoter(NodeId),
    #[error("node {0} is not a voter")]
    NotAVoter(NodeId),
    #[error("node {0} is in the cluster already")]
    IsMember(NodeId),
    #[error("node {node} lags by {lag} entries, {PROMOTE_LAG_MAX} are allowed")]
    Lags { node: NodeId, lag: u64 },
    #[error("node {0} does not respond")]
    Silent(NodeId),
    #[error("of the voters {voters:?} only {responding} respond, {needed} are needed")]
    QuorumLost { voters: BTreeSet<NodeId>, responding: usize, needed: usize },
    #[error("a cluster needs a voter")]
    NoVoters,
    #[error("{0} voters are too many")]
    TooManyVoters(usize),
    #[error("another change of the membership is under way")]
    InProgress,
}

impl View {
    fn responds(&self, node: NodeId) -> bool {
        let heard = |other: &Other| other.silent.is_some_and(|silent| silent <= self.silence_max);
        node == self.me || self.others.get(&node).is_some_and(heard)
    }

    fn lag(&self, node: NodeId) -> u64 {
        self.last_index.saturating_sub(self.others.get(&node).map_or(0, |other| other.matched))
    }

    /// A change to these voters leaves a quorum that responds.
    fn check_quorum(&self, voters: &BTreeSet<NodeId>) -> Result<(), Refusal> {
        let responding = voters.iter().filter(|voter| self.responds(**voter)).count();
        let needed = voters.len() / 2 + 1;
        if voters.is_empty() {
            return Err(Refusal::NoVoters);
        }
        if responding < needed {
            return Err(Refusal::QuorumLost { voters: voters.clone(), responding, needed });
        }
        Ok(())
    }

    /// The voters once `node` is one of them, in place of `replace`. `force` lets it lag or be silent; a quorum must
    /// respond in any case.
    pub fn promote(
        &self,
        node: NodeId,
        replace: Option<NodeId>,
        force: bool,
        voters_max: usize,
    ) -> Result<BTreeSet<NodeId>, Refusal> {
        if self.joint {
            return Err(Refusal::InProgress);
        }
        if self.voters.contains(&node) {
            return Err(Refusal::IsVoter(node));
        }
        if !self.learners.contains(&node) {
            return Err(Refusal::Unknown(node));
        }
        let mut voters = self.voters.clone();
        if let Some(replaced) = replace
            && !voters.remove(&replaced)
        {
            return Err(Refusal::NotAVoter(replaced));
        }
        voters.insert(node);
        if voters.len() > voters_max {
            return Err(Refusal::TooManyVoters(voters.len()));
        }
        if !force && !self.responds(node) {
            return Err(Refusal::Silent(node));
        }
        let lag = self.lag(node);
        if !force && lag >= PROMOTE_LAG_MAX {
            return Err(Refusal::Lags { node, lag });
        }
        self.check_quorum(&voters)?;
        Ok(voters)
    }

    /// The voters once `node` is gone; `None` if it is a learner, whose removal changes no quorum.
    pub fn remove(&self, node: NodeId) -> Result<Option<BTreeSet<NodeId>>, Refusal> {
        if self.joint {
            return Err(Refusal::InProgress);
        }
        if self.learners.contains(&node) {
            return Ok(None);
        }
        let mut voters = self.voters.clone();
        if !voters.remove(&node) {
            return Err(Refusal::Unknown(node));
        }
        self.check_quorum(&voters)?;
        Ok(Some(voters))
    }

    /// Whether exactly these may be the voters.
    pub fn replace_all(&self, voters: &BTreeSet<NodeId>, voters_max: usize) -> Result<(), Refusal> {
        let unknown = voters.iter().find(|voter| !self.voters.contains(voter) && !self.learners.contains(voter));
        match unknown {
            Some(unknown) => Err(Refusal::Unknown(*unknown)),
            None if voters.len() > voters_max => Err(Refusal::TooManyVoters(voters.len())),
            None => self.check_quorum(voters),
        }
    }

    /// Who shall lead: the one that is asked for, or else the voter with the most of the log.
    pub fn heir(&self, asked: Option<NodeId>) -> Result<NodeId, Refusal> {
        if let Some(node) = asked {
            if !self.voters.contains(&node) {
                return Err(Refusal::NotAVoter(node));
            }
            return if self.responds(node) { Ok(node) } else { Err(Refusal::Silent(node)) };
        }
        let candidates = self.voters.iter().copied().filter(|voter| *voter != self.me && self.responds(*voter));
        let best = candidates.min_by_key(|voter| (self.lag(*voter), *voter));
        best.ok_or(Refusal::QuorumLost { voters: self.voters.clone(), responding: 1, needed: 2 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARD: Option<Duration> = Some(Duration::from_millis(10));

    /// Leader 1, voters 1 to 3, learner 4; everybody responds and has everything.
    fn view() -> View {
        let other = Other { matched: 1000, silent: HEARD };
        View {
            me: 1,
            voters: [1, 2, 3].into(),
            learners: [4].into(),
            last_index: 1000,
            others: [(2, other), (3, other), (4, other)].into(),
            silence_max: Duration::from_secs(1),
            joint: false,
        }
    }

    fn silence(view: &mut View, node: NodeId) {
        view.others.get_mut(&node).unwrap().silent = None;
    }

    #[test]
    fn a_learner_that_is_caught_up_is_promoted() {
        assert_eq!(view().promote(4, None, false, 100), Ok([1, 2, 3, 4].into()));
        assert_eq!(view().promote(4, Some(2), false, 100), Ok([1, 3, 4].into()));
    }

    #[test]
    fn who_is_no_learner_is_not_promoted() {
        assert_eq!(view().promote(2, None, true, 100), Err(Refusal::IsVoter(2)));
        assert_eq!(view().promote(5, None, true, 100), Err(Refusal::Unknown(5)));
        assert_eq!(view().promote(4, Some(5), true, 100), Err(Refusal::NotAVoter(5)));
        assert_eq!(view().promote(4, None, true, 3), Err(Refusal::TooManyVoters(4)));
        assert_eq!(View { joint: true, ..view() }.promote(4, None, true, 100), Err(Refusal::InProgress));
    }

    #[test]
    fn a_learner_that_lags_or_is_silent_needs_force() {
        let mut lagging = view();
        lagging.others.get_mut(&4).unwrap().matched = 900;
        assert_eq!(lagging.promote(4, None, false, 100), Err(Refusal::Lags { node: 4, lag: 100 }));
        assert!(lagging.promote(4, None, true, 100).is_ok());
        let mut silent = view();
        silence(&mut silent, 4);
        assert_eq!(silent.promote(4, None, false, 100), Err(Refusal::Silent(4)));
        assert!(silent.promote(4, None, true, 100).is_ok(), "three of four voters respond");
    }

    /// Not even force makes a cluster that cannot commit.
    #[test]
    fn a_quorum_responds_after_every_change() {
        let mut view = view();
        silence(&mut view, 2);
        silence(&mut view, 4);
        assert!(matches!(view.promote(4, None, true, 100), Err(Refusal::QuorumLost { responding: 2, needed: 3, .. })));
        assert_eq!(view.remove(2), Ok(Some([1, 3].into())));
        assert!(matches!(view.remove(3), Err(Refusal::QuorumLost { .. })));
        assert!(matches!(view.replace_all(&[2, 4].into(), 100), Err(Refusal::QuorumLost { .. })));
    }

    #[test]
    fn the_last_voter_stays_and_a_learner_goes_without_more() {
        let single = View { voters: [1].into(), ..view() };
        assert_eq!(single.remove(1), Err(Refusal::NoVoters));
        assert_eq!(single.remove(4), Ok(None));
        assert_eq!(single.remove(9), Err(Refusal::Unknown(9)));
    }

    #[test]
    fn the_heir_has_the_most_of_the_log_and_responds() {
        let mut view = view();
        view.others.get_mut(&2).unwrap().matched = 10;
        assert_eq!(view.heir(None), Ok(3));
        silence(&mut view, 3);
        assert_eq!(view.heir(None), Ok(2));
        assert_eq!(view.heir(Some(3)), Err(Refusal::Silent(3)));
        assert_eq!(view.heir(Some(4)), Err(Refusal::NotAVoter(4)));
    }
}
