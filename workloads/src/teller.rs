//! A client whose operations the oracles see: every workload speaks to the store through one.
//!
//! Each operation is told when it begins and when it ends, under one id, so that oracles of clients judge the operations
//! of all workloads alike.

use std::rc::Rc;
use std::time::Duration;

use aspen::client::Client as Aspen;
use aspen::command::{Answer, Command, Query, Reply, SessionSeq};
use aspen::error::{ClientError, ErrorOutcome};
use aspen::types::Address;
use buggify::assert_always;
use sim_runtime::engine::{Client, OpKind, OpOutcome};
use sim_runtime::world;

use crate::config;
use crate::env::SimEnv;
use crate::event::{Action, Event, OpResult};
use crate::transport;

/// One client of the store.
pub struct Teller {
    pub client: Client<Event>,
    pub aspen: Aspen<SimEnv>,
}

/// Nobody was answered: refused for good, or unknown.
pub type Told<T> = Result<T, ErrorOutcome>;

impl Teller {
    /// Its writes go through a session if `in_session`. `patient` ones outlast any disturbance.
    pub fn new(client: Client<Event>, in_session: bool, patient: bool) -> Teller {
        let addresses = client.servers.iter().map(|host| transport::address(*host)).collect();
        Teller::at(client, addresses, in_session, patient)
    }

    fn at(client: Client<Event>, addresses: Vec<Address>, in_session: bool, patient: bool) -> Teller {
        let config = config::client_config(|name| client.knob(name), client.index, in_session, patient);
        Teller { aspen: Aspen::new(SimEnv::new(None), addresses, config), client }
    }

    /// Changes the store. `command` is made for the ids of the client and the operation.
    pub async fn write(&self, command: impl FnOnce((u32, u64)) -> Command) -> Told<Reply> {
        let (op, command) = self.begin(None, command);
        let result = self.aspen.execute(command).await;
        self.end_write(op, result)
    }

    /// Changes the store under a name of the caller's. With a `patience` the caller hangs up after so long.
    pub async fn write_as(
        &self,
        name: SessionSeq,
        patience: Option<Duration>,
        command: impl FnOnce((u32, u64)) -> Command,
    ) -> Told<Reply> {
        let (op, command) = self.begin(Some(name), command);
        let asked = self.aspen.execute_as(name, command);
        let result = match patience {
            None => asked.await,
            Some(patience) => match world::timeout(patience, Box::pin(asked)).await {
                Ok(result) => result,
                Err(_) => {
                    self.ended(op, OpKind::Write, OpResult::Unknown("the client hung up".to_owned()));
                    return Err(ErrorOutcome::Unknown);
                }
            },
        };
        self.end_write(op, result)
    }

    /// Reads a linearizable state.
    pub async fn read(&self, query: Query) -> Told<Answer> {
        let op = self.client.begin();
        self.client.emit(Event::Invoked {
            client: self.client.index,
            op,
            action: Rc::new(Action::Read(query.clone())),
        });
        match self.aspen.query(query).await {
            Ok(answer) => {
                self.ended(op, OpKind::Read, OpResult::Answered(answer.clone()));
                Ok(answer)
            }
            Err(error) => {
                assert_always!(error.outcome == ErrorOutcome::Definite, "a failed read is definite to every workload");
                self.ended(op, OpKind::Read, failed(&error));
                Err(error.outcome)
            }
        }
    }

    fn begin(&self, session: Option<SessionSeq>, command: impl FnOnce((u32, u64)) -> Command) -> (u64, Command) {
        let op = self.client.begin();
        let command = command((self.client.index, op));
        let action = Action::Write { session, command: command.clone() };
        self.client.emit(Event::Invoked { client: self.client.index, op, action: Rc::new(action) });
        (op, command)
    }

    fn end_write(&self, op: u64, result: Result<Reply, ClientError>) -> Told<Reply> {
        match result {
            Ok(reply) => {
                self.ended(op, OpKind::Write, OpResult::Written(reply.clone()));
                Ok(reply)
            }
            Err(error) => {
                self.ended(op, OpKind::Write, failed(&error));
                Err(error.outcome)
            }
        }
    }

    fn ended(&self, op: u64, kind: OpKind, result: OpResult) {
        let outcome = match &result {
            OpResult::Written(_) | OpResult::Answered(_) => OpOutcome::Ok,
            OpResult::Failed(_) => OpOutcome::Failed,
            OpResult::Unknown(_) => OpOutcome::Unknown,
        };
        self.client.emit(Event::Returned { client: self.client.index, op, result: Rc::new(result) });
        self.client.end(op, kind, outcome);
    }
}

/// A failed operation, as the oracles are told.
pub fn failed(error: &ClientError) -> OpResult {
    let text = error.to_string();
    match error.outcome {
        ErrorOutcome::Definite => OpResult::Failed(text),
        ErrorOutcome::Unknown => OpResult::Unknown(text),
    }
}
