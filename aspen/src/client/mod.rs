//! The client: finds the leader, retries within a deadline, and says whether a failed operation may have happened.
//!
//! - Reads change nothing and are retried until the deadline.
//! - Writes through a session carry a number. A retry with the same number has no second effect, so they are retried
//!   until their outcome is known. One operation of a session is in flight at a time; others wait for it.
//! - Other writes are retried only while no attempt may have been delivered. After that the operation ends unknown.
//!
//! Once one attempt had an unknown outcome, no later refusal makes the operation definite again: the first attempt may
//! still be on its way to the log.

mod admin;
mod attempt;
mod config;
pub(crate) mod session;
mod target;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::async_runtime::Mutex as _;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{InstantOf, MutexOf};
use openraft::{AsyncRuntime, Instant};
use rand::Rng;

use crate::client::attempt::{Failure, Trail, classify};
pub use crate::client::config::{ClientConfig, ClientTuning};
use crate::client::session::{Session, Verdict, judge};
use crate::client::target::Targets;
use crate::command::{Answer, Command, Outcome, Query, Reply, SessionSeq};
use crate::env::Env;
use crate::error::{ClientError, ErrorCode, ErrorOutcome, Retry};
use crate::message::{Envelope, LeaderHint, Request, Response, StaleBound, encode_request};
use crate::planted::planted;
use crate::transport::Transport;
use crate::types::{Address, NodeId, TypeConfig};
use buggify::{assert_always, assert_reachable, assert_sometimes, assert_unreachable, buggify};

/// A client of one cluster. Clones share the session and what is known of the leader.
pub struct Client<E: Env> {
    inner: Arc<Inner<E>>,
}

impl<E: Env> Clone for Client<E> {
    fn clone(&self) -> Self {
        Client { inner: self.inner.clone() }
    }
}

struct Inner<E: Env> {
    env: E,
    config: ClientConfig,
    targets: Mutex<Targets>,
    session: MutexOf<TypeConfig<E>, Session>,
}

type InstantIn<E> = InstantOf<TypeConfig<E>>;

impl<E: Env> Client<E> {
    /// A client that starts at one of `addresses`, of which there is at least one, and learns the leader from the
    /// nodes.
    pub fn new(env: E, addresses: Vec<Address>, config: ClientConfig) -> Self {
        let first = usize::try_from(random::<E>() % 1024).expect("below 1024");
        let targets = Mutex::new(Targets::new(addresses, first));
        let session = TypeConfig::<E>::mutex(Session::default());
        Client { inner: Arc::new(Inner { env, config, targets, session }) }
    }

    /// Changes the store. Through the session if the client is configured so; it is opened when it is first needed,
    /// and again when the store has forgotten it.
    ///
    /// If the future is dropped the outcome is unknown.
    pub async fn execute(&self, command: Command) -> Result<Reply, ClientError> {
        let deadline = self.deadline();
        let of_session = matches!(
            command,
            Command::OpenSession { .. } | Command::RefreshSession { .. } | Command::CloseSession { .. }
        );
        let result = if self.inner.config.session && !of_session {
            self.execute_in_session(command, deadline).await
        } else {
            self.write(None, command, deadline).await.map(|(reply, _)| reply)
        };
        if let Err(error) = &result {
            match error.outcome {
                ErrorOutcome::Definite => assert_reachable!("a write was refused for good"),
                ErrorOutcome::Unknown => assert_reachable!("a write ended with an unknown outcome"),
            }
        }
        result
    }

    /// Changes the store under a name that the caller gives the operation: for programs that note the name before they
    /// ask, so that they can ask again after a restart of their own, or let another process ask. The session was opened by
    /// [`Command::OpenSession`].
    ///
    /// The caller sees to it that a number is used for one command only: whoever uses it again, for whatever command, is
    /// told what came of the first. [`Outcome::SessionUnknown`] and [`Outcome::SessionStale`] are answers here, and say
    /// nothing about earlier attempts.
    pub async fn execute_as(&self, name: SessionSeq, command: Command) -> Result<Reply, ClientError> {
        let (reply, _) = self.write(Some(name), command, self.deadline()).await?;
        Ok(reply)
    }

    /// Reads a linearizable state: one that contains every write acknowledged before this call.
    pub async fn query(&self, query: Query) -> Result<Answer, ClientError> {
        self.read(Request::Read { query, budget_ms: 0 }, Addressee::Leader).await
    }

    /// Reads what is applied at any node, within `bound`: at one that is drawn at random, then at the same one as long as it
    /// answers. A client that must not see time go back asks for the revision of the last answer or reply it had.
    pub async fn query_stale(&self, query: Query, bound: StaleBound) -> Result<Answer, ClientError> {
        self.read(Request::StaleRead { query, bound, budget_ms: 0 }, Addressee::Any).await
    }

    /// A read changes nothing: it is repeated until the deadline, and one that failed is definite.
    async fn read(&self, request: Request, to: Addressee) -> Result<Answer, ClientError> {
        match self.deliver(Call { request, repeatable: true, to }, self.deadline()).await {
            Ok(Delivered { response: Response::Answered(answer), .. }) => Ok(answer),
            Ok(other) => Err(mismatched(&other.response)),
            Err(error) => Err(error),
        }
        .map_err(|error| ClientError { outcome: ErrorOutcome::Definite, ..error })
    }

