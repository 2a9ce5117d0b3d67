//! Linearizable reads by ReadIndex (Ongaro's dissertation, section 6.4).
//!
//! The leader notes its commit index, confirms with a quorum that it still leads, waits until the noted index is
//! applied, then reads. Many reads share one round of the quorum.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::InstantOf;
use openraft::{RaftMetrics, ReadPolicy};

use crate::command::{Answer, Query};
use crate::detach;
use crate::env::Env;
use crate::error::ErrorCode;
use crate::message::Refusal;
use crate::planted::planted;
use crate::server::{Refused, Server};
use crate::types::TypeConfig;
use buggify::{assert_always, assert_reachable, assert_sometimes, buggify};

/// Why the leader was not confirmed.
type Unconfirmed<E> = RaftError<TypeConfig<E>, LinearizableReadError<TypeConfig<E>>>;

impl<E: Env> Server<E> {
    /// Reads a state that contains every write acknowledged before this call. Waits for `budget` at most.
    pub(super) async fn read(&self, query: Query, budget: Duration) -> Refused<Answer> {
        let shared = &self.shared;
        shared
            .config
            .store
            .limits
            .check_query(&query)
            .map_err(|error| Refusal::new(ErrorCode::LimitExceeded, error.to_string()))?;
        let permit = shared
            .reads
            .enter()
            .ok_or_else(|| Refusal::new(ErrorCode::Overloaded, "too many reads are in progress"))?;
        let late = |_| Refusal::new(ErrorCode::Timeout, format!("the read was not served within {budget:?}"));
        let server = self.clone();
        let answer = async move {
            let _permit = permit;
            server.read_linearizable(query, budget).await
        };
        detach::timeout::<E, _>(budget, answer).await.map_err(late)?
    }

    async fn read_linearizable(&self, query: Query, budget: Duration) -> Refused<Answer> {
        let shared = &self.shared;
        if planted!("read-skips-read-index") && shared.raft.as_leader().is_ok() {
            return self.query(query).await;
        }
        let read_index = match self.confirm(budget).await {
            Ok(index) => index,
            Err(RaftError::APIError(_)) if planted!("follower-serves-reads") => return self.query(query).await,
            Err(error) => return Err(self.not_confirmed(error)),
        };
        if buggify!(at "read waits after its index is known", 0.1) {
            TypeConfig::<E>::sleep(Duration::from_millis(shared.config.raft.heartbeat_ms)).await;
        }
        assert_sometimes!(
            shared.reader.applied().map(|id| id.index) < Some(read_index),
            "a read waited for its index to be applied"
        );
        if planted!("read-before-apply") {
            return self.query(query).await;
        }
        self.applied(read_index, budget).await?;
        let answer = self.query(query).await?;
        assert_always!(
            answer.revision >= read_index,
            "a read sees at least its read index",
            answer.revision,
            read_index
        );
        Ok(answer)
    }

    /// The read index, confirmed by a quorum, if this node leads.
    pub(super) async fn confirmed_index(&self, budget: Duration) -> Refused<u64> {
        self.admit_client()?;
        let late = |_| Refusal::new(ErrorCode::Timeout, format!("no quorum answered within {budget:?}"));
        let server = self.clone();
        let confirmed = detach::timeout::<E, _>(budget, async move { server.confirm(budget).await }).await;
        confirmed.map_err(late)?.map_err(|error| self.not_confirmed(error))
    }

    async fn confirm(&self, budget: Duration) -> Result<u64, Unconfirmed<E>> {
        // Shorter than the whole, so that the client hears why it has to wait.
        let option = LinearizerOption::from(ReadPolicy::ReadIndex).with_wait_timeout(budget * 3 / 4);
        let linearizer = self.shared.raft.get_read_linearizer(option).await?;
        Ok(linearizer.read_log_id().index())
    }

    fn not_confirmed(&self, error: Unconfirmed<E>) -> Refusal {
        match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => self.forward(forward),
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(missing)) => {
                assert_reachable!("a read was refused because no quorum confirmed the leader");
                let heard: Vec<String> = missing.got.iter().map(ToString::to_string).collect();
                let message = match heard.as_slice() {
                    [] => "no voter has confirmed that this node leads".to_owned(),
                    heard => {
                        format!("of the voters only {} confirmed that this node leads: no quorum", heard.join(", "))
                    }
                };
                Refusal::new(ErrorCode::NoQuorum, message)
            }
            RaftError::Fatal(fatal) => Refusal::new(ErrorCode::NodeFailed, fatal.to_string()),
        }
    }

    /// Waits until the entry at `index` is applied. (openraft's own wait formats its metrics in local time when it is
    /// late, for which it looks for the zone's file.)
    pub(super) async fn applied(&self, index: u64, budget: Duration) -> Refused<()> {
        let mut metrics = self.shared.raft.metrics();
        let enough = metrics.wait_until(|metrics| {
            metrics.running_state.is_err() || metrics.last_applied.as_ref().is_some_and(|id| id.index() >= index)
        });
        match TypeConfig::<E>::timeout(budget, enough).await {
            Ok(Ok(RaftMetrics { running_state: Ok(()), .. })) => Ok(()),
            Ok(_) => Err(Refusal::new(ErrorCode::NodeFailed, "Raft has stopped")),
            Err(_) => Err(Refusal::new(ErrorCode::Timeout, "the read index was not applied in time")),
        }
    }

    pub(super) async fn query(&self, query: Query) -> Refused<Answer> {
        let answered = self.shared.reader.query(query).await;
        answered.map_err(|error| Refusal::new(ErrorCode::NodeFailed, error.to_string()))
    }

    /// The answer, and a moment at which the read transaction was open.
    pub(super) async fn query_opened(&self, query: Query) -> Refused<(Answer, InstantOf<TypeConfig<E>>)> {
        let answered = self.shared.reader.query_opened(query).await;
        answered.map_err(|error| Refusal::new(ErrorCode::NodeFailed, error.to_string()))
    }
}
