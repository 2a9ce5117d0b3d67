//! A client in the storm. Names its operations itself; see [`aspen::client::Client::execute_as`].

use std::time::Duration;

use aspen::command::{Command, Outcome, Query, Reply, SessionSeq};
use buggify::assert_sometimes;
use sim_runtime::engine::PlannedOp;

use super::{Number, StormOp, session_key, storm_key};
use crate::seat::{Desk, Store};
use crate::teller::Teller;

pub async fn work(teller: Teller<impl Desk, impl Store>, ops: Vec<PlannedOp>) {
    let mut stormy = Stormy { teller, name: None, last: None };
    for planned in ops {
        if !stormy.teller.wait_for_turn(&planned).await {
            return;
        }
        let op: StormOp = serde_json::from_value(planned.op).expect("the plan was written by this workload");
        stormy.perform(op).await;
    }
}

/// Uses a session once and leaves it alone for much longer than it may live; then looks whether it is still there.
pub async fn abandon(teller: Teller<impl Desk, impl Store>) {
    let opened = teller.write(|_| Command::OpenSession { ttl_ms: ABANDONED_TTL_MS }).await;
    let Ok(Reply { outcome: Outcome::SessionOpened { session }, .. }) = opened else { return };
    let write =
        |(client, op): (u32, u64)| Command::Set { key: storm_key(0), value: format!("{client}/{op}").into_bytes() };
    let _ = teller.write_as(SessionSeq { session, seq: 1 }, None, write).await;
    teller.sleep(ABANDONED).await;
    let _ = teller.write(|_| Command::RefreshSession { session }).await;
}

struct Stormy<D, S> {
    teller: Teller<D, S>,
    /// The session, and the number used last.
    name: Option<SessionSeq>,
    /// The last operation as it was sent.
    last: Option<(SessionSeq, Command)>,
}

impl<D: Desk, S: Store> Stormy<D, S> {
    async fn perform(&mut self, op: StormOp) {
        match op {
            StormOp::Open { session, ttl_ms } => self.open(session, u64::from(ttl_ms)).await,
            StormOp::Join { session } => self.join(session).await,
            StormOp::Write { session, key, number, hang_up } => {
                if self.name.is_none() {
                    self.join(session).await;
                }
                self.write(key, number, hang_up).await;
            }
            StormOp::Refresh { .. } => {
                if let Some(SessionSeq { session, .. }) = self.name {
                    let _ = self.teller.write(|_| Command::RefreshSession { session }).await;
                }
            }
            StormOp::Close { .. } => {
                if let Some(SessionSeq { session, .. }) = self.name {
                    let _ = self.teller.write(|_| Command::CloseSession { session }).await;
                }
            }
        }
    }

    async fn open(&mut self, number: u32, ttl_ms: u64) {
        let opened = self.teller.write(|_| Command::OpenSession { ttl_ms }).await;
        if let Ok(Reply { outcome: Outcome::SessionOpened { session }, .. }) = opened {
            self.name = Some(SessionSeq { session, seq: 0 });
            let told = |(client, op): (u32, u64)| Command::Set {
                key: session_key(number),
                value: format!("{session} {client}/{op}").into_bytes(),
            };
            let _ = self.teller.write(told).await;
        }
    }

    async fn join(&mut self, number: u32) {
        let Ok(answer) = self.teller.read(Query::Get { key: session_key(number) }).await else { return };
        let told = answer.rows.first().and_then(|row| std::str::from_utf8(&row.value).ok());
        let session = told.and_then(|value| value.split(' ').next()?.parse().ok());
        if let Some(session) = session.filter(|session| self.name.is_none_or(|name| name.session != *session)) {
            self.name = Some(SessionSeq { session, seq: 0 });
        }
    }

    async fn write(&mut self, key: u32, number: Number, hang_up: bool) {
        let Some(name) = &mut self.name else { return };
        let again = self.last.clone().filter(|_| number == Number::Again);
        let used = match (&again, number) {
            (Some((used, _)), _) => *used,
            (None, Number::Reused) => SessionSeq { seq: name.seq.max(1), ..*name },
            (None, Number::Low) => SessionSeq { seq: name.seq.saturating_sub(2).max(1), ..*name },
            (None, Number::Skipped) => SessionSeq { seq: name.seq + 4, ..*name },
            (None, Number::Next | Number::Again) => SessionSeq { seq: name.seq + 1, ..*name },
        };
        if used.session == name.session {
            name.seq = name.seq.max(used.seq);
        }
        let patience = hang_up.then_some(HANG_UP);
        let mut sent = None;
        let command = |(client, op): (u32, u64)| {
            let fresh = || Command::Set { key: storm_key(key), value: format!("{client}/{op}").into_bytes() };
            let command = again.map_or_else(fresh, |(_, command)| command);
            sent = Some(command.clone());
            command
        };
        let told = self.teller.write_as(used, patience, command).await;
        self.last = sent.map(|command| (used, command));
        let outcome = told.as_ref().ok().map(|reply| &reply.outcome);
        let is_gone = outcome == Some(&Outcome::SessionUnknown);
        assert_sometimes!(is_gone, "a storm used a session that is gone", owed_by = "mixed");
        assert_sometimes!(outcome == Some(&Outcome::SessionStale), "a storm used a number too low", owed_by = "mixed");
        if is_gone && self.name.is_some_and(|name| name.session == used.session) {
            self.name = None;
        }
    }
}

const ABANDONED_TTL_MS: u64 = 300;
/// Longer than log time stands still when leaders change.
const ABANDONED: Duration = Duration::from_secs(6);
/// Too soon for most answers.
const HANG_UP: Duration = Duration::from_millis(4);
