//! Room on the disk: when it is nearly gone, proposals that store something are refused; deletes, votes and appends go on,
//! and so does everything that makes room.
//!
//! A commit that finds no room stops the node. Refusing in time keeps it alive and lets an operator, or a client that
//! deletes, make room. The refusal ends by itself, at a lower mark than the one at which it began: otherwise it would come
//! and go with every snapshot.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use buggify::assert_reachable;

/// Percent of the disk in use from which proposals are refused.
pub const REFUSE_PERCENT: u64 = 95;
/// Percent of the disk in use up to which they are taken again.
pub const RELIEF_PERCENT: u64 = 93;
/// The disk is asked at most so often, unless much is stored meanwhile.
pub const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// What is stored is written about so often before it is in its place: log, write-ahead log and database, the pages around it,
/// and a snapshot. So much less is taken before the disk is asked again.
const WRITTEN_TIMES: u64 = 8;

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub used: u64,
    pub total: u64,
}

impl Usage {
    /// Bytes that can be used until `percent` of the disk are.
    fn below(&self, percent: u64) -> u64 {
        (self.total / 100 * percent).saturating_sub(self.used)
    }

    /// Rounded up; what a file system reserves for its administrator counts as used.
    pub fn percent(&self) -> u64 {
        if self.total == 0 {
            0
        } else {
            (u128::from(self.used) * 100).div_ceil(u128::from(self.total)).try_into().unwrap_or(100)
        }
    }
}

/// What is remembered of the last look. `I` is an instant.
#[derive(Debug)]
pub(crate) struct Room<I> {
    state: Mutex<State<I>>,
}

#[derive(Clone, Copy, Debug)]
struct State<I> {
    looked: Option<I>,
    /// Bytes that may be stored before the next look.
    allowance: u64,
    refuses: bool,
}

impl<I> Default for Room<I> {
    fn default() -> Self {
        Room { state: Mutex::new(State { looked: None, allowance: 0, refuses: false }) }
    }
}

impl<I: openraft::Instant> Room<I> {
    /// Whether there is too little room now for `bytes` more. `usage` is asked when the last look is too long ago, or when
    /// what was taken since could have used up what was left; `None` is a disk that nothing is known of, which is not refused for.
    pub(crate) fn is_short(&self, now: I, bytes: u64, usage: impl FnOnce() -> Option<Usage>) -> bool {
        let mut state = self.lock();
        let recent = state.looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK_PAUSE);
        if recent && (state.refuses || bytes <= state.allowance) {
            state.allowance = state.allowance.saturating_sub(bytes);
            return state.refuses;
        }
        state.looked = Some(now);
        let usage = usage();
        state.allowance = usage.map_or(u64::MAX, |usage| usage.below(REFUSE_PERCENT) / WRITTEN_TIMES);
        let percent = usage.map_or(0, |usage| usage.percent());
        let refuses = is_short(state.refuses, percent);
        match (state.refuses, refuses) {
            (false, true) => tracing::error!("the disk is {percent} % full: writes are refused, deletes are not"),
            (true, false) => {
                assert_reachable!("writes were taken again after the disk had been nearly full", owed_by = "disk");
                tracing::info!("the disk is {percent} % full: writes are taken again");
            }
            _ => {}
        }
        state.refuses = refuses;
        refuses
    }

    fn lock(&self) -> MutexGuard<'_, State<I>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_short(was_short: bool, percent: u64) -> bool {
    percent > if was_short { RELIEF_PERCENT } else { REFUSE_PERCENT }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Clock = <openraft::impls::TokioRuntime as openraft::AsyncRuntime>::Instant;

    #[test]
    fn a_disk_is_short_of_room_until_there_is_some_again() {
        assert!(!is_short(false, 95) && is_short(false, 96));
        assert!(is_short(true, 94) && !is_short(true, 93));
        assert_eq!(Usage { used: 1, total: 3 }.percent(), 34);
        assert_eq!(Usage { used: 0, total: 0 }.percent(), 0);
    }

    #[test]
    fn the_disk_is_asked_now_and_then() {
        let (room, begun) = (Room::default(), <Clock as openraft::Instant>::now());
        let full = || Some(Usage { used: 99, total: 100 });
        assert!(room.is_short(begun, 1, full));
        assert!(room.is_short(begun, 1, || panic!("it was asked a moment ago")));
        let later = begun + LOOK_PAUSE;
        assert!(!room.is_short(later, 1, || Some(Usage { used: 10, total: 100 })));
        assert!(!room.is_short(later + LOOK_PAUSE, 1, || None), "of an unknown disk nothing is feared");
    }

    #[test]
    fn the_disk_is_asked_again_before_what_is_taken_could_fill_it() {
        let (room, now) = (Room::default(), <Clock as openraft::Instant>::now());
        let half = || Some(Usage { used: 500, total: 1000 });
        assert!(!room.is_short(now, 10, half));
        assert!(!room.is_short(now, 50, || panic!("there was room for more, ever so often written")));
        assert!(room.is_short(now, 50, || Some(Usage { used: 960, total: 1000 })));
    }
}