    /// Opens a session now rather than with the first write. Returns its id.
    ///
    /// Repeated when the outcome of an attempt is unknown: a session that nobody uses has no effect and expires.
    pub async fn open_session(&self) -> Result<u64, ClientError> {
        let deadline = self.deadline();
        let mut session = self.lock_session(deadline).await?;
        match session.id() {
            Some(id) => Ok(id),
            None => self.open(&mut session, deadline).await,
        }
    }

    /// Ends the session, if one is open.
    pub async fn close_session(&self) -> Result<(), ClientError> {
        let deadline = self.deadline();
        let mut session = self.lock_session(deadline).await?;
        let Some(id) = session.id() else { return Ok(()) };
        session.forget();
        self.write(None, Command::CloseSession { session: id }, deadline).await.map(|_| ())
    }

    /// Keeps the session from expiring, if one is open.
    pub async fn refresh_session(&self) -> Result<(), ClientError> {
        let deadline = self.deadline();
        let mut session = self.lock_session(deadline).await?;
        let Some(id) = session.id() else { return Ok(()) };
        let (reply, _) = self.write(None, Command::RefreshSession { session: id }, deadline).await?;
        if reply.outcome == Outcome::SessionUnknown {
            session.forget();
        }
        Ok(())
    }

    /// Who leads, as the first node that answers sees it.
    pub async fn leader(&self) -> Result<Option<LeaderHint>, ClientError> {
        let call = Call { request: Request::Leader, repeatable: true, to: Addressee::Leader };
        match self.deliver(call, self.deadline()).await?.response {
            Response::Leader { leader, .. } => Ok(leader),
            other => Err(mismatched(&other)),
        }
    }

    async fn execute_in_session(&self, command: Command, deadline: InstantIn<E>) -> Result<Reply, ClientError> {
        let mut session = self.lock_session(deadline).await?;
        loop {
            let Some(name) = session.next() else {
                self.open(&mut session, deadline).await.map_err(never_sent)?;
                continue;
            };
            let (reply, earlier) = self.write(Some(name), command.clone(), deadline).await?;
            assert_always!(
                reply.outcome != Outcome::SessionStale,
                "the operation in flight is never stale to its session",
                name,
                reply
            );
            match judge(&reply.outcome, earlier) {
                Verdict::Done => return Ok(reply),
                Verdict::Reopen => {
                    assert_reachable!("a session that had expired was opened again");
                    session.forget();
                }
                Verdict::Lost => {
                    session.forget();
                    let message = format!("session {} is gone after an attempt of unknown outcome", name.session);
                    return Err(ClientError::new(ErrorCode::SessionExpired, message));
                }
            }
        }
    }

    async fn open(&self, session: &mut Session, deadline: InstantIn<E>) -> Result<u64, ClientError> {
        let ttl_ms = self.inner.config.tuning.session_ttl_ms;
        let (reply, _) = self.write(None, Command::OpenSession { ttl_ms }, deadline).await?;
        match reply.outcome {
            Outcome::SessionOpened { session: id } => {
                *session = Session::opened(id);
                Ok(id)
            }
            _ => Err(ClientError::new(ErrorCode::InvalidReply, "the reply to opening a session is another's")),
        }
    }

    /// Returns the reply and whether an attempt before the one that got it may have been delivered.
    async fn write(
        &self,
        session: Option<SessionSeq>,
        command: Command,
        deadline: InstantIn<E>,
    ) -> Result<(Reply, bool), ClientError> {
        // Sessions may be opened, refreshed and closed twice: see `open_session`; the others change nothing the second
        // time.
        let repeatable = session.is_some()
            || planted!("unknown-write-retried")
            || matches!(
                command,
                Command::OpenSession { .. } | Command::RefreshSession { .. } | Command::CloseSession { .. }
            );
        let call =
            Call { request: Request::Write { session, command, budget_ms: 0 }, repeatable, to: Addressee::Leader };
        let delivered = self.deliver(call, deadline).await?;
        match delivered.response {
            Response::Written(reply) => Ok((reply, delivered.earlier)),
            other => Err(mismatched(&other)),
        }
    }

