//! The `lock` workload: compare-and-swap as a mutex, fenced by revision.
//!
//! Who replaces a free lock by its own name holds it, and the revision of that swap is its token. Who thinks that a holder
//! is gone may break the lock; the holder, if it is not gone, does not know. So what a lock guards is written only by a
//! transaction that compares the lock's revision with the token: whoever lost the lock writes nothing any more.
//!
//! - [`client`]: a contender at work
pub mod client;

use serde::{Deserialize, Serialize};
use sim_runtime::engine::{Client, ClientProcess, PlannedOp, Shape, Workload};
use sim_runtime::world::draws::Stream;

use crate::event::Event;
use crate::pace;
use crate::seat::in_session;
use crate::teller::Teller;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockOp {
    /// Takes the lock if it is free.
    Acquire {
        lock: u32,
    },
    /// Takes the lock, also from a holder that has had it since the last look.
    Break {
        lock: u32,
    },
    /// Writes what the lock guards, as its holder, or as one who was it lately.
    Guarded {
        lock: u32,
    },
    Release {
        lock: u32,
    },
}

/// The lock with this number.
pub fn lock_key(lock: u32) -> Vec<u8> {
    format!("{LOCK_PREFIX}{lock:02}").into_bytes()
}

/// What it guards.
pub fn guarded_key(lock: u32) -> Vec<u8> {
    format!("guarded-{lock:02}").into_bytes()
}

pub const LOCK_PREFIX: &str = "lock-";
/// First word of the value of a lock that somebody holds; `free` else.
pub const HELD: &str = "held";

/// See the module.
pub struct Lock;

impl Workload<Event> for Lock {
    fn name(&self) -> &'static str {
        "lock"
    }

    fn plan(&self, shape: &Shape, draws: &mut Stream) -> Vec<Vec<PlannedOp>> {
        let locks = 1 + pace::below(draws, 3);
        let op = |draws: &mut Stream| {
            let lock = pace::below(draws, locks);
            match draws.below(10) {
                0..4 => LockOp::Acquire { lock },
                4 => LockOp::Break { lock },
                5..8 => LockOp::Guarded { lock },
                _ => LockOp::Release { lock },
            }
        };
        (0..shape.clients).map(|_| pace::spread(shape, draws, op)).collect()
    }

    fn client(&self, client: Client<Event>, ops: Vec<PlannedOp>) -> ClientProcess {
        Box::pin(async move {
            let in_session = in_session(client.index);
            client::work(Teller::simulated(client, in_session, false), ops).await;
        })
    }
}
