//! Reads of whatever is applied here, within bounds that the client names.
//!
//! The age of the state is found by a *probe*: this node asks the leader for its read index (Ongaro's dissertation, section
//! 6.4), which the leader confirms with a quorum, and waits until that index is applied here. From then on the state contains
//! everything that was acknowledged before the probe was *sent*: it is as old as that moment is past, and later reads need
//! no probe until it is too old for them. That an append of a leader has arrived proves nothing: it may have been on its way
//! for long, and its sender may have been deposed without knowing it.
//!
//! The age is judged when the read transaction is open, not before: a node may stand still between the two.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use openraft::Instant;
use openraft::async_runtime::Mutex as _;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{InstantOf, MutexOf};

use crate::command::{Answer, Query};
use crate::env::Env;
use crate::error::ErrorCode;
use crate::message::{Envelope, LeaderHint, Refusal, Request, Response, StaleBound, decode_response, encode_request};
use crate::planted::planted;
use crate::server::{Refused, Server};
use crate::transport::Transport;
use crate::types::TypeConfig;
use buggify::{assert_always, assert_reachable, assert_sometimes, buggify};

/// What is known of the age of this node's state.
pub(super) struct Freshness<E: Env> {
    /// When the newest probe was sent whose index is applied here.
    since: Mutex<Option<InstantOf<TypeConfig<E>>>>,
    /// One probe at a time: those who come meanwhile use what it finds.
    probe: MutexOf<TypeConfig<E>, ()>,
}

impl<E: Env> Default for Freshness<E> {
    fn default() -> Self {
        Freshness { since: Mutex::default(), probe: TypeConfig::<E>::mutex(()) }
    }
}

impl<E: Env> Freshness<E> {
    fn since(&self) -> Option<InstantOf<TypeConfig<E>>> {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn proved(&self, sent: InstantOf<TypeConfig<E>>) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = (*since).max(Some(sent));
    }
}