    /// Sends a request until it is answered, refused for good, or the deadline passes.
    async fn deliver(&self, mut call: Call, deadline: InstantIn<E>) -> Result<Delivered, ClientError> {
        let tuning = &self.inner.config.tuning;
        let mut trail = Trail::default();
        let mut pause = Duration::from_millis(tuning.backoff_min_ms);
        loop {
            let remaining = deadline.saturating_duration_since(TypeConfig::<E>::now());
            if remaining.is_zero() {
                return Err(trail.expired());
            }
            let timeout = remaining.min(Duration::from_millis(tuning.attempt_ms));
            let (node, to) = match &call.to {
                Addressee::Leader => (None, self.pick()),
                Addressee::Any => (None, self.any()),
                Addressee::Node(node, address) => (Some(*node), address.clone()),
            };
            let request = self.encode(&call.request, node, timeout);
            let received = self.inner.env.transport().call(&to, request, timeout).await;
            let mut seen = classify(received, usize::try_from(tuning.message_bytes_max).unwrap_or(usize::MAX));
            if seen.is_ok() && buggify!(at "client loses a reply", 0.1) {
                seen = Err(Failure::new(ErrorCode::Timeout, "the reply was lost"));
            }
            if matches!(call.to, Addressee::Any) {
                self.targets().read_from(seen.is_ok().then(|| to.clone()));
            }
            let failure = match seen {
                Ok(response) => {
                    if matches!(call.to, Addressee::Leader) && !matches!(response, Response::Leader { .. }) {
                        self.targets().answered(to);
                    }
                    assert_sometimes!(
                        trail.is_unknown() && matches!(response, Response::Written(_)),
                        "a write was answered after an attempt of unknown outcome"
                    );
                    return Ok(Delivered { response, earlier: trail.is_unknown() });
                }
                Err(failure) => failure,
            };
            let (retry, hint) = (failure.code.retry(), failure.leader.clone());
            trail.add(failure);
            if planted!("retry-under-a-new-number")
                && let Request::Write { session: Some(name), .. } = &mut call.request
            {
                name.seq += 1;
            }
            if retry == Retry::Never || (trail.is_unknown() && !call.repeatable) {
                return Err(trail.refused());
            }
            let may_follow = retry == Retry::Elsewhere && matches!(call.to, Addressee::Leader);
            if may_follow && self.targets().refused(&to, hint, tuning.redirects_max) {
                assert_reachable!("a client followed a hint to the leader");
                continue;
            }
            let left = deadline.saturating_duration_since(TypeConfig::<E>::now());
            TypeConfig::<E>::sleep(jittered::<E>(pause).min(left)).await;
            pause = (pause * 2).min(Duration::from_millis(tuning.backoff_max_ms));
        }
    }

    fn pick(&self) -> Address {
        let mut targets = self.targets();
        if buggify!(at "client forgets the leader", 0.1) {
            let leader = targets.pick();
            targets.pass_over(&leader);
        }
        targets.pick()
    }

    fn any(&self) -> Address {
        let mut targets = self.targets();
        if buggify!(at "client reads from another node", 0.2) {
            targets.read_from(None);
        }
        targets.any(random::<E>())
    }

    fn encode(&self, request: &Request, to: Option<NodeId>, timeout: Duration) -> Vec<u8> {
        let mut request = request.clone();
        if let Request::Write { budget_ms, .. }
        | Request::Read { budget_ms, .. }
        | Request::StaleRead { budget_ms, .. }
        | Request::Admin { budget_ms, .. } = &mut request
        {
            *budget_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        }
        encode_request(&Envelope { cluster: self.inner.config.cluster, to, request })
    }

    async fn lock_session(
        &self,
        deadline: InstantIn<E>,
    ) -> Result<<MutexOf<TypeConfig<E>, Session> as openraft::async_runtime::Mutex<Session>>::Guard<'_>, ClientError>
    {
        TypeConfig::<E>::timeout_at(deadline, self.inner.session.lock()).await.map_err(|_| {
            ClientError::new(ErrorCode::NotDelivered, "earlier operations of the session took until the deadline")
        })
    }

    fn targets(&self) -> std::sync::MutexGuard<'_, Targets> {
        self.inner.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deadline(&self) -> InstantIn<E> {
        TypeConfig::<E>::now() + Duration::from_millis(self.inner.config.tuning.deadline_ms)
    }
}

/// A request and whether it may be sent again after an attempt of unknown outcome.
struct Call {
    request: Request,
    repeatable: bool,
    to: Addressee,
}

/// Whom a request is for.
enum Addressee {
    /// Whoever leads.
    Leader,
    /// Whoever answers.
    Any,
    /// This node and no other.
    Node(NodeId, Address),
}

struct Delivered {
    response: Response,
    /// An attempt before the one that got the response may have been delivered too.
    earlier: bool,
}

/// The operation itself was never sent: whatever became of opening the session, it has no effect.
fn never_sent(error: ClientError) -> ClientError {
    let code = match error.outcome {
        ErrorOutcome::Definite => error.code,
        ErrorOutcome::Unknown => ErrorCode::NotDelivered,
    };
    let message = format!("no session could be opened: {}", error.message);
    ClientError { leader: error.leader, ..ClientError::new(code, message) }
}

/// A node answered, but not to what was asked.
fn mismatched(response: &Response) -> ClientError {
    assert_unreachable!("a response answers another request", response);
    ClientError::new(ErrorCode::InvalidReply, "the node answered another question")
}

/// Between half of `pause` and the whole.
fn jittered<E: Env>(pause: Duration) -> Duration {
    let nanos = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(nanos / 2 + random::<E>() % (nanos / 2 + 1))
}

fn random<E: Env>() -> u64 {
    <E::Runtime as AsyncRuntime>::thread_rng().next_u64()
}
