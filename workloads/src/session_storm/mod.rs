//! The `session-storm` workload: everything that clients can do wrong with sessions, and everything that can go wrong for
//! them.
//!
//! Two clients share each session and do not talk to each other: they use each other's numbers, send an operation again
//! that was answered long ago, reuse a number for another command, hang up before the answer comes and ask again, close
//! the session under the other's hands, or let it expire. Whatever they do, a number has one effect at most. At the end a
//! session is left alone, which must be gone soon after its time.
//!
//! - [`client`]: a client at work
pub mod client;

use serde::{Deserialize, Serialize};
use sim_runtime::engine::{Client, ClientProcess, PlannedOp, Shape, Workload};
use sim_runtime::world::draws::Stream;

use crate::event::Event;
use crate::pace;
use crate::teller::Teller;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StormOp {
    /// Opens a session and tells the other client by way of the store.
    Open {
        session: u32,
        ttl_ms: u32,
    },
    /// Takes over the session that was opened last.
    Join {
        session: u32,
    },
    Write {
        session: u32,
        key: u32,
        number: Number,
        hang_up: bool,
    },
    Refresh {
        session: u32,
    },
    Close {
        session: u32,
    },
}

/// Which number a write carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Number {
    /// One more than this client used last; the other may have used it too.
    Next,
    /// The last operation once more.
    Again,
    /// The last number, for another command.
    Reused,
    /// Leaves some out.
    Skipped,
    /// Below the last one.
    Low,
}

/// Where the id of a session is told.
pub fn session_key(session: u32) -> Vec<u8> {
    format!("storm-session-{session:02}").into_bytes()
}

pub fn storm_key(key: u32) -> Vec<u8> {
    format!("storm-{key:02}").into_bytes()
}

/// See the module.
pub struct SessionStorm;

impl Workload<Event> for SessionStorm {
    fn name(&self) -> &'static str {
        "session-storm"
    }

    fn plan(&self, shape: &Shape, draws: &mut Stream) -> Vec<Vec<PlannedOp>> {
        let keys = 1 + pace::below(draws, 6);
        // Some expire all the time, some hardly ever.
        let ttl_ms = [200, 1000, 4000, 30_000][usize::try_from(draws.below(4)).expect("a small number")];
        let plan = |client: u32, draws: &mut Stream| {
            let session = client / 2;
            let mut begun = client % 2 == 1;
            pace::spread(shape, draws, |draws| {
                if !std::mem::replace(&mut begun, true) {
                    return StormOp::Open { session, ttl_ms };
                }
                let number = match draws.below(12) {
                    0..6 => Number::Next,
                    6..9 => Number::Again,
                    9 => Number::Reused,
                    10 => Number::Skipped,
                    _ => Number::Low,
                };
                match draws.below(40) {
                    0 => StormOp::Open { session, ttl_ms },
                    1..4 => StormOp::Join { session },
                    4 => StormOp::Refresh { session },
                    5 => StormOp::Close { session },
                    _ => {
                        let key = pace::below(draws, keys);
                        StormOp::Write { session, key, number, hang_up: draws.below(25) == 0 }
                    }
                }
            })
        };
        (0..shape.clients).map(|client| plan(client, draws)).collect()
    }

    fn client(&self, client: Client<Event>, ops: Vec<PlannedOp>) -> ClientProcess {
        Box::pin(async move { client::work(Teller::simulated(client, false, false), ops).await })
    }

    fn check(&self, client: Client<Event>) -> Option<ClientProcess> {
        Some(Box::pin(async move { client::abandon(Teller::simulated(client, false, true)).await }))
    }
}