/// Pause after a probe that found nothing.
const PAUSE: Duration = Duration::from_millis(5);

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
        self.reach(bound.min_revision, deadline).await?;
        let answer = match bound.max_age {
            Some(max_age) => self.read_within(query, max_age, deadline).await?,
            None => self.query(query).await?,
        };
        assert_always!(
            bound.min_revision.is_none_or(|min| answer.revision >= min) || planted!("stale-read-ignores-revision"),
            "a stale read sees at least the revision it asks for",
            answer.revision,
            bound
        );
        Ok(answer)
    }

    /// Waits until this revision is applied.
    async fn reach(&self, min_revision: Option<u64>, deadline: InstantOf<TypeConfig<E>>) -> Refused<()> {
        let applied = || self.shared.reader.applied().map_or(0, |applied| applied.index);
        let Some(min) = min_revision.filter(|min| applied() < *min) else { return Ok(()) };
        if planted!("stale-read-ignores-revision") {
            return Ok(());
        }
        assert_reachable!("a stale read waited for its revision");
        match self.applied(min, deadline.saturating_duration_since(TypeConfig::<E>::now())).await {
            Err(refusal) if refusal.code == ErrorCode::Timeout => {
                Err(self.too_stale(format!("revision {} is applied here, {min} is asked for", applied())))
            }
            reached => reached,
        }
    }

    /// Reads a state that is not older than `max_age`.
    async fn read_within(
        &self,
        query: Query,
        max_age: Duration,
        deadline: InstantOf<TypeConfig<E>>,
    ) -> Refused<Answer> {
        let freshness = &self.shared.freshness;
        loop {
            if let Some(since) = freshness.since().filter(|since| age(since, TypeConfig::<E>::now()) <= max_age) {
                let (answer, opened) = self.query_opened(query.clone()).await?;
                if age(&since, opened) <= max_age {
                    return Ok(answer);
                }
                assert_reachable!("a state grew too old between the check and the read", owed_by = "");
            }
            let probed = match TypeConfig::<E>::timeout_at(deadline, self.probe(max_age, deadline)).await {
                Ok(probed) => probed.map_err(|refusal| refusal.message),
                Err(_) => Err("no leader answered in time".to_owned()),
            };
            let now = TypeConfig::<E>::now();
            if freshness.since().is_some_and(|since| age(&since, now) <= max_age) {
                continue;
            }
            // A probe that took too long will most likely do so again.
            if probed.is_ok() || now + PAUSE >= deadline {
                let state = match freshness.since() {
                    Some(since) => format!("the state may be {:?} old", age(&since, now)),
                    None => "it is not known how old the state is".to_owned(),
                };
                assert_reachable!("a stale read was refused because the state is too old");
                return Err(self.too_stale(match probed {
                    Err(why) => format!("{state}: {why}"),
                    Ok(()) => format!("{state}, and to find out takes longer than {max_age:?}"),
                }));
            }
            TypeConfig::<E>::sleep(PAUSE).await;
        }
    }

    /// Proves that the state contains everything acknowledged before now, unless it was proved meanwhile to be young enough.
    async fn probe(&self, max_age: Duration, deadline: InstantOf<TypeConfig<E>>) -> Refused<()> {
        let freshness = &self.shared.freshness;
        let _turn = freshness.probe.lock().await;
        if freshness.since().is_some_and(|since| age(&since, TypeConfig::<E>::now()) <= max_age) {
            assert_reachable!("a stale read used the probe of another");
            return Ok(());
        }
        let sent = TypeConfig::<E>::now();
        let left = || deadline.saturating_duration_since(TypeConfig::<E>::now());
        let index = self.read_index(left()).await?;
        if buggify!(at "stale read waits after its probe", 0.05) {
            TypeConfig::<E>::sleep(Duration::from_millis(self.shared.config.raft.heartbeat_ms)).await;
        }
        if !planted!("probe-not-awaited") {
            self.applied(index, left()).await?;
        }
        freshness.proved(if planted!("stale-age-from-answer") { TypeConfig::<E>::now() } else { sent });
        Ok(())
    }

    /// The leader's read index: here, or by a message.
    async fn read_index(&self, budget: Duration) -> Refused<u64> {
        let refusal = match self.confirmed_index(budget).await {
            Err(refusal) if refusal.code == ErrorCode::NotLeader => refusal,
            confirmed => return confirmed,
        };
        let Some(LeaderHint { id, address }) = refusal.leader else {
            return Err(Refusal::new(ErrorCode::NotLeader, "no leader is known"));
        };
        let shared = &self.shared;
        let request = Request::ReadIndex { budget_ms: u32::try_from(budget.as_millis()).unwrap_or(u32::MAX) };
        let envelope = Envelope { cluster: shared.config.cluster, to: Some(id), request };
        let received = shared.env.transport().call(&address, encode_request(&envelope), budget).await;
        let bytes = received.map_err(|error| Refusal::new(ErrorCode::Unreachable, format!("leader {id}: {error}")))?;
        match decode_response(&bytes, shared.config.store.limits.message_bytes_max) {
            Ok(Response::ReadIndex { index }) => {
                assert_sometimes!(
                    shared.reader.applied().map_or(0, |applied| applied.index) < index,
                    "a probe found that the state lags behind"
                );
                Ok(index)
            }
            Ok(Response::Refused(refusal)) => Err(refusal),
            Ok(_) => Err(Refusal::new(ErrorCode::InvalidReply, "the leader answered another question")),
            Err(error) => Err(Refusal::new(ErrorCode::InvalidReply, error.to_string())),
        }
    }

    fn too_stale(&self, message: String) -> Refusal {
        Refusal { leader: self.hint(), ..Refusal::new(ErrorCode::TooStale, message) }
    }
}

fn age<I: Instant>(since: &I, at: I) -> Duration {
    at.saturating_duration_since(*since)
}
