//! Whether the stores of a node still work. The first error is the last word: nothing is retried on a store that
//! failed, the node stops and says why.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::alias::{WatchReceiverOf, WatchSenderOf};
use openraft::async_runtime::watch::{WatchReceiver, WatchSender};
use openraft::type_config::TypeConfigExt;

use crate::env::Env;
use crate::types::TypeConfig;

/// Shared by the stores of one node; cheap to clone.
pub struct Health<E: Env> {
    inner: Arc<Inner<E>>,
}

struct Inner<E: Env> {
    state: Mutex<State<E>>,
}

struct State<E: Env> {
    reason: Option<Arc<str>>,
    /// The stores are being closed: what still uses them fails, and that is no news.
    stopping: bool,
    changed: WatchSenderOf<TypeConfig<E>, bool>,
    watch: WatchReceiverOf<TypeConfig<E>, bool>,
}

impl<E: Env> Clone for Health<E> {
    fn clone(&self) -> Self {
        Health { inner: self.inner.clone() }
    }
}

impl<E: Env> Default for Health<E> {
    fn default() -> Self {
        let (changed, watch) = TypeConfig::<E>::watch_channel(false);
        let state = State { reason: None, stopping: false, changed, watch };
        Health { inner: Arc::new(Inner { state: Mutex::new(state) }) }
    }
}

impl<E: Env> Health<E> {
    /// Declares the stores failed. Only the first reason is kept.
    pub fn fail(&self, reason: impl fmt::Display) {
        self.poison(reason);
        self.announce();
    }

    /// From now on every [`Health::check`] fails. For use within a lane: nobody is woken.
    pub(crate) fn poison(&self, reason: impl fmt::Display) {
        let mut state = self.state();
        if state.reason.is_some() || state.stopping {
            return;
        }
        let reason = reason.to_string();
        tracing::error!("a store failed, the node must stop: {reason}");
        state.reason = Some(reason.into());
    }

    /// Wakes those who wait for a failure, if there was one.
    pub(crate) fn announce(&self) {
        let state = self.state();
        if state.reason.is_some() {
            // Nobody may be waiting.
            let _ = state.changed.send(true);
        }
    }

    /// The stores are being closed: errors from now on are no failure.
    pub(crate) fn stopping(&self) {
        self.state().stopping = true;
    }

    /// Why the stores failed, if they did.
    pub fn reason(&self) -> Option<Arc<str>> {
        self.state().reason.clone()
    }

    fn state(&self) -> MutexGuard<'_, State<E>> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error if the stores failed: nothing may be read or written then.
    pub fn check(&self) -> io::Result<()> {
        match self.reason() {
            None => Ok(()),
            Some(reason) => Err(io::Error::other(format!("the store failed earlier: {reason}"))),
        }
    }

    /// Passes a result on, and declares the stores failed if it is an error.
    pub fn watch<T, X: fmt::Display>(&self, what: &str, result: Result<T, X>) -> Result<T, X> {
        result.inspect_err(|error| self.fail(format_args!("{what}: {error}")))
    }

    /// Resolves with the reason once the stores failed. May be dropped at any time.
    pub async fn failed(&self) -> Arc<str> {
        let mut watch = self.state().watch.clone();
        loop {
            if let Some(reason) = self.reason() {
                return reason;
            }
            if watch.changed().await.is_err() {
                // The sender lives as long as `self`.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl<E: Env> fmt::Debug for Health<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("reason", &self.reason()).finish()
    }
}
