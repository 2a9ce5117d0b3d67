//! The client of a tester: one operation at a time, told to the oracles like those of any other client.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use aspen::client::{Client as Aspen, ClientConfig};
use aspen::command::{Command, Query};
use aspen::error::{ClientError, ErrorOutcome};
use aspen::types::Address;
use sim_runtime::engine::{Client, OpKind, OpOutcome};
use sim_runtime::sync::mpsc;

use crate::config;
use crate::env::SimEnv;
use crate::event::{Action, Event, OpResult};
use crate::teller::failed;

/// Something for the client to do.
pub(super) type Job = Box<dyn FnOnce(Rc<Hand>) -> Pin<Box<dyn Future<Output = ()>>>>;

pub(super) struct Hand {
    client: Client<Event>,
    pub aspen: Aspen<SimEnv>,
}

impl Hand {
    pub fn new(client: Client<Event>, addresses: Vec<Address>, session: bool) -> Hand {
        let mut config: ClientConfig = config::client_config(|name| client.knob(name), client.index, session, false);
        config.tuning.deadline_ms = DEADLINE_MS;
        Hand { aspen: Aspen::new(SimEnv::new(None), addresses, config), client }
    }

    /// Does what it is told, one thing after the other.
    pub async fn work(self, mut jobs: mpsc::Receiver<Job>) {
        let hand = Rc::new(self);
        while let Some(job) = jobs.recv().await {
            job(Rc::clone(&hand)).await;
        }
    }

    /// Returns the revision.
    pub async fn write(&self, key: &str, value: &str) -> Result<u64, ClientError> {
        let op = self.client.begin();
        let value = unique(value, self.client.index, op);
        let command = Command::Set { key: key.as_bytes().to_vec(), value };
        self.invoked(op, Action::Write { session: None, command: command.clone() });
        let result = self.aspen.execute(command).await;
        let seen = result.as_ref().map_or_else(failed, |reply| OpResult::Written(reply.clone()));
        self.returned(op, OpKind::Write, seen, result.as_ref().err());
        result.map(|reply| reply.revision)
    }

    pub async fn read(&self, key: &str) -> Result<Option<String>, ClientError> {
        let op = self.client.begin();
        let query = Query::Get { key: key.as_bytes().to_vec() };
        self.invoked(op, Action::Read(query.clone()));
        let result = self.aspen.query(query).await;
        let seen = result.as_ref().map_or_else(failed, |answer| OpResult::Answered(answer.clone()));
        self.returned(op, OpKind::Read, seen, result.as_ref().err());
        result.map(|answer| answer.rows.first().map(|row| written(&row.value)))
    }

    fn invoked(&self, op: u64, action: Action) {
        self.client.emit(Event::Invoked { client: self.client.index, op, action: Rc::new(action) });
    }

    fn returned(&self, op: u64, kind: OpKind, result: OpResult, error: Option<&ClientError>) {
        let outcome = match error.map(|error| error.outcome) {
            None => OpOutcome::Ok,
            Some(ErrorOutcome::Definite) => OpOutcome::Failed,
            Some(ErrorOutcome::Unknown) => OpOutcome::Unknown,
        };
        self.client.emit(Event::Returned { client: self.client.index, op, result: Rc::new(result) });
        self.client.end(op, kind, outcome);
    }
}

/// The oracles tell writes apart by their values, so the same text twice must be two values.
fn unique(value: &str, client: u32, op: u64) -> Vec<u8> {
    format!("{value}{MARK}{client}/{op}").into_bytes()
}

/// The text as it was written.
fn written(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    text.rsplit_once(MARK).map_or_else(|| text.to_string(), |(text, _)| text.to_owned())
}

/// Between the text and what makes it unique.
const MARK: char = '\u{0}';
/// An operation with all its retries ends after so long.
const DEADLINE_MS: u64 = 5000;
