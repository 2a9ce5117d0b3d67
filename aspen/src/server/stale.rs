//! Reads of whatever is applied here, within bounds that the client names.
//!
//! The age of a follower's state is the time since the last append of the leader *arrived* whose commit mark is applied
//! here: how long that message was on its way is not known, but a leader gives up on an append after its timeout. The
//! age of the leader's own state is the time since a quorum last acknowledged it. A node that leads nobody and follows
//! nobody has no age: it serves no read that asks for one.

use std::time::Duration;

use openraft::Instant;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::InstantOf;

use crate::command::{Answer, Query};
use crate::env::Env;
use crate::error::ErrorCode;
use crate::message::Refusal;
use crate::server::{Refused, Server};
use crate::types::TypeConfig;
use buggify::{assert_always, assert_reachable};

/// How old the state may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StaleBound {
    /// See the module.
    pub max_age: Option<Duration>,
    /// The state contains the command with this index; the node waits for it.
    pub min_revision: Option<u64>,
}

/// When a leader was heard, and what it had committed then.
#[derive(Clone, Copy, Debug)]
struct Word<I> {
    at: I,
    commit: u64,
}

/// What is known of the age of this node's state.
#[derive(Debug)]
pub(super) struct Freshness<I> {
    /// The newest word whose commit mark is applied.
    reached: Option<Word<I>>,
    /// The first word after it.
    next: Option<Word<I>>,
}

impl<I> Default for Freshness<I> {
    fn default() -> Self {
        Freshness { reached: None, next: None }
    }
}

impl<I: Instant> Freshness<I> {
    /// A leader was heard at `at`; it had committed up to `commit`. Here everything up to `applied` is applied.
    pub(super) fn heard(&mut self, at: I, commit: u64, applied: u64) {
        self.advance(applied);
        self.next.get_or_insert(Word { at, commit });
        self.advance(applied);
    }

    fn advance(&mut self, applied: u64) {
        if let Some(next) = self.next.take_if(|next| next.commit <= applied) {
            self.reached = Some(next);
        }
    }

    /// Since when the state has had nothing missing, if ever.
    fn since(&mut self, applied: u64) -> Option<I> {
        self.advance(applied);
        self.reached.map(|word| word.at)
    }
}

/// Pause between two looks at what is applied.
const POLL: Duration = Duration::from_millis(2);

impl<E: Env> Server<E> {
    /// Reads what is applied here, if it is within `bound`; waits for `budget` at most until it is.
    pub(crate) async fn read_stale(&self, query: Query, bound: StaleBound, budget: Duration) -> Refused<Answer> {
        let shared = &self.shared;
        self.admit_client()?;
        let limits = &shared.config.store.limits;
        limits.check_query(&query).map_err(|error| Refusal::new(ErrorCode::LimitExceeded, error.to_string()))?;
        let full = || Refusal::new(ErrorCode::Overloaded, "too many reads are in progress");
        let _permit = shared.reads.enter().ok_or_else(full)?;
        let deadline = TypeConfig::<E>::now() + budget;
        while let Some(missing) = self.missing(bound) {
            if TypeConfig::<E>::now() >= deadline {
                assert_reachable!("a stale read was refused because the state is too old", owed_by = "");
                return Err(Refusal { leader: self.hint(), ..Refusal::new(ErrorCode::TooStale, missing) });
            }
            TypeConfig::<E>::sleep(POLL).await;
        }
        let answer = self.query(query).await?;
        assert_always!(
            bound.min_revision.is_none_or(|min| answer.revision >= min),
            "a stale read sees at least the revision it asks for",
            answer.revision,
            bound
        );
        Ok(answer)
    }

    /// What the state lacks to be within the bound.
    fn missing(&self, bound: StaleBound) -> Option<String> {
        let applied = self.applied_index();
        if let Some(min) = bound.min_revision.filter(|min| applied < *min) {
            return Some(format!("revision {applied} is applied here, {min} is asked for"));
        }
        let max_age = bound.max_age?;
        match self.age() {
            Some(age) if age <= max_age => None,
            Some(age) => Some(format!("the state may be {age:?} old")),
            None => Some("no leader was heard yet".to_owned()),
        }
    }

    /// How old the state may be; `None` if nothing is known of it.
    pub(crate) fn age(&self) -> Option<Duration> {
        let me = self.shared.config.id;
        let metrics = self.shared.raft.metrics();
        let acknowledged = {
            let metrics = metrics.borrow_watched();
            let leads = metrics.current_leader == Some(me);
            // openraft keeps no time for a leader that is a quorum by itself.
            if leads && metrics.membership_config.membership().voter_ids().eq([me]) {
                return Some(Duration::ZERO);
            }
            if leads { metrics.last_quorum_acked.map(|at| *at) } else { None }
        };
        let since = match acknowledged {
            Some(at) => Some(at),
            None => self.freshness().since(self.applied_index()),
        };
        since.map(|at| TypeConfig::<E>::now().saturating_duration_since(at))
    }

    fn applied_index(&self) -> u64 {
        self.shared.reader.applied().map_or(0, |applied| applied.index)
    }

    /// A leader's append was taken.
    pub(super) fn heard_leader(&self, commit: Option<u64>) {
        let applied = self.applied_index();
        self.freshness().heard(TypeConfig::<E>::now(), commit.unwrap_or(0), applied);
    }

    fn freshness(&self) -> std::sync::MutexGuard<'_, Freshness<InstantOf<TypeConfig<E>>>> {
        self.shared.freshness.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use openraft::AsyncRuntime;
    use openraft::impls::TokioRuntime;

    use super::*;

    type Clock = <TokioRuntime as AsyncRuntime>::Instant;

    #[test]
    fn a_state_is_as_old_as_the_newest_word_that_it_has_reached() {
        let start = Clock::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut freshness = Freshness::default();
        assert_eq!(freshness.since(10), None, "nobody was heard");
        freshness.heard(at(0), 5, 3);
        assert_eq!(freshness.since(4), None, "what was committed is not applied yet");
        assert_eq!(freshness.since(5), Some(at(0)));
        // Under load the commit mark runs ahead all the time; the age must not grow for ever.
        freshness.heard(at(10), 8, 5);
        freshness.heard(at(20), 12, 7);
        assert_eq!(freshness.since(7), Some(at(0)));
        freshness.heard(at(30), 14, 9);
        assert_eq!(freshness.since(9), Some(at(10)));
        assert_eq!(freshness.since(14), Some(at(30)));
    }
}
