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
use sim_runtime::engine::{Client, OpKind, OpOutcome, PlannedOp};

use crate::config;
use crate::env::SimEnv;
use crate::event::{Action, Event, OpResult};
use crate::seat::{Desk, Store};
use crate::transport;

/// One client of the store, wherever it sits.
pub struct Teller<D, S> {
    desk: D,
    store: S,
}

/// Nobody was answered: refused for good, or unknown.
pub type Told<T> = Result<T, ErrorOutcome>;

/// Makes the store that a simulated client asks. Its writes go through a session if `in_session`; a `patient` one outlasts
/// any disturbance.
pub fn store(
    client: &Client<Event>,
    env: SimEnv,
    in_session: bool,
    patient: bool,
) -> impl Fn() -> Aspen<SimEnv> + use<> {
    let addresses: Vec<Address> = client.servers.iter().map(|host| transport::address(*host)).collect();
    let config = config::client_config(|name| client.knob(name), client.index, in_session, patient);
    move || Aspen::new(env.clone(), addresses.clone(), config.clone())
}

/// Makes, for every server, a store that asks this one and no other, and gives up soon.
pub fn stores_of_each(client: &Client<Event>, env: &SimEnv) -> Vec<Aspen<SimEnv>> {
    let mut config = config::client_config(|name| client.knob(name), client.index, false, false);
    (config.tuning.deadline_ms, config.tuning.attempt_ms) = (1000, 500);
    let addresses = client.servers.iter().map(|host| transport::address(*host));
    addresses.map(|address| Aspen::new(env.clone(), vec![address], config.clone())).collect()
}

impl Teller<Client<Event>, Aspen<SimEnv>> {
    /// In a simulation; see [`store`].
    pub fn simulated(client: Client<Event>, in_session: bool, patient: bool) -> Self {
        let store = store(&client, SimEnv::new(None), in_session, patient)();
        Teller::new(client, store)
    }
}

impl<D: Desk, S: Store> Teller<D, S> {
    pub fn new(desk: D, store: S) -> Self {
        Teller { desk, store }
    }

    /// See [`Desk::wait_for_turn`].
    pub async fn wait_for_turn(&self, op: &PlannedOp) -> bool {
        self.desk.wait_for_turn(op).await
    }

    /// See [`Desk::sleep`].
    pub async fn sleep(&self, duration: Duration) {
        self.desk.sleep(duration).await;
    }

    /// Changes the store. `command` is made for the ids of the client and the operation.
    pub async fn write(&self, command: impl FnOnce((u32, u64)) -> Command) -> Told<Reply> {
        let (op, command) = self.begin(None, command);
        let result = self.store.execute(command).await;
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
        let asked = self.store.execute_as(name, command);
        let result = match patience {
            None => asked.await,
            Some(patience) => match self.desk.within(patience, asked).await {
                Some(result) => result,
                None => {
                    self.ended(op, OpKind::Write, OpResult::Unknown("the client hung up".to_owned()));
                    return Err(ErrorOutcome::Unknown);
                }
            },
        };
        self.end_write(op, result)
    }

    /// Reads a linearizable state.
    pub async fn read(&self, query: Query) -> Told<Answer> {
        let op = self.desk.begin();
        self.invoked(op, Action::Read(query.clone()));
        match self.store.query(query).await {
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
        let op = self.desk.begin();
        let command = command((self.desk.index(), op));
        self.invoked(op, Action::Write { session, command: command.clone() });
        (op, command)
    }

    fn invoked(&self, op: u64, action: Action) {
        self.desk.emit(Event::Invoked { client: self.desk.index(), op, action: Rc::new(action) });
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
        self.desk.emit(Event::Returned { client: self.desk.index(), op, result: Rc::new(result) });
        self.desk.end(op, kind, outcome);
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
